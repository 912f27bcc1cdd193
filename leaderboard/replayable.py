"""What was handed in for a replay: the rows that the records make, and whether they can be run again here at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.contract.registry import listed_methods, origin_of, source_digest
from benchmark.contract.space import recipe_space
from benchmark.contract.tracks import SelectionRule
from benchmark.errors import DataError, InvalidValue, NotAvailable, UsageError
from benchmark.evaluation.cell import Configuration, Request, ResolvedCell
from benchmark.generators.identity import TINY_SD
from benchmark.records.canonical import sha256_of
from benchmark.records.schema import Record
from benchmark.tasks.card import DataCard
from benchmark.tasks.catalog import find_card
from benchmark.training.specs import FROM_SCRATCH
from leaderboard.groups import Group, Scored, group_runs
from leaderboard.load import Problems, find_records
from leaderboard.reading import read_runs
from leaderboard.remembered import Remembered

_SAMPLING = ("scheduler", "steps", "guidance", "batch_size")
_IDENTITY = ("kind", "name", "revision", "content_sha256")
_OF_THE_SEED = ("seed", "draw", "split_digest", "budget")


@dataclass(frozen=True, eq=False)
class Submitted:
    """The runs of one row that were handed in.

    Attributes:
        groups: Its seeds under each selection rule that the method has.
    """

    groups: Mapping[str, Group]

    @property
    def runs(self) -> list[Scored]:
        """One run for each seed, in the order of seeds."""
        return next(iter(self.groups.values())).runs

    @property
    def record(self) -> Record:
        """Any of the records: what makes a row is equal in all."""
        return self.runs[0].run.record

    @property
    def metric(self) -> str:
        """The task's ranking metric."""
        return self.runs[0].split.labels.ranking_metric

    def values(self, rule: str) -> dict[int, float]:
        """Return the ranking metric by seed.

        Raises:
            InvalidValue: Where it is undefined.
        """
        group = self.groups[rule]
        found = {
            scored.run.record.seed: value
            for scored, value in zip(group.runs, group.values(self.metric), strict=True)
            if value is not None
        }
        if len(found) < len(group.runs):
            raise InvalidValue(f"{self.runs[0].run.file}: {self.metric} is undefined here, so nothing can be confirmed")
        return found


def submitted_rows(records: Sequence[Path]) -> list[Submitted]:
    """Read records and gather them into rows; what maintainers said of them so far plays no part.

    Raises:
        UsageError: Without a finished run, or with one that cannot be checked here.
        GenBiasError: For a record that is not what it says.
    """
    problems = Problems()
    with Remembered(None) as memory:
        read = read_runs(find_records(records), {}, memory, problems)
    problems.raise_any()
    for other in read.others:
        if other.status == "left out":
            raise UsageError(f"{other.run.file} cannot be replayed: {other.reason}")
    if not read.scored:
        raise UsageError(f"there is no finished run in {', '.join(map(str, records))}")
    rows: dict[str, list[Scored]] = defaultdict(list)
    for scored in read.scored:
        rows[sha256_of(scored.configuration)].append(scored)
    return [
        Submitted({rule: group for rule in SelectionRule for group in group_runs(members, rule)})
        for _, members in sorted(rows.items())
    ]


def check_runnable(row: Submitted) -> None:
    """Refuse a row that the installed code and the cards at hand would not make again.

    Raises:
        NotAvailable: When the method is not installed, or its code is not the one that the records name.
        DataError: When the task's card is not the one that they name.
        InvalidValue: When the ranking metric is undefined, or the budget is none that can be asked for.
    """
    for scored in row.runs:
        _check_code(scored.run.record, scored.run.file)
        _check_card(scored.run.record, scored.run.file)
    for rule in row.groups:
        row.values(rule)
    if not row.runs[0].standard_budget:
        raise InvalidValue(f"{row.runs[0].run.file} has another budget than the protocol's, which cannot be asked for")


