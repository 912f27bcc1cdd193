"""The study: trials of one method on one task, one after the other, until their number or their device time is used up.

Every trial is a record of kind `trial`. The same command goes on where it was stopped: what a trial is follows from its
number, and finished ones are found by their records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmark.contract.registry import source_digest
from benchmark.contract.space import LEVEL, MOST_TRIALS, SEED, TRAINING, Dimension, dimensions_of, recipe_space
from benchmark.contract.tracks import SelectionRule, Track
from benchmark.errors import InvalidValue, NotApplicable, TrainingDiverged
from benchmark.evaluation.cell import Configuration, Request, ResolvedCell, resolve_cell
from benchmark.evaluation.draft import run_prefix
from benchmark.evaluation.run import evaluate_cell
from benchmark.evaluation.tuned import (
    STUDY_FILE,
    Definition,
    Hardware,
    Study,
    Tried,
    configuration,
    read_study,
    study_of,
)
from benchmark.progress import Progress
from benchmark.records.canonical import sha256_of
from benchmark.records.files import make_folder, write_bytes, write_json
from benchmark.records.results import read_record, records_of
from benchmark.records.schema import Record
from benchmark.tasks.card import DEFAULT_RECIPE
from benchmark.tuning.chart import draw_best
from benchmark.tuning.search import configurations

FOLDER = "tuning"
"""Below the results folder: trials in the layout of results, and a folder for each study."""
CHART_FILE = "best-of-k.svg"

BASELINE = "erm"
"""The method whose device time is the unit of a study's."""


@dataclass(frozen=True)
class Place:
    """Where and how trials run.

    Attributes:
        results: The results folder; studies and trials lie in its sub-folder :data:`FOLDER`.
        store: Folder of pools and trained stages.
        device: As given by the user.
        threads: CPU threads; None takes torch's default.
        isolated: Fit in processes without test split and network.
        progress: Where to say how far it is.
        on_trial: Called with the study after each trial, also one that was found done.
    """

    results: Path
    store: Path
    device: str
    threads: int | None
    isolated: bool
    progress: Progress
    on_trial: Callable[[Study], None] = lambda _: None


def tune(request: Request, trials: int, place: Place) -> tuple[Study, Path]:
    """Search the space of a method on a task.

    Args:
        request: Method, task, generator and recipe; nothing else is configured.
        trials: Configurations to try, the default included.
        place: Where and how.

    Returns:
        The finished study, and its file.

    Raises:
        UsageError: For more trials than the protocol allows, an unknown name, or a task without the level of trials.
        NotApplicable: For a method that has nothing to tune, or cannot run at this level.
        GenBiasError: Whatever else ends a run; the same command goes on.
    """
    if not 1 <= trials <= MOST_TRIALS:
        raise InvalidValue(f"{trials} trials: a study has 1 to {MOST_TRIALS}, the same for every method")
    cell = resolve_cell(replace(request, level=LEVEL, seed=SEED), place.progress)
    if cell.method.card.kind == "process":
        raise NotApplicable(f"{request.method} is a process that is observed, not tuned; name a method")
    definition = _definition(cell, trials, _hardware(place))
    file = place.results / FOLDER / run_prefix(cell) / f"study-{definition.digest[:12]}" / STUDY_FILE
    if file.exists() and (known := read_study(file)).ended:
        return known, file
    make_folder(file.parent)
    study = study_of(definition, _erm_seconds(cell, definition.hardware, place), [])
    drawn = configurations(definition.space, definition.default, definition.sampler_seed)
    while study.ended is None:
        study = _with_trial(study, cell.request, next(drawn), place)
        if study.winner is not None:
            write_bytes(file.with_name(CHART_FILE), draw_best(study))
        write_json(file, study.model_dump(mode="json"))
        place.on_trial(study)
    return study, file


