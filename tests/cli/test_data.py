"""`data` as a user meets it: a copy of one's own, terms, states, manifests, and what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run the command line with a store of the test's own and no data sets in sight."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "GENBIAS_STORE": str(tmp_path / "store"), "OMP_NUM_THREADS": "1", **variables}
        if "GENBIAS_DATA" not in variables:
            environment.pop("GENBIAS_DATA", None)
        command = [sys.executable, "-m", "benchmark.cli.main", "data", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)

    return run


def entry(cli: Cli, task: str, **variables: str) -> dict[str, object]:
    listed = json.loads(cli("list", "--json", **variables).stdout)
    return next(each for each in listed if each["task"] == task)


@pytest.mark.slow
def test_the_list_says_what_is_here_what_is_pinned_and_under_which_licence(cli: Cli) -> None:
    digits = entry(cli, "colorized-digits@1")
    assert (digits["state"], digits["pinned"], digits["licence"]) == ("package", "20 of 20", "cc-by-4.0")
    faces = entry(cli, "utkface@1")
    assert (faces["state"], faces["terms"], faces["pinned"]) == ("absent", "not accepted", "25 of 25")
    assert (faces["bytes"], faces["prepared"]) == (0, "")
    assert entry(cli, "cifar20-100@1")["pinned"] == "0 of 30"
    rows = cli("list").stdout.splitlines()
    assert len(rows) == 9
    assert {len(row.split("\t")) for row in rows} == {8}


@pytest.mark.slow
def test_terms_are_shown_and_must_be_accepted(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "UTKFace").mkdir()
    refused = cli("fetch", "utkface", "--from", str(tmp_path))
    assert refused.returncode == 2
    assert "non-commercial research purposes only" in refused.stderr
    assert "--accept-terms" in refused.stderr
    assert "Traceback" not in refused.stderr
    accepted = cli("fetch", "utkface", "--from", str(tmp_path), "--accept-terms")
    assert accepted.returncode == 0, accepted.stderr
    assert "photographs of people" in accepted.stderr
    found = entry(cli, "utkface@1")
    assert (found["state"], found["origin"], found["terms"]) == ("here", "named by --from", "accepted")


def test_data_that_cannot_be_downloaded_say_where_they_come_from(cli: Cli) -> None:
    failed = cli("fetch", "utkface", "--accept-terms")
    assert failed.returncode == 1
    assert "cannot be downloaded by this program, only from UTKFace's own page" in failed.stderr
    assert "UTKFace.tar.gz, UTKFace.zip or the folder UTKFace" in failed.stderr


@pytest.mark.slow
def test_an_empty_folder_is_an_error_of_preparing_not_of_training(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "UTKFace").mkdir()
    cli("fetch", "utkface", "--from", str(tmp_path), "--accept-terms")
    failed = cli("prepare", "utkface", "--recipe", "small")
    assert failed.returncode == 1
    assert "the source of utkface holds no image" in failed.stderr


def test_a_task_that_comes_with_a_package_needs_no_fetching(cli: Cli) -> None:
    assert "needs no data" in cli("fetch", "colorized-digits").stdout


@pytest.mark.slow
def test_real_mnist_is_fetched_from_a_folder_prepared_and_exported(cli: Cli, real_data: Path, tmp_path: Path) -> None:
    fetched = cli("fetch", "colorized-mnist", "--from", str(real_data / "mnist"))
    assert fetched.returncode == 0, fetched.stderr
    prepared = cli("prepare", "colorized-mnist")
    assert prepared.stdout == "colorized-mnist@1\t70000 of 70000 samples\t32 px\n"
    assert entry(cli, "colorized-mnist@1")["prepared"] == "32 px (70,000 images)"
    written = cli("manifest", "colorized-mnist", "--output", str(tmp_path / "out" / "mnist.parquet"))
    assert written.returncode == 0, written.stderr
    table = pq.read_table(tmp_path / "out" / "mnist.parquet")
    assert table.num_rows == 70_000
    splits = table.column("split 0.95 draw 0").to_pylist()
    assert {name: splits.count(name) for name in ("train", "validation", "test", "audit")} == {
        "train": 51_000, "validation": 6_000, "test": 10_000, "audit": 3_000,
    }  # fmt: skip
    colours = table.column("a 0.95 draw 0").to_pylist()
    assert {c for c, s in zip(colours, splits, strict=True) if s == "test"} == {"crossed"}


@pytest.mark.slow
def test_a_copy_of_utkface_that_lacks_a_file_is_partial_and_keeps_the_pinned_splits(cli: Cli, real_data: Path) -> None:
    cli("fetch", "utkface", "--accept-terms", GENBIAS_DATA=str(real_data))
    verified = cli("verify", "utkface", "--json", GENBIAS_DATA=str(real_data))
    assert verified.returncode == 0, verified.stderr
    found = json.loads(verified.stdout)
    assert {each["state"] for each in found} == {"partial"}
    at_90 = next(each for each in found if each["level"] == "0.9")
    assert at_90["groups"] == [[860, 96], [584, 5255]]
    refused = cli("fetch", "utkface", "--from", str(real_data / "mnist"))
    assert refused.returncode == 1
    assert "does not hold the data of utkface" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["fetch", "prepare", "verify", "pin"])
def test_an_unknown_task_comes_with_the_nearest_names(cli: Cli, verb: str) -> None:
    failed = cli(verb, "utk-face")
    assert failed.returncode == 2
    assert "did you mean 'utkface'" in failed.stderr
