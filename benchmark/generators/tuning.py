"""Which adapter makes which group's images, and the adapters themselves in the store (protocol §4, §5, §10)."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.contract.generation import SMALLEST_GROUP, FineTuning
from benchmark.contract.images import NO_ATTRIBUTE, ImageSet, attributes_for_measurement
from benchmark.generators.finetune import CODE_VERSION, Subject, fine_tune
from benchmark.generators.pipelines import TextToImage
from benchmark.generators.recipe import GroupKey
from benchmark.records.canonical import sha256_of
from benchmark.records.files import TEMPORARY_PREFIX, read_json, write_json
from benchmark.records.store import Store
from benchmark.training.device import Precision, describe_device

KIND = "adapters"
TOGETHER = 16
_INDEX = "adapters.json"

Cluster = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Maps the positions of a group's images to the cluster of each."""


@dataclass(frozen=True)
class Assignment:
    """Which adapters there are to be, and who uses them.

    Attributes:
        members: Name of an adapter → positions of the training images that it is trained on, int64.
        used_by: Group → names of its adapters, which make its images in turn; none: the base generator.
    """

    members: dict[str, NDArray[np.int64]]
    used_by: dict[GroupKey, tuple[str, ...]]


def assign(
    train: ImageSet,
    groups: Sequence[GroupKey],
    *,
    cluster: Cluster | None,
    never: frozenset[int],
    by_class: bool = False,
) -> Assignment:
    """Give each group its own adapter, or one per cluster; small groups take that of their class (protocol §4).

    Args:
        train: The training images; their group labels are read. Images without one, such as those that were generated
            by class alone, belong to no group's adapter but to that of their class.
        groups: The groups that are to be sampled.
        cluster: How to divide a group's images; None does not.
        never: Attribute values on whose images nothing is fine-tuned (protocol §10); the base generator serves there.
            Where there are such values, nothing is fine-tuned on images without an attribute either: what they show
            is not known.
        by_class: Give adapters to classes alone. Attributes then tell apart only what ``never`` forbids: the harness
            obeys protocol §10 whether or not the method may read them.
    """
    y, a = train.y, attributes_for_measurement(train) if by_class else train.a
    allowed = ~np.isin(a, [*never, NO_ATTRIBUTE] if never else [])
    members: dict[str, NDArray[np.int64]] = {}
    used_by: dict[GroupKey, tuple[str, ...]] = {}
    for group in groups:
        own = np.flatnonzero((y == group.y) & (a == group.a) & allowed)
        of_class = np.flatnonzero((y == group.y) & allowed)
        if group.a in never:
            found: dict[str, NDArray[np.int64]] = {}
        elif not by_class and len(own) >= SMALLEST_GROUP:
            found = _parts(f"group {group.y}-{group.a}", own, cluster)
        elif len(of_class) >= SMALLEST_GROUP:
            found = {f"class {group.y}": of_class}
        else:
            found = {}
        members |= found
        used_by[group] = tuple(found)
    return Assignment(members, used_by)


def _parts(name: str, own: NDArray[np.int64], cluster: Cluster | None) -> dict[str, NDArray[np.int64]]:
    if cluster is None:
        return {name: own}
    labels = cluster(own)
    return {f"cluster {k} of {name}": own[labels == k] for k in range(int(labels.max()) + 1)}


def with_token(prompt: str, token: str) -> str:
    """Return a prompt with DreamBooth's rare token behind it."""
    return f"{prompt} {token}" if token else prompt


@dataclass(frozen=True)
class Prior:
    """Images of the unchanged generator, by group, that prior preservation holds on to."""

    images: NDArray[np.uint8]
    y: NDArray[np.int64]
    a: NDArray[np.int64]


def subjects_of(
    assignment: Assignment,
    train: ImageSet,
    prompts: Mapping[tuple[int, int | None], str],
    tuning: FineTuning,
    prior: Prior | None,
    most_draws: int,
) -> list[Subject]:
    """Return what each adapter is trained on.

    Args:
        assignment: Which images are whose.
        train: The training images; with adapters per class their group labels are not read.
        prompts: Prompt of every group and class, without the token.
        tuning: How it will be done.
        prior: Images to hold on to; those of an adapter's own class and attributes are used.
        most_draws: Images that a training can look at; of larger groups so many are read.
    """
    subjects = []
    for name, positions in assignment.members.items():
        part = train.take(_looked_at(positions, train.synthetic[positions], most_draws))
        attributes = np.full(len(part), NO_ATTRIBUTE) if tuning.per == "class" else part.a
        texts = tuple(with_token(prompt, tuning.token) for prompt in _texts(prompts, part.y, attributes))
        held = _prior_of(name, part, prior, tuning.prior_images)
        prior_images = held.images if held else np.empty((0, *part.images.shape[1:]), dtype=np.uint8)
        prior_texts = _texts(prompts, held.y, held.a) if held else ()
        pixels = np.ascontiguousarray(part.images)
        digest = hashlib.sha256(pixels.data)
        digest.update(np.ascontiguousarray(prior_images).data)
        digest.update(sha256_of([texts, prior_texts]).encode())
        subjects.append(Subject(name, pixels, texts, prior_images, prior_texts, digest.hexdigest()))
    return subjects


