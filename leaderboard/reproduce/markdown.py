"""The report of a reproduction as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from leaderboard.reproduce.plan import Plan, PlannedRow
from leaderboard.reproduce.report import Report, RowResult, RuleResult
from leaderboard.text import plain, safe


def render_report(report: Report) -> str:
    """Return a report as Markdown; every string of a record is escaped."""
    plan = report.plan
    parts = [
        f"# Reproduction of {safe(plan.task)}",
        f"{_chosen(plan)} {_machine(report)}",
        _time(report),
        "## A fresh seed",
        f"Seed {plan.fresh_seed} in every row. Each value lies inside if it is in the prediction interval of the "
        f"committed seeds, mean ± t(S − 1) · s · √(1 + 1/S) with s capped at twice the pooled s, at the level "
        f"1 − 0.05/{report.comparisons} = {_level(report)} (Bonferroni). Values in %.",
        _fresh_table(report.rows),
        "## A committed seed again",
        "With the same threads, precision and CPU capability every metric must be equal to 1e-6; under other "
        "conditions the same interval decides.",
        _repeated_table(report.rows),
    ]
    if any(run.failure for run in report.runs):
        parts += ["## Without a result", _failures(report.rows)]
    return "\n\n".join([*parts, "## Verdict", report.verdict]) + "\n"


def name_of(row: PlannedRow) -> str:
    """Return what to call a row, for people."""
    settings = "".join(f" {name}={value}" for name, value in row.changed.items())
    return plain(f"{row.method.rpartition('@')[0]}{settings} at {row.level}")


def render_estimate(plan: Plan) -> str:
    """Return what a plan holds and how long it may take, for people."""
    return (
        f"{len(plan.rows)} of {plan.rows_to_choose_from} accepted rows of {plan.task}, two runs each: about "
        f"{_minutes(plan.wall_seconds)} with two at a time on the machine of the committed records"
    )


def _chosen(plan: Plan) -> str:
    commit = "no commit" if plan.code.git_commit is None else f"commit {plan.code.git_commit[:12]}"
    changes = " with changes" if plan.code.git_dirty else ""
    time = "all of them" if plan.minutes is None else f"those that fit into {plan.minutes:g} min by estimate"
    return (
        f"{len(plan.rows)} of {plan.rows_to_choose_from} accepted rows, in the order of a hash {time}; made again from "
        f"version {safe(plan.code.version)}, {commit}{changes}, in isolation."
    )


def _machine(report: Report) -> str:
    here = report.machine
    if here is None:
        return "No run finished."
    return (
        f"Machine: {safe(here.device)} ({here.device_kind}), {safe(here.cpu_capability)}, {here.precision}, "
        f"{here.threads} thread(s) a run, {safe(here.system)}, Python {safe(here.python)}."
    )


def _time(report: Report) -> str:
    plan, measured = report.plan, report.measured
    before = f"; {measured.runs_before} runs were finished before it" if measured.runs_before else ""
    return (
        f"Time: estimated {_minutes(plan.work_seconds)} of runs, {_minutes(plan.wall_seconds)} with two at a time on "
        f"the machine of the committed records; measured {_minutes(measured.work_seconds)} of runs, and "
        f"{_minutes(measured.wall_seconds)} in the last call with {measured.workers} at a time{before}."
    )


def _fresh_table(rows: Sequence[RowResult]) -> str:
    headers = ["Row", "Rule", "Metric", "Committed mean", "Interval", "Fresh seed", "Verdict"]
    lines = [
        [
            safe(name_of(row.row)), f"`{rule.rule}`", safe(rule.metric), _points(rule.mean), _interval(rule),
            _points(rule.value), "inside" if rule.holds else "**outside**",
        ]
        for row in rows
        for rule in row.fresh.rules
    ]  # fmt: skip
    return _table(lines, headers)


def _repeated_table(rows: Sequence[RowResult]) -> str:
    headers = ["Row", "Seed", "Rule", "Verdict", "Largest difference", "Why"]
    lines = [
        [
            safe(name_of(row.row)), str(row.repeated.seed), f"`{rule.rule}`", _equal(rule), _difference(rule),
            safe(rule.why, 400),
        ]
        for row in rows
        for rule in row.repeated.rules
    ]  # fmt: skip
    return _table(lines, headers)


def _failures(rows: Sequence[RowResult]) -> str:
    return "\n".join(
        f"- {safe(name_of(row.row))}, seed {run.seed}: {safe(run.failure, 400)}"
        for row in rows
        for run in (row.fresh, row.repeated)
        if run.failure
    )


def _equal(rule: RuleResult) -> str:
    if not rule.by_equality:
        return f"inside {_interval(rule)}" if rule.holds else f"**outside** {_interval(rule)}"
    return "equal" if rule.holds else f"**different**: {safe(', '.join(rule.differing or []), 400)}"


def _difference(rule: RuleResult) -> str:
    return "–" if rule.largest_difference is None else f"{rule.largest_difference:.1e}"


def _interval(rule: RuleResult) -> str:
    if rule.low is None or rule.high is None:
        return "–"
    return f"[{_points(rule.low)}, {_points(rule.high)}]" + (" (s capped)" if rule.capped else "")


def _table(lines: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    return tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True) if lines else "No run finished."


def _level(report: Report) -> str:
    return f"{100 * report.confidence:.3f} %"


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"
