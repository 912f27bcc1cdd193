"""Running a method's ``fit`` on a job: stages are checked, saved and handed on one by one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmark.contract.images import MethodData, attributes_for_measurement
from benchmark.contract.method import Hparams, Method, Stage, Trained
from benchmark.contract.oracle import fitting
from benchmark.contract.registry import load_method, resolve_hparams
from benchmark.contract.tracks import SelectionRule, Track
from benchmark.errors import ContractViolation, TrainingDiverged
from benchmark.evaluation.job import (
    RESERVE,
    FitJob,
    FitReport,
    Part,
    SavedCheckpoint,
    SavedStage,
    method_data,
    real_images,
)
from benchmark.evaluation.judging import apart, judge
from benchmark.evaluation.tools import HarnessTools, SharedPartsMade, mixture_counts
from benchmark.progress import Progress
from benchmark.records.provenance import peak_memory_bytes
from benchmark.training.backbones import state_digest
from benchmark.training.device import peak_device_memory
from benchmark.training.remember import contiguous


def run_fit(
    job: FitJob, parts: dict[str, Part], folder: Path, progress: Progress, on_stage: Callable[[SavedStage], None]
) -> FitReport:
    """Load the job's method, call its ``fit`` and save each stage's weights into ``folder`` before it goes on.

    Args:
        job: What to fit.
        parts: Training and validation splits; for an oracle also the unused training images.
        folder: Where weights go.
        progress: Where to say how far it is.
        on_stage: Called with each saved stage; in process, the harness predicts there.

    Raises:
        ContractViolation: When the stages are not the declared ones.
        NotApplicable: When the method says that it cannot run on this cell.
    """
    torch.set_num_threads(job.threads)
    if job.offline:
        # Read by huggingface_hub at its first import, which is later than this.
        os.environ["HF_HUB_OFFLINE"] = "1"
    method = load_method(job.method)
    return fit_stages(method, resolve_hparams(method, job.hparams), job, parts, folder, progress, on_stage)


def fit_stages(
    method: Method,
    hparams: Hparams,
    job: FitJob,
    parts: dict[str, Part],
    folder: Path,
    progress: Progress,
    on_stage: Callable[[SavedStage], None],
) -> FitReport:
    """Call ``fit`` of a loaded method; see :func:`run_fit`."""
    seen, judging = (parts, None) if job.judge is None else apart(parts, job.track)
    data = method_data(job, seen)
    reserve = real_images(job, parts[RESERVE], Track.TRAIN) if RESERVE in parts and method.card.oracle else None
    tools = HarnessTools(job, data, progress, reserve)
    stages: list[SavedStage] = []
    try:
        _collect_stages(method, hparams, job, data, tools, folder, stages, on_stage)
    except SharedPartsMade:
        stages.clear()
    return FitReport(
        stages=stages,
        pools=tools.pools,
        notes=tools.notes,
        synthetic_kept=tools.kept,
        sampled=tools.sampled,
        steps_used=tools.steps_used,
        generator_seconds=tools.generator_seconds,
        auxiliary_seconds=tools.auxiliary_seconds,
        peak_memory_bytes=peak_memory_bytes(),
        peak_device_memory_bytes=peak_device_memory(tools.device),
        judged=None if judging is None else judge(job, stages[-1], folder, judging),
    )


def _collect_stages(
    method: Method,
    hparams: Hparams,
    job: FitJob,
    data: MethodData,
    tools: HarnessTools,
    folder: Path,
    stages: list[SavedStage],
    on_stage: Callable[[SavedStage], None],
) -> None:
    """Save the stages that ``fit`` yields, and hold them against the card's."""
    for stage in _guarded(method, method.fit(data, tools, hparams)):
        expected = job.stages[len(stages)] if len(stages) < len(job.stages) else None
        if not isinstance(stage, Stage) or stage.name != expected:
            what = f"stage {stage.name!r}" if isinstance(stage, Stage) else f"a {type(stage).__name__}"
            raise ContractViolation(f"{job.method} yields {what} where its card declares {expected!r}")
        last = len(stages) == len(job.stages) - 1
        steps = tools.steps_used - sum(s.steps for s in stages)
        stages.append(_save(stage, method, folder, len(stages), steps, last))
        on_stage(stages[-1])
    if len(stages) != len(job.stages):
        raise ContractViolation(f"{job.method} yields {len(stages)} stages; its card declares {', '.join(job.stages)}")


def _guarded(method: Method, stages: Iterator[Stage]) -> Iterator[Stage]:
    """Run each piece of ``fit`` with auditors out of reach; between stages the harness may measure."""
    if not isinstance(stages, Iterator):
        code = type(method).fit.__code__
        raise ContractViolation(
            f"{code.co_filename}, line {code.co_firstlineno}: fit of {method.card.name} returns a "
            f"{type(stages).__name__}; it must yield its stages"
        )
    while True:
        with fitting(method.card.name, oracle=method.card.oracle):
            try:
                stage = next(stages)
            except StopIteration:
                return
        yield stage


def _save(stage: Stage, method: Method, folder: Path, number: int, steps: int, last: bool) -> SavedStage:
    model = stage.model
    if isinstance(model, Trained):
        # The selection rule applies to the last stage only; earlier ones are recorded as they ended.
        rules = list(SelectionRule) if last else [SelectionRule.LAST]
        checkpoints = tuple(
            _write(folder, f"stage-{number}-{rule.value}", rule, model.steps_at[rule], dict(model.checkpoints[rule]))
            for rule in rules
            if rule in model.checkpoints
        )
        images = model.training_set
        table, without = mixture_counts(images, attributes_for_measurement(images))
        return SavedStage(
            name=stage.name, steps=steps, seconds=model.seconds, remembered=model.remembered, spec=dict(model.spec),
            own_module=False, mixture=table, without_attribute=without,
            curves=[dict(row) for row in model.curves], checkpoints=checkpoints,
        )  # fmt: skip
    if not isinstance(model, torch.nn.Module):
        raise ContractViolation(f"stage {stage.name!r} holds a {type(model).__name__}, not a classifier")
    rebuilt = method.build(stage.spec)
    missing = set(model.state_dict()) ^ set(rebuilt.state_dict())
    if missing:
        raise ContractViolation(
            f"stage {stage.name!r}: build(spec) gives another architecture ({sorted(missing)[:3]} differ)"
        )
    written = _write(folder, f"stage-{number}-last", SelectionRule.LAST, 0, model.state_dict())
    return SavedStage(
        name=stage.name, steps=steps, seconds=0.0, remembered=False, spec=dict(stage.spec), own_module=True,
        mixture=None, without_attribute=None, curves=[], checkpoints=(written,),
    )  # fmt: skip


def _write(folder: Path, name: str, rule: SelectionRule, step: int, state: dict[str, torch.Tensor]) -> SavedCheckpoint:
    if not all(bool(torch.isfinite(t).all()) for t in state.values() if t.is_floating_point()):
        raise TrainingDiverged(f"{name} holds weights that are not finite")
    save_file(contiguous(state), folder / f"{name}.safetensors")
    return SavedCheckpoint(rule=rule, step=step, file=f"{name}.safetensors", sha256=state_digest(state))
