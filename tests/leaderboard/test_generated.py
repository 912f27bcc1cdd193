"""What the board says about generated images: as recorded, per row, and nothing that cannot be."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from benchmark.errors import DamagedFile
from benchmark.records.schema import Record
from leaderboard.markdown import render_markdown
from leaderboard.models import Board, Extent, Span

HOSTILE = "x|y\n| 1 | <script>alert(1)</script> **b** [l](http://evil.example)"


def fake_to_real(*pools, probes=None, cost=None, mixtures=None):
    """Return a change that gives a run with stages `synthetic` and `real` its generated images."""

    def change(content):
        content["pools"] = list(pools)
        for position, (stage, mixture) in enumerate(zip(content["stages"], mixtures or [], strict=bool(mixtures))):
            stage["mixture"] = mixture
            stage["probes"] = (probes or {}).get(position, {})
        content["cost"] = content["cost"] | (cost or {})

    return change


@pytest.fixture
def both(made):
    """Mixtures of a stage on generated images alone and one on real ones."""
    return [made.mixture(0, 1980, 0.0, 0.0), made.mixture(990, 0, 2.0, 2.0)]


def generated(maker):
    return maker.board().tasks[0].generated


def section(text, title="generated images"):
    """Return a section's sentence, its table as dictionaries, and its notes."""
    part = text.partition(f"#### colorized-digits@1, {title}")[2].partition("\n#")[0]
    lines = part.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    sentence = next(line for line in lines[1:] if line)
    notes = [line for line in lines if line.startswith("- ")]
    return sentence, [dict(zip(rows[0], row, strict=True)) for row in rows[2:]], notes


def test_a_run_without_generated_images_has_no_section(maker):
    maker.run("erm", 0)
    assert generated(maker) == []
    assert "#### colorized-digits@1, generated images" not in render_markdown(maker.board())


def test_a_row_says_who_made_its_images_and_how_true_they_are(maker, made, both):
    pool = made.pool(
        1980, 3960, 30.0, tuning=made.tuning("lora", {"0-0": "a", "0-1": "ab", "1-0": ""}),
        filter=made.filter("own", "classifiers of the own split"),
    )  # fmt: skip
    change = fake_to_real(pool, mixtures=both, cost={"auxiliary_seconds": 7.0})
    maker.run("acme/x", 0, stages={"synthetic": 0.2}, change=change)
    board = maker.board()
    (row,) = board.tasks[0].generated
    assert (row.adapters, row.base_groups) == (Span(low=2, high=2), Span(low=1, high=1))
    alone = board.tasks[0].stages[0].stages[0].metrics["acc_group_mean"]
    assert row.generated_only == alone
    sentence, (line,), notes = section(render_markdown(board))
    assert line == {
        "Bias level": "0.95", "Method": "acme/x@1", "Generator": "–", "Verification": "self-reported", "Seeds": "1",
        "Fine-tuning": "lora, 2 adapters, 1 group without", "Filter": "own (a)", "Kept of sampled": "1,980 of 3,960",
        "y shown %": "90.0 [88.0, 92.0]† (raw 85.0)", "a shown %": "99.0 [98.0, 100.0]† (raw 97.0)",
        "Memorised %": "1.2 [0.8, 1.8]†", "FID": "12.3", "KID": "0.0123 [0.01, 0.015]†",
        "Generated only: acc_group_mean %": f"{100 * alone.value:.1f}",
        "Fine-tuning / sampling / auxiliary s": "60 / 30 / 7",
    }  # fmt: skip
    assert notes == ["- a: filter: classifiers of the own split"]
    assert "As recorded by the runs, not recomputed" in sentence
    assert "FID and KID: penultimate features of the auditor of y." in sentence
    assert "Memorised: exact; L2 on 32x32 pixels to 990 of 990 training images." in sentence


