"""Verdicts of replays: prediction intervals, equality of one seed, and what is said about them."""

from __future__ import annotations

import json

import pytest

from benchmark.errors import DamagedFile
from benchmark.records.schema import Environment, MetricValue
from leaderboard.replayed import (
    RuleVerdict,
    SameSeed,
    differing_metrics,
    judge,
    other_conditions,
    read_replays,
    render_replay,
)

VALUES = {0: 0.60, 1: 0.64, 2: 0.58, 3: 0.66, 4: 0.62}
HERE = Environment(
    environment_id="e" * 64, git_commit="c" * 40, git_dirty=False, packages={}, python="3.11.0", system="Linux x86_64",
    device="a | processor", device_kind="cpu", cpu_capability="AVX2", precision="float32", threads=1,
)  # fmt: skip


def fresh(replayed: float, values: dict[int, float] = VALUES, pooled: float | None = None) -> RuleVerdict:
    return judge("last", "acc_conflicting", values, replayed, pooled, None)


def repeated(*conditions: str, differing: list[str], replayed: float = 0.6) -> RuleVerdict:
    same = SameSeed(list(conditions), differing, same_predictions=not differing)
    return judge("last", "acc_conflicting", VALUES, replayed, None, same)


def test_a_fresh_seed_is_held_against_the_prediction_interval() -> None:
    # t(4) = 2.776, s = 0.03162, √(1 + 1/5) = 1.0954
    found = fresh(0.7)
    assert (found.low, found.high) == pytest.approx((0.5238, 0.7162), abs=1e-4)
    assert [fresh(value).inside for value in (0.52, 0.53, 0.71, 0.72)] == [False, True, True, False]
    assert found.decided_by == "prediction interval"
    assert (found.differing, found.same_predictions) == (None, None)


def test_a_row_that_spreads_its_seeds_is_held_against_twice_the_pooled_deviation() -> None:
    wild = {0: 0.1, 1: 0.9, 2: 0.5, 3: 0.2, 4: 0.8}
    assert fresh(0.9, wild).inside
    assert not fresh(0.9, wild, pooled=0.02).inside
    assert fresh(0.7, pooled=0.02).inside


def test_seeds_without_spread_predict_their_own_value() -> None:
    flat = dict.fromkeys(range(3), 0.1)
    assert fresh(0.1, flat).inside
    assert fresh(sum([0.1] * 10) / 10, flat).inside
    assert not fresh(0.1001, flat).inside


def test_one_seed_predicts_nothing() -> None:
    found = fresh(0.6, {0: 0.6})
    assert (found.inside, found.low, found.high) == (False, None, None)


def test_the_same_seed_under_the_same_conditions_must_be_equal() -> None:
    found = repeated(differing=[])
    assert (found.inside, found.decided_by, found.same_predictions) == (True, "equality", True)
    # Within the interval, but not the same.
    found = repeated(differing=["acc_mean"], replayed=0.61)
    assert (found.inside, found.decided_by, found.differing) == (False, "equality", ["acc_mean"])


def test_the_same_seed_under_other_conditions_is_held_against_the_interval() -> None:
    found = repeated("threads (1, here 2)", differing=["acc_mean"], replayed=0.61)
    assert (found.inside, found.decided_by) == (True, "prediction interval")
    assert found.why == "the same seed, but not the same threads (1, here 2)"
    assert not repeated("threads (1, here 2)", differing=["acc_mean"], replayed=0.9).inside


def test_conditions_are_threads_precision_and_the_cpu() -> None:
    assert other_conditions(HERE, HERE.model_copy(update={"device": "another", "packages": {"torch": "9"}})) == []
    other = HERE.model_copy(update={"threads": 2, "precision": "bfloat16", "cpu_capability": "AVX512"})
    assert other_conditions(HERE, other) == [
        "threads (1, here 2)", "precision (float32, here bfloat16)", "cpu_capability (AVX2, here AVX512)",
    ]  # fmt: skip
    gpu = HERE.model_copy(update={"device_kind": "cuda"})
    assert other_conditions(gpu, gpu) == ["device (cuda, here cuda; only CPUs repeat)"]


def test_metrics_differ_beyond_a_millionth_or_where_one_is_undefined() -> None:
    def metrics(**values: float | None) -> dict[str, MetricValue]:
        return {name: MetricValue(value=v, interval="none", reason="undefined") for name, v in values.items()}

    first = metrics(a=0.5, b=None, c=0.5, d=0.5)
    assert differing_metrics(first, metrics(a=0.5 + 9e-7, b=None, c=0.5 + 2e-6, d=0.5)) == ["c"]
    assert differing_metrics(first, metrics(a=None, b=0.1, c=0.5)) == ["a", "b", "d"]


def content(**changes: object) -> dict[str, object]:
    rule = fresh(0.7, pooled=0.02).model_dump(mode="json")
    isolation = {"requested": True, "separate_process": True, "test_split_absent": True, "network_blocked": True}
    return {
        "task": "colorized-digits@1", "level": "0.95", "recipe": "default", "method": "erm@1", "hparams": {},
        "configuration": "default", "generator": None, "records": {"0.95-seed0-x": "a" * 64}, "seed": 99, "draw": 4,
        "same_seed": False, "run": "0.95-seed99-y", "record": "b" * 64, "environment": HERE.model_dump(mode="json"),
        "isolation": {**isolation, "limits": ["a [limit](x)"]}, "rules": [rule], "inside": True, **changes,
    }  # fmt: skip


def test_a_replay_is_read_as_it_was_written_and_says_everything_in_markdown(tmp_path) -> None:
    file = tmp_path / "replay.json"
    file.write_text(json.dumps(content(method="e|rm@1")))
    (found,) = read_replays(file)
    assert found.model_dump(mode="json") == {"format_version": 1, **content(method="e|rm@1")}
    text = render_replay(found)
    assert text.startswith("## Replay of e&#124;rm@1 on colorized-digits@1, bias level 0.95: inside\n")
    assert "Seed 99 (draw 4), fresh; submitted: 0, 1, 2, 3, 4. Made at commit cccccccccccc (clean)" in text
    assert "without the test split and without a network; a &#91;limit&#93;(x)." in text
    assert "| `last` | 60.0 64.0 58.0 66.0 62.0" in text
    assert "- `last`: a fresh seed; s capped at 2 × 2.0 points" in text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (content(inside=False), "file: Value error, `inside` is not what the rules say"),
        (content(rules=[]), "rules: List should have at least 1 item"),
        (content(records={"x": "short"}), r"records\.x: String should match pattern"),
        (content(format_version=2), "format_version: Input should be 1"),
        ("nothing", "file: Input should be"),
    ],
)
def test_what_is_no_replay_is_refused(tmp_path, wrong: object, message: str) -> None:
    file = tmp_path / "replay.json"
    file.write_text(json.dumps([wrong]))
    with pytest.raises(DamagedFile, match=rf"replay\.json is no replay: {message}"):
        read_replays(file)