def _looked_at(positions: NDArray[np.int64], synthetic: NDArray[np.bool_], most: int) -> NDArray[np.int64]:
    """Return the first so many, in hash order; of a mixture, where generated images follow the real ones, a spread."""
    if len(positions) <= most or not synthetic.any():
        return positions[:most]
    return positions[np.arange(most) * len(positions) // most]


def _texts(
    prompts: Mapping[tuple[int, int | None], str], y: NDArray[np.int64], a: NDArray[np.int64]
) -> tuple[str, ...]:
    """Return the prompt of each image: of its group, or of its class where it has no attribute."""
    groups = zip(y.tolist(), a.tolist(), strict=True)
    return tuple(prompts[label, None if value == NO_ATTRIBUTE else value] for label, value in groups)


def _prior_of(name: str, part: ImageSet, prior: Prior | None, images: int) -> Prior | None:
    """Return the prior images of an adapter: of its group, or as many of each group of its class."""
    if prior is None:
        return None
    of_class = prior.y == part.y[0]
    own = np.unique(prior.a[of_class]) if name.startswith("class") else np.unique(part.a)
    # Groups with adapters of their own have more images: taken whole they would outweigh the rest of their class.
    each = -(-images // max(1, len(own)))
    mine = np.sort(np.concatenate([np.flatnonzero(of_class & (prior.a == a))[:each] for a in own]))
    return Prior(prior.images[mine], prior.y[mine], prior.a[mine])


def prior_counts(
    assignment: Assignment, groups: Sequence[tuple[int, int | None]], images: int
) -> dict[tuple[int, int | None], int]:
    """Return how many images of the unchanged generator each group needs for prior preservation.

    Args:
        assignment: The adapters.
        groups: All comparable groups of the task on which adapters may be trained, or the classes alone.
        images: Images per adapter; a class's are spread evenly over its groups.
    """
    counts: dict[tuple[int, int | None], int] = {}
    for name in assignment.members:
        kind, _, key = name.rpartition(" ")
        if kind == "class":
            own = [group for group in groups if group[0] == int(key)]
            wanted = {group: -(-images // len(own)) for group in own}
        else:
            y, _, a = key.partition("-")
            wanted = {(int(y), int(a)): images}
        counts |= {group: max(n, counts.get(group, 0)) for group, n in wanted.items()}
    return counts


@dataclass(frozen=True)
class Tuned:
    """Adapters as they lie in the store.

    Attributes:
        sha256: Name of an adapter → its address.
        files: Address → file.
        seconds: How long their training took, also when they were there already.
    """

    sha256: dict[str, str]
    files: dict[str, Path]
    seconds: float


def tuned_adapters(
    store: Store,
    subjects: Sequence[Subject],
    tuning: FineTuning,
    load: Callable[[], TextToImage],
    *,
    generator: Mapping[str, str | None],
    seed: int,
    device: torch.device,
    precision: Precision,
    progress: Callable[[int], None],
) -> Tuned:
    """Return the adapters of some subjects from the store, training those that are missing.

    :data:`TOGETHER` adapters are one entry of the store: the last bits of one may depend on the company it was in.

    Args:
        store: The store.
        subjects: What they are trained on.
        tuning: How.
        load: Loads the base generator; called only when an adapter is missing.
        generator: Identity of the base.
        seed: Base seed.
        device: Where to train.
        precision: With or without bf16.
        progress: Called with the number of steps done, each adapter counting its own.
    """
    result = Tuned({}, {}, 0.0)
    loaded: list[TextToImage] = []

    def base() -> TextToImage:
        if not loaded:
            loaded.append(load())
        return loaded[0]

    for start in range(0, len(subjects), TOGETHER):
        chunk = subjects[start : start + TOGETHER]
        key = _key(chunk, tuning, generator, seed, device, precision)
        unfinished = store.root / KIND / f"{TEMPORARY_PREFIX}unfinished-{key}"

        def build(folder: Path, chunk: Sequence[Subject] = chunk, unfinished: Path = unfinished) -> None:
            begun = time.perf_counter()
            adapters = fine_tune(
                base(), chunk, tuning, seed=seed, precision=precision, unfinished=unfinished, progress=progress
            )
            names = {}
            for subject, adapter in zip(chunk, adapters, strict=True):
                names[subject.name] = adapter.save(folder).stem
            write_json(folder / _INDEX, {"sha256": names, "seconds": time.perf_counter() - begun})

        folder, built = store.produce(KIND, key, build)
        shutil.rmtree(unfinished, ignore_errors=True)  # not before it is published: a full disk must not cost the work
        if not built:
            progress(tuning.steps * len(chunk))
        content = read_json(folder / _INDEX)
        result.sha256.update(content["sha256"])
        result.files.update({sha: folder / f"{sha}.safetensors" for sha in content["sha256"].values()})
        result = Tuned(result.sha256, result.files, result.seconds + float(content["seconds"]))
    return result


def _key(
    chunk: Sequence[Subject],
    tuning: FineTuning,
    generator: Mapping[str, str | None],
    seed: int,
    device: torch.device,
    precision: Precision,
) -> str:
    # How a group was divided shows in the subjects; what divided it does not change their training.
    how = {k: v for k, v in asdict(tuning).items() if k not in ("per", "clusters", "features")}
    return sha256_of(
        {
            "code": CODE_VERSION,
            "generator": dict(generator),
            "tuning": how,
            "subjects": [[subject.name, subject.digest] for subject in chunk],
            "seed": seed,
            "device": [device.type, *describe_device(device)],
            "precision": precision,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
    )
