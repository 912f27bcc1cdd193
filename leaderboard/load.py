"""Reading records that strangers may have written: found, bounded, parsed, identified; every problem is collected."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.contract.tracks import SelectionRule, Track, row_track
from benchmark.errors import DamagedFile, GenBiasError
from benchmark.records.canonical import sha256_of
from benchmark.records.files import TEMPORARY_PREFIX, read_json
from benchmark.records.results import RECORD_FILE, read_record
from benchmark.records.schema import Record
from benchmark.tasks.law import DRAWS
from leaderboard.models import Level
from leaderboard.verification import Entry, check_entry, record_digest

_MAX_RECORD_BYTES = 32 * 2**20
_LONGEST_NAME = 200
_SHOWN_PROBLEMS = 20


@dataclass(frozen=True, eq=False)
class Run:
    """One record at hand.

    Attributes:
        file: Where it lies.
        record: Its content.
        digest: SHA-256 of its JSON content.
        level: What maintainers say about it.
    """

    file: Path
    record: Record
    digest: str
    level: Level

    @property
    def attempt(self) -> tuple[int, str]:
        """Order of several runs of one cell: the first attempt first, whatever the order of the folders."""
        number = self.record.run_id.partition("-")[2]
        return int(number or 1), self.digest


@dataclass
class Problems:
    """Errors met on the way, so that a maintainer sees all of them at once."""

    found: list[GenBiasError] = field(default_factory=list)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keep an error of ours instead of stopping."""
        try:
            yield
        except GenBiasError as error:
            self.found.append(error)

    def raise_any(self) -> None:
        """Raise what was met.

        Raises:
            GenBiasError: The error itself when there is one; otherwise one of their common kind, or
                :class:`DamagedFile`, that lists them.
        """
        if not self.found:
            return
        if len(self.found) == 1:
            raise self.found[0]
        messages = sorted({str(error) for error in self.found})
        listed = [f"- {message}" for message in messages[:_SHOWN_PROBLEMS]]
        if len(messages) > _SHOWN_PROBLEMS:
            listed.append(f"- and {len(messages) - _SHOWN_PROBLEMS} more")
        kinds = {type(error) for error in self.found}
        text = "\n".join([f"the board was not built; {len(messages)} problems:", *listed])
        # Only kinds that take a bare message can carry the list.
        raise (kinds.pop() if len(kinds) == 1 and kinds <= _LISTABLE else DamagedFile)(text)


def find_records(inputs: Sequence[Path]) -> list[Path]:
    """Return every record file below some folders or files, each once, in path order.

    Raises:
        DamagedFile: For a folder or file that does not exist.
    """
    found: set[Path] = set()
    for path in inputs:
        if not path.exists():
            raise DamagedFile(f"{path} does not exist; give folders of records or record files")
        files = [path] if path.is_file() else list(path.rglob(RECORD_FILE))
        found |= {file.resolve() if file is path else file.absolute() for file in files if not _temporary(file)}
    return sorted(found)


def load_runs(files: Sequence[Path], verified: dict[str, Entry], problems: Problems) -> list[Run]:
    """Read records, without the trials; what is wrong goes to ``problems``."""
    runs = []
    for file in files:
        with problems.collect():
            run = load_run(file, verified)
            if run.record.kind == "run":
                runs.append(run)
    return runs


def load_run(file: Path, verified: dict[str, Entry]) -> Run:
    """Read one record and check that it is what it says.

    Raises:
        DamagedFile: When it is no record, or contradicts itself or the entry that names it.
        NewerSchema: When a newer version wrote it.
    """
    check_plain(file, _MAX_RECORD_BYTES)
    record = read_record(file)
    digest = record_digest(read_json(file), str(file))
    _check_identity(record, file)
    entry = verified.get(digest)
    level: Level = "self-reported" if entry is None else check_entry(entry, record, str(file))
    return Run(file, record, digest, level)


def check_plain(file: Path, most: int) -> None:
    """Refuse what is no plain file of bounded size.

    Raises:
        DamagedFile: When it is missing, a link, a device, or too large.
    """
    try:
        found = os.lstat(file)
    except OSError as error:
        raise DamagedFile(f"{file} is missing; a record and the files that it names belong together") from error
    if not stat.S_ISREG(found.st_mode):
        raise DamagedFile(f"{file} is no plain file; links and devices are not read")
    if found.st_size > most:
        raise DamagedFile(f"{file} holds {found.st_size:,} bytes; at most {most:,} are read")


def _temporary(file: Path) -> bool:
    return any(part.startswith(TEMPORARY_PREFIX) for part in file.parts)


def _check_identity(record: Record, file: Path) -> None:
    cell, task, method = record.cell, record.task, record.method
    if sha256_of(cell.model_dump(mode="json")) != record.cell_id:
        raise DamagedFile(f"{file}: cell_id is not the SHA-256 of its cell")
    if not record.run_id.startswith(record.cell_id[:12]):
        raise DamagedFile(f"{file}: run_id {record.run_id} does not belong to cell {record.cell_id[:12]}")
    if max(map(len, (cell.task, cell.level, cell.method))) > _LONGEST_NAME:
        raise DamagedFile(f"{file}: a name is longer than {_LONGEST_NAME} characters")
    said = {
        "task": f"{task.name}@{task.version}",
        "method": f"{method.name}@{method.version}",
        "level": task.level,
        "draw": task.draw,
        "seed": record.seed,
        "hparams": method.hparams,
        "split_digest": task.split_digest,
    }
    for name, value in said.items():
        if getattr(cell, name) != value:
            raise DamagedFile(f"{file} contradicts itself: {name} is {value!r}, in its cell {getattr(cell, name)!r}")
    if cell.draw != cell.seed % len(DRAWS):
        raise DamagedFile(f"{file}: seed {cell.seed} goes with draw {cell.seed % len(DRAWS)}, not {cell.draw}")
    _check_budget(record, file)
    for stage in record.stages:
        rules = [checkpoint.rule for checkpoint in stage.checkpoints]
        if len(set(rules)) != len(rules):
            raise DamagedFile(f"{file}: stage {stage.name!r} has two checkpoints of one selection rule")
        for checkpoint in stage.checkpoints:
            track = row_track(Track(method.track), SelectionRule(checkpoint.rule)).value
            if checkpoint.track != track:
                raise DamagedFile(
                    f"{file}: rule {checkpoint.rule} on track {method.track} is track {track}, not {checkpoint.track}"
                )


def _check_budget(record: Record, file: Path) -> None:
    if record.budget is None:
        return
    budget = record.budget
    allowed = {"synthetic": budget.synthetic_allowed, "sampled": budget.sampled_allowed, "steps": budget.steps_allowed}
    if record.cell.budget != allowed:
        raise DamagedFile(f"{file} contradicts itself: budget {allowed}, in its cell {record.cell.budget}")


_LISTABLE: set[type[GenBiasError]] = {
    kind for kind in GenBiasError.__subclasses__() if kind.__init__ is GenBiasError.__init__
}
