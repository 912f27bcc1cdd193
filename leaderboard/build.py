"""`leaderboard build`: from folders of records to a board and LEADERBOARD.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmark.contract.tracks import SelectionRule
from benchmark.errors import UsageError
from benchmark.metrics.registry import METRICS_VERSION
from benchmark.records.files import make_folder, write_text
from benchmark.records.generations import PROCESS
from benchmark.records.schema import SCHEMA_VERSION
from benchmark.tasks.card import DEFAULT_RECIPE, DataCard
from benchmark.tasks.catalog import find_card
from leaderboard.answers import Split, Splits, read_answers
from leaderboard.claims import check_claims, recipe_of
from leaderboard.generated import check_measurements, generated_rows
from leaderboard.groups import Scored, group_runs
from leaderboard.load import Problems, Run, find_records, load_runs
from leaderboard.markdown import render_markdown
from leaderboard.models import Absent, AbsentStatus, Board, GeneratedRow, RuleSection, Table, TaskSection, Trajectory
from leaderboard.rows import build_table
from leaderboard.stages import stage_rows
from leaderboard.trajectories import is_process, trajectories, why_no_trajectory
from leaderboard.verification import VERIFICATION_FILE, read_verifications

BOARD_FILE = "LEADERBOARD.md"
_TIERS = ("core", "extended", "demo")


def build_board(
    records: Sequence[Path] | None = None, output: Path | None = None, *, verification: Path = VERIFICATION_FILE
) -> Board:
    """Build the board and write it as Markdown.

    Args:
        records: Folders of records, or record files; None takes the accepted ones, ``leaderboard/results`` of the
            checkout.
        output: The Markdown file to write; None takes ``LEADERBOARD.md`` at the root of the checkout.
        verification: The file in which maintainers write verification levels.

    Returns:
        The board; its ``model_dump(mode="json")`` is what leaderboard.json holds, ``written_to`` is the file.

    Raises:
        UsageError: Without a path where there is no checkout.
        DamagedFile: When a record or a predictions file is not what it says; all such problems are named.
        NewerSchema: When records were written by a newer version.
        DataError: When a task's data are not at hand, so that answers cannot be checked.
        StoreError: When the file cannot be written.
    """
    target = output if output is not None else _checkout("an output file") / BOARD_FILE
    board = collect_board(_inputs(records), verification=verification)
    make_folder(target.parent)
    write_text(target, render_markdown(board))
    return board.model_copy(update={"written_to": str(target)})


def collect_board(records: Sequence[Path], *, verification: Path = VERIFICATION_FILE) -> Board:
    """Compute a board without writing anything; see :func:`build_board`."""
    verifications = read_verifications(verification)
    verified = verifications.by_digest()
    problems = Problems()
    runs = load_runs(find_records(records), verified, problems)
    scored, absent = _score(runs, problems)
    problems.raise_any()
    tasks = [_task_section(task, members) for task, members in _by_task(scored)]
    return Board(
        release=verifications.release,
        schema_version=SCHEMA_VERSION,
        metrics_version=METRICS_VERSION,
        runs=len({each.run.record.cell_id + each.run.level for each in scored}),
        data_sets_covered=sum(section.tier != "demo" and _ranks_any(section) for section in tasks),
        tasks=tasks,
        absent=absent,
        unmatched_verifications=len(set(verified) - {run.digest for run in runs}),
    )


def collect_trajectories(
    records: Sequence[Path] | None = None, *, verification: Path = VERIFICATION_FILE
) -> tuple[dict[str, list[Trajectory]], list[Absent]]:
    """Return the trajectories that a board would show, by task, and the runs of processes that have none.

    Args:
        records: As for :func:`build_board`.
        verification: As for :func:`build_board`.

    Raises:
        GenBiasError: As :func:`build_board`.
    """
    problems = Problems()
    runs = load_runs(find_records(_inputs(records)), read_verifications(verification).by_digest(), problems)
    scored, absent = _score([run for run in runs if run.record.method.kind == PROCESS], problems)
    problems.raise_any()
    return {card.id: trajectories(members, card) for card, members in _by_task(scored)}, absent


def _inputs(records: Sequence[Path] | None) -> list[Path]:
    if records is not None:
        return list(records)
    accepted = _checkout("folders of records") / "leaderboard" / "results"
    return [accepted] if accepted.is_dir() else []


def _checkout(missing: str) -> Path:
    root = Path(__file__).resolve().parents[1]
    if not (root / "pyproject.toml").is_file():
        raise UsageError(
            f"this installation is no checkout of genbias-bench, so there is no default: name {missing}, "
            "or run the command in a clone of the repository that is installed with `pip install -e .`"
        )
    return root


def _score(runs: Sequence[Run], problems: Problems) -> tuple[list[Scored], list[Absent]]:
    """Read the answers of finished runs; list the others."""
    splits, scored = Splits(), []
    finished = {run.record.cell_id for run in runs if run.record.status == "success"}
    others: list[tuple[Run, AbsentStatus, str]] = []
    for run in runs:
        status = run.record.status
        if status != "success":
            # A cell that was finished later needs no excuse.
            if run.record.cell_id not in finished:
                others.append((run, status, _why(run)))
            continue
        with problems.collect():
            split = splits.of(run)
            if isinstance(split, Split):
                check_claims(run)
                check_measurements(run)
                if reason := why_no_trajectory(run):
                    others.append((run, "left out", reason))
                    continue
                scored.append(Scored(run, split, read_answers(run, split)))
            else:
                others.append((run, "left out", split))
    return scored, _absent(others)


def _why(run: Run) -> str:
    record = run.record
    if record.skipped_because:
        return record.skipped_because
    if record.failure is not None:
        return f"{record.failure.kind}: {record.failure.message}"
    return "interrupted" if record.status == "cancelled" else "never finished"


def _absent(runs: Sequence[tuple[Run, AbsentStatus, str]]) -> list[Absent]:
    seeds: dict[tuple[str, str, str, AbsentStatus, str], set[int]] = defaultdict(set)
    for run, status, reason in runs:
        cell = run.record.cell
        seeds[cell.task, cell.level, cell.method, status, reason].add(cell.seed)
    return [
        Absent(task=task, level=level, method=method, status=status, reason=reason, seeds=sorted(members))
        for (task, level, method, status, reason), members in sorted(seeds.items())
    ]


def _by_task(scored: Sequence[Scored]) -> list[tuple[DataCard, list[Scored]]]:
    by_task: dict[str, list[Scored]] = defaultdict(list)
    for each in scored:
        by_task[each.run.record.cell.task].append(each)
    sections = [(find_card(task), members) for task, members in by_task.items()]
    return sorted(sections, key=lambda section: (_TIERS.index(section[0].task.tier), section[0].id))


def _task_section(card: DataCard, scored: Sequence[Scored]) -> TaskSection:
    task = card.task
    cells: dict[tuple[str, str], list[Scored]] = defaultdict(list)
    for each in (each for each in scored if not is_process(each)):
        cells[each.run.record.cell.level, recipe_of(each.run.record, card)].append(each)
    recipes = (DEFAULT_RECIPE, *task.recipes)
    order = [(level, recipe) for recipe in recipes for level in task.levels if (level, recipe) in cells]
    rules = []
    for rule in SelectionRule:
        tables: list[Table] = [
            build_table(level, recipe, card, group_runs(cells[level, recipe], rule.value)) for level, recipe in order
        ]
        tables = [table for table in tables if table.rows]
        if tables:
            rules.append(RuleSection(rule=rule.value, tables=tables))
    shown = next((table for table in rules[0].tables if table.level == task.default_level), None) if rules else None
    default = [] if shown is None else group_runs(cells[shown.level, shown.recipe], SelectionRule.LAST.value)
    return TaskSection(
        task=card.id,
        title=str(card.hub.get("pretty_name", task.name)),
        tier=task.tier,
        ranking_metric=task.ranking_metric,
        default_level=task.default_level,
        test_rows=len(scored[0].split.labels),
        rules=rules,
        stages=stage_rows(default, [] if shown is None else [row.id for row in shown.rows]),
        generated=_generated(rules, cells),
        trajectories=trajectories([each for each in scored if is_process(each)], card),
    )


def _generated(rules: Sequence[RuleSection], cells: Mapping[tuple[str, str], Sequence[Scored]]) -> list[GeneratedRow]:
    last = SelectionRule.LAST.value
    tables = [table for section in rules if section.rule == last for table in section.tables]
    return [
        row for table in tables for row in generated_rows(table, group_runs(cells[table.level, table.recipe], last))
    ]


def _ranks_any(section: TaskSection) -> bool:
    rows = (row for rule in section.rules for table in rule.tables for row in table.rows)
    return any(row.rank is not None for row in rows)