def test_seeds_that_differ_have_an_interval_over_seeds(maker, made):
    shares = (0.80, 0.90, 0.94)
    for seed, share in enumerate(shares):
        y = made.metric(share, share - 0.01, share + 0.01)
        tuning = made.tuning("lora", {"0-0": "abc"[: seed + 1]}, 30.0 * seed)
        pool = made.pool(100 + seed, y=y, tuning=tuning, seconds=float(seed))
        maker.run("acme/x", seed, change=fake_to_real(pool))
    (row,) = generated(maker)
    half = 4.302653 * np.std(shares, ddof=1) / 3**0.5
    found = row.measures["y"]
    assert found.value == pytest.approx(0.88)
    assert (found.low, found.high) == (pytest.approx(0.88 - half), pytest.approx(0.88 + half))
    assert not found.own_interval
    assert row.measures["a"].own_interval  # the same in all
    assert (row.kept, row.adapters) == (Span(low=100, high=102), Span(low=1, high=3))
    assert (row.tuning_seconds, row.sampling_seconds) == (30.0, 1.0)
    assert "lora, 1–3 adapters" in render_markdown(maker.board())


def test_one_measurement_of_shared_images_keeps_its_own_interval(maker, made):
    """A t interval over five equal numbers would say that an auditor's estimate is exact."""
    for seed in range(5):
        maker.run("acme/x", seed, change=fake_to_real(made.pool()))
    (row,) = generated(maker)
    found = row.measures["y"]
    assert (found.value, found.low, found.high, found.own_interval) == (0.9, 0.88, 0.92, True)
    assert row.measures["fid"].low is None
    assert not row.measures["fid"].own_interval


def test_several_pools_count_by_their_kept_images(maker, made):
    tuning = made.tuning("lora", {"0-0": "a"}, 50.0)
    first = made.pool(300, y=made.metric(0.5, 0.4, 0.6), tuning=tuning, seconds=2.0)
    second = made.pool(100, 200, y=made.metric(0.9, 0.8, 1.0), tuning=tuning, seconds=3.0)
    third = made.pool(0, 50, y=made.metric(None, text="there are no images"))
    for seed in range(2):
        maker.run("acme/x", seed, change=fake_to_real(first, second, third))
    (row,) = generated(maker)
    assert row.measures["y"].value == pytest.approx(0.6)
    assert (row.measures["y"].low, row.measures["y"].own_interval) == (None, False)
    assert (row.kept, row.sampled) == (Span(low=400, high=400), Span(low=550, high=550))
    assert row.tuning == [None, "lora"]
    assert row.tuning_seconds == 50.0  # the two pools share the adapter
    assert row.sampling_seconds == 6.0
    assert "as it is + lora, 1 adapter" in render_markdown(maker.board())


def test_what_is_null_says_why_below_the_table(maker, made):
    null = made.metric(None, text="no audit split at hand")
    small = made.metric(None, text="40 real and 9 generated images; KID needs 100 of each")
    pool = made.pool(y=null, y_raw=null, a=null, a_raw=null, fid=null, kid=small)
    maker.run("acme/x", 0, change=fake_to_real(pool))
    sentence, (line,), notes = section(render_markdown(maker.board()))
    shown = [line[name] for name in ("y shown %", "a shown %", "Memorised %", "FID", "KID")]
    assert shown == ["– (a)", "– (a)", "1.2 [0.8, 1.8]†", "– (a)", "– (b)"]
    assert line["Generated only: acc_group_mean %"] == "– (c)"
    assert notes == [
        "- a: no audit split at hand", "- b: 40 real and 9 generated images; KID needs 100 of each",
        "- c: no classifier was trained on generated images only",
    ]  # fmt: skip
    assert "FID and KID:" not in sentence


def test_the_raw_share_stands_beside_a_correction_that_failed(maker, made):
    pool = made.pool(y=made.metric(None, text="the auditor confuses values"))
    maker.run("acme/x", 0, change=fake_to_real(pool))
    _, (line,), _ = section(render_markdown(maker.board()))
    assert line["y shown %"] == "– (a) (raw 85.0)"


