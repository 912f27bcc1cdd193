"""The chart of a study: what each trial gave, and the best that so many trials are expected to give."""

from __future__ import annotations

import io
from typing import Any

from benchmark.evaluation.tuned import Study

_SETTINGS: Any = {"font.size": 9, "svg.hashsalt": "genbias-bench", "svg.fonttype": "none", "text.parse_math": False}
_WIDTH, _HEIGHT = 6.0, 3.4
"""Inches."""


def draw_best(study: Study) -> bytes:
    """Draw a finished study as SVG; the same bytes for the same study."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    finished = [(trial.number + 1, trial.value) for trial in study.trials if trial.value is not None]
    buffer = io.BytesIO()
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot(*zip(*finished, strict=True), "o", color="#56b4e9", markersize=4, label="each trial, in its order")
        best = study.expected_best
        axes.plot(range(1, len(best) + 1), best, "s-", color="#0072b2", markersize=3, label="expected best")
        axes.set_xlabel("trials")
        axes.set_ylabel(f"cross-entropy, {study.definition.criterion}")
        axes.set_title(f"{study.definition.method} on {study.definition.task}", fontsize=10, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
