"""`leaderboard accept`: what is taken, what it replaces, what is refused, and what an interruption leaves."""

from __future__ import annotations

import json

import pytest

from benchmark.cli.accept import accept as verb
from benchmark.errors import DamagedFile, StoreError, UsageError
from benchmark.records.files import write_json
from benchmark.records.results import accepted_text, read_record, record_bytes
from leaderboard import accept as accepting
from leaderboard.accept import accept, row_and_seed, size_of
from leaderboard.build import collect_board
from leaderboard.verification import read_verifications

COMMIT = "c" * 40
OTHER = {
    "task": "utkface@1", "method": "erm@1", "level": "maintained", "commit": "d" * 40, "note": "before",
    "records": {"0.9-seed0-0123456789ab": "9" * 64},
}  # fmt: skip


@pytest.fixture
def board(tmp_path):
    """A folder as leaderboard/ of a checkout is, with one earlier decision."""
    folder = tmp_path / "leaderboard"
    folder.mkdir()
    write_json(folder / "verification.json", {"format_version": 1, "release": 3, "entries": [OTHER]})
    return folder


@pytest.fixture
def take(board):
    def take(*paths, level="maintained", commit=COMMIT, **options):
        return accept(paths, level, commit=commit, verification=board / "verification.json", **options)

    return take


def content_of(board):
    return {str(path.relative_to(board)): path.read_bytes() for path in board.rglob("*") if path.is_file()}


def rows_of(board):
    shown = collect_board([board / "results"], verification=board / "verification.json")
    return [row for task in shown.tasks for row in task.rules[0].tables[0].rows]


def another_run(content):
    content["notes"] = ["made again"]


def test_accepted_runs_lie_where_and_how_the_others_do_and_rank(maker, board, take):
    folders = maker.row("erm", 0.5, verified=None)
    done = take(maker.results)
    assert done.runs == sorted(str(folder.relative_to(maker.results)) for folder in folders)
    assert (done.removed, done.release) == ([], 3)
    for folder in folders:
        lies = board / "results" / folder.relative_to(maker.results)
        assert record_bytes(lies / "record.json.gz").decode() == accepted_text(read_record(folder))
        assert sorted(path.name for path in lies.iterdir()) == ["argmax-real-last.parquet", "record.json.gz"]
    (row,) = rows_of(board)
    assert (row.verification, row.seeds) == ("maintained", [0, 1, 2, 3, 4])
    assert row.rank is not None
    assert done.bytes == size_of(board)
    assert not list((board / "results").glob(".*"))


def test_a_run_of_the_same_row_and_seed_is_replaced_with_its_decision(maker, board, take, tmp_path):
    first = maker.row("erm", 0.5, verified=None)
    take(*first, note="first")
    again = maker.run("erm", 0, change=another_run)
    assert again.name == f"{first[0].name}-2"
    done = take(again, note="second", raise_release=True)
    assert done.removed == [str(first[0].relative_to(maker.results))]
    known = read_verifications(board / "verification.json")
    assert [(entry.note, sorted(entry.records)) for entry in known.entries] == [
        ("first", [folder.name for folder in first[1:]]),
        ("second", [again.name]),
        ("before", ["0.9-seed0-0123456789ab"]),
    ]
    assert known.release == 4
    (row,) = rows_of(board)
    assert [run for run in row.runs if run.endswith("-2")] == [again.name.rpartition("seed0-")[2]]
    again.rename(tmp_path / "aside")
    for folder in first:
        take(folder, note="third")
    assert [entry.note for entry in read_verifications(board / "verification.json").entries] == ["third", "before"]
    assert len(list((board / "results").rglob("record.json.gz"))) == 5


def test_other_rows_and_seeds_stay(maker, board, take):
    take(maker.run("erm", 0), maker.run("erm", 1))
    take(maker.run("other/one", 0), maker.run("erm", 0, level="0.9"))
    assert len(list((board / "results").rglob("record.json.gz"))) == 4


def test_what_makes_a_run_take_another_s_place(maker):
    def wider(content):
        content["cell"]["hparams"] = content["method"]["hparams"] = {"width": 2}
        content["method"]["configuration"] = "changed"

    first = read_record(maker.run("erm", 0))
    assert row_and_seed(read_record(maker.run("erm", 0, change=another_run))) == row_and_seed(first)
    others = [maker.run("erm", 1), maker.run("erm", 0, level="0.9"), maker.run("a/b", 0), maker.run("a/c", 0)]
    others.append(maker.run("a/b", 0, change=wider))
    assert len({row_and_seed(read_record(folder)) for folder in others} | {row_and_seed(first)}) == 6


