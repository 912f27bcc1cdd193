"""How each generator is sampled unless told otherwise: scheduler, steps, guidance (torch-free)."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from benchmark.errors import InvalidValue, UnknownName
from benchmark.generators.identity import TINY_SD
from benchmark.generators.recipe import SCHEDULERS
from benchmark.tasks.block import GeneratorDefault

SETTINGS = ("scheduler", "steps", "guidance", "batch_size")

_TINY = GeneratorDefault(name=TINY_SD, scheduler="native", steps=8, guidance=2.5, batch_size=64)
# DPM-Solver++ in 25 steps: FFR's number of steps for faces, at a scheduler that needs fewer.
_OTHERS = {"scheduler": "DPMSolverMultistepScheduler", "steps": 25, "guidance": 7.5, "batch_size": 16}


def sampling_of(name: str, card: GeneratorDefault, changes: Mapping[str, object] | None = None) -> GeneratorDefault:
    """Return how a generator is sampled.

    Args:
        name: The generator's name, as its identity says it.
        card: The card's generator; another one has defaults of its own, for a card's are made for its generator.
        changes: Settings that a user asked for, as text or numbers.

    Raises:
        UnknownName: For a setting or scheduler that does not exist.
        InvalidValue: For a value that cannot be used.
    """
    if name == card.name:
        default = card
    else:
        default = _TINY if name == TINY_SD else GeneratorDefault.model_validate({"name": name, **_OTHERS})
    for setting in changes or {}:
        if setting not in SETTINGS:
            raise UnknownName("sampling setting", setting, SETTINGS)
    try:
        sampling = GeneratorDefault.model_validate({**default.model_dump(), **(changes or {})})
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidValue(f"--sampling {first['loc'][0]}={first['input']!r}: {first['msg']}") from error
    if sampling.scheduler not in SCHEDULERS:
        raise UnknownName("scheduler", sampling.scheduler, SCHEDULERS)
    return sampling
