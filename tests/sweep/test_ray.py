"""The engine `ray` on real clusters: results, failures of every kind, reaching a cluster, and stopping."""

from __future__ import annotations

import dataclasses
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmark.errors import InvalidValue, NotAvailable
from benchmark.records.results import read_record
from benchmark.sweep import ray_engine
from benchmark.sweep.jobs import Job, Outcome
from benchmark.sweep.ray_engine import RayEngine, RayOptions
from benchmark.sweep.worker import run_job

MakeJob = Callable[..., Job]
Engines = Callable[..., RayEngine]
_SPARE = 2 << 30  # memory that may be taken before Ray finds that there is none left


def _do(job: Job) -> Outcome:
    """Do what the job's method names; the functions here travel to workers by value."""
    return {"say": _say, "fail": _fail, "die": _die, "grow": _grow, "linger": _linger}[job.request.method](job)


def _say(job: Job) -> Outcome:
    said = f"{job.device}, {job.threads} threads, {os.environ['GENBIAS_TESTED']}, process {os.getpid()}"
    return Outcome("success", 0.5, message=said)


def _fail(job: Job) -> Outcome:
    raise ValueError(f"seed {job.request.seed} is not wanted")


def _die(job: Job) -> Outcome:
    os.kill(os.getpid(), signal.SIGKILL)
    return Outcome("success", 0.0)


def _grow(job: Job) -> Outcome:
    kept = []
    for _ in range(40):
        kept.append(os.urandom(1 << 20) * 128)
        time.sleep(0.1)
    return Outcome("success", float(len(kept)))


def _linger(job: Job) -> Outcome:
    job.results.mkdir(parents=True, exist_ok=True)
    (job.results / f"begun-{job.request.seed}").touch()
    try:
        time.sleep(6)
    except KeyboardInterrupt:
        return Outcome("cancelled", 0.5, message="interrupted", retryable=True)
    return Outcome("success", 6.0, message=os.environ["GENBIAS_TESTED"])


@pytest.fixture(scope="module")
def surroundings(ray_library: None) -> Iterator[None]:
    """What Ray reads before it starts: a folder and a token of our own, and that it stays on the loopback address."""
    # Not pytest's folder: the sockets' paths would be too long.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        token = Path(folder) / "token"
        token.write_text(secrets.token_hex(32))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_TMPDIR", folder)
            patch.setenv("RAY_AUTH_MODE", "token")
            patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
            patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
            patch.setenv("RAY_worker_niceness", "0")
            patch.setenv("GENBIAS_TESTED", "seen")
            from ray import cloudpickle

            cloudpickle.register_pickle_by_value(sys.modules[__name__])
            yield


@pytest.fixture
def engines(surroundings: None) -> Iterator[Engines]:
    """Make engines that are ended after the test."""
    made: list[RayEngine] = []

    def make(address: str | None = None, **settings: Any) -> RayEngine:
        made.append(RayEngine(RayOptions(address=address), **settings))
        return made[-1]

    yield make
    for engine in made:
        engine.stop(now=True)


@pytest.fixture(scope="class")
def engine(surroundings: None) -> Iterator[RayEngine]:
    """An engine with a cluster of its own."""
    engine = RayEngine(RayOptions(), workers=2, run=_do)
    yield engine
    engine.stop(now=True)


