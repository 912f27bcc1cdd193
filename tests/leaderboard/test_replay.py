"""`replay`: what is refused before anything is trained, what is asked for, and real replays of short runs."""

from __future__ import annotations

import json
import re

import pytest

from benchmark.cli.replay import replay as verb
from benchmark.contract.space import SEED
from benchmark.errors import DataError, InvalidValue, NotAvailable, UsageError
from benchmark.evaluation.run import evaluate
from benchmark.tasks import card as cards
from benchmark.tasks.catalog import load_task
from leaderboard.replay import Where, fresh_seed, plan_replay, replay
from leaderboard.replayable import request_of, submitted_rows
from leaderboard.replayed import read_replays


@pytest.fixture
def where(tmp_path, maker):
    return Where(results=tmp_path / "replays", store=tmp_path / "store", device="cpu", verification=maker.verification)


def refusal(maker, where, error, **options):
    """Return why nothing is run; so nothing may lie in the folder of replays."""
    with pytest.raises(error) as caught:
        replay([maker.results], where, **options)
    assert not where.results.exists()
    return str(caught.value)


# --- refusals ------------------------------------------------------------------------------------------------------


def test_a_method_that_is_not_installed_is_refused(maker, where):
    maker.row("other/one", 0.5)
    assert "is of method 'other/one', which is not installed; install 'other' '1.0'" in refusal(
        maker, where, NotAvailable
    )


def test_other_code_is_refused_with_both_digests(maker, where):
    maker.row("erm", 0.5, source_digest="7" * 64)
    assert re.search(
        r"was made by code 777777777777… of 'erm', installed is [0-9a-f]{12}…; a replay runs merged code only",
        refusal(maker, where, NotAvailable),
    )


def test_another_card_is_refused_with_both_digests(maker, where):
    maker.row("erm", 0.5, change=lambda content: content["task"].update(card_digest="8" * 64))
    assert "was made under data card 888888888888… of colorized-digits@1, here it is" in refusal(
        maker, where, DataError
    )


def test_one_of_the_seeds_may_not_be_of_other_code_either(maker, where):
    maker.row("erm", 0.5, seeds=4)
    maker.run("erm", 4, source_digest="7" * 64)
    assert "0.95-seed4" in refusal(maker, where, NotAvailable)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["cell"]["training"].update(learning_rate=0.5), "training is {"),
        (lambda content: content["cell"].update(backbone_weights="f" * 64), "backbone_weights is 'ffff"),
    ],
)
def test_what_would_be_another_configuration_here_is_refused(maker, where, change, message):
    maker.row("erm", 0.5, change=change)
    said = refusal(maker, where, InvalidValue)
    assert message in said
    assert "so the replay would be of another configuration" in said


def test_a_budget_of_its_own_is_refused(maker, where):
    def generous(content):
        content["cell"]["budget"]["steps"] = content["budget"]["steps_allowed"] = 9999

    maker.row("erm", 0.5, change=generous)
    assert "has another budget than the protocol's" in refusal(maker, where, InvalidValue)


@pytest.mark.parametrize(
    ("seeds", "options", "message"),
    [
        (5, {"seed": 3}, "seed 3 is one of those submitted (0, 1, 2, 3, 4); give another, or repeat it by --same-seed"),
        (5, {"seed": 7, "same_seed": True}, "seed 7 is none of those submitted (0, 1, 2, 3, 4)"),
        (1, {}, "is the only seed of its row; a prediction interval needs at least 2: give the row's other records"),
        (1, {"same_seed": True}, "is the only seed of its row and would not run under the same"),
    ],
)
def test_seeds_that_confirm_nothing_are_refused(maker, where, seeds, options, message):
    def elsewhere(content):
        content["environment"]["cpu_capability"] = "of another machine"

    maker.row("erm", 0.5, seeds=seeds, change=elsewhere)
    assert message in refusal(maker, where, UsageError, **options)


