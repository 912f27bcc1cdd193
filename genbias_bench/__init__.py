"""The public Python API of genbias-bench, in one place and imported lazily.

Everything named in ``__all__`` follows semantic versioning; the other packages are internal.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.contract.budget import Budget, Plan
    from benchmark.contract.generation import (
        Bootstrap,
        FeaturesOf,
        Filter,
        FineTuning,
        FromScratch,
        Invertible,
        OwnGenerator,
    )
    from benchmark.contract.images import GroupNames, ImageSet, MethodData
    from benchmark.contract.method import External, GroupsOf, Hparams, Loss, Method, MethodCard, Stage, Tools, Trained
    from benchmark.contract.tracks import SelectionRule, Track
    from benchmark.errors import GenBiasError, NotApplicable
    from benchmark.evaluation.run import evaluate
    from benchmark.evaluation.score import score

__version__ = "0.1.0"

_WHERE = {
    "Bootstrap": "benchmark.contract.generation",
    "Budget": "benchmark.contract.budget",
    "External": "benchmark.contract.method",
    "FeaturesOf": "benchmark.contract.generation",
    "Filter": "benchmark.contract.generation",
    "FineTuning": "benchmark.contract.generation",
    "FromScratch": "benchmark.contract.generation",
    "GenBiasError": "benchmark.errors",
    "GroupNames": "benchmark.contract.images",
    "GroupsOf": "benchmark.contract.method",
    "Hparams": "benchmark.contract.method",
    "Invertible": "benchmark.contract.generation",
    "ImageSet": "benchmark.contract.images",
    "Loss": "benchmark.contract.method",
    "Method": "benchmark.contract.method",
    "MethodCard": "benchmark.contract.method",
    "MethodData": "benchmark.contract.images",
    "NotApplicable": "benchmark.errors",
    "OwnGenerator": "benchmark.contract.generation",
    "Plan": "benchmark.contract.budget",
    "SelectionRule": "benchmark.contract.tracks",
    "Stage": "benchmark.contract.method",
    "Tools": "benchmark.contract.method",
    "Track": "benchmark.contract.tracks",
    "Trained": "benchmark.contract.method",
    "evaluate": "benchmark.evaluation.run",
    "score": "benchmark.evaluation.score",
}

__all__ = [
    "Bootstrap",
    "Budget",
    "External",
    "FeaturesOf",
    "Filter",
    "FineTuning",
    "FromScratch",
    "GenBiasError",
    "GroupNames",
    "GroupsOf",
    "Hparams",
    "ImageSet",
    "Invertible",
    "Loss",
    "Method",
    "MethodCard",
    "MethodData",
    "NotApplicable",
    "OwnGenerator",
    "Plan",
    "SelectionRule",
    "Stage",
    "Tools",
    "Track",
    "Trained",
    "evaluate",
    "score",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
