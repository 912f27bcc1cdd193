"""Which adapter makes which group's images, what it is trained on, and how it is kept."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmark.contract.generation import FineTuning
from benchmark.contract.images import GroupNames, ImageSet
from benchmark.contract.tracks import Track
from benchmark.errors import GeneratorError, TrainingDiverged, UndeclaredGroupLabels
from benchmark.generators import finetune, tuning
from benchmark.generators.adapters import base_of, load_adapter
from benchmark.generators.finetune import Subject, fine_tune
from benchmark.generators.pipelines import TextToImage
from benchmark.generators.recipe import GroupKey
from benchmark.generators.tuning import (
    Assignment,
    Prior,
    Tuned,
    assign,
    prior_counts,
    subjects_of,
    tuned_adapters,
    with_token,
)
from benchmark.records.store import Store

ROOT = Path(__file__).parents[2]
LORA = FineTuning(steps=2, batch_size=2, learning_rate=1e-2, rank=2)
DREAMBOOTH = dataclasses.replace(LORA, token="sks", prior_weight=1.0, prior_images=3)
NAMES = GroupNames(("zero", "one", "two"), ("red", "blue", "green"))
PROMPTS: dict[tuple[int, int | None], str] = {
    (y, a): f"a {colour} {digit}" for y, digit in enumerate(NAMES.labels) for a, colour in enumerate(NAMES.attributes)
}
COUNTS = {(0, 0): 12, (0, 1): 8, (0, 2): 7, (1, 0): 3, (1, 1): 4, (2, 2): 1, (2, 0): 9}


def split(counts: dict[tuple[int, int], int], granted: Track = Track.TRAIN) -> ImageSet:
    """A training split with groups interleaved, each image of its own grey."""
    rows = sorted((k, y, a) for (y, a), n in counts.items() for k in range(n))
    y, a = (np.asarray([row[column] for row in rows], dtype=np.int64) for column in (1, 2))
    greys = np.arange(len(rows), dtype=np.uint8)[:, None, None, None]
    images = np.broadcast_to(greys, (len(rows), 8, 8, 3)).copy()
    return ImageSet(images, y, np.zeros(len(rows), dtype=np.bool_), NAMES, Track.TRAIN, granted, a)


@pytest.fixture(scope="module")
def train() -> ImageSet:
    return split(COUNTS)


def groups(*pairs: tuple[int, int | None]) -> list[GroupKey]:
    return [GroupKey(y, a) for y, a in pairs]


def of(train: ImageSet, y: int, *attributes: int) -> list[int]:
    """The positions of a class's images with some attributes."""
    return np.flatnonzero((train.y == y) & np.isin(train.a, attributes)).tolist()


def members(assignment: Assignment) -> dict[str, list[int]]:
    return {name: positions.tolist() for name, positions in assignment.members.items()}


# --- who gets which ------------------------------------------------------------------------------------------------


def test_a_group_of_eight_has_its_own_adapter_a_smaller_one_its_classs(train: ImageSet) -> None:
    found = assign(train, groups((0, 0), (0, 1), (0, 2)), cluster=None, never=frozenset())
    assert found.used_by == {(0, 0): ("group 0-0",), (0, 1): ("group 0-1",), (0, 2): ("class 0",)}
    assert members(found) == {
        "group 0-0": of(train, 0, 0),
        "group 0-1": of(train, 0, 1),
        "class 0": of(train, 0, 0, 1, 2),
    }


def test_a_class_of_fewer_than_eight_stays_with_the_base(train: ImageSet) -> None:
    found = assign(train, groups((1, 0), (1, 1), (1, None)), cluster=None, never=frozenset())
    assert found.used_by == {(1, 0): (), (1, 1): (), (1, None): ()}
    assert found.members == {}


def test_a_class_alone_and_a_group_without_images_take_the_classs_adapter(train: ImageSet) -> None:
    found = assign(train, groups((0, None), (2, None), (2, 1)), cluster=None, never=frozenset())
    assert found.used_by == {(0, None): ("class 0",), (2, None): ("class 2",), (2, 1): ("class 2",)}
    assert members(found) == {"class 0": of(train, 0, 0, 1, 2), "class 2": of(train, 2, 0, 2)}


def test_only_groups_that_are_to_be_sampled_get_an_adapter(train: ImageSet) -> None:
    assert list(assign(train, groups((0, 1)), cluster=None, never=frozenset()).members) == ["group 0-1"]