def test_a_level_is_changed_where_the_records_lie(maker, board, take):
    take(*maker.row("erm", 0.5, verified=None), level="recomputed", commit=None)
    before = content_of(board / "results")
    assert rows_of(board)[0].not_ranked == ["not ranked: recomputed"]
    done = take(board / "results" / "colorized-digits")
    assert (len(done.runs), done.removed) == (5, [])
    assert content_of(board / "results") == before
    assert rows_of(board)[0].verification == "maintained"


@pytest.mark.parametrize("moment", ["staging", "first", "later"])
def test_an_interrupted_call_is_completed_by_the_same_call(maker, board, take, monkeypatch, moment):
    take(*maker.row("erm", 0.4, verified=None))
    before = content_of(board)
    new = [maker.run("erm", seed, conflicting=0.6, change=another_run) for seed in range(5)]
    publish, calls = accepting.publish_folder, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == {"first": 1, "later": 3}.get(moment, 0):
            raise KeyboardInterrupt
        return publish(*arguments)

    monkeypatch.setattr(accepting, "publish_folder", interrupted)
    if moment == "staging":
        monkeypatch.setattr(accepting, "_size_afterwards", lambda *_: interrupted.missing)
    with pytest.raises((KeyboardInterrupt, AttributeError)):
        take(*new, raise_release=True)
    if moment == "staging":
        assert content_of(board) == before
    monkeypatch.undo()
    take(*new, raise_release=True)
    assert read_verifications(board / "verification.json").release == 4
    assert sorted(path.parent.name for path in (board / "results").rglob("record.json.gz")) == sorted(
        folder.name for folder in new
    )
    shown = collect_board([board / "results"], verification=board / "verification.json")
    assert shown.unmatched_verifications == 1
    assert shown.tasks[0].rules[0].tables[0].rows[0].verification == "maintained"
    assert not list((board / "results").glob(".*"))


def trial(content):
    content["kind"] = "trial"


def dirty(content):
    content["environment"]["git_dirty"] = True


def opened(content):
    content["isolation"]["test_split_absent"] = False


@pytest.mark.parametrize(
    ("options", "keywords", "error", "message"),
    [
        ({}, {"status": "cancelled"}, UsageError, r"is no finished run \(cancelled: interrupted\); leave it out"),
        ({}, {"change": trial, "status": "cancelled"}, UsageError, "is a trial of a search, or a run that failed"),
        ({"commit": None}, {}, UsageError, "level 'maintained' needs the full commit that was run; give --commit SHA"),
        ({"commit": "abc"}, {}, UsageError, "--commit abc: String should match pattern"),
        ({"commit": "d" * 40}, {}, DamagedFile, "but was run at cccccccccccc; run it again"),
        ({}, {"change": dirty}, DamagedFile, "was run at cccccccccccc with changes"),
        ({}, {"change": opened}, DamagedFile, "was not run with --isolated"),
        ({"level": "replayed"}, {}, UsageError, "level 'replayed' needs --replay FILE"),
        ({"replays": ["x.json"]}, {}, UsageError, "a replay says nothing for level 'maintained'"),
        ({}, {"name": ".."}, DamagedFile, r"'\.\.' is no name of a method"),
    ],
)
def test_what_does_not_deserve_it_is_refused_and_nothing_changes(maker, board, take, options, keywords, error, message):
    good = maker.run("erm", 1)
    bad = maker.run(**{"name": "erm", "seed": 0, **keywords})
    before = content_of(board)
    with pytest.raises(error, match=message):
        take(good, bad, **options)
    assert content_of(board) == before


def test_two_runs_of_one_seed_are_refused(maker, take):
    with pytest.raises(UsageError, match="are one seed of one row; give one of them"):
        take(maker.run("erm", 0), maker.run("erm", 0, change=another_run))


def test_a_damaged_record_or_file_is_refused(maker, board, take):
    folder = maker.run("erm", 0)
    answers = folder / "predictions-real-last.parquet"
    answers.write_bytes(answers.read_bytes() + b"x")
    before = content_of(board)
    with pytest.raises(DamagedFile, match=r"SHA-256 differs"):
        take(folder)
    (board / "empty").mkdir()
    with pytest.raises(UsageError, match="there is no finished run in"):
        take(board / "empty")
    assert content_of(board) == before


def test_the_repository_is_not_outgrown(maker, board, take, monkeypatch):
    take(*maker.row("erm", 0.5, verified=None))
    before = content_of(board)
    monkeypatch.setattr(accepting, "MOST_BYTES", size_of(board) + 1000)
    with pytest.raises(StoreError, match=r"would hold [\d,]+ bytes, at most [\d,]+ are kept in the repository"):
        take(maker.run("other/one", 0))
    assert content_of(board) == before
    # What takes the place of another of its size fits.
    take(maker.run("erm", 0, change=another_run))


