"""`leaderboard build`: from folders of records to a board and LEADERBOARD.md."""

from __future__ import annotations

import contextlib
import gc
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmark.contract.tracks import SelectionRule
from benchmark.errors import UsageError
from benchmark.metrics.registry import METRICS_VERSION
from benchmark.records.files import make_folder, write_text
from benchmark.records.generations import PROCESS
from benchmark.records.schema import SCHEMA_VERSION
from benchmark.records.store import default_store
from benchmark.tasks.card import DEFAULT_RECIPE, DataCard
from benchmark.tasks.catalog import find_card, superseded_by
from leaderboard.claims import recipe_of
from leaderboard.groups import Scored, group_runs
from leaderboard.load import Problems, find_records
from leaderboard.markdown import render_markdown
from leaderboard.models import Absent, AbsentStatus, Board, RuleSection, Table, TaskSection, Trajectory
from leaderboard.reading import Other, read_runs
from leaderboard.remembered import BOARD_CACHE, Remembered
from leaderboard.stages import stage_rows
from leaderboard.tables import table_of
from leaderboard.trajectories import is_process, trajectories
from leaderboard.verification import VERIFICATION_FILE, read_verifications

BOARD_FILE = "LEADERBOARD.md"
_TIERS = ("core", "extended", "demo")


def build_board(
    records: Sequence[Path] | None = None,
    output: Path | None = None,
    *,
    site: Path | None = None,
    submissions: Path | None = None,
    verification: Path = VERIFICATION_FILE,
    cached: bool = True,
) -> Board:
    """Build the board and write it as Markdown, as a static page, or both.

    The board of the accepted records also goes into README.md, as an excerpt between two comments.

    Args:
        records: Folders of records, or record files; None takes the accepted ones, ``leaderboard/results`` of the
            checkout.
        output: The Markdown file to write; None takes ``LEADERBOARD.md`` at the root of the checkout, or writes none
            where other records and a site are given.
        site: Folder to write the page into, see :mod:`leaderboard.site`; None writes none.
        submissions: Folder of the accepted ``NAME.json`` that say about whose methods the rows are; None takes
            ``submissions`` beside the checkout's accepted records, if it is there.
        verification: The file in which maintainers write verification levels.
        cached: Use what earlier builds remember in the store; False reads and checks everything again.

    Returns:
        The board; its ``model_dump(mode="json")`` is what board.json holds, ``written_to`` is the file, the Markdown
        one if both are written.

    Raises:
        UsageError: Without a path where there is no checkout.
        DamagedFile: When a record or a predictions file is not what it says; all such problems are named.
        NewerSchema: When records were written by a newer version.
        DataError: When a task's data are not at hand, so that answers cannot be checked.
        StoreError: When the file cannot be written.
    """
    from leaderboard.site.readme import README_FILE, update_readme

    target = output
    if output is None and (records is None or site is None):
        target = checkout("an output file") / BOARD_FILE
    board, runs = collect(_inputs(records), verification=verification, cache=_cache(cached))
    written = [] if target is None else [target]
    if site is not None:
        written.append(_write_site(board, runs, site, submissions))
    if target is not None:
        make_folder(target.parent)
        write_text(target, render_markdown(board))
    if records is None and output is None:
        update_readme(board, checkout("an output file") / README_FILE)
    return board.model_copy(update={"written_to": str(written[0])})


def _write_site(board: Board, runs: Sequence[Scored], folder: Path, submissions: Path | None) -> Path:
    from leaderboard.site.build import write_site
    from leaderboard.site.submissions import read_submissions

    about = submissions or Path(__file__).resolve().parent / "submissions"
    return write_site(board, runs, folder, submissions=read_submissions(about))[0]


def collect_board(
    records: Sequence[Path], *, verification: Path = VERIFICATION_FILE, cache: Path | None = None
) -> Board:
    """Compute a board without writing one: :func:`collect` without the runs."""
    return collect(records, verification=verification, cache=cache)[0]


def collect(
    records: Sequence[Path], *, verification: Path = VERIFICATION_FILE, cache: Path | None = None
) -> tuple[Board, list[Scored]]:
    """Compute a board without writing one, and return it with the runs in its tables.

    Args:
        records: Folders of records, or record files.
        verification: The file in which maintainers write verification levels.
        cache: File in which builds remember what they found out, see :mod:`leaderboard.remembered`; None reads and
            checks everything.

    Raises:
        GenBiasError: As :func:`build_board`.
    """
    verifications = read_verifications(verification)
    verified, problems = verifications.by_digest(), Problems()
    with Remembered(cache) as memory, _no_collection():
        read = read_runs(find_records(records), verified, memory, problems)
        problems.raise_any()
        tasks = [_task_section(card, members, memory) for card, members in _by_task(read.scored)]
    board = Board(
        release=verifications.release,
        schema_version=SCHEMA_VERSION,
        metrics_version=METRICS_VERSION,
        runs=len({each.run.record.cell_id + each.run.level for each in read.scored}),
        data_sets_covered=sum(_counts(section) for section in tasks),
        tasks=tasks,
        absent=_absent(read.others),
        unmatched_verifications=len(set(verified) - read.digests),
    )
    return board, read.scored