def test_nothing_is_trained_on_attributes_that_are_never_to_be(train: ImageSet) -> None:
    found = assign(train, groups((0, 0), (0, 1), (0, 2), (0, None)), cluster=None, never=frozenset({0}))
    assert found.used_by == {(0, 0): (), (0, 1): ("group 0-1",), (0, 2): ("class 0",), (0, None): ("class 0",)}
    assert members(found) == {"group 0-1": of(train, 0, 1), "class 0": of(train, 0, 1, 2)}
    # Without them the class has one image, too few.
    assert assign(train, groups((2, 2), (2, None)), cluster=None, never=frozenset({0})).members == {}
    everything = assign(train, groups(*COUNTS), cluster=None, never=frozenset({0, 1, 2}))
    assert everything.members == {}


def test_the_clusters_of_a_group_are_numbered_and_take_turns(train: ImageSet) -> None:
    asked: list[list[int]] = []

    def thirds(positions: NDArray[np.int64]) -> NDArray[np.int64]:
        asked.append(positions.tolist())
        return np.arange(len(positions)) % 3

    found = assign(train, groups((0, 0), (0, 2), (1, 0)), cluster=thirds, never=frozenset())
    own = of(train, 0, 0)
    assert asked == [own]  # neither a class nor the base is divided
    assert found.used_by == {
        (0, 0): ("cluster 0 of group 0-0", "cluster 1 of group 0-0", "cluster 2 of group 0-0"),
        (0, 2): ("class 0",),
        (1, 0): (),
    }
    assert [found.members[name].tolist() for name in found.used_by[GroupKey(0, 0)]] == [own[0::3], own[1::3], own[2::3]]


def test_the_group_labels_are_guarded() -> None:
    with pytest.raises(UndeclaredGroupLabels):
        assign(split(COUNTS, Track.NONE), groups((0, 0)), cluster=None, never=frozenset())


# --- what they are trained on --------------------------------------------------------------------------------------


def test_prior_images_are_asked_for_per_group_and_evenly_per_class(train: ImageSet) -> None:
    every = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    own = assign(train, groups((0, 0), (0, 1)), cluster=None, never=frozenset())
    assert prior_counts(own, every, 50) == {(0, 0): 50, (0, 1): 50}
    of_class = assign(train, groups((0, 2)), cluster=None, never=frozenset())
    assert prior_counts(of_class, every, 50) == {(0, 0): 17, (0, 1): 17, (0, 2): 17}
    both = assign(train, groups((0, 0), (0, 2)), cluster=None, never=frozenset())
    assert prior_counts(both, every, 50) == {(0, 0): 50, (0, 1): 17, (0, 2): 17}
    clusters = assign(train, groups((0, 0)), cluster=lambda p: np.arange(len(p)) % 2, never=frozenset())
    assert prior_counts(clusters, every, 50) == {(0, 0): 50}
    assert prior_counts(Assignment({}, {}), every, 50) == {}


def test_groups_with_two_digit_names_are_told_apart() -> None:
    found = Assignment({"cluster 3 of group 12-10": np.arange(8), "class 11": np.arange(8)}, {})
    assert prior_counts(found, [(1, 0), (11, 4), (11, 5), (12, 10)], 6) == {(12, 10): 6, (11, 4): 3, (11, 5): 3}


def test_each_image_has_the_prompt_of_its_group_with_the_token(train: ImageSet) -> None:
    assert with_token("a red zero", "sks") == "a red zero sks"
    assert with_token("a red zero", "") == "a red zero"
    found = assign(train, groups((0, 1), (0, 2)), cluster=None, never=frozenset())
    own, of_class = subjects_of(found, train, PROMPTS, dataclasses.replace(LORA, token="sks"), None, 100)
    assert (own.name, own.prompts) == ("group 0-1", ("a blue zero sks",) * 8)
    np.testing.assert_array_equal(own.images[:, 0, 0, 0], of(train, 0, 1))
    assert of_class.name == "class 0"
    assert of_class.prompts == tuple(f"a {NAMES.attributes[train.a[k]]} zero sks" for k in of(train, 0, 0, 1, 2))
    assert own.prior_images.shape == (0, 8, 8, 3)
    assert own.prior_prompts == ()
    (plain,) = subjects_of(Assignment({"group 0-1": found.members["group 0-1"]}, {}), train, PROMPTS, LORA, None, 100)
    assert plain.prompts == ("a blue zero",) * 8


