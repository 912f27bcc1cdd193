"""The audit of a generator, a pool or a training mixture: measures its images, fills the report, and publishes it.

`genbias-bench audit` calls :func:`audit_subject`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch

from benchmark.audits.auditors import Auditors
from benchmark.audits.charts import Gallery
from benchmark.audits.groups import EXTRACTOR
from benchmark.audits.page import PAGE_FILE, REPORT_FILE, write_report
from benchmark.audits.report import AuditedTask, Matched, Report, Subject, Transfer
from benchmark.errors import InvalidValue
from benchmark.evaluation import report_images
from benchmark.evaluation.audit import auditors_info, auditors_of
from benchmark.evaluation.audited_images import Material, Seen, look, losses, obtain
from benchmark.evaluation.audited_sample import Reference, measured
from benchmark.evaluation.draft import utc_now
from benchmark.evaluation.job import FitJob, Part, make_job, method_data, split_parts
from benchmark.evaluation.matched import levels_to_match, matched
from benchmark.evaluation.subjects import AuditSubject, check_folder
from benchmark.evaluation.transfers import Sources, transfer, transfer_gallery
from benchmark.evaluation.typical import Rated, rated
from benchmark.progress import Progress
from benchmark.records.files import make_folder, publish_folder, temporary_folder
from benchmark.records.provenance import environment
from benchmark.records.schema import Environment
from benchmark.records.store import Store
from benchmark.tasks.manifest import TRAIN
from benchmark.training.device import default_precision, describe_device, resolve_device

Kind = Literal["generator", "pool", "mixture", "invertible"]

_KINDS: dict[str, Kind] = {
    "text-to-image": "generator",
    "from-scratch": "generator",
    "invertible": "invertible",
    "pool": "pool",
    "record": "mixture",
}


@dataclass(frozen=True)
class Audited:
    """What an audit gives.

    Attributes:
        report: The report.
        json: Where it lies.
        page: The same for people, with images.
    """

    report: Report
    json: Path
    page: Path


def audit_subject(
    subject: AuditSubject,
    *,
    out: Path,
    store: Path,
    device: str,
    threads: int | None,
    force: bool,
    progress: Progress,
) -> Audited:
    """Make what images are missing, measure them, and write the report.

    Args:
        subject: What is audited.
        out: Folder of the report.
        store: Folder of pools, trained models and auditors.
        device: As given by the user.
        threads: CPU threads; None takes torch's default.
        force: Replace a report that is there.
        progress: Where to show progress.

    Raises:
        GenBiasError: With one sentence on what is wrong; nothing is written then.
    """
    check_folder(out, force=force)
    make_folder(out.resolve().parent)
    if threads is not None and threads < 1:
        raise InvalidValue(f"{threads} threads make no sense; use 1 or more")
    opened = Store(store.resolve())
    opened.collect_garbage()
    where = resolve_device(device)
    torch.set_num_threads(threads or torch.get_num_threads())
    job = make_job(
        subject.cell, store=opened.root, device=str(where), precision=default_precision(where),
        threads=torch.get_num_threads(), remember=True,
    )  # fmt: skip
    report, galleries = _Audit(subject, job, progress).run()
    return _published(report, galleries, out, force=force)


def _published(report: Report, galleries: Sequence[Gallery], out: Path, *, force: bool) -> Audited:
    """Write both files into a new folder at once; into one that is there, each at once."""
    target = out.resolve()
    if force and target.is_dir():
        write_report(target, report, galleries)
    else:
        with temporary_folder(target.parent) as folder:
            write_report(folder, report, galleries)
            if not publish_folder(folder, target):
                check_folder(out, force=False)
    return Audited(report, out / REPORT_FILE, out / PAGE_FILE)


@dataclass(frozen=True)
class _Moved:
    """What an invertible network does, and its images."""

    transfer: Transfer | None = None
    matched: Matched | None = None
    galleries: tuple[Gallery, ...] = ()
    notes: tuple[str, ...] = ()


class _Audit:
    """One audit.

    Args:
        subject: What is audited.
        job: The job of its cell.
        progress: Where to say how far it is.
    """

    def __init__(self, subject: AuditSubject, job: FitJob, progress: Progress) -> None:
        self._subject, self._job, self._progress = subject, job, progress
        self._cell = subject.cell

    def run(self) -> tuple[Report, list[Gallery]]:
        begun, created = time.perf_counter(), utc_now()
        cell, job = self._cell, self._job
        parts = split_parts(cell)
        material = obtain(self._subject, job, method_data(job, parts), self._progress)
        auditors, why_not = auditors_of(cell, job, self._progress)
        reference = Reference(cell, parts[TRAIN], auditors, why_not, torch.device(job.device))
        seen = [
            part
            for by in ("class", "group")
            if (part := look(material.streams, by, auditors, self._progress)) is not None
        ]
        lost = losses(material.streams, seen)
        samples = [measured(part, reference) for part in seen]
        found, why_not_typical = rated(material, seen, job, self._progress)
        moved = self._invertible(material, seen, auditors, parts[TRAIN])
        report = Report(
            created=created,
            seconds=time.perf_counter() - begun,
            subject=Subject(
                kind=_KINDS[self._subject.source],
                name=self._subject.name,
                identity=material.identity,
                pool_ids=material.pool_ids,
                own=material.own,
                tuning=material.tuning,
            ),
            task=self._task(),
            training=reference.training(),
            auditors={} if auditors is None else auditors_info(auditors),
            held_out=reference.held_out(),
            samples=samples,
            typicality=None if found is None else found.report,
            typicality_reason=why_not_typical or None,
            transfer=moved.transfer,
            matched=moved.matched,
            extractors={} if auditors is None else dict.fromkeys(("fid", "kid", "groups", "probes"), EXTRACTOR),
            environment=self._environment(),
            notes=[*self._subject.notes, *material.notes, *lost, *_in_part(seen), *moved.notes],
        )
        return report, [*self._galleries(seen, found), *moved.galleries]

    def _invertible(self, material: Material, seen: Sequence[Seen], auditors: Auditors | None, train: Part) -> _Moved:
        """Measure transfer and matched samples of an invertible network; nothing for other subjects."""
        if self._subject.source != "invertible":
            return _Moved()
        if auditors is None:
            return _Moved(notes=("without auditors neither transfer nor matched samples say anything",))
        cell, hparams = self._cell, cast("Any", self._cell.hparams)
        sources = Sources.of(seen[0], material, train)
        galleries = [transfer_gallery(sources, train, cell.card)]
        found = transfer(sources, auditors)
        if levels_to_match(cell) is None:
            note = f"no matched samples: {cell.card.id} offers one bias level only"
            return _Moved(found, None, tuple(galleries), (note,))
        how = hparams.network()
        together, strips = matched(cell, self._job, auditors, how, codes=self._subject.images, progress=self._progress)
        return _Moved(found, together, (*galleries, strips))

    def _task(self) -> AuditedTask:
        cell, block = self._cell, self._cell.card.task
        return AuditedTask(
            id=cell.card.id,
            level=cell.manifest.level,
            draw=cell.manifest.draw,
            split_digest=cell.manifest.digest,
            faces=block.faces,
            label=block.label.name,
            labels=list(block.label.values),
            attribute=block.attribute.name,
            attributes=list(block.attribute.values),
            aligned=list(cell.card.law.aligned),
            possible=[[a for a, allowed in enumerate(row) if allowed] for row in cell.card.allowed_groups()],
        )

    def _environment(self) -> Environment:
        device = torch.device(self._job.device)
        name, capability = describe_device(device)
        return environment(
            device=name, device_kind=device.type, cpu_capability=capability, precision=self._job.precision,
            threads=self._job.threads,
        )  # fmt: skip

    def _galleries(self, seen: Sequence[Seen], found: Rated | None) -> list[Gallery]:
        card, galleries = self._cell.card, []
        for part in seen:
            galleries += (
                [report_images.by_class(part, card)] if part.asked_by == "class" else report_images.by_group(part, card)
            )
        if found is not None and (typical := report_images.typical(found, card)) is not None:
            galleries.append(typical)
        return galleries


def _in_part(seen: Sequence[Seen]) -> list[str]:
    return [
        f"of the images asked for by {'class alone' if part.asked_by == 'class' else 'class and attribute'}, every "
        f"one was shown to the auditors; features, near copies, typicality and pictures are of {len(part.chosen):,} of "
        f"{len(part):,}, evenly spaced"
        for part in seen
        if len(part.chosen) < len(part)
    ]