def test_one_seed_without_a_measurement_leaves_the_row_without(maker, made):
    maker.run("acme/x", 0, change=fake_to_real(made.pool()))
    maker.run("acme/x", 1, change=fake_to_real(made.pool(y=made.metric(None, text="no auditor"))))
    maker.run("acme/x", 2, change=fake_to_real())
    (row,) = generated(maker)
    assert row.measures["y"].value is None
    assert row.measures["y"].reason == "2 seed(s): no auditor"
    assert row.measures["a"].reason == "1 seed(s): no generated image was kept"
    assert row.kept == Span(low=0, high=100)


def _older(pool):
    return {name: part for name, part in pool.items() if name not in ("tuning", "filter", "quality")}


def test_records_of_older_schemas_have_dashes(maker, made, both):
    unseen = made.metric(None, text="no auditor has looked at this pool")
    pool = _older(made.pool(1980)) | {"label_fidelity": {"y": unseen, "a": unseen}}
    change = fake_to_real(pool, mixtures=both)

    def old(content):
        change(content)
        content["schema_version"] = "1.0"
        for stage in content["stages"]:
            del stage["probes"]

    folder = maker.run("acme/x", 0, stages={"synthetic": 0.2}, change=old)
    assert "quality" not in json.loads((folder / "record.json").read_text())["pools"][0]
    text = render_markdown(maker.board())
    _, (line,), notes = section(text)
    assert line["Fine-tuning"] == "as it is"
    assert line["Filter"] == "none"
    assert [line[name] for name in ("y shown %", "Memorised %", "FID", "KID")] == ["– (a)", "– (b)", "– (b)", "– (b)"]
    assert notes == ["- a: no auditor has looked at this pool", "- b: not measured when the run was made"]
    _, stages, _ = section(text, "stages at bias level 0.95")
    assert [stage["I(Y;A) bits"] for stage in stages] == ["0.00", "2.00"]
    assert not any("Probe" in header for header in stages[0])


@pytest.mark.parametrize(
    ("names", "real", "alone"),
    [
        (["synthetic", "real"], [0, 990], "synthetic"),
        (["synthetic", "more", "real"], [0, 0, 990], "more"),
        (["real", "synthetic"], [990, 0], None),  # starts from weights that saw real images
        (["mixed"], [990], None),
        (["own"], [None], None),
    ],
)
def test_a_classifier_of_generated_images_alone_comes_before_any_real_image(maker, made, names, real, alone):
    mixtures = [None if n is None else made.mixture(n, 5 if n == 990 and len(real) == 1 else 990 - n) for n in real]
    change = fake_to_real(made.pool(), mixtures=mixtures)

    def renamed(content):
        change(content)
        for stage, name in zip(content["stages"], names, strict=True):
            stage["name"] = name

    maker.run("acme/x", 0, stages={f"s{k}": 0.1 + k / 10 for k in range(len(names) - 1)}, change=renamed)
    board = maker.board()
    found = board.tasks[0].generated[0].generated_only
    if alone is None:
        assert (found.value, found.reason) == (None, "no classifier was trained on generated images only")
        return
    (stage,) = [stage for stage in board.tasks[0].stages[0].stages if stage.name == alone]
    assert found.value == stage.metrics["acc_group_mean"].value


def test_rows_stand_in_the_order_of_the_tables(maker, made):
    for level in ("0.99", "0.95"):
        for name, quality in (("acme/low", 0.2), ("acme/high", 0.8)):
            maker.run(name, 0, conflicting=quality, level=level, change=fake_to_real(made.pool()))
    maker.run("erm", 0)
    named = [(row.level, row.method) for row in generated(maker)]
    assert named == [
        ("0.95", "acme/high@1"), ("0.95", "acme/low@1"), ("0.99", "acme/high@1"), ("0.99", "acme/low@1"),
    ]  # fmt: skip