def test_of_a_large_group_no_more_images_are_read_than_can_be_drawn(train: ImageSet) -> None:
    found = assign(train, groups((0, 0), (0, 1)), cluster=None, never=frozenset())
    large, small = subjects_of(found, train, PROMPTS, LORA, None, 9)
    assert large.images[:, 0, 0, 0].tolist() == of(train, 0, 0)[:9]
    assert len(large.prompts) == 9
    assert len(small.images) == 8


def prior_of(counts: dict[tuple[int, int], int]) -> Prior:
    """Images of the unchanged generator, group by group, as a pool gives them."""
    y, a = (np.repeat([key[k] for key in counts], list(counts.values())) for k in range(2))
    return Prior(np.arange(len(y) * 192, dtype=np.uint32).astype(np.uint8).reshape(-1, 8, 8, 3), y, a)


def test_prior_images_are_those_of_the_own_group_with_prompts_without_the_token(train: ImageSet) -> None:
    found = assign(train, groups((0, 0), (2, 0)), cluster=None, never=frozenset())
    prior = prior_of({(0, 0): 3, (0, 1): 3, (2, 0): 3})
    zero, two = subjects_of(found, train, PROMPTS, DREAMBOOTH, prior, 100)
    np.testing.assert_array_equal(zero.prior_images, prior.images[:3])
    np.testing.assert_array_equal(two.prior_images, prior.images[6:])
    assert zero.prior_prompts == ("a red zero",) * 3
    assert two.prior_prompts == ("a red two",) * 3
    assert set(zero.prompts) == {"a red zero sks"}


def test_a_class_holds_on_to_all_its_groups_alike(train: ImageSet) -> None:
    """Although groups with adapters of their own have more prior images: else the largest group would prevail."""
    found = assign(train, groups((0, 0), (0, 2)), cluster=None, never=frozenset())
    tuned = dataclasses.replace(DREAMBOOTH, prior_images=6)
    counts = prior_counts(found, [(0, 0), (0, 1), (0, 2)], 6)
    assert counts == {(0, 0): 6, (0, 1): 2, (0, 2): 2}
    prior = prior_of(counts)
    own, of_class = subjects_of(found, train, PROMPTS, tuned, prior, 100)
    np.testing.assert_array_equal(own.prior_images, prior.images[:6])
    np.testing.assert_array_equal(of_class.prior_images, prior.images[[0, 1, 6, 7, 8, 9]])
    assert of_class.prior_prompts == ("a red zero",) * 2 + ("a blue zero",) * 2 + ("a green zero",) * 2


def test_every_cluster_holds_on_to_the_images_of_its_group(train: ImageSet) -> None:
    found = assign(train, groups((0, 0)), cluster=lambda p: np.arange(len(p)) % 2, never=frozenset())
    prior = prior_of({(0, 0): 3, (0, 1): 3})
    for one in subjects_of(found, train, PROMPTS, DREAMBOOTH, prior, 100):
        np.testing.assert_array_equal(one.prior_images, prior.images[:3])


def test_a_digest_changes_with_images_prompts_and_prior(train: ImageSet) -> None:
    found = assign(train, groups((0, 0)), cluster=None, never=frozenset())

    def digest(
        images: ImageSet = train,
        prompts: dict[tuple[int, int | None], str] = PROMPTS,
        how: FineTuning = DREAMBOOTH,
        prior: Prior | None = None,
        draws: int = 100,
    ) -> str:
        (one,) = subjects_of(found, images, prompts, how, prior, draws)
        return one.digest

    darker = train.images.copy() if isinstance(train.images, np.ndarray) else np.asarray(train.images)
    darker[of(train, 0, 0)[0], 0, 0, 0] += 1
    three, other = prior_of({(0, 0): 3}), prior_of({(0, 0): 3})
    other.images[0, 0, 0, 0] += 1
    digests = [
        digest(),
        digest(images=train.with_images(darker)),
        digest(prompts={**PROMPTS, (0, 0): "a crimson zero"}),
        digest(how=dataclasses.replace(DREAMBOOTH, token="xyz")),
        digest(prior=three),
        digest(prior=other),
        digest(prior=prior_of({(0, 0): 2})),
        digest(draws=9),
    ]
    assert len(set(digests)) == len(digests)
    assert digest() == digests[0]
    elsewhere = train.images.copy() if isinstance(train.images, np.ndarray) else np.asarray(train.images)
    elsewhere[of(train, 1, 0)[0]] = 255
    assert digest(images=train.with_images(elsewhere)) == digests[0]


# --- in the store --------------------------------------------------------------------------------------------------


