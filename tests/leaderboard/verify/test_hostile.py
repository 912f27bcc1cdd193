"""Hostile submissions: what is in them neither runs, nor leads out of their folder, nor ranks, nor breaks a page."""

from __future__ import annotations

import json
import os
import shutil
import socket
import zipfile

import pytest

from benchmark.errors import UsageError
from benchmark.records.canonical import sha256_of
from leaderboard.build import collect_board
from leaderboard.markdown import render_markdown
from leaderboard.submission import read_submission
from leaderboard.untrusted import UntrustedFolder
from leaderboard.verify import verify

SCRIPT = "<script>alert(1)</script>"


def named(name, package=None, origin="plug-in"):
    def change(content):
        content["method"] |= {"name": name, "package": name.rpartition("/")[0] if package is None else package}
        content["method"]["origin"] = origin
        content["cell"]["method"] = f"{name}@1"

    return change


def of_task(name, version=1):
    def change(content):
        content["task"] |= {"name": name, "version": version}
        content["cell"]["task"] = f"{name}@{version}"

    return change


def of_level(level):
    def change(content):
        content["task"]["level"] = content["cell"]["level"] = level

    return change


def other_split(content):
    content["task"]["split_digest"] = content["cell"]["split_digest"] = "a" * 64


def own_digests(content):
    """Claim that the digests of other rows are this split's."""
    other_split(content)
    content["stages"][0]["checkpoints"][0]["predictions"]["rows_digest"] = "b" * 64


RECORDS = [
    ("an in-tree name", named("erm"), "erm is this benchmark's own method; a plug-in's method is named package/name"),
    ("a name without a package", named("best-method"), "best-method is no method of this release; a plug-in's"),
    ("a package of somebody else", named("acme/x", "zenith"), "acme/x is a plug-in of acme, but the record says plug"),
    ("a plug-in that says in-tree", named("acme/x", "acme", "in-tree"), "but the record says in-tree of 'acme'"),
    ("HTML as a name", named(f"acme/{SCRIPT}"), "is neither a name of ours nor package/name in plain letters"),
    ("a path as a name", named("../../acme/method"), "is neither a name of ours nor package/name in plain letters"),
    ("a homoglyph name", named("acme/mеthod"), "is neither a name of ours nor package/name in plain letters"),
    ("a name with a line break", named("acme/method\nrm"), "is neither a name of ours nor package/name"),
    ("a name like another's", named("Acme/method"), "Acme/method is too like acme/method, another's method"),
    ("terminal escapes", lambda c: c.update(notes=["\x1b[2J"]), "text: notes holds the hidden characters U+001B"),
    ("right-to-left marks", lambda c: c["method"].update(package_version="\u202e1.0"), "hidden characters U+202E"),
    ("zero-width characters", lambda c: c["cost"].update({"e\u200bnergy": 1}), "cost holds the hidden characters U+20"),
    ("a path as a task", of_task("../../etc"), "unknown task '../../etc@1'"),
    ("a task that is not there", of_task("colorized-digits", 99), "version 99 is not in this release"),
    ("a path as a level", of_level("../../x"), "split: bias level '../../x' is not a share between 0 and 1"),
    ("the wrong split", other_split, "split: was made on another split"),
    ("forged digests", own_digests, "split: was made on another split"),
    ("a NaN in words", lambda c: c["cost"].update(wall_seconds="NaN"), "cost.wall_seconds: Input should be a valid"),
    ("a number as text", lambda c: c.update(seed="0"), "seed: Input should be a valid integer"),
    ("a path as a predictions file", lambda c: predictions(c).update(file="../x.parquet"), "predictions.file: String"),
    ("a file that is not there", lambda c: predictions(c).update(file="predictions-x.parquet"), "is missing; a record"),
    ("a forged digest of a file", lambda c: predictions(c).update(sha256="a" * 64), "is not the file that its record"),
    ("a list in the place of a model", lambda c: c.update(stages=[0] * 50_000), "stages.0: Input should be an object"),
    ("a huge count", lambda c: predictions(c).update(rows=2**62), "has 4611686018427387904 rows by its record"),
]  # fmt: skip


def predictions(content):
    return content["stages"][0]["checkpoints"][0]["predictions"]