def _check_code(record: Record, file: Path) -> None:
    method = record.method
    if method.name not in listed_methods():
        raise NotAvailable(
            f"{file} is of method {method.name!r}, which is not installed; install {method.package!r} "
            f"{method.package_version!r}"
        )
    installed = source_digest(method.name)
    if installed != method.source_digest:
        raise NotAvailable(
            f"{file} was made by code {method.source_digest[:12]}… of {method.name!r}, installed is {installed[:12]}…; "
            "a replay runs merged code only: make the runs again from it"
        )
    version = origin_of(method.name).version
    if method.origin == "plug-in" and version != method.package_version:
        raise NotAvailable(
            f"{file} was made by {method.package!r} {method.package_version!r}, installed is {version}; install that "
            "version"
        )


def _check_card(record: Record, file: Path) -> None:
    digest = find_card(record.cell.task).digest
    if record.task.card_digest != digest:
        raise DataError(
            f"{file} was made under data card {record.task.card_digest[:12]}… of {record.cell.task}, here it is "
            f"{digest[:12]}…; make the runs again under it"
        )


def request_of(row: Submitted, seed: int, generator: str | None = None, clip: str | None = None) -> Request:
    """Return how to ask for a row's configuration with another seed.

    Args:
        row: The row.
        seed: The seed.
        generator: Folder of the generator, where the records name one by its content.
        clip: The same for a CLIP model.

    Raises:
        NotAvailable: When such a folder is needed and not given.
    """
    record, cell = row.record, row.record.cell
    request = Request(
        record.method.name,
        task=cell.task,
        level=cell.level,
        seed=seed,
        generator=_model("generator", cell.generator, generator),
        # A stranger's record names it: nothing is fetched for it.
        offline=True,
        recipe=record.task.recipe,
        clip=_model("clip", cell.clip, clip),
    )
    if record.method.tuning is not None:
        return replace(request, configuration=_tuned(record, row.runs[0].split.task.card))
    sampling = cell.generator or {}
    return replace(
        request,
        overrides=record.method.hparams,
        backbone_weights=cell.training.get("backbone_weights") or FROM_SCRATCH,
        sampling={name: sampling[name] for name in _SAMPLING if name in sampling},
    )


def _tuned(record: Record, card: DataCard) -> Configuration:
    """Return what a study chose, as the record tells it."""
    use, cell = record.method.tuning, record.cell
    assert use is not None
    space = recipe_space(card.recipe(record.task.recipe))
    # Only what may be tuned, and within its range: the comparison of the cells finds whatever else differs.
    training = {name: cell.training[name] for name in space if space[name].holds(cell.training.get(name))}
    generator = cell.generator and {name: cell.generator.get(name) for name in _IDENTITY}
    return Configuration(
        study=use.study,
        method=cell.method,
        task=cell.task,
        recipe=record.task.recipe,
        generator=generator,
        hparams=record.method.hparams,
        training=training,
        criterion=SelectionRule(use.criterion),
        trial=use.trial,
        chosen=use,
    )


def _model(option: str, recorded: Mapping[str, Any] | None, given: str | None) -> str | None:
    """Return how to name a generator or CLIP model on the command line so that it is the recorded one."""
    if recorded is None or given is not None:
        return given
    name = str(recorded.get("name"))
    if recorded.get("kind") == "hub":
        return f"{name}@{recorded.get('revision')}"
    if name != TINY_SD:
        digest = str(recorded.get("content_sha256"))[:12]
        raise NotAvailable(f"the records used {name!r} with content {digest!r}…; name its folder by --{option} FOLDER")
    return name


def check_configuration(cell: ResolvedCell, submitted: Scored, *, same_seed: bool) -> None:
    """Refuse a run that would not be the submitted configuration, whatever the reason.

    Raises:
        InvalidValue: With what differs.
    """
    ours, theirs = cell.cell.model_dump(mode="json"), submitted.run.record.cell.model_dump(mode="json")
    for name in sorted(ours.keys() | theirs.keys()):
        if name in _OF_THE_SEED and not same_seed:
            continue
        if ours.get(name) != theirs.get(name):
            raise InvalidValue(
                f"{submitted.run.file}: {name} is {theirs.get(name)!r}, but would be {ours.get(name)!r} here, so the "
                "replay would be of another configuration"
            )