def subject(seed: int) -> Subject:
    images = np.random.default_rng(seed).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    return Subject(f"group {seed}-0", images, ("a red one",) * 3, images[:0], (), f"{seed:064x}")


THREE = [subject(k) for k in range(3)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def two_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two adapters are one entry of the store, and the state is kept after every step."""
    monkeypatch.setattr(tuning, "TOGETHER", 2)
    monkeypatch.setattr(finetune, "_CHECK_EVERY", 1)


def no_loading() -> NoReturn:
    raise AssertionError("the generator was loaded although every adapter is there")


Tune = Callable[..., Tuned]


@pytest.fixture
def tune(store: Store, small_generator: TextToImage) -> Tune:
    def call(
        subjects: Sequence[Subject] = THREE,
        how: FineTuning = LORA,
        load: Callable[[], TextToImage] = lambda: small_generator,
        *,
        seed: int = 0,
        progress: Callable[[int], None] = lambda _: None,
        **changed: Any,
    ) -> Tuned:
        identity = {**small_generator.identity.as_record(), **changed}
        return tuned_adapters(
            store,
            subjects,
            how,
            load,
            generator=identity,
            seed=seed,
            device=torch.device("cpu"),
            precision="float32",
            progress=progress,
        )

    return call


def published(store: Store) -> list[str]:
    folder = store.root / "adapters"
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []


def hidden(store: Store) -> list[str]:
    return sorted(p.name for p in (store.root / "adapters").iterdir() if p.name.startswith("."))


def test_adapters_are_trained_once_and_then_found(tune: Tune, store: Store, small_generator: TextToImage) -> None:
    loaded: list[int] = []

    def load() -> TextToImage:
        loaded.append(1)
        return small_generator

    steps: list[int] = []
    first = tune(load=load, progress=steps.append)
    assert loaded == [1]  # once, though there are two entries
    assert sum(steps) == 6
    assert len(published(store)) == 2
    assert hidden(store) == []

    base = base_of(small_generator.identity.as_record())
    assert list(first.sha256) == ["group 0-0", "group 1-0", "group 2-0"]
    trained = fine_tune(small_generator, THREE[:2], LORA, seed=0, precision="float32")
    assert [first.sha256["group 0-0"], first.sha256["group 1-0"]] == [adapter.sha256 for adapter in trained]
    assert {load_adapter(first.files[sha], base).sha256 for sha in first.sha256.values()} == set(first.files)

    steps.clear()
    again = tune(load=no_loading, progress=steps.append)
    assert again == first
    assert again.seconds > 0
    assert sum(steps) == 6


def test_entries_that_are_there_are_used_for_longer_lists_too(tune: Tune, store: Store) -> None:
    first = tune(THREE[:2])
    steps: list[int] = []
    more = tune(progress=steps.append)
    assert first.sha256.items() <= more.sha256.items()
    assert steps == [4, 1, 1]
    assert more.seconds > first.seconds


def test_what_changes_an_adapter_changes_where_it_is_kept(tune: Tune, store: Store) -> None:
    one = [subject(1)]
    tune(one)
    other = dataclasses.replace(one[0], digest="f" * 64)
    renamed = dataclasses.replace(one[0], name="cluster 0 of group 1-0")
    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"how": dataclasses.replace(LORA, steps=1)},
        {"how": dataclasses.replace(LORA, batch_size=1)},
        {"how": dataclasses.replace(LORA, learning_rate=2e-2)},
        {"how": dataclasses.replace(LORA, rank=1)},
        {"how": dataclasses.replace(LORA, token="sks")},
        {"how": dataclasses.replace(LORA, prior_weight=1.0, prior_images=3)},
        {"subjects": [other]},
        {"subjects": [renamed]},
        {"subjects": [*one, other]},
        {"content_sha256": "0" * 64},
    ]
    for change in changes:
        with pytest.raises(AssertionError, match="was loaded"):
            tune(**{"subjects": one, "load": no_loading, **change})
    assert len(published(store)) == 1


def test_how_a_group_was_divided_shows_in_its_subjects_alone(tune: Tune) -> None:
    first = tune([subject(1)])
    for how in ({"per": "cluster"}, {"per": "cluster", "clusters": 3}, {"per": "cluster", "features": "clip"}):
        assert tune([subject(1)], dataclasses.replace(LORA, **how), no_loading).sha256 == first.sha256  # type: ignore[arg-type]


def test_without_subjects_nothing_is_loaded(tune: Tune, store: Store) -> None:
    assert tune([], load=no_loading) == Tuned({}, {}, 0.0)


def test_a_damaged_adapter_is_set_aside_and_trained_again(
    tune: Tune, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    first = tune()
    file = first.files[first.sha256["group 2-0"]]
    file.write_bytes(file.read_bytes()[:-1])
    steps: list[int] = []
    with caplog.at_level(logging.WARNING):
        again = tune(progress=steps.append)
    assert "set aside" in caplog.text
    assert again.sha256 == first.sha256
    assert steps == [4, 1, 1]
    assert tune(load=no_loading).sha256 == first.sha256


def test_an_interrupted_training_is_gone_on_with_and_leaves_nothing_behind(tune: Tune, store: Store) -> None:
    calls: list[int] = []

    def interrupt(steps: int) -> None:
        calls.append(steps)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(progress=interrupt)
    assert len(published(store)) == 1  # the first two were finished
    (folder,) = hidden(store)
    assert folder.startswith(".tmp-unfinished-")
    calls.clear()
    resumed = tune(progress=calls.append)
    assert calls == [4, 1, 1]  # found, found half done, done
    assert len(published(store)) == 2
    assert hidden(store) == []
    undisturbed = tune([dataclasses.replace(THREE[2], name="another entry")])
    assert resumed.sha256["group 2-0"] == undisturbed.sha256["another entry"]


def test_a_training_that_diverges_publishes_nothing(tune: Tune, store: Store) -> None:
    wild = dataclasses.replace(LORA, steps=4, learning_rate=1e6)
    with pytest.raises(TrainingDiverged, match=r"on group 0-0: the loss is nan at step \d \(learning rate 1e\+06\)"):
        tune(how=wild)
    assert published(store) == []
    (folder,) = hidden(store)  # what was finite, to look at
    assert folder.startswith(".tmp-unfinished-")
    with pytest.raises(TrainingDiverged):
        tune(how=wild)
    assert published(store) == []


def test_a_failure_publishes_nothing(tune: Tune, store: Store, small_generator: TextToImage) -> None:
    def allocate(*_: Any) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    handle = small_generator.pipe.unet.register_forward_pre_hook(allocate)
    try:
        with pytest.raises(GeneratorError, match=r"not enough memory to fine-tune .*; try a batch size of 1"):
            tune()
    finally:
        handle.remove()
    assert published(store) == []
    assert len(tune().sha256) == 3


TRAINER = """
import sys
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(1)
from benchmark.contract.generation import FineTuning
from benchmark.generators import finetune
from benchmark.generators.finetune import Subject
from benchmark.generators.identity import resolve_generator
from benchmark.generators.pipelines import TextToImage
from benchmark.generators.tuning import tuned_adapters
from benchmark.records.store import Store

finetune._CHECK_EVERY, finetune._SAVE_SECONDS = 5, 0.0
identity = resolve_generator(sys.argv[1], offline=True)
images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
subject = Subject("group 1-0", images, ("a red one",) * 3, images[:0], (), "1" * 64)
done = tuned_adapters(
    Store(Path(sys.argv[2]), claim_expires_s=1.0), [subject],
    FineTuning(steps=int(sys.argv[3]), batch_size=2, learning_rate=1e-3, rank=2),
    lambda: TextToImage.load(identity, device="cpu"), generator=identity.as_record(), seed=0,
    device=torch.device("cpu"), precision="float32", progress=lambda n: print(n, flush=True),
)
print(done.sha256["group 1-0"], flush=True)
"""


@pytest.mark.slow
def test_a_killed_training_is_gone_on_with_by_another_process(small_sd: Path, tmp_path: Path) -> None:
    def start(store: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "ignore", "-c", TRAINER, str(small_sd), str(tmp_path / store), "300"]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    with start("undisturbed") as whole, start("killed") as victim:
        assert victim.stdout is not None
        assert whole.stdout is not None
        for _ in range(60):
            victim.stdout.readline()
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        expected = whole.stdout.read().split()
    with start("killed") as heir:
        assert heir.stdout is not None
        lines = heir.stdout.read().split()
    assert lines[-1] == expected[-1]
    assert 50 <= int(lines[0]) < 300  # it began where the victim's last file ended
    assert sum(map(int, lines[:-1])) == 300


def test_the_index_says_how_long_it_took(tune: Tune, store: Store) -> None:
    tuned = tune([subject(1)])
    (key,) = published(store)
    content = json.loads((store.root / "adapters" / key / "adapters.json").read_text())
    assert content == {"sha256": tuned.sha256, "seconds": tuned.seconds}
