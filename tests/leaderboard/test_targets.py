"""What is pushed: accepted runs, a table of them, cards, and a page of text."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from benchmark.errors import DamagedFile, UsageError
from benchmark.records.results import RECORD_FILE, record_files
from benchmark.records.schema import Record
from leaderboard.hub_cards import dataset_readme, space_readme
from leaderboard.load import load_run
from leaderboard.push import Target, board_targets, dataset_target, space_target
from leaderboard.rollup import rollup_parquet
from leaderboard.verification import read_verifications

NAME = "org/records"
ACCEPTED = Path(__file__).parents[2] / "leaderboard" / "results"


def front_matter(readme: bytes | str) -> dict:
    text = readme.decode() if isinstance(readme, bytes) else readme
    return yaml.safe_load(text.split("---\n")[1])


def made(maker) -> Target:
    return dataset_target(NAME, maker.results, read_verifications(maker.verification).by_digest())


def data(target: Target, path: str) -> bytes:
    content = target.files[path].data
    return content.read_bytes() if isinstance(content, Path) else content


def table(target: Target) -> list[dict]:
    return pq.read_table(io.BytesIO(data(target, "data/records.parquet"))).to_pylist()


def test_runs_are_pushed_with_their_predictions_a_table_and_a_card(maker) -> None:
    folder = maker.run("acme/x", 0)
    target = made(maker)
    run = f"results/colorized-digits/acme--x/{folder.name}"
    assert set(target.files) == {
        "README.md", "data/records.parquet", f"{run}/record.json", f"{run}/predictions-real-last.parquet",
    }  # fmt: skip
    assert data(target, f"{run}/record.json") == (folder / RECORD_FILE).read_bytes()


def test_the_table_has_a_row_for_each_record_stage_and_rule(maker) -> None:
    maker.row("erm", seeds=2, stages={"mixed": 0.3})
    rows = table(made(maker))
    assert len(rows) == 2 * 2 * 3
    row = next(each for each in rows if (each["seed"], each["stage"], each["rule"]) == (1, "real", "last"))
    record = load_run(next(maker.results.rglob(f"*seed1*/{RECORD_FILE}")), {}).record
    metric = record.stages[-1].checkpoints[0].metrics["acc_conflicting"]
    assert row["acc_conflicting"] == metric.value
    assert row["acc_conflicting_low"] is None
    assert (row["task"], row["task_version"]) == ("colorized-digits", 1)
    assert (row["method"], row["method_version"], row["level"], row["draw"]) == ("erm", 1, "0.95", 1)
    assert (row["verification"], row["ranking_metric"]) == ("maintained", "acc_conflicting")
    assert (row["run_id"], row["cell_id"]) == (record.run_id, record.cell_id)
    assert (row["steps_used"], row["training_seconds"], row["device_kind"]) == (record.budget.steps_used, 10.0, "cpu")
    assert row["folder"].endswith(f"/0.95-seed1-{record.run_id}")
    assert (row["generator"], row["is_last_stage"]) == (None, True)
    assert {each["stage"] for each in rows if not each["is_last_stage"]} == {"mixed"}


def test_intervals_and_undefined_metrics_are_kept(maker) -> None:
    def change(content) -> None:
        metrics = content["stages"][0]["checkpoints"][0]["metrics"]
        metrics["acc_mean"] = {"value": 0.5, "low": 0.25, "high": 0.75, "interval": "cluster-bootstrap"}
        metrics["gap"] = {"value": None, "interval": "none", "reason": "undefined here"}

    maker.run("erm", 0, change=change)
    row = next(each for each in table(made(maker)) if each["rule"] == "last")
    assert (row["acc_mean_low"], row["acc_mean"], row["acc_mean_high"]) == (0.25, 0.5, 0.75)
    assert row["gap"] is None


def test_equal_runs_give_equal_bytes_in_any_order(maker) -> None:
    maker.row("erm", seeds=2)
    runs = [load_run(file, {}) for file in sorted(maker.results.rglob(RECORD_FILE))]
    assert rollup_parquet(runs) == rollup_parquet(runs[::-1])
    assert {path: each.sha256 for path, each in made(maker).wanted.items()} == {
        path: each.sha256 for path, each in made(maker).wanted.items()
    }


def test_a_run_without_results_has_no_row_and_is_pushed(maker) -> None:
    def skip(content) -> None:
        content["skipped_because"] = "nothing to do"

    folder = maker.run("erm", 0, status="skipped", change=skip)
    target = made(maker)
    assert table(target) == []
    assert f"results/colorized-digits/erm/{folder.name}/record.json" in target.files


def test_the_table_covers_what_is_accepted() -> None:
    file = next(record_files(ACCEPTED / "colorized-digits" / "sd-augment"))
    run = load_run(file, {})
    rows = pq.read_table(io.BytesIO(rollup_parquet([run]))).to_pylist()
    recorded = {name for stage in run.record.stages for each in stage.checkpoints for name in each.metrics}
    assert len(rows) == sum(len(stage.checkpoints) for stage in run.record.stages)
    assert recorded <= set(rows[0])
    assert rows[0]["generator"] == run.record.cell.generator["name"]


@pytest.mark.parametrize(
    ("break_it", "error", "message"),
    [
        (lambda run: next(run.glob("predictions*")).unlink(), DamagedFile, "is missing"),
        (lambda run: (run / RECORD_FILE).write_text("{"), DamagedFile, "cannot be read as JSON"),
        (lambda run: run.rename(run.with_name("moved")), DamagedFile, "holds the run .*; move it there"),
    ],
)
def test_a_damaged_run_stops_the_push(maker, break_it, error, message) -> None:
    maker.run("acme/x", 1)
    break_it(maker.run("erm", 0))
    with pytest.raises(error, match=message):
        made(maker)


@pytest.mark.parametrize("name", ["contact_sheet.png", "adapter.safetensors", "shard-0.parquet", "audit.html"])
def test_what_was_made_from_faces_stops_the_push(tmp_path: Path, name: str) -> None:
    run = next(iter(sorted((ACCEPTED / "utkface" / "erm").iterdir())))
    copy = tmp_path / "results" / "utkface" / "erm" / run.name
    shutil.copytree(run, copy)
    assert f"results/utkface/erm/{run.name}/record.json" in dataset_target(NAME, tmp_path / "results", {}).files
    (copy / "groups.png").touch()
    assert not any(path.endswith(".png") for path in dataset_target(NAME, tmp_path / "results", {}).files)
    (copy / name).touch()
    with pytest.raises(
        UsageError, match=rf"{name} may not leave this machine: it belongs to utkface, .* people's faces"
    ):
        dataset_target(NAME, tmp_path / "results", {})


def test_other_pictures_are_left_out(maker) -> None:
    (maker.run("erm", 0) / "contact_sheet.png").touch()
    assert not any(path.endswith(".png") for path in made(maker).files)


def test_accepted_submissions_are_pushed_beside_the_runs(maker, tmp_path: Path) -> None:
    maker.run("acme/x", 0)
    about = tmp_path / "submissions"
    about.mkdir()
    said = {"format_version": 1, "method": "acme/x@1", "title": "X", "authors": ["A"]}
    (about / "acme--x.json").write_text(json.dumps(said))
    target = dataset_target(NAME, maker.results, {}, about)
    assert json.loads(data(target, "submissions/acme--x.json")) == said
    assert not any(path.startswith(target.below) for path in target.files if path.startswith("submissions/"))
    (about / "other.json").write_text(json.dumps(said | {"title": "\u202e"}))
    with pytest.raises(DamagedFile, match=r"other\.json: title"):
        dataset_target(NAME, maker.results, {}, about)


def test_an_empty_folder_is_no_board(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no record below"):
        dataset_target(NAME, tmp_path, {})


def test_the_card_of_the_data_set_names_table_licence_and_sources(maker) -> None:
    maker.row("erm", seeds=2)
    maker.run("acme/x", 0)
    readme = data(made(maker), "README.md").decode()
    front = front_matter(readme)
    assert front["license"] == "apache-2.0"
    assert front["size_categories"] == ["n<1K"]
    assert front["configs"] == [
        {"config_name": "records", "default": True,
         "data_files": [{"split": "records", "path": "data/records.parquet"}]}
    ]  # fmt: skip
    assert "2 maintained, 1 self-reported" in readme
    assert "| colorized-digits@1 | " in readme
    assert "| cc-by-4.0 | 3 | 2 |" in readme
    assert 'load_dataset("org/records", split="records")' in readme
    for heading in ("Sources", "How the records were made", "Limitations", "Citation"):
        assert f"\n## {heading}\n" in readme


def test_names_of_strangers_do_not_break_the_card(maker) -> None:
    run = load_run(maker.run("erm", 0) / RECORD_FILE, {})
    content = run.record.model_dump(mode="json")
    content["task"]["name"], content["cell"]["task"] = "evil", "evil|<script>@1"
    strange = type(run)(run.file, Record.model_validate(content), run.digest, run.level)
    readme = dataset_readme(NAME, [strange], 1)
    assert "| evil&#124;&#60;script&#62;@1 | unknown | unknown | 1 | 1 |" in readme


def test_the_space_is_static_and_names_the_data_set() -> None:
    front = front_matter(space_readme(NAME))
    assert (front["sdk"], front["app_file"], front["datasets"]) == ("static", "index.html", [NAME])
    assert {"leaderboard", "modality:image", "fairness"} <= set(front["tags"])
    assert len(front["short_description"]) <= 60


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    (folder / "parts").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><p>Größe</p>", encoding="utf-8")
    (folder / "parts" / "chart.svg").write_text("<svg/>")
    return folder


def test_the_page_is_pushed_as_it_is_with_a_card(site: Path) -> None:
    target = space_target("org/board", site, NAME)
    assert set(target.files) == {"README.md", "index.html", "parts/chart.svg"}
    assert data(target, "index.html") == (site / "index.html").read_bytes()
    assert json.loads(target.wanted["pushed.json"].data)["files"] == [
        "README.md", "index.html", "parts/chart.svg", "pushed.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("contact_sheet.png", b"\x89PNG\r\n\x1a\n\x00", "is not text; pictures and other binary files are not pushed"),
        ("board.parquet", b"PAR1\x00\x01", "is not text"),
        (".DS_Store", b"x", "is a hidden file"),
        ("long.json", b" " * (10 * 2**20 + 1), "at most"),
    ],
)
def test_only_text_of_bounded_size_goes_to_the_space(site: Path, name: str, content: bytes, message: str) -> None:
    (site / name).write_bytes(content)
    with pytest.raises((UsageError, DamagedFile), match=message):
        space_target("org/board", site, NAME)


def test_a_link_in_the_page_is_not_followed(site: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (site / "secret.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(DamagedFile, match="no plain file"):
        space_target("org/board", site, NAME)


def test_a_folder_without_a_page_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no index.html; make the page with .*leaderboard build --site"):
        space_target("org/board", tmp_path, NAME)


def test_the_data_set_comes_first(maker, site: Path) -> None:
    maker.run("erm", 0)
    targets = board_targets(NAME, "org/board", site, records=maker.results, verification=maker.verification)
    assert [str(target.repository) for target in targets] == ["dataset org/records", "space org/board"]