@pytest.fixture(scope="module")
def found(forge_once):
    """What is found in a submission with one run for each case; beside a board that holds acme/method."""
    forge_once.run(below=forge_once.board, seed=1)
    reports = {}
    for number, (_, change, _) in enumerate(RECORDS):
        folder = forge_once.run("zenith/x", change=numbered(number))
        content = json.loads((folder / "record.json").read_text())
        change(content)
        content["cell_id"] = sha256_of(content["cell"])
        content["run_id"] = content["cell_id"][:12]
        (folder / "record.json").write_text(json.dumps(content))
        reports[number] = folder.relative_to(forge_once.root).as_posix()
    findings = verify(forge_once.root, board=[forge_once.board], intervals=False, cached=False).findings
    return {
        number: [f"{each.check}: {each.message}" for each in findings if each.where.startswith(where)]
        for number, where in reports.items()
    }


def numbered(number):
    def change(content):
        content["method"]["hparams"] = content["cell"]["hparams"] = {"case": number}

    return change


@pytest.mark.parametrize("number", range(len(RECORDS)), ids=[name for name, _, _ in RECORDS])
def test_a_hostile_record_is_refused_with_a_reason(found, number):
    assert any(RECORDS[number][2] in reason for reason in found[number]), found[number]


TEXTS = [
    (b'{"a": 1, "a": 2}', "a key stands twice in one object"),
    (b'{"a": NaN}', "NaN is not JSON"),
    (b'{"a": -Infinity}', "-Infinity is not JSON"),
    (b'{"a": 1e999}', "1e999 is out of range"),
    (b'{"a": 9223372036854775808}', "is no 64-bit number"),
    (b'{"a": ' + b"9" * 500_000 + b"}", "is no 64-bit number"),
    (b"[" * 100_000, "is nested deeper than 32 levels"),
    (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "is nested deeper than 32 levels"),
    (b"[" + b"0," * 200_000 + b"0]", "holds more than 100,000 values"),
    (b" " * (2**20 + 1), "at most 1,048,576 are read"),
    (b"\xef\xbb\xbf{}", "BOM"),
    (b'{"a": "\xff"}', "invalid start byte"),
    (b'{"a": "\\ud800"}', "surrogates not allowed"),
    ('{"a": 1}'.encode("utf-16"), "cannot be read as JSON"),
    (b'{"a": "\x00"}', "Invalid control character"),
    (b"{'a': 1}", "Expecting property name"),
    (b"", "Expecting value"),
    (b"[]", "holds no JSON object"),
]


@pytest.mark.parametrize(("text", "reason"), TEXTS, ids=range(len(TEXTS)))
def test_hostile_json_is_refused_with_a_reason(forge, text, reason):
    folder = forge.root / "colorized-digits" / "acme--x" / "0.95-seed0-000000000000"
    folder.mkdir(parents=True)
    (folder / "record.json").write_bytes(text)
    reasons = forge.reasons()
    assert len(reasons) == 1
    assert reason in reasons[0]


def link_a_record(folder):
    (folder / "record.json").rename(folder.parents[3] / "elsewhere.json")
    (folder / "record.json").symlink_to(folder.parents[3] / "elsewhere.json")


def link_a_folder(folder):
    folder.rename(folder.parents[3] / "elsewhere")
    folder.symlink_to(folder.parents[3] / "elsewhere")


def link_a_file_twice(folder):
    os.link(folder / "record.json", folder.parents[3] / "elsewhere.json")


def socket_in_the_place_of_a_file(folder):
    (folder / "record.json").unlink()
    here = os.open(".", os.O_RDONLY)
    os.chdir(folder)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("record.json")
    finally:
        os.fchdir(here)
        os.close(here)


def pipe_in_the_place_of_a_file(folder):
    (folder / "predictions-real-last.parquet").unlink()
    os.mkfifo(folder / "predictions-real-last.parquet")


def twin(folder):
    (folder / "Record.json").write_text("{}")


def deeper(folder):
    shutil.copytree(folder, folder / "0.95-seed0-000000000000")


def nested(folder):
    inside = folder.parents[2]
    inside.rename(inside.with_name("moved"))
    inside.mkdir()
    inside.with_name("moved").rename(inside / "submission")


def levels(folder):
    (folder.parents[2] / "verification.json").write_text(json.dumps({"format_version": 1, "release": 1, "entries": []}))