def test_failures_alone_are_nothing_to_replay(maker, where):
    maker.run("erm", 0, status="cancelled")
    assert "there is no finished run in" in refusal(maker, where, UsageError)


def test_a_level_that_is_not_offered_is_refused(maker, where):
    maker.row("erm", 0.5, change=lambda content: [content[part].update(level="0.5") for part in ("cell", "task")])
    assert "cannot be replayed: colorized-digits has no bias level '0.5'" in refusal(maker, where, UsageError)


# --- what is asked for ---------------------------------------------------------------------------------------------


def test_records_are_gathered_into_rows_whatever_was_said_of_them(maker):
    maker.row("erm", 0.5, seeds=(0, 1))
    maker.row("erm", 0.5, seeds=(2, 3), verified=None)
    maker.row("erm", 0.5, seeds=(0, 1, 2), level="0.9", verified=None)
    rows = submitted_rows([maker.results])
    assert sorted((row.record.cell.level, [run.run.record.seed for run in row.runs]) for row in rows) == [
        ("0.9", [0, 1, 2]), ("0.95", [0, 1, 2, 3]),
    ]  # fmt: skip
    assert list(rows[0].groups) == ["last", "val-average", "val-worst-group"]


@pytest.mark.slow
def test_a_fresh_seed_is_none_of_those_submitted(maker, where):
    maker.row("erm", 0.5)
    (row,) = submitted_rows([maker.results])
    plans = [plan_replay(row, where) for _ in range(3)]
    seeds = {plan.cell.request.seed for plan in plans}
    assert len(seeds) == 3
    assert not seeds & {0, 1, 2, 3, 4}
    assert {plan.repeated for plan in plans} == {None}
    assert fresh_seed(set(range(1_000_000)) - {17}) == 17


@pytest.mark.slow
def test_the_ranked_rows_of_the_same_table_cap_the_deviation(maker, where):
    maker.row("erm", 0.5)
    maker.row("other/one", 0.6)
    maker.row("other/unranked", 0.1, verified="recomputed")
    maker.row("erm", 0.5, level="0.9")
    for row in submitted_rows([maker.results / "colorized-digits" / "erm"]):
        found = plan_replay(row, Where(device="cpu", verification=maker.verification)).pooled
        same = [r for r in maker.rows(level=row.record.cell.level).values() if r.rank is not None]
        # The half-width of the t interval over five seeds is 2.776 s / √5.
        halves = [(r.metrics[row.metric].high - r.metrics[row.metric].low) / 2 for r in same]
        squares = [(half / 2.7764 * 5**0.5) ** 2 for half in halves]
        assert found["last"] == pytest.approx((sum(squares) / len(squares)) ** 0.5, rel=1e-3)
    maker.entries.clear()
    assert maker.rows()["erm"].rank is None
    assert set(plan_replay(row, where).pooled.values()) == {None}


def test_a_repeated_seed_runs_on_as_many_threads_as_it_did(maker, where):
    maker.row("erm", 0.5, change=lambda content: content["environment"].update(threads=3))
    (row,) = submitted_rows([maker.results])
    plan = plan_replay(row, where, 2, same_seed=True)
    assert (plan.cell.request.seed, plan.threads) == (2, 3)
    assert plan.cell.cell_id == row.runs[2].run.record.cell_id
    assert plan_replay(row, where, 77).threads is None