def collect_trajectories(
    records: Sequence[Path] | None = None, *, verification: Path = VERIFICATION_FILE, cached: bool = True
) -> tuple[dict[str, list[Trajectory]], list[Absent]]:
    """Return the trajectories that a board would show, by task, and the runs of processes that have none.

    Args:
        records: As for :func:`build_board`.
        verification: As for :func:`build_board`.
        cached: As for :func:`build_board`.

    Raises:
        GenBiasError: As :func:`build_board`.
    """
    verified, problems = read_verifications(verification).by_digest(), Problems()
    with Remembered(_cache(cached)) as memory, _no_collection():
        read = read_runs(find_records(_inputs(records)), verified, memory, problems, kind=PROCESS)
    problems.raise_any()
    found = {card.id: trajectories(members, card) for card, members in _by_task(read.scored)}
    return found, _absent(read.others)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Leave cycles alone: all records stay, and looking through them again and again takes longer than reading them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.unfreeze()  # what is new counts as old now, so that it is not all looked through at the next occasion
        if enabled:
            gc.enable()


def _cache(cached: bool) -> Path | None:
    return default_store() / BOARD_CACHE if cached else None


def _inputs(records: Sequence[Path] | None) -> list[Path]:
    if records is not None:
        return list(records)
    accepted = checkout("folders of records") / "leaderboard" / "results"
    return [accepted] if accepted.is_dir() else []


def checkout(missing: str) -> Path:
    """Return the root of the checkout that this code runs from.

    Args:
        missing: What has to be named where there is none.

    Raises:
        UsageError: Without a checkout.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / "pyproject.toml").is_file():
        raise UsageError(
            f"this installation is no checkout of genbias-bench, so there is no default: name {missing}, "
            "or run the command in a clone of the repository that is installed with `pip install -e .`"
        )
    return root


def _absent(others: Sequence[Other]) -> list[Absent]:
    seeds: dict[tuple[str, str, str, AbsentStatus, str], set[int]] = defaultdict(set)
    for each in others:
        cell = each.run.record.cell
        seeds[cell.task, cell.level, cell.method, each.status, each.reason].add(cell.seed)
    return [
        Absent(task=task, level=level, method=method, status=status, reason=reason, seeds=sorted(members))
        for (task, level, method, status, reason), members in sorted(seeds.items())
    ]


def _by_task(scored: Sequence[Scored]) -> list[tuple[DataCard, list[Scored]]]:
    by_task: dict[str, list[Scored]] = defaultdict(list)
    for each in scored:
        by_task[each.run.record.cell.task].append(each)
    sections = [(find_card(task), members) for task, members in by_task.items()]
    return sorted(sections, key=lambda section: _place(section[0]))


def _place(card: DataCard) -> tuple[int, bool, str]:
    """Order tasks by tier; within one, those that were superseded come last."""
    return _TIERS.index(card.task.tier), superseded_by(card) is not None, card.id


def _task_section(card: DataCard, scored: Sequence[Scored], memory: Remembered) -> TaskSection:
    task = card.task
    cells: dict[tuple[str, str], list[Scored]] = defaultdict(list)
    for each in (each for each in scored if not is_process(each)):
        cells[each.run.record.cell.level, recipe_of(each.run.record, card)].append(each)
    recipes = (DEFAULT_RECIPE, *task.recipes)
    order = [(level, recipe) for recipe in recipes for level in task.levels if (level, recipe) in cells]
    last = {cell: group_runs(cells[cell], SelectionRule.LAST.value) for cell in order}
    rules, generated = [], []
    for rule in SelectionRule:
        tables: list[Table] = []
        for cell in order:
            groups = last[cell] if rule is SelectionRule.LAST else group_runs(cells[cell], rule.value)
            if groups:
                found = table_of(*cell, rule.value, card, groups, memory)
                tables.append(found.table)
                generated += found.generated
        if tables:
            rules.append(RuleSection(rule=rule.value, tables=tables))
    shown = next((table for table in rules[0].tables if table.level == task.default_level), None) if rules else None
    default = [] if shown is None else last[shown.level, shown.recipe]
    return TaskSection(
        task=card.id,
        superseded_by=superseded_by(card),
        title=str(card.hub.get("pretty_name", task.name)),
        tier=task.tier,
        ranking_metric=task.ranking_metric,
        default_level=task.default_level,
        test_rows=len(scored[0].split.labels),
        rules=rules,
        stages=stage_rows(default, [] if shown is None else [row.id for row in shown.rows]),
        generated=generated,
        trajectories=trajectories([each for each in scored if is_process(each)], card),
    )


def _counts(section: TaskSection) -> bool:
    """Return whether a task counts as covered: a photographic one's current version with a ranked row."""
    if section.tier == "demo" or section.superseded_by is not None:
        return False
    rows = (row for rule in section.rules for table in rule.tables for row in table.rows)
    return any(row.rank is not None for row in rows)