def flat(folder):
    for file in folder.iterdir():
        shutil.copy(file, folder.parents[2])


FOLDERS = [
    (flat, "lies beside submission.json; runs lie in <task>/<method>/<run>"),
    (link_a_record, "is no plain file; links and devices are not read"),
    (link_a_folder, "is no plain file; links and devices are not read"),
    (link_a_file_twice, "has 2 names (hard links), so it may be somebody else's file"),
    (socket_in_the_place_of_a_file, "is no plain file; links and devices are not read"),
    (pipe_in_the_place_of_a_file, "is no plain file; links and devices are not read"),
    (twin, "differs from Record.json only in upper and lower case"),
    (deeper, "is no folder of a submission: <task>/<method>/<level>-seed<seed>-<run id>"),
    (nested, "is no folder of a submission: <task>/<method>/<level>-seed<seed>-<run id>"),
    (levels, "has no place in a submission; it is not opened"),
    (lambda folder: (folder / ".git").mkdir(), "is no folder of a submission"),
    (lambda folder: (folder.parents[2] / "a\nb").mkdir(), "is no folder of a submission"),
    (lambda folder: (folder.parents[2] / "\u202egnp").write_text(""), "has no place in a submission"),
    (lambda folder: (folder.parents[2] / "\x1b[2J").write_text(""), "has no place in a submission"),
    (lambda folder: (folder / "setup.py").write_text("raise SystemExit"), "has no place in a submission"),
    (lambda folder: (folder / "record.json.gz").write_bytes(b""), "has no place in a submission"),
    (lambda folder: (folder / "argmax-real-last.parquet").write_bytes(b""), "has no place in a submission"),
    (lambda folder: (folder / "predictions-more.parquet").write_text(""), "the record beside it names no such file"),
    (lambda folder: (folder / "record.json").unlink(), "holds predictions, but no record.json"),
    (lambda folder: folder.rename(folder.with_name("0.95-seed0-000000000000")), "by its content it belongs into"),
]  # fmt: skip


@pytest.mark.parametrize(("tampered", "reason"), FOLDERS, ids=range(len(FOLDERS)))
def test_a_hostile_folder_is_refused_with_a_reason_and_nothing_of_it_is_shown(forge, tampered, reason):
    folder = forge.run(change=lambda content: content.update(status="cancelled"))
    forge.about()
    tampered(folder)
    report = forge.report()
    assert any(reason in each.message for each in report.findings), report.findings
    shown = report.markdown() + report.model_dump_json()
    assert not {"\x1b", "\u202e"} & set(shown)


def test_too_many_files_are_not_read(forge):
    folder = forge.root / "colorized-digits" / "acme--x"
    for number in range(2_001):
        run = folder / f"0.95-seed{number}-000000000000"
        run.mkdir(parents=True)
        (run / "record.json").touch()
    reasons = forge.reasons()
    assert reasons[0] == "files: holds more than 4,000 files and folders; nothing was read"


def test_too_many_bytes_are_not_read(forge):
    run = forge.root / "colorized-digits" / "acme--x" / "0.95-seed0-000000000000"
    run.mkdir(parents=True)
    with (run / "predictions-x.parquet").open("wb") as stream:
        stream.truncate(2**40)
    assert "or 256 MiB, and nothing was read; submit it in parts" in forge.reasons()[0]