def test_the_verb_says_what_it_did(maker, board, monkeypatch, capsys):
    monkeypatch.setattr(accepting, "VERIFICATION_FILE", board / "verification.json")
    first = maker.run("erm", 0)
    verb([first], "maintained", commit=COMMIT)
    again = maker.run("erm", 0, change=another_run)
    verb([again], "recomputed", release=True)
    said = capsys.readouterr()
    assert f"colorized-digits/erm/{again.name}\taccepted as recomputed" in said.out
    assert f"colorized-digits/erm/{first.name}\tremoved" in said.out
    assert "release 4; leaderboard/ holds" in said.err
    verb([again], "recomputed", json=True)
    assert json.loads(capsys.readouterr().out)["runs"] == [f"colorized-digits/erm/{again.name}"]


# --- replays -------------------------------------------------------------------------------------------------------


@pytest.fixture
def replay(tmp_path, maker):
    """Write a replay of some runs that confirms them, or one with changes."""

    def write(folders, **changes):
        record = read_record(folders[0])
        rule = {
            "rule": "last", "metric": "acc_conflicting", "seeds": [0, 1], "values": [0.5, 0.52], "replayed": 0.51,
            "pooled": None, "low": 0.4, "high": 0.6, "decided_by": "prediction interval", "why": "a fresh seed",
            "differing": None, "same_predictions": None, "inside": True,
        }  # fmt: skip
        maker.entries.clear()
        maker.verify(folders, "replayed")
        content = {
            "task": record.cell.task, "level": "0.95", "recipe": "default", "method": record.cell.method, "hparams": {},
            "configuration": "default", "generator": None, "records": maker.entries[0]["records"], "seed": 99,
            "draw": 4, "same_seed": False, "run": "0.95-seed99-0123456789ab", "record": "1" * 64,
            "environment": record.environment.model_dump(mode="json"),
            "isolation": record.isolation.model_dump(mode="json"), "rules": [rule], "inside": True,
        }  # fmt: skip
        file = tmp_path / "replay.json"
        file.write_text(json.dumps([{**content, **changes}]))
        return file

    return write


def test_replayed_runs_rank_under_the_commit_of_their_replay(maker, board, take, replay):
    folders = maker.row("other/one", 0.5, verified=None)
    take(*folders, level="replayed", commit=None, replays=[replay(folders)])
    (entry, _) = read_verifications(board / "verification.json").entries
    assert (entry.level, entry.commit) == ("replayed", COMMIT)
    assert rows_of(board)[0].rank is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"same_seed": True}, "repeats a submitted seed; the level asks for a fresh one"),
        ({"records": {"x": "2" * 64}}, "not of exactly these records: 2 of 2 were not replayed, 1 replayed"),
        ({"inside": False}, "is no replay: file: Value error, `inside` is not what the rules say"),
        ({"extra": 1}, "is no replay: extra: Extra inputs"),
    ],
)
def test_a_replay_that_confirms_nothing_is_refused(maker, board, take, replay, changes, message):
    folders = maker.row("other/one", 0.5, verified=None, seeds=2)
    with pytest.raises((UsageError, DamagedFile), match=message):
        take(*folders, level="replayed", commit=None, replays=[replay(folders, **changes)])


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("environment", {"git_dirty": True}, "was not made from a clean commit"),
        ("environment", {"git_commit": "d" * 40}, f"was not made at commit {COMMIT}"),
        ("isolation", {"test_split_absent": False}, "was not made in isolation"),
    ],
)
def test_a_replay_counts_only_from_a_clean_merged_commit_in_isolation(maker, take, replay, part, changes, message):
    folders = maker.row("other/one", 0.5, verified=None, seeds=2)
    file = replay(folders)
    (content,) = json.loads(file.read_text())
    content[part] |= changes
    write_json(file, content)
    with pytest.raises(UsageError, match=message):
        take(*folders, level="replayed", replays=[file])


def test_a_replay_outside_its_interval_gives_no_level(maker, take, replay):
    folders = maker.row("other/one", 0.5, verified=None, seeds=2)
    file = replay(folders)
    (content,) = json.loads(file.read_text())
    content["inside"] = content["rules"][0]["inside"] = False
    write_json(file, content)
    with pytest.raises(UsageError, match="lies outside the prediction interval of the submitted seeds"):
        take(*folders, level="replayed", replays=[file])