def test_the_bytes_do_not_depend_on_the_order_of_pools_or_records(maker, made):
    def pools(seed):
        return [
            made.pool(100, tuning=made.tuning("lora", {"0-0": "a"}), filter=made.filter("own", f"m{seed}")),
            made.pool(100, filter=made.filter("clip", "CLIP")),
            made.pool(200),
        ]

    texts = []
    for step in (1, -1):
        for seed in range(3):
            folder = maker.run("acme/x", seed, change=fake_to_real(*pools(seed)[::step]))
            assert Record.model_validate_json((folder / "record.json").read_text()).pools
        texts.append(render_markdown(maker.board()))
        for file in list(maker.results.rglob("record.json")):
            file.unlink()
    assert texts[0].encode() == texts[1].encode()
    assert "none + clip + own (a)" in texts[0]
    assert "- a: filter: CLIP; m0; m1; m2" in texts[0]


def test_the_board_survives_json(maker, made, both):
    pool = made.pool(tuning=made.tuning("lora", {"0-0": "a"}), filter=made.filter("clip", "CLIP"))
    probes = {0: made.probes(0.8, 0.9, 0.7)}
    change = fake_to_real(pool, made.pool(), probes=probes, mixtures=both)
    maker.run("acme/x", 0, stages={"synthetic": 0.2}, change=change)
    board = maker.board()
    assert len(board.tasks[0].generated) == 1
    assert Board.model_validate_json(board.model_dump_json()) == board


# --- stages -----------------------------------------------------------------------------------------------------------


def test_stages_show_information_and_probes_with_their_chance(maker, made, both):
    for seed, g in enumerate((0.90, 0.94)):
        probes = {0: made.probes(0.8, g, 0.7), 1: made.probes(0.6, 0.5, 0.3)}
        change = fake_to_real(made.pool(), probes=probes, mixtures=both)
        maker.run("acme/x", seed, stages={"synthetic": 0.2}, change=change)
    board = maker.board()
    synthetic, real = board.tasks[0].stages[0].stages
    assert synthetic.information["information_y_a"].value == 0.0
    assert real.information["information_y_ag"].value == 2.0
    assert synthetic.chance == {
        "a": Extent(low=0.1, high=0.1), "g": Extent(low=0.5, high=0.5), "ag": Extent(low=0.05, high=0.05),
    }  # fmt: skip
    found = synthetic.probes["g"]
    assert found.value == pytest.approx(0.92)
    assert found.high - found.low == pytest.approx(2 * 12.7062 * 0.02, rel=1e-4)  # t with one degree of freedom
    sentence, lines, notes = section(render_markdown(board), "stages at bias level 0.95")
    assert lines[0]["Probe G %"] == f"92.0 [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    assert [(line["I(Y;A) bits"], line["I(Y;(A,G)) bits"]) for line in lines] == [("0.00", "0.00"), ("2.00", "2.00")]
    assert "(chance 10.0 / 50.0 / 5.0 %)" in sentence
    assert "not recomputed from predictions" in sentence
    assert notes == []


def test_rows_without_probes_have_dashes_beside_others(maker, made, both):
    probes = {0: made.probes(0.8, 0.9, 0.7), 1: made.probes(0.6, 0.5, 0.3)}
    probes[1] |= dict.fromkeys(("ag", "ag_chance"), made.metric(None, text="attributes are unknown"))
    probes[1]["a_chance"] = made.metric(0.125)
    change = fake_to_real(made.pool(), probes=probes, mixtures=both)
    maker.run("acme/x", 0, conflicting=0.8, stages={"synthetic": 0.2}, change=change)
    maker.run("erm", 0, conflicting=0.3)
    sentence, lines, notes = section(render_markdown(maker.board()), "stages at bias level 0.95")
    assert [line["Probe (A,G) %"] for line in lines] == ["70.0", "– (a)", "–"]
    assert [line["Probe A %"] for line in lines] == ["80.0", "60.0", "–"]
    assert lines[2]["I(Y;A) bits"] == "–"
    assert notes == ["- a: attributes are unknown"]
    assert "(chance 10.0–12.5 / 50.0 / 5.0 %)" in sentence


