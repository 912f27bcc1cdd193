"""The judgement: what each check finds in the runs of one adapter. Every check is made, whatever the others say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmark.contract.budget import Budget
from benchmark.contract.tracks import SelectionRule, Track
from benchmark.testing.outcome import OTHER_SEED, SEED, Ran, Runs, Topic
from benchmark.testing.report import Check, Status

_BELONGS = {
    "UndeclaredGroupLabels": "groups", "OracleUse": "auditors", "BudgetExceeded": "budgets",
    "TrainingDiverged": "answers", "NetworkRefused": "offline", "ImportError": "imports", "ContractViolation": "stages",
}  # fmt: skip
"""Which check an exception that ended ``fit`` belongs to; the first of its classes that is named here decides."""


class NotChecked(Exception):
    """Raised by a check that has nothing to look at."""


@dataclass(frozen=True)
class Case:
    """Everything that checks look at.

    Attributes:
        name: The adapter's name.
        track: The group labels that it declares.
        stages: The stages that its card declares.
        uses_generator: Whether its card says that it asks for generated images.
        budget: What it may spend.
        limit: Seconds of processor time, or of waiting, that one run may take.
        card: What is wrong with its card.
        imports: What is wrong with its imports.
        runs: Its runs.
    """

    name: str
    track: Track
    stages: tuple[str, ...]
    uses_generator: bool
    budget: Budget
    limit: float
    card: tuple[str, ...]
    imports: tuple[str, ...]
    runs: Runs

    def compared(self, ran: Ran | None) -> tuple[Ran, Ran]:
        """Return the first run and another one, both finished.

        Raises:
            NotChecked: When one of them did not finish.
        """
        if not self.runs.first.finished:
            raise NotChecked("`fit` did not finish")
        if ran is None:
            raise NotChecked("there was no such run")
        return self.runs.first, ran

    def ended(self, check: str) -> list[str]:
        """Return the exceptions of the first two runs that belong to a check."""
        found = []
        for ran in (self.runs.first, self.runs.killed):
            if ran.outcome.failure is not None and _belongs(ran) == check:
                found.append(str(ran.outcome.failure))
        return list(dict.fromkeys(found))

    def noted(self, topic: Topic) -> list[str]:
        """Return the problems of one topic that any run noted."""
        return list(
            dict.fromkeys(str(p) for ran in self.runs.started for p in ran.outcome.problems if p.topic == topic)
        )


def judge(case: Case) -> tuple[Check, ...]:
    """Make every check."""
    return tuple(_made(check, look, case) for check, look in _CHECKS)


def nothing_but(name: str, findings: tuple[str, ...], why: str) -> tuple[Check, ...]:
    """Return all checks of an adapter that cannot even be loaded: one failed, the others not made."""
    blank = [replace(check, status="not checked", findings=(why,)) for check, _ in _CHECKS]
    return tuple(replace(c, status="failed", findings=findings) if c.name == name else c for c in blank)


def check_names() -> tuple[str, ...]:
    """Return the names of all checks, in order."""
    return tuple(check.name for check, _ in _CHECKS)


def _made(check: Check, look: Callable[[Case], list[str]], case: Case) -> Check:
    try:
        findings = [*case.ended(check.name), *look(case)]
    except NotChecked as reason:
        if ended := case.ended(check.name):
            return replace(check, status="failed", findings=tuple(ended))
        return replace(check, status="not checked", findings=(str(reason),))
    status: Status = "failed" if findings else "passed"
    return replace(check, status=status, findings=tuple(findings))


def _belongs(ran: Ran) -> str:
    failure = ran.outcome.failure
    if failure is None:
        return ""
    if any(problem.topic == "offline" for problem in ran.outcome.problems):
        return "offline"
    if "uses_generator" in failure.message:
        return "card"
    return next((_BELONGS[kind] for kind in failure.kinds if kind in _BELONGS), "runs")


# --- what each check looks at --------------------------------------------------------------------------------------


def _card(case: Case) -> list[str]:
    found = list(case.card)
    asked = "synthesize" in case.runs.first.outcome.calls
    if case.runs.first.finished and case.uses_generator and not asked:
        found.append("the card says that it uses a text-to-image generator, but `fit` asks for no generated image")
    return found


def _imports(case: Case) -> list[str]:
    return list(case.imports)


def _runs(case: Case) -> list[str]:
    found = []
    for ran in (case.runs.first, case.runs.killed):
        if ran.end == "died":
            found.append(f"the process ended with exit code {ran.code} and no exception, {ran.where or 'silently'}")
    if not found and not case.runs.first.finished and not case.ended("runs"):
        raise NotChecked("`fit` did not finish, for the reason that another check gives")
    return list(dict.fromkeys(found))


def _time(case: Case) -> list[str]:
    found = [
        f"a run was ended after {case.limit:.0f} s{f', at {ran.where}' if ran.where else ''}"
        for ran in case.runs.started
        if ran.end == "timeout"
    ]
    return list(dict.fromkeys(found))


def _stages(case: Case) -> list[str]:
    first, _ = case.compared(case.runs.first)
    seen = tuple(stage.name for stage in first.outcome.stages)
    rules = {rule for stage in first.outcome.stages[-1:] for rule in stage.weights}
    found = [] if seen == case.stages else [f"yields {', '.join(seen)}; the card declares {', '.join(case.stages)}"]
    return found if SelectionRule.LAST.value in rules else [*found, "the last stage has no checkpoint `last` to rank"]


def _same_seed(case: Case) -> list[str]:
    # The resumed run trained in another process and store, and not isolated: one that agrees shows both.
    again = case.runs.again or case.runs.resumed
    first, again = case.compared(again)
    if not again.finished:
        return [f"the same run did not finish when it was made once more: {_end(again)}"]
    return _differing(first, again, f"two runs with seed {SEED}, the first isolated, differ")


def _other_seed(case: Case) -> list[str]:
    first, other = case.compared(case.runs.other)
    if not other.finished:
        return [f"the run with seed {OTHER_SEED} did not finish: {_end(other)}"]
    if first.results[-1:] == other.results[-1:]:
        return [f"seeds {SEED} and {OTHER_SEED} give the same weights in the last stage"]
    return []


def _groups(case: Case) -> list[str]:
    found = case.noted("order")
    if case.track is Track.TRAIN and case.runs.first.finished:
        return found  # it may read every label that it is given
    if case.runs.again is not None and case.runs.again.results != case.runs.first.results:
        raise NotChecked("two equal runs differ already")
    first, regrouped = case.compared(case.runs.regrouped)
    if not regrouped.finished:
        return [*found, f"with other group labels on the same images the run did not finish: {_end(regrouped)}"]
    # The rule val-worst-group looks at the groups itself, whatever the method does.
    without = [{*r} for r in (_selected(first), _selected(regrouped))]
    if without[0] != without[1]:
        stages = ", ".join(sorted({stage for stage, *_ in without[0] ^ without[1]}))
        found.append(
            f"stage {stages} comes out differently when group labels that track {case.track.value!r} may not read are "
            "dealt out anew, with images, labels and order unchanged"
        )
    return found


def _data(case: Case) -> list[str]:
    return case.noted("data")


def _auditors(case: Case) -> list[str]:
    if not case.runs.first.finished:
        raise NotChecked("`fit` did not finish")
    return []


def _budgets(case: Case) -> list[str]:
    found, seen = [], case.runs.first.outcome
    if not case.runs.first.finished:
        raise NotChecked("`fit` did not finish")
    steps = case.budget.steps
    if seen.steps_used not in (0, steps):
        found.append(f"spends {seen.steps_used} optimiser steps; every method of a task spends {steps}")
    if seen.own_steps and seen.steps_used + seen.own_steps > steps:
        found.append(
            f"takes {seen.own_steps} optimiser steps in a loop of its own beside {seen.steps_used} of the tools; all "
            f"together may be {steps}"
        )
    if seen.synthetic_kept > case.budget.synthetic or seen.sampled > case.budget.sampled:
        found.append(f"keeps {seen.synthetic_kept} and samples {seen.sampled} images; B = {case.budget.synthetic}")
    return found


def _resumes(case: Case) -> list[str]:
    if case.runs.first.finished and case.runs.killed.end != "killed":
        raise NotChecked(f"the run could not be killed in its middle: {_end(case.runs.killed)}")
    first, resumed = case.compared(case.runs.resumed)
    if case.runs.again is not None and case.runs.again.results != first.results:
        raise NotChecked("two runs that were never killed differ already")
    if not resumed.finished:
        return [f"a killed run does not finish when it is started again: {_end(resumed)}"]
    found = _differing(first, resumed, "a killed and resumed run differs from one that was never killed")
    calls = case.runs.killed.outcome.calls
    if calls and not resumed.outcome.remembered:
        found.append(f"tools.{calls[0]} had been finished when the run was killed, and was done again")
    return found


def _offline(case: Case) -> list[str]:
    return case.noted("offline")


def _answers(case: Case) -> list[str]:
    found = case.noted("answers")
    if not case.runs.first.outcome.stages and not found:
        raise NotChecked("there is no stage")
    return found


def _state(case: Case) -> list[str]:
    left = [f"leaves {', '.join(ran.processes)} running" for ran in case.runs.started if ran.processes]
    return [*case.noted("state"), *dict.fromkeys(left)]


def _files(case: Case) -> list[str]:
    # A run that was ended could not clear up.
    left = {file: None for ran in case.runs.started if ran.end == "done" for file in ran.left}
    return [f"leaves {file.replace('work/', 'the file ', 1).replace('home/', '~/', 1)} behind" for file in left]


def _inputs(case: Case) -> list[str]:
    return case.noted("inputs")


# --- words ---------------------------------------------------------------------------------------------------------


def _differing(one: Ran, other: Ran, sentence: str) -> list[str]:
    if one.results == other.results:
        return []
    ours, theirs = one.results, other.results
    stages = ", ".join(dict.fromkeys(a[0] for a, b in zip(ours, theirs, strict=False) if a != b)) or "number of stages"
    return [f"{sentence}: {stages}"]


def _selected(ran: Ran) -> list[tuple[str, str, str, str]]:
    return [result for result in ran.results if result[1] != SelectionRule.VALIDATION_WORST_GROUP.value]


def _end(ran: Ran) -> str:
    if ran.outcome.failure is not None:
        return str(ran.outcome.failure)
    return {"timeout": "it took too long", "died": f"exit code {ran.code}"}.get(ran.end, f"it was {ran.end}")


def _check(name: str, promise: str, advice: str) -> Check:
    return Check(name, promise, "not checked", advice=advice)


_CHECKS: tuple[tuple[Check, Callable[[Case], list[str]]], ...] = (
    (_check("card", "the card says what people need to know",
            "complete the card; `genbias-bench describe NAME` shows how it reads"), _card),
    (_check("imports", "imports are public, installed and declared",
            "import genbias_bench, and name every other package among your dependencies"), _imports),
    (_check("runs", "`fit` comes to its end", "make `fit` run on colorized-digits: "
            "`genbias-bench evaluate --method NAME --debug` shows the whole traceback"), _runs),
    (_check("time", "no run takes too long",
            "look at the line named; --limit gives a slow adapter more time, --set smaller hyper-parameters"), _time),
    (_check("stages", "the declared stages come in order, and the last can be ranked",
            "yield Stage(name, model) for each name in the card's stages; own modules need build(spec)"), _stages),
    (_check("same-seed", "the same seed gives the same result, isolated or not", "draw random numbers from generators "
            "seeded by tools.seed('what for'), and depend on no set order, clock or thread"), _same_seed),
    (_check("other-seed", "another seed gives another result",
            "derive every seed from tools.seed(…), which moves with the run's seed; use no constant"), _other_seed),
    (_check("groups", "no group label is used that the card does not declare",
            "declare the track that covers what you read, or do without: also without private fields and known places"),
     _groups),
    (_check("data", "nothing is read but what `fit` is given",
            "use data.train, data.validation and the public methods of tools only"), _data),
    (_check("auditors", "no auditor is asked inside `fit`",
            "train a filter on data.train (keep='own'), or declare oracle=True, which is never ranked"), _auditors),
    (_check("budgets", "optimiser steps and generated images stay within the task's budget",
            "let shares add up to one, take plans from tools.budget, and bound own loops by tools.budget.steps"),
     _budgets),
    (_check("resumes", "a killed run goes on where it was and gives the same result",
            "keep no state outside `fit`: it is called from its start, and finished tools calls return at once"),
     _resumes),
    (_check("offline", "`fit` needs no network",
            "ship what you need in the package, or take a generator, CLIP or backbone that the harness resolves"),
     _offline),
    (_check("answers", "stages answer with finite logits of the right shape",
            "map [n, 3, h, w] to float logits [n, classes], deterministically and image by image"), _answers),
    (_check("state", "global state is left as it was", "use torch.random.fork_rng, torch.Generator, "
            "np.random.default_rng, contexts and explicit devices instead"), _state),
    (_check("files", "no file is left behind", "write into a tempfile.TemporaryDirectory, or not at all"), _files),
    (_check("inputs", "what `fit` is given and what tools return stays unchanged",
            "copy before you change: weights and images are remembered by their digest"), _inputs),
)  # fmt: skip