@pytest.fixture(scope="class")
def cluster(surroundings: None) -> Iterator[dict[str, str]]:
    """The addresses of a cluster that runs already, and was not started with our environment."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, client_port = one.getsockname()[1], other.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    command += [f"--ray-client-server-port={client_port}", "--num-cpus=2", "--include-dashboard=false"]
    theirs = {name: value for name, value in os.environ.items() if name != "GENBIAS_TESTED"}
    with subprocess.Popen(command, env=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as head:
        for listening in (port, client_port):
            _wait_until(lambda where=listening: _is_open(where))
        yield {"driver": f"127.0.0.1:{port}", "client": f"ray://127.0.0.1:{client_port}"}
        head.terminate()


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _ended(futures: list[Future[Outcome]]) -> list[Outcome]:
    return [future.result(timeout=180) for future in futures]


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NotAvailable, match=r"pip install 'genbias-bench\[ray\]'"):
        RayEngine(RayOptions())


def test_workers_of_a_running_cluster_cannot_be_chosen() -> None:
    with pytest.raises(InvalidValue, match=r"decides itself how many jobs run at once"):
        RayEngine(RayOptions(address="auto"), workers=2)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_no_cluster_answers_is_not_waited_for_long(
    surroundings: None, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "_ANSWER_S", 8)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        begun = time.monotonic()
        with pytest.raises(NotAvailable, match=r"no Ray cluster answers at '.*' \(waited 8 s\); start one"):
            RayEngine(RayOptions(address=f"{scheme}127.0.0.1:{deaf.getsockname()[1]}"))
        assert time.monotonic() - begun < 25


def test_an_address_where_nothing_listens_is_told_at_once(surroundings: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(NotAvailable, match=rf"nothing answers at 'ray://127.0.0.1:{port}' .*refused"):
        RayEngine(RayOptions(address=f"ray://127.0.0.1:{port}"))


@pytest.mark.slow
def test_that_there_is_no_cluster_is_told(surroundings: None) -> None:
    with pytest.raises(
        NotAvailable, match=r"the Ray cluster at 'auto' cannot be used: .*find any running Ray instance"
    ):
        RayEngine(RayOptions(address="auto"))


@pytest.mark.slow
class TestOnAClusterOfItsOwn:
    def test_it_has_as_many_slots_as_asked_for_and_is_seen_by_this_machine_alone(self, engine: RayEngine) -> None:
        assert engine.slots == 2
        processes = [process for process in psutil.Process().children(recursive=True) if process.is_running()]
        sockets = [end for process in processes for end in process.net_connections("tcp") if end.status == "LISTEN"]
        assert sockets
        assert {end.laddr.ip for end in sockets} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}

    def test_jobs_run_with_their_threads_and_our_environment(self, engine: RayEngine, make_job: MakeJob) -> None:
        outcomes = _ended(engine.submit([make_job("say"), make_job("say", device="auto"), make_job("say", threads=2)]))
        assert [outcome.message.partition(", process")[0] for outcome in outcomes] == [
            "cpu, 1 threads, seen", "cpu, 1 threads, seen", "cpu, 2 threads, seen",
        ]  # fmt: skip

    def test_a_process_stays_for_several_jobs(self, engine: RayEngine, make_job: MakeJob) -> None:
        said = {_ended(engine.submit([make_job("say")]))[0].message for _ in range(4)}
        assert len(said) <= engine.slots

    def test_what_a_job_raises_arrives(self, engine: RayEngine, make_job: MakeJob) -> None:
        (outcome,) = _ended(engine.submit([make_job("fail", seed=3)]))
        assert (outcome.status, outcome.message) == ("error", "ValueError: seed 3 is not wanted")
        assert (outcome.retryable, outcome.exhausted) == (True, False)

    def test_a_killed_worker_takes_only_its_own_job_with_it(self, engine: RayEngine, make_job: MakeJob) -> None:
        killed, other = _ended(engine.submit([make_job("die"), make_job("say")]))
        assert (killed.status, killed.retryable, killed.exhausted) == ("error", True, True)
        assert killed.message.startswith("the worker was killed or crashed")
        assert other.status == "success"

    def test_what_the_machine_does_not_have_is_an_error(self, engine: RayEngine, make_job: MakeJob) -> None:
        (outcome,) = _ended(engine.submit([make_job("say", threads=1000)]))
        assert (outcome.status, outcome.retryable) == ("error", False)
        assert outcome.message == "no node of the Ray cluster has 1000 CPUs and 0 GPUs; ask for less"


@pytest.mark.slow
def test_a_worker_that_takes_all_memory_is_ended(
    engines: Engines, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + _SPARE) / memory.total
    monkeypatch.setenv("RAY_memory_usage_threshold", str(threshold))
    (outcome,) = _ended(engines(workers=1, run=_do).submit([make_job("grow")]))
    assert (outcome.status, outcome.retryable, outcome.exhausted) == ("error", True, True)
    assert "memory ran out" in outcome.message


@pytest.mark.slow
class TestOnARunningCluster:
    def test_a_cell_runs_there_as_it_runs_here(
        self, cluster: dict[str, str], engines: Engines, make_job: MakeJob, tmp_path: Path
    ) -> None:
        job = make_job("erm")
        (there,) = _ended(engines(cluster["driver"]).submit([job]))
        here = run_job(dataclasses.replace(job, results=tmp_path / "here", store=tmp_path / "own"))
        assert (there.status, there.message) == ("success", "")
        assert there.folder is not None
        assert here.folder is not None
        stages = [[stage.checkpoints for stage in read_record(folder).stages] for folder in (there.folder, here.folder)]
        assert stages[0] == stages[1]

    @pytest.mark.parametrize(("attached_as", "now"), [("driver", False), ("client", True)])
    def test_stopping_cancels_what_waits_and_only_now_what_runs(
        self, cluster: dict[str, str], engines: Engines, make_job: MakeJob, tmp_path: Path, attached_as: str, now: bool
    ) -> None:
        engine = engines(cluster[attached_as], run=_do)
        futures = engine.submit([make_job("linger", seed=seed, threads=2) for seed in range(3)])
        _wait_until((tmp_path / "results" / "begun-0").exists)
        engine.stop(now=now)
        assert all(future.done() for future in futures)
        statuses = ["cancelled" if now else "success", "cancelled", "cancelled"]
        assert [future.result().status for future in futures] == statuses
        assert futures[0].result().message == ("interrupted" if now else "seen")
        assert len(list((tmp_path / "results").glob("begun-*"))) == 1
