"""What `evaluate` prints about generated images when a run has ended; here because records are made here."""

from __future__ import annotations

import pytest

from benchmark.cli.evaluate import _show
from benchmark.evaluation.run import Evaluation
from benchmark.records.results import read_record


@pytest.fixture
def shown(maker, capsys):
    """Return the lines on standard output, split at tabs, and standard error, for a run with some content."""

    def show(change):
        def intervals(content):
            for checkpoint in content["stages"][0]["checkpoints"]:
                bounds = [[None] * 10 for _ in range(10)]
                checkpoint["groups"] = checkpoint["groups"] | {"low": bounds, "high": bounds}
            change(content)

        folder = maker.run("acme/x", 0, change=intervals)
        _show(Evaluation(read_record(folder / "record.json"), folder, reused=False), maker.results)
        printed = capsys.readouterr()
        return [line.split("\t") for line in printed.out.splitlines()], printed.err

    return show


def below(lines, first):
    """Return the rows of the table whose first column has this name, down to the next empty line."""
    start = next(k for k, line in enumerate(lines) if line[0] == first)
    stop = next(k for k in range(start, len(lines)) if lines[k] == [""])
    header, *rows = lines[start:stop]
    return [list(zip(header, row, strict=True)) for row in rows]


def test_runs_without_generated_images_print_no_such_table(shown):
    lines, errors = shown(lambda content: None)
    assert not {"pool", "KID"} & {cell for line in lines for cell in line}
    assert [line[0] for line in lines].count("stage") == 1
    assert "not measured" not in errors


def test_each_pool_is_a_line(shown, made):
    tuned = made.pool(
        100, 200, tuning=made.tuning("lora", {"0-0": "ab", "0-1": "b"}), filter=made.filter("own", "its own split"),
        y=made.metric(None, text="no audit split at hand"),
    )  # fmt: skip
    lines, errors = shown(lambda content: content.update(pools=[tuned, made.pool(50)]))
    first, second = below(lines, "pool")
    assert first == [
        ("pool", "0" * 12), ("fine-tuning", "lora"), ("adapters", "2"), ("filter", "own"), ("kept", "100 of 200"),
        ("y shown %", "-"), ("a shown %", "99.0 [98.0, 100.0]"), ("memorised %", "1.2 [0.8, 1.8]"), ("FID", "12.35"),
        ("KID", "0.01234"),
    ]  # fmt: skip
    assert dict(second)["fine-tuning"] == "as it is"
    assert dict(second)["y shown %"] == "90.0 [88.0, 92.0]"
    assert errors.count("not measured: no audit split at hand\n") == 1


def test_pools_of_older_records_have_dashes(shown, made):
    def old(content):
        pool = {name: part for name, part in made.pool(50).items() if name not in ("tuning", "filter", "quality")}
        content["pools"] = [pool | {"label_fidelity": {}}]

    (line,) = below(shown(old)[0], "pool")
    assert [cell for _, cell in line[1:]] == ["as it is", "0", "none", "50 of 50", "-", "-", "-", "-", "-"]


def test_probes_have_a_table_of_their_own(shown, made):
    def probed(content):
        unknown = dict.fromkeys(("ag", "ag_chance"), made.metric(None, text="attributes are unknown"))
        content["stages"][0]["probes"] = made.probes(0.8, 0.6, 0.5) | unknown

    lines, errors = shown(probed)
    start = next(k for k, line in enumerate(lines) if "real or generated %" in line)
    assert lines[start] == [
        "stage", "attribute %", "chance %", "real or generated %", "chance %", "both %", "chance %",
    ]  # fmt: skip
    assert lines[start + 1] == ["real", "80.0 [70.0, 90.0]", "10.0", "60.0 [50.0, 70.0]", "50.0", "-", "-"]
    assert "not measured: attributes are unknown" in errors
