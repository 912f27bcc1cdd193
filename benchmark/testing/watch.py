"""Watching an adapter's own code while ``fit`` runs: what it opens, whom it calls, which state and inputs it changes.

What the tools do on its behalf is the harness's. A child process of the adapter, and code that is not Python, are
beyond what is seen here; isolation (protocol §9) is what keeps data from those.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.optim.optimizer import register_optimizer_step_pre_hook

import benchmark.evaluation.tools
from benchmark.contract.images import ImageSet, MethodData, attributes_for_measurement
from benchmark.contract.method import Trained
from benchmark.contract.tracks import SelectionRule
from benchmark.testing.outcome import Problem, Topic
from benchmark.testing.state import changes, global_state
from benchmark.training.backbones import state_digest

_TOOLS = benchmark.evaluation.tools.__file__
_NETWORK = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}


class NetworkRefused(ConnectionError):
    """Raised where an adapter asks for the network."""


class Watch:
    """Notes of one run.

    Args:
        roots: Files and folders of the adapter's own code.
        sources: Files and folders of the task's data.
    """

    def __init__(self, roots: tuple[Path, ...], sources: tuple[Path, ...]) -> None:
        self._roots = tuple(str(root) for root in roots)
        self._sources = tuple(str(source) for source in sources)
        self._watching = False
        self._state: dict[str, str] = {}
        self._models: list[Trained] = []
        self.problems: list[Problem] = []
        self.own_steps = 0
        self.drawn: Counter[bytes] = Counter()
        sys.addaudithook(self._hook)
        register_optimizer_step_pre_hook(self._count_step)

    def note(self, topic: Topic, text: str, where: str = "") -> None:
        """Write a problem down, once."""
        problem = Problem(topic=topic, text=text, where=where)
        if problem not in self.problems:
            self.problems.append(problem)

    # --- whose code is running -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def own_code(self) -> Iterator[None]:
        """Watch a piece of ``fit``."""
        self._enter()
        try:
            yield
        finally:
            self._leave("")

    @contextlib.contextmanager
    def harness(self) -> Iterator[None]:
        """Look away while a tool works for the adapter."""
        self._leave(self._place())
        try:
            yield
        finally:
            self._enter()

    def _enter(self) -> None:
        self._state = global_state()
        self._watching = True

    def _leave(self, where: str) -> None:
        self._watching = False
        where = where and f"before {where}"
        for change in changes(self._state, global_state()):
            self.note("state", change, where)
        for model in self._models:
            if state_digest(dict(model.checkpoints[SelectionRule.LAST])) != model.digest:
                self.note("inputs", "changes the weights of a classifier that a tool had handed out", where)

    def _place(self) -> str:
        """Return where in the adapter's code we are; empty where a tool is at work for it."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            file = frame.f_code.co_filename
            if file == _TOOLS:
                return ""
            if file.startswith(self._roots):
                return f"{file}, line {frame.f_lineno}"
            frame = frame.f_back
        return ""

    # --- what it opens and whom it calls ---------------------------------------------------------------------------

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching or (event != "open" and event not in _NETWORK):
            return
        self._watching = False  # what follows opens nothing, but a hook must never call itself
        try:
            if event == "open":
                self._opened(arguments[0])
            elif not _local(event, arguments):
                self.note("offline", f"asks for the network ({event})", self._place())
                raise NetworkRefused("the contract suite gives no network; bring what `fit` needs beforehand")
        finally:
            self._watching = True

    def _opened(self, path: object) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        name = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        if name.startswith(self._sources):
            self.note("data", f"opens {name}, which holds the test split and tells every image's group", self._place())

    def _count_step(self, *_: object) -> None:
        self.own_steps += self._watching

    # --- what it is given and what it hands over -------------------------------------------------------------------

    def lent(self, result: object) -> None:
        """Remember a classifier that a tool returns, and what it was trained on."""
        if isinstance(result, Trained):
            self._models.append(result)
            real = result.training_set.take(np.flatnonzero(~result.training_set.synthetic))
            self.drawn.update(_pixels(real))


def _local(event: str, arguments: tuple[Any, ...]) -> bool:
    """Say whether a socket stays on this machine for good: those with a path instead of an address."""
    return event == "socket.connect" and isinstance(arguments[1], str | bytes)


def _pixels(images: ImageSet) -> list[bytes]:
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in np.asarray(images.images)]


def digest_of(data: MethodData) -> str:
    """Return the SHA-256 over the present content of both splits."""
    digest = hashlib.sha256()
    for part in (data.train, data.validation):
        for array in (np.asarray(part.images), part.y, attributes_for_measurement(part)):
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def order_score(drawn: Counter[bytes], train: ImageSet, conflicting: NDArray[np.bool_]) -> float:
    """Return how far the training images used were chosen by their place in the frozen split, in standard deviations.

    The images of a class stand in another order than in the frozen split, so a place says nothing of the image that is
    there now. Under random places the sum of how often each image was used, over the places where the frozen split
    has a conflicting one, has a known mean and variance within every class.

    Args:
        drawn: How often each image was trained on.
        train: The training images in this run's order.
        conflicting: Which places hold a conflicting image in the frozen split, bool [n].
    """
    used = np.array([drawn[key] for key in _pixels(train)], dtype=np.float64)
    excess, variance = 0.0, 0.0
    for y in range(train.names.shape[0]):
        of_class = np.flatnonzero(train.y == y)
        n, m = len(of_class), int(conflicting[of_class].sum())
        if n > 1:
            excess += float(used[of_class][conflicting[of_class]].sum() - m * used[of_class].mean())
            variance += m * (n - m) / (n - 1) * float(used[of_class].var())
    return excess / variance**0.5 if variance > 0 else 0.0


class WatchedTools:
    """The harness's tools, with every piece of work written down.

    Args:
        tools: The real ones.
        watch: Where to note.
        on_work: Called after each finished piece of work with its name and whether it came from the store.
        entries: Returns what the store holds.
    """

    WORK = ("train", "synthesize", "generate")
    _OTHER = ("copies", "reserve", "refit_last_layer", "predict", "note", "seed")

    def __init__(
        self, tools: Any, watch: Watch, on_work: Callable[[str, bool], None], entries: Callable[[], object]
    ) -> None:
        self._tools, self._watch, self._on_work, self._entries = tools, watch, on_work, entries

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._tools, name)
        if name in (*self.WORK, *self._OTHER):
            return self._watched(name, value)
        if name.startswith("_"):
            self._watch.note("data", f"reads tools.{name}, which is the harness's own", self._watch._place())
        return value

    def _watched(self, name: str, tool: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with self._watch.harness():
                before = self._entries()
                result = tool(*arguments, **options)
                self._watch.lent(result)
                if name in self.WORK:
                    self._on_work(name, before == self._entries())
            return result

        return call