def test_a_file_that_becomes_a_link_between_check_and_use_is_not_followed(forge, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text('{"format_version": 1}')
    forge.about()
    complaints = []
    with UntrustedFolder(forge.root, lambda where, problem: complaints.append((where, problem))) as folder:
        (forge.root / "submission.json").unlink()
        (forge.root / "submission.json").symlink_to(secret)
        with pytest.raises(Exception, match=r"submission\.json cannot be read: Too many levels of symbolic links"):
            read_submission(folder)
    assert complaints == []


def test_an_archive_is_refused_and_nothing_in_it_leaves_its_folder(tmp_path):
    archive = tmp_path / "inside" / "submission.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("../slipped.json", "{}")
        content.writestr("/tmp/slipped-by-a-test.json", "{}")
    with pytest.raises(UsageError, match="is no folder that can be read: Not a directory; give the folder, and unpack"):
        verify(archive)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["inside", "submission.zip"]


ABOUTS = [
    ({"title": "a\u202eb"}, "title: Value error, holds U+202E"),
    ({"title": "\x1b]0;x\x07"}, "title: Value error, holds U+0007, U+001B"),
    ({"title": "two\nlines"}, "title: Value error, has to be one line"),
    ({"title": "x" * 101}, "title: String should have at most 100 characters"),
    ({"title": 7}, "title: Input should be a valid string"),
    ({"authors": []}, "authors: List should have at least 1 item"),
    ({"authors": ["a"] * 51}, "authors: List should have at most 50 items"),
    ({"authors": ["\u2066x"]}, "authors.0: Value error, holds U+2066"),
    ({"links": ["javascript:alert(1)"]}, "links.0: Value error, is not https"),
    ({"links": ["data:text/html,x"]}, "links.0: Value error, is not https"),
    ({"links": ["http://example.org"]}, "links.0: Value error, is not https"),
    ({"links": ["https://user:secret@example.org"]}, "links.0: Value error, has to name a host, without a user"),
    ({"links": ["https://example.org:8080/"]}, "links.0: Value error, has to name a host, without a user"),
    ({"links": ["https://localhost/"]}, "links.0: Value error, has to name a host"),
    ({"links": ["https://exаmple.org/"]}, "links.0: Value error, has to name a host"),
    ({"links": ['https://example.org/"onmouseover=x']}, "links.0: Value error, holds characters that an address has"),
    ({"links": ["https://example.org/\u200b"]}, "links.0: Value error, holds characters that an address has"),
    ({"links": ["https://example.org/" + "x" * 300]}, "links.0: String should have at most 300 characters"),
    ({"links": ["https://[::1"]}, "links.0: Value error, is no web address"),
    ({"method": "acme/method"}, "method: String should match pattern"),
    ({"method": "../acme@1"}, "method: String should match pattern"),
    ({"citation": "x" * 4001}, "citation: String should have at most 4000 characters"),
    ({"note": "x" * 2001}, "note: String should have at most 2000 characters"),
    ({"note": "a\x00b"}, "note: Value error, holds U+0000"),
    ({"level": "maintained"}, "level: Extra inputs are not permitted"),
    ({"format_version": 2}, "format_version: Input should be 1"),
    ({"format_version": "1"}, "format_version: Input should be 1"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "reason"), ABOUTS, ids=range(len(ABOUTS)))
def test_hostile_words_about_a_submission_are_refused_with_a_reason(forge, fields, reason):
    forge.about(**fields)
    with pytest.raises(Exception, match=r"^submission\.json: ") as error:
        read_submission(forge.root)
    assert reason in str(error.value)


def test_markup_is_text_that_is_accepted_and_escaped_where_it_is_shown(forge):
    forge.about(title=SCRIPT, authors=[f"{SCRIPT} [x](javascript:x)"], note=SCRIPT, citation=f"@misc{{{SCRIPT}}}")
    assert read_submission(forge.root).title == SCRIPT
    forge.run(
        "acme/other", change=lambda content: content.update(failure=None, status="skipped", skipped_because=SCRIPT)
    )
    report = forge.report()
    assert "<script" not in report.markdown()
    assert "is a run of acme/other@1, but submission.json submits acme/method@1" in " ".join(
        each.message for each in report.findings
    )


def test_what_a_report_quotes_is_shortened_and_no_markup(forge, tamper):
    tamper(forge.run(), lambda content: content["method"].update(name=f"acme/{SCRIPT}|[a](b)" + "x" * 100_000))
    text = forge.report().markdown()
    assert "<script" not in text
    assert "](b)" not in text
    assert len(text) < 10_000


def test_a_record_that_claims_a_level_gets_none_and_its_words_break_no_board(forge):
    def boast(content):
        content["verification"] = {"level": "maintained"}
        content["level"] = "replayed"
        content["environment"]["device"] = f"{SCRIPT} | x"

    forge.run(change=boast)
    assert forge.report().level == "recomputed"
    board = collect_board([forge.root])
    (row,) = next(rule for rule in board.tasks[0].rules if rule.rule == "last").tables[0].rows
    assert (row.verification, row.rank) == ("self-reported", None)
    assert "<script" not in render_markdown(board)