def _definition(cell: ResolvedCell, trials: int, hardware: Hardware) -> Definition:
    recipe, tunable = cell.recipe, recipe_space(cell.recipe)
    space: dict[str, Dimension] = {f"{TRAINING}{name}": dimension for name, dimension in tunable.items()}
    space |= dimensions_of(cell.method.card)
    default = {f"{TRAINING}{name}": getattr(recipe, name) for name in tunable}
    default |= {name: getattr(cell.hparams, name) for name in space if not name.startswith(TRAINING)}
    rule = SelectionRule.VALIDATION_AVERAGE if cell.track is Track.NONE else SelectionRule.VALIDATION_WORST_GROUP
    return Definition(
        task=cell.card.id,
        split_digest=cell.manifest.digest,
        recipe=cell.request.recipe or DEFAULT_RECIPE,
        method=cell.cell.method,
        source_digest=source_digest(cell.request.method),
        generator=None if cell.generator is None else cell.generator.as_record(),
        criterion=rule,
        space=space,
        default=default,
        trials=trials,
        hardware=hardware,
    )


def _hardware(place: Place) -> Hardware:
    import torch

    from benchmark.training.device import default_precision, describe_device, resolve_device

    device = resolve_device(place.device)
    return Hardware(
        device=describe_device(device)[0], device_kind=device.type, precision=default_precision(device),
        threads=place.threads or torch.get_num_threads(),
    )  # fmt: skip


def _erm_seconds(cell: ResolvedCell, hardware: Hardware, place: Place) -> float:
    """Return the device time of one ERM run on a study's task and hardware, run as a trial where none is known."""
    request = replace(cell.request, method=BASELINE, generator=None)
    plain = resolve_cell(request)
    # Named by what it measures, so that all studies of a task on this hardware share it.
    unit = {
        "unit": plain.cell.method, "split": plain.manifest.digest, "recipe": request.recipe,
        "code": source_digest(BASELINE), "hardware": hardware.model_dump(mode="json"),
    }  # fmt: skip
    tried = Configuration(
        study=sha256_of(unit), method=plain.cell.method, task=plain.card.id, recipe=request.recipe or DEFAULT_RECIPE,
        generator=None, hparams={}, training={}, criterion=SelectionRule.VALIDATION_AVERAGE, trial=0,
    )  # fmt: skip
    return _device_seconds(_run(resolve_cell(replace(request, configuration=tried)), place))


def _with_trial(study: Study, request: Request, values: dict[str, Any], place: Place) -> Study:
    """Return a study with its next trial; one that overruns the device time counts, and is the last."""
    definition, number = study.definition, len(study.trials)
    cell = resolve_cell(replace(request, configuration=configuration(definition, number, values, study.study)))
    record = _run(cell, place)
    tried = Tried(
        number=number,
        cell_id=cell.cell_id,
        values=values,
        state="diverged" if record.trial is None else "finished",
        value=None if record.trial is None else record.trial.value,
        steps=0 if record.budget is None else record.budget.steps_used,
        device_seconds=_device_seconds(record),
    )
    return study_of(definition, study.erm_seconds, [*study.trials, tried])


def _run(cell: ResolvedCell, place: Place) -> Record:
    """Return the record of a trial that finished or diverged, now or before.

    Raises:
        NotApplicable: When the method cannot run here.
    """
    results = place.results / FOLDER
    if (before := _diverged(cell, results)) is not None:
        return before
    try:
        done = evaluate_cell(
            cell, results=results, store=place.store, device=place.device, threads=place.threads, force=False,
            isolated=place.isolated, progress=place.progress,
        )  # fmt: skip
    except TrainingDiverged:
        if (record := _diverged(cell, results)) is None:
            raise
        return record
    if done.record.status == "skipped":
        raise NotApplicable(f"{cell.request.method} cannot be tuned on {cell.card.id}: {done.record.skipped_because}")
    return done.record


def _diverged(cell: ResolvedCell, results: Path) -> Record | None:
    for file in records_of(results / run_prefix(cell), f"*-{cell.cell_id[:12]}*"):
        record = read_record(file)
        failure = record.failure and record.failure.kind
        if record.cell_id == cell.cell_id and failure == TrainingDiverged.__name__:
            return record
    return None


def _device_seconds(record: Record) -> float:
    """Return the device time of a trial; of one that diverged, which has no cost, the time from start to end."""
    if (cost := record.cost) is not None:
        return cost.training_seconds + cost.generator_seconds + cost.auxiliary_seconds
    start, end = (datetime.fromisoformat(each) for each in (record.started, record.finished or record.started))
    return (end - start).total_seconds()
