"""The page of an audit: one HTML file, without scripts or requests, that says in a minute what the report says.

``genbias-bench audit`` calls :func:`write_report`.
"""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.audits.charts import Gallery, contact_sheets
from benchmark.audits.headlines import Headlines
from benchmark.audits.markup import Numbers, capital, counted, pairs, percent, section, text
from benchmark.audits.report import Report, Subject
from benchmark.audits.sections import Sections
from benchmark.records.files import make_folder, write_json, write_text
from benchmark.records.schema import AuditorInfo, Environment

REPORT_FILE, PAGE_FILE = "report.json", "report.html"

_TEMPLATE = Path(__file__).with_name("page.html")
_KINDS = {"generator": "generator", "pool": "pool of generated images", "mixture": "training mixture",
          "invertible": "invertible network"}  # fmt: skip


def write_report(folder: Path, report: Report, galleries: Sequence[Gallery]) -> tuple[Path, Path]:
    """Write a report as JSON and as a page, each atomically.

    Args:
        folder: Made if it does not exist.
        report: The numbers.
        galleries: The images, which stand on the page only.

    Returns:
        The JSON file and the HTML file.

    Raises:
        InvalidValue: When the images do not fit on one page; nothing is written then.
        StoreError: When the folder cannot be written.
    """
    page = render(report, galleries)
    make_folder(folder)
    write_json(folder / REPORT_FILE, report.model_dump(mode="json"))
    write_text(folder / PAGE_FILE, page)
    return folder / REPORT_FILE, folder / PAGE_FILE


def render(report: Report, galleries: Sequence[Gallery]) -> str:
    """Return the page; the same report and images give the same bytes.

    Args:
        report: The numbers.
        galleries: The images.

    Raises:
        InvalidValue: When the images do not fit on one page.
    """
    numbers = Numbers()
    sections = Sections(report, numbers, list(zip(galleries, contact_sheets(galleries), strict=True)))
    parts = (
        _head(report),
        Headlines(report, numbers).section(),
        sections.groups(),
        sections.fidelity(),
        sections.quality(),
        sections.typicality(),
        sections.transfer(),
        sections.matched(),
        sections.readable(),
        _not_measured(report, numbers),
        _provenance(report),
    )
    template = string.Template(_TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=text(_title(report)), body="\n".join(part for part in parts if part))


def _title(report: Report) -> str:
    return f"Audit of {report.subject.name} on {report.task.id}"


def _head(report: Report) -> str:
    task = report.task
    about = (
        f"{capital(_KINDS[report.subject.kind])}, against the training data of bias level {task.level}, draw "
        f"{task.draw}; {report.created[:10]}"
    )
    banner = (
        '<p class="banner">This page is about images of people. It is for this machine only: do not publish it, upload '
        "it, or pass it on (protocol §10).</p>"
        if task.faces
        else ""
    )
    return f'<header><h1>{text(_title(report))}</h1><p class="soft">{text(about)}</p>{banner}</header>'


def _not_measured(report: Report, numbers: Numbers) -> str:
    notes = "".join(f"<li>{text(note)}</li>" for note in report.notes)
    content = (f"<ul>{notes}</ul>" if notes else "") + numbers.listed()
    return section("What was not measured", content or "<p>Nothing was left out.</p>")


def _provenance(report: Report) -> str:
    task, names = report.task, {"y": report.task.label, "a": report.task.attribute}
    entries = [
        *_subject(report.subject),
        ("task", text(f"{task.id}, level {task.level}, draw {task.draw}")),
        ("split", _code(task.split_digest)),
        *((f"auditor of {names[of]}", _auditor(info)) for of, info in sorted(report.auditors.items())),
        *((f"features: {what}", text(name)) for what, name in sorted(report.extractors.items())),
        ("made", text(f"{report.created}, in {report.seconds:,.0f} s")),
        *_environment(report.environment),
    ]
    return section("Where this comes from", pairs(entries))


def _subject(subject: Subject) -> list[tuple[str, str]]:
    entries = [(name, _code(value)) for name, value in subject.identity.items()]
    entries += [("pool", _code(pool)) for pool in subject.pool_ids]
    if (own := subject.own) is not None:
        entries.append(("trained", text(f"{own.kind}, on {counted(own.images, 'image')}, in {own.seconds:,.0f} s")))
        entries += [("settings", _code(own.settings)), ("weights", _code(own.weights_sha256))]
    if (tuning := subject.tuning) is not None:
        adapters = sorted({use.sha256 for uses in tuning.adapters.values() for use in uses})
        entries.append(("fine-tuned", text(f"{tuning.kind}, {counted(len(adapters), 'adapter')}")))
        entries += [("settings", _code(tuning.settings)), *(("adapter", _code(adapter)) for adapter in adapters)]
    return entries


def _auditor(info: AuditorInfo) -> str:
    confusion = np.array(info.confusion)
    right = percent(float(np.trace(confusion) / max(confusion.sum(), 1)))
    trained = (
        f"right on {right} of {counted(info.tested_on, 'held-out real image')}, trained on {info.trained_on:,} others"
    )
    return f"{text(trained)}; {_code(info.id)}"


def _environment(where: Environment) -> list[tuple[str, str]]:
    commit = where.git_commit or "unknown"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(where.packages.items()))
    return [
        ("device", text(f"{where.device}, {where.precision}, {counted(where.threads, 'thread')}, {where.system}")),
        ("versions", text(f"Python {where.python}, {versions}")),
        ("commit", _code(f"{commit} with changes" if where.git_dirty else commit)),
    ]


def _code(value: Any) -> str:
    shown = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return f"<code>{text(shown)}</code>"