def test_information_that_is_unknown_says_why(maker, made):
    maker.run("acme/x", 0, change=fake_to_real(made.pool(), mixtures=[made.mixture(990, 10, None, None)]))
    _, (line,), notes = section(render_markdown(maker.board()), "stages at bias level 0.95")
    assert (line["I(Y;A) bits"], line["I(Y;(A,G)) bits"]) == ("– (a)", "– (a)")
    assert notes == ["- a: it is unknown"]


# --- strangers --------------------------------------------------------------------------------------------------------


def test_hostile_strings_stay_in_their_cell(maker, made):
    bad = made.metric(0.5, 0.4, 0.6, HOSTILE)
    pool = made.pool(
        tuning=made.tuning(HOSTILE, {"0-0": "a"}), filter=made.filter("clip", HOSTILE), memorised_share=bad, kid=bad,
        fid=made.metric(1.0, text=HOSTILE), y=made.metric(None, text=HOSTILE),
    )  # fmt: skip
    probes = {0: made.probes(0.5, 0.5, 0.5) | {"a": made.metric(None, text=HOSTILE)}}
    maker.run("acme/x", 0, change=fake_to_real(pool, probes=probes, mixtures=[made.mixture(9, 9)]))
    text = render_markdown(maker.board())
    assert not re.search(r"<(?!!-- written by)|\*\*b|\]\(http|http:", text)
    _, (line,), notes = section(text)
    assert line["Fine-tuning"].startswith("x&#124;y &#124; 1 &#124; &#60;script&#62;")
    assert len(notes) == 3
    assert notes[0].startswith("- a: filter: x&#124;y")


def _probe(value):
    def change(content):
        content["stages"][0]["probes"] = {"a": value}

    return change


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"y": {"value": 1.5}}, "y is 1.5, outside of 0 to 1"),
        ({"a_raw": {"value": 0.5, "low": -0.2, "high": 0.6}}, "a_raw is -0.2, outside of 0 to 1"),
        ({"memorised_share": {"value": 1e300}}, r"memorised_share is 1e\+300"),
        ({"fid": {"value": -1.0}}, "fid is -1.0"),
        ({"kid": {"value": 1e99}}, r"kid is 1e\+99"),
        ({"kept": 10, "sampled": 9}, "kept images is 10, outside of 0 to 9"),
        ({"kept": 10**400}, "contradicts itself"),  # the budget that would cover it is not that of the cell
        ({"seconds": 1e200}, "seconds of sampling"),
    ],
)
def test_measurements_that_cannot_be_are_refused(maker, made, part, message):
    measures = {
        name: made.metric(found["value"], found.get("low"), found.get("high"))
        for name, found in part.items()
        if isinstance(found, dict)
    }
    plain = {name: value for name, value in part.items() if name not in measures}
    maker.run("acme/x", 0, change=fake_to_real(made.pool(**plain, **measures)))
    with pytest.raises(DamagedFile, match=message):
        maker.board()


def test_probes_and_information_that_cannot_be_are_refused(maker, made):
    maker.run("acme/x", 0, change=_probe(made.metric(2.0)))
    maker.run("acme/y", 0, change=fake_to_real(mixtures=[made.mixture(9, 0, 3.5)]))
    with pytest.raises(DamagedFile) as caught:
        maker.board()
    assert "probe a of stage real is 2.0, outside of 0 to 1" in str(caught.value)
    assert "information_y_a of stage real is 3.5, outside of 0 to 3.32193" in str(caught.value)
