"""Checking one task: its card, splits, digests and a few images; what ``genbias-bench tasks check`` calls.

Where the data are not here, what needs them is said to be not checked. Pixels of a whole data set and the digests of
all its files are for ``genbias-bench data verify``.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DataError, GenBiasError, NotAvailable
from benchmark.tasks import home
from benchmark.tasks.card import DataCard
from benchmark.tasks.catalog import find_card, load_task
from benchmark.tasks.containers import read_file
from benchmark.tasks.file_task import FileTask
from benchmark.tasks.law import DRAWS
from benchmark.tasks.levels import NAMED_LEVELS, rho_of
from benchmark.tasks.locks import load_lock
from benchmark.tasks.manifest import AUDIT, SPLITS, TEST, TRAIN, VALIDATION, Listing, Manifest
from benchmark.tasks.pinning import agree, level_counts_of
from benchmark.tasks.plugins import plug_in_tasks, said_by
from benchmark.tasks.task import Task
from benchmark.testing.checks import NotChecked
from benchmark.testing.report import Check, Report, Status

_HUB = ("pretty_name", "license", "task_categories", "size_categories")
_HEADINGS = ("known problems", "uses", "ethical considerations", "citation")
_IMAGES = 8
_MOST_DEVIATIONS = 6.0


def check_task(name: str) -> Report:
    """Check a task: every check is made and reported, also when others fail.

    Args:
        name: As in ``genbias-bench list tasks``.

    Raises:
        UnknownName: When there is no such task.
        DataError: When a plug-in's card cannot be read.
    """
    start = time.monotonic()
    case = _Case(find_card(name))
    checks = tuple(_made(check, look, case) for check, look in _CHECKS)
    plug_in = plug_in_tasks().get(case.card.task.name)
    where = "genbias-bench" if plug_in is None else f"{plug_in.package} {plug_in.version}"
    notes = () if plug_in is None else ("no lock of genbias-bench pins a plug-in's splits: listed, never ranked",)
    return Report(f"{case.card.id} ({where})", checks, time.monotonic() - start, notes)


class _Case:
    """A card, and what is loaded for it when a check first asks."""

    def __init__(self, card: DataCard) -> None:
        self.card = card
        self._manifests: dict[tuple[str, int], Manifest] = {}

    @property
    def task(self) -> Task:
        """The task."""
        return load_task(self.card.id)

    @property
    def _fetch(self) -> str:
        return f"`genbias-bench data fetch {self.card.task.name}`"

    @property
    def listing(self) -> Listing:
        """The samples at hand.

        Raises:
            NotChecked: When the data are not here.
        """
        try:
            return self.task.listing
        except NotAvailable as error:
            raise NotChecked(f"the data are not here; {self._fetch} gets them") from error
        except DataError as error:
            if not home.terms_accepted(self.card):
                raise NotChecked(f"the data's terms are not accepted; {self._fetch} shows them") from error
            raise

    def manifests(self) -> dict[tuple[str, int], Manifest]:
        """Return the split of every level and draw: of the whole data set where it is known."""
        if self.listing and not self._manifests:
            keys = [(level, draw) for level in self.card.task.levels for draw in DRAWS]
            self._manifests = {key: self.task.manifest(*key, whole=True) for key in keys}
        return self._manifests


def _made(check: Check, look: Callable[[_Case], list[str]], case: _Case) -> Check:
    try:
        findings = tuple(dict.fromkeys(look(case)))
    except NotChecked as reason:
        return replace(check, status="not checked", findings=(str(reason),))
    except GenBiasError as error:
        findings = (str(error),)
    except Exception as error:  # whatever a stranger's task raises is a finding
        findings = (said_by(error, case.card.task.source_module.partition(":")[0]),)
    status: Status = "failed" if findings else "passed"
    return replace(check, status=status, findings=findings)


# --- the card ------------------------------------------------------------------------------------------------------


def _card(case: _Case) -> list[str]:
    card, task = case.card, case.card.task
    found = [f"the front matter has no `{key}`" for key in _HUB if not card.hub.get(key)]
    headings = [line.lstrip("# ").lower() for line in card.prose.splitlines() if line.startswith("##")]
    found += [
        f"the prose has no section on {wanted}" for wanted in _HEADINGS if not any(wanted in each for each in headings)
    ]
    for y in range(len(task.label.values)):
        prompts = {a: card.prompt(y, a) for a in range(len(task.attribute.values))}
        if len(set(prompts.values())) < len(prompts):
            found.append(f"two groups of class {task.label.values[y]!r} have one prompt")
    return found


def _licence(case: _Case) -> list[str]:
    card, task = case.card, case.card.task
    found = [] if task.terms.strip() else ["`terms` says nothing"]
    if card.hub.get("license") == "other" and not card.hub.get("license_name"):
        found.append("`license: other` needs a `license_name`")
    found += [f"source {s.location!r} has no licence" for s in task.sources if not s.licence and s.kind != "folder"]
    if task.faces and not task.terms_accept:
        found.append("photographs of people need `terms_accept: true`")
    return found


def _loader(case: _Case) -> list[str]:
    task = case.task
    if not isinstance(task, FileTask):
        return []
    found = []
    with TemporaryDirectory() as empty:
        if task.matches(Path(empty)):
            found.append("takes an empty folder for the data set")
    folders = [source for source in case.card.task.sources if source.kind == "folder"]
    if not any(source.layout for source in folders):
        found.append("no source of kind `folder` says how a user's own copy must look")
    return found


# --- the splits ----------------------------------------------------------------------------------------------------


def _listing(case: _Case) -> list[str]:
    first = case.listing
    second = type(case.task)(case.card).listing
    found = []
    for what in ("ids", "y", "a", "partition"):
        if not np.array_equal(np.array(getattr(first, what)), np.array(getattr(second, what))):
            found.append(f"two listings differ in `{what}`")
    return found


def _levels(case: _Case) -> list[str]:
    found = []
    law = case.card.law
    for (level, draw), manifest in case.manifests().items():
        train, where = manifest.counts(TRAIN), f"at {level}, draw {draw}"
        if (train.sum(axis=1) == 0).any():
            found.append(f"{where}: a class has no training sample")
        if level in NAMED_LEVELS:
            continue
        for y, aligned in enumerate(law.aligned):
            total, wanted = int(train[y].sum()), rho_of(level)
            # One sample either way: counts are rounded, and one conflicting sample stays.
            if abs(int(train[y, aligned]) - float(wanted) * total) > 1.0:
                found.append(f"{where}: class {y} has {train[y, aligned]} aligned samples of {total}")
    return found


def _split_law(case: _Case) -> list[str]:
    found, law = [], case.card.law
    tests: dict[str, set[str]] = {}
    minorities: dict[int, list[tuple[float, set[str]]]] = {}
    for (level, draw), manifest in case.manifests().items():
        sources = {name: set(manifest.splits[name].sources) for name in SPLITS}
        shared = [(a, b) for k, a in enumerate(SPLITS) for b in SPLITS[k + 1 :] if sources[a] & sources[b]]
        found += [f"at {level}, draw {draw}: {a} and {b} share samples" for a, b in shared]
        for name in (TEST, AUDIT):
            if tests.setdefault(name, sources[name]) != sources[name]:
                found.append(f"at {level}, draw {draw}: {name} is not that of the other levels and draws")
        if level not in NAMED_LEVELS:
            rows = manifest.splits[TRAIN]
            conflicting = np.flatnonzero(rows.a != np.array(law.aligned)[rows.y])
            minorities.setdefault(draw, []).append((float(rho_of(level)), {rows.sources[k] for k in conflicting}))
    for draw, nested in minorities.items():
        ordered = [samples for _, samples in sorted(nested, key=lambda pair: pair[0])]
        if any(not stricter <= looser for looser, stricter in itertools.pairwise(ordered)):
            found.append(f"draw {draw}: the minority of a higher bias level is no part of that of a lower one")
    return found


def _order(case: _Case) -> list[str]:
    """Within a class, conflicting samples must stand at random places of what a method is given."""
    found, law = [], case.card.law
    for (level, draw), manifest in case.manifests().items():
        for name in (TRAIN, VALIDATION):
            rows = manifest.splits[name]
            conflicting = rows.a != np.array(law.aligned)[rows.y]
            score = _place_score(rows.y, conflicting)
            if abs(score) > _MOST_DEVIATIONS:
                found.append(f"at {level}, draw {draw}: the order of {name} tells who conflicts ({score:+.0f} sigma)")
    return found


def _place_score(y: NDArray[np.int64], conflicting: NDArray[np.bool_]) -> float:
    """Return Wilcoxon's rank sum of the conflicting samples' places within classes, in standard deviations."""
    excess, variance = 0.0, 0.0
    for label in np.unique(y):
        chosen = conflicting[y == label]
        n, m = len(chosen), int(chosen.sum())
        excess += float(np.flatnonzero(chosen).sum()) - m * (n - 1) / 2
        variance += m * (n - m) * (n + 1) / 12
    return excess / variance**0.5 if variance else 0.0


def _groups(case: _Case) -> list[str]:
    expected = {counts.level: counts for counts in case.card.task.expected}
    allowed = case.card.allowed_groups()
    found = [] if expected else ["the card expects no sizes; `genbias-bench data pin` writes them"]
    for (level, draw), manifest in case.manifests().items():
        strangers = int(manifest.counts(TRAIN)[~allowed].sum())
        if strangers:
            found.append(f"at {level}, draw {draw}: {strangers} training samples are of no comparable group")
        counts = level_counts_of(case.task, manifest)
        if case.listing.complete and level in expected and not agree(expected[level], counts):
            found.append(f"at {level}, draw {draw}: the card expects {expected[level]}, found {counts}")
    return found


def _digests(case: _Case) -> list[str]:
    if case.card.task.name in plug_in_tasks():
        raise NotChecked("no lock of genbias-bench pins a plug-in's splits")
    if not case.listing.complete:
        raise NotChecked("only part of the data is here")
    found = []
    for (level, draw), manifest in case.manifests().items():
        state = load_lock("splits").state(case.card, manifest, complete=True)
        if state != "pinned":
            found.append(f"the split at {level}, draw {draw} is {state}; `genbias-bench data pin` pins it")
    return found


# --- images --------------------------------------------------------------------------------------------------------


def _images(case: _Case) -> list[str]:
    task, size = case.task, case.card.task.pixels.size
    if not case.listing.ids:
        raise NotChecked("there is no sample")
    images = _some_images(task, size)
    found = []
    for name, image in images.items():
        if image.dtype != np.uint8 or image.shape != (size, size, 3):
            found.append(f"{name} is {image.dtype} {list(image.shape)}, not uint8 [{size}, {size}, 3]")
        elif np.ptp(image) == 0:
            found.append(f"{name} has one colour only")
    again = _some_images(task, size)
    if any(not np.array_equal(image, again[name]) for name, image in images.items()):
        found.append("decoding the same image twice gives other pixels")
    return found


def _some_images(task: Task, size: int) -> dict[str, NDArray[np.uint8]]:
    """Return a few images by name; from their files where nothing is prepared yet."""
    if isinstance(task, FileTask) and task.find_prepared(size) is None and task.place is not None:
        files, decode = task.files(task.place.folder), task.decoder(size)
        wanted = frozenset(files.ids[:_IMAGES])
        given = ((name, read_file(each) if isinstance(each, Path) else each) for name, each in files.stream(wanted))
        return {name: decode(content)[0] for name, content in given}
    manifest = task.manifest(task.card.task.default_level, DRAWS[0])
    found: dict[str, NDArray[np.uint8]] = {}
    for split in (TRAIN, TEST):
        rows = manifest.splits[split]
        rows = rows.take(range(min(_IMAGES, len(rows))))
        found |= dict(zip(rows.ids, task.render(rows), strict=True))
    return found


def _check(name: str, promise: str, advice: str) -> Check:
    return Check(name, promise, "not checked", advice=advice)


_LAW = "leave splitting to the split law: list samples, and nothing else"
_CHECKS: tuple[tuple[Check, Callable[[_Case], list[str]]], ...] = (
    (_check("card", "the card says what people need to know", "complete the card"), _card),
    (_check("licence", "licence and terms of use are stated", "say whose the data are and what may be done"), _licence),
    (_check("loader", "the task's class loads, and knows its folder", "compare with a task of ours"), _loader),
    (_check("listing", "two listings are one", "sort what a file system or a set returns"), _listing),
    (_check("levels", "every bias level has its share of aligned samples", _LAW), _levels),
    (_check("split-law", "splits share no sample, tests are common, minorities nested", _LAW), _split_law),
    (_check("order", "the order of samples tells no group", _LAW), _order),
    (_check("groups", "groups are as the card expects", "`genbias-bench data pin NAME` writes the sizes"), _groups),
    (_check("digests", "split digests are those of the lock", "find out what changed: data, ids or law"), _digests),
    (_check("images", "images decode, and the same every time", "return uint8 RGB of the card's size"), _images),
)
