"""The command line as a user meets it: real processes, exit codes, standard output and error."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

HEAVY = ("torch", "diffusers", "transformers", "peft", "datasets", "pandas", "scipy", "sklearn", "fairlearn")
COMMAND = [sys.executable, "-m", "benchmark.cli.main"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run the command line in a folder of the test's own."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**ENVIRONMENT, "GENBIAS_STORE": str(tmp_path / "store")}
        return subprocess.run(
            [*COMMAND, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
        )

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"], ["evaluate", "--help"], ["list", "tasks"], ["list", "methods"], ["list", "generators"],
        ["describe", "ffr"], ["describe", "colorized-digits"], ["describe", "hard-imagenet"], ["data", "list"],
        ["data", "fetch", "--help"], ["data", "fetch", "utkface"], ["evaluate", "--method", "nope"],
        ["evaluate", "--method", "erm", "--task", "utkface", "--recipe", "nope"],
        ["evaluate", "--method", "erm", "--bias-level", "2"], ["evaluate", "--method", "ffr", "--set", "x=1"],
        ["evaluate", "--method", "lora", "--set", "filter=clip"], ["evaluate", "--method", "erm", "--clip", "a/b"],
        ["describe", "clustered-dreambooth"], ["leaderboard", "trajectories", "--help"],
    ],
)  # fmt: skip
def test_light_verbs_and_the_checking_of_arguments_import_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys, atexit\n"
        f"atexit.register(lambda: sys.stderr.write('HEAVY ' + ' '.join(m for m in {HEAVY!r} if m in sys.modules)))\n"
        f"sys.argv = ['genbias-bench', *{arguments!r}]\n"
        "from benchmark.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.endswith("HEAVY "), done.stderr


def test_lists_are_rows_off_a_terminal_and_documents_with_json(cli: Cli) -> None:
    rows = cli("list", "methods").stdout.splitlines()
    assert rows[0].split("\t") == ["method", "version", "what it does"]
    names = [row.split("\t")[0] for row in rows[1:]]
    assert {"copy-augment", "erm", "ffr", "sd-augment", "lora", "real-oracle"} <= set(names)
    assert not any(name.startswith("_") or "fine-tuned" in name for name in names)
    listed = json.loads(cli("list", "methods", "--json").stdout)
    assert [entry["name"] for entry in listed] == names


def test_describe_tells_a_methods_hyper_parameters(cli: Cli) -> None:
    described = json.loads(cli("describe", "ffr", "--json").stdout)
    assert described["hparams"]["synthetic_share"]["default"] == 0.5
    assert described["stages"] == "synthetic, real"


def test_describe_tells_the_defaults_of_a_tier_beside_the_model_s_own(cli: Cli) -> None:
    described = json.loads(cli("describe", "lora", "--json").stdout)["hparams"]
    assert (described["contrastive"]["tuned"], described["rank"]["tuned"]) == ([0.0, 2.0], [4, 64, "log"])
    assert (described["adapter_steps"]["default"], described["adapter_steps"]["tiers"]) == (500, {"demo": 100})
    assert described["filter"]["tiers"] == {}
    rows = dict(row.split("\t")[:2] for row in cli("describe", "lora").stdout.splitlines() if row.count("\t") >= 2)
    assert (rows["adapter_steps"], rows["filter"]) == ("500 (demo: 100)", "own")


def test_describe_tells_a_tasks_sizes(cli: Cli) -> None:
    described = json.loads(cli("describe", "colorized-digits", "--json").stdout)
    assert described["expected"][0]["train"] == 990
    assert described["default_level"] == "0.95"


def test_the_board_s_words_name_options_that_evaluate_has(cli: Cli) -> None:
    from leaderboard.wording import HOW_TO_REPRODUCE

    command = HOW_TO_REPRODUCE.partition("genbias-bench evaluate")[2].partition("genbias-bench score")[0]
    named = {word.strip("[]") for word in command.split() if word.strip("[").startswith("--")}
    assert {"--task", "--bias-level", "--recipe"} <= named
    assert named <= set(cli("evaluate", "--help").stdout.replace(",", " ").split())


def test_data_verify_finds_every_split_pinned(cli: Cli) -> None:
    found = json.loads(cli("data", "verify", "colorized-digits", "--json").stdout)
    assert len(found) == 20
    assert {row["state"] for row in found} == {"pinned"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["evaluate", "--method", "ffrr"], 2, "did you mean 'ffr'"),
        (["evaluate", "--method", "erm", "--task", "digits"], 2, "unknown task 'digits'"),
        (["evaluate", "--method", "ffr", "--generator", "tinysd"], 2, "did you mean 'tiny-sd'"),
        (["evaluate", "--method", "erm", "--bias-level", ".97"], 2, "no bias level '.97'; offered: balanced"),
        (["evaluate", "--method", "erm", "--bias-level", "-1"], 2, "'-1'"),
        (["evaluate", "--method", "erm", "--device", "gpu"], 2, "'gpu' is no device"),
        (["evaluate", "--method", "erm", "--device", "cuda:99"], 1, "torch sees"),
        (["evaluate", "--method", "erm", "--threads", "0"], 2, "0 threads"),
        (["evaluate", "--method", "erm", "--seed", "x"], 2, "valid integer"),
        (["evaluate", "--method", "ffr", "--set", "real_los=erm"], 2, "did you mean 'real_loss'"),
        (["evaluate", "--method", "ffr", "--set", "freeze_bn=maybe"], 2, "freeze_bn='maybe'"),
        (["evaluate", "--method", "ffr", "--set", "freeze_bn"], 2, "not NAME=VALUE"),
        (["evaluate", "--method", "lora", "--set", "filter=clip"], 2, "filter=clip needs a CLIP model; add --clip"),
        (["evaluate", "--method", "ffr", "--clip", "org/clip"], 2, "--clip org/clip has no use"),
        (["evaluate", "--method", "lora", "--set", "filter=clip", "--clip", "clip"], 2, "unknown CLIP model 'clip'"),
        (["evaluate", "--method", "erm", "--results-dir", "/dev/null/results"], 1, "cannot use"),
        (["evaluate"], 2, "name a --method"),
        (["frob"], 2, "No such command 'frob'"),
        (["describe", "emr"], 2, "did you mean 'erm'"),
        (["score", "missing.json"], 1, "missing.json"),
        (["leaderboard", "build", "missing"], 2, "give --output FILE"),
        (["leaderboard", "build", "missing", "-o", "board.md"], 1, "missing does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_an_exit_code(cli: Cli, arguments: list[str], code: int, message: str) -> None:
    done = cli(*arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_generator_folder_that_is_no_pipeline_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    done = cli("evaluate", "--method", "ffr", "--generator", str(tmp_path / "model"))
    assert done.returncode == 1
    assert "no model_index.json" in done.stderr


def test_a_store_of_another_format_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "format_version").write_text("99\n")
    done = cli("evaluate", "--method", "erm")
    assert done.returncode == 1
    assert "format version 99" in done.stderr


def test_env_tells_versions_and_device(cli: Cli) -> None:
    found = json.loads(cli("env", "--json").stdout)
    assert found["device_kind"] in {"cpu", "cuda"}
    assert "torch" in found["packages"]


@pytest.mark.slow
def test_the_main_path_from_evaluate_to_score_and_board(cli: Cli, tmp_path: Path) -> None:
    done = cli("evaluate", "--method", "erm", "--threads", "1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    groups = [line for line in lines if line.startswith("seven\t")]
    assert len(groups) == 10
    record = next(line.split("\t")[1] for line in lines if line.startswith("record\t"))
    assert "next: genbias-bench score" in done.stderr
    scored = cli("score", record)
    assert scored.returncode == 0
    assert "bit-equal" in scored.stderr
    again = cli("evaluate", "--method", "erm", "--threads", "1", "--json")
    assert "done before" not in again.stdout
    assert json.loads(again.stdout) == json.loads((tmp_path / record).read_text())
    built = cli("leaderboard", "build", "results", "--output", "board.md")
    assert built.returncode == 0, built.stderr
    assert "erm" in (tmp_path / "board.md").read_text()


@pytest.mark.slow
def test_kill_and_interrupt_lose_nothing(cli: Cli, tmp_path: Path) -> None:
    environment = {**ENVIRONMENT, "GENBIAS_STORE": str(tmp_path / "store")}
    command = [*COMMAND, "evaluate", "--method", "erm", "--threads", "1"]

    def begin() -> subprocess.Popen[str]:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("training on"):
                break
        time.sleep(1.0)
        return process

    killed = begin()
    killed.kill()
    killed.communicate()
    assert not list(tmp_path.glob("results/*/*/0*/record.json"))
    # The dead process's claims are waited for until they expire; removing them is what time would do.
    shutil.rmtree(tmp_path / "store" / "claims")
    interrupted = begin()
    interrupted.send_signal(signal.SIGINT)
    _, errors = interrupted.communicate()
    assert interrupted.returncode == 130
    assert "interrupted" in errors
    (cancelled,) = tmp_path.glob("results/*/*/*/record.json")
    assert json.loads(cancelled.read_text())["status"] == "cancelled"
    finished = cli("evaluate", "--method", "erm", "--threads", "1", "--json")
    assert finished.returncode == 0
    assert json.loads(finished.stdout)["status"] == "success"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("evaluate --method cl", ["clustered-dreambooth"]),
        ("plan --task utk", ["utkface"]),
        ("sweep --bias-level .9", [".9", ".95", ".97", ".99", ".999"]),
        ("data fetch celeba-b", ["celeba-blond"]),
        ("leaderboard tra", ["trajectories"]),
    ],
)
def test_a_shell_completes_verbs_and_names(words: str, expected: list[str]) -> None:
    asked = {"_GENBIAS_BENCH_COMPLETE": "complete_bash", "COMP_WORDS": f"genbias-bench {words}"}
    asked["COMP_CWORD"] = str(len(words.split()))
    program = Path(sys.executable).with_name("genbias-bench")
    done = subprocess.run([program], capture_output=True, text=True, check=True, env={**os.environ, **asked})
    assert done.stdout.split() == expected