def test_what_a_study_chose_is_asked_for_as_it_was(maker, where):
    study = {"study": "5" * 64, "trial": 3, "trials": 20, "criterion": "val-average", "expected_best": [1.0, 0.9]}

    def tuned(content):
        content["method"] |= {"configuration": "tuned", "tuning": study}
        content["cell"]["tuning"] = study["study"]
        content["cell"]["training"] = {**content["cell"]["training"]}
        content["cell"]["training"]["learning_rate"] *= 2

    maker.row("erm", 0.5, change=tuned)
    (row,) = submitted_rows([maker.results])
    plan = plan_replay(row, where, 77)
    assert plan.cell.cell.tuning == study["study"]
    assert plan.cell.recipe.learning_rate == row.record.cell.training["learning_rate"]
    with pytest.raises(InvalidValue, match=f"seed {SEED} is that of the study's trials"):
        plan_replay(row, where, SEED)


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ({"kind": "local", "name": "tiny-sd", "content_sha256": "1" * 64}, "tiny-sd"),
        ({"kind": "hub", "name": "org/sd", "revision": "a" * 40}, f"org/sd@{'a' * 40}"),
    ],
)
def test_a_generator_is_named_so_that_it_is_the_recorded_one(maker, model, asked):
    generator = {**model, "scheduler": "ddim", "steps": 8, "guidance": 3.0}
    maker.row("other/one", 0.5, change=lambda content: content["cell"].update(generator=generator))
    (row,) = submitted_rows([maker.results])
    request = request_of(row, 7)
    assert (request.generator, request.offline) == (asked, True)
    assert request.sampling == {"scheduler": "ddim", "steps": 8, "guidance": 3.0}


def test_a_generator_of_somebody_s_own_must_be_given(maker):
    generator = {"kind": "local", "name": "mine", "revision": None, "content_sha256": "1" * 64}
    maker.row("other/one", 0.5, change=lambda content: content["cell"].update(generator=generator))
    (row,) = submitted_rows([maker.results])
    with pytest.raises(NotAvailable, match=r"used 'mine' with content '111111111111'…; name its folder by --generator"):
        request_of(row, 7)
    assert request_of(row, 7, generator="folder").generator == "folder"


# --- real replays --------------------------------------------------------------------------------------------------


@pytest.fixture
def short(tmp_path, monkeypatch):
    """Train for a few steps, by a card that says so."""
    text = (cards.cards_folder() / "colorized-digits.md").read_text(encoding="utf-8")
    for name, value in (("steps", 12), ("evaluations", 2), ("batch_size", 16)):
        text = re.sub(rf"(?m)^    {name}: \d+$", f"    {name}: {value}", text, count=1)
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "colorized-digits.md").write_text(text, encoding="utf-8")
    cards.load_card.cache_clear()
    load_task.cache_clear()
    monkeypatch.setattr(cards, "cards_folder", lambda: tmp_path / "cards")
    yield
    cards.load_card.cache_clear()
    load_task.cache_clear()


@pytest.mark.slow
def test_short_runs_are_replayed_in_isolation(tmp_path, short, maker, where, capsys):
    for seed in (0, 1):
        evaluate("erm", seed=seed, results=maker.results, store=tmp_path / "first", device="cpu", threads=1)
    (found,) = replay([maker.results], where, seed=5)
    assert found.isolation.test_split_absent
    assert (found.seed, found.draw, found.same_seed) == (5, 0, False)
    assert sorted(found.records) == sorted(path.name for path in (maker.results / "colorized-digits/erm").iterdir())
    folder = where.results / "colorized-digits" / "erm" / found.run
    assert read_replays(folder / "replay.json") == [found]
    for rule in found.rules:
        recorded = json.loads((folder / "record.json").read_text())["stages"][-1]["checkpoints"]
        value = next(c["metrics"]["acc_conflicting"]["value"] for c in recorded if c["rule"] == rule.rule)
        assert rule.replayed == value
        assert rule.inside == (rule.low - 1e-9 <= value <= rule.high + 1e-9)
    # The same seed in another process gives the same answers.
    verb([maker.results], same_seed=True, results_dir=where.results, store=where.store, device="cpu")
    said = capsys.readouterr().out
    assert "Seed 0 (draw 0), one of those submitted; submitted: 0, 1." in said
    assert "every metric must be equal to 1e-6; the predictions are the same file" in said
