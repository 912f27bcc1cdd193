"""Models that cluster or filter images for a method: trained on the run's own biased split, or an external CLIP.

They follow protocol §3: never an auditor, never data but the run's own. No stage starts from their weights, so their
steps are not the classifier's; what they took is recorded as auxiliary time.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.contract.generation import FeaturesOf, Filter
from benchmark.contract.images import NO_ATTRIBUTE, GroupNames, ImageSet, MethodData, attributes_for_measurement
from benchmark.contract.method import Loss
from benchmark.contract.tracks import SelectionRule, Track
from benchmark.errors import InvalidValue
from benchmark.evaluation.job import FitJob, training_config
from benchmark.progress import Progress
from benchmark.records.canonical import derive_seed
from benchmark.records.store import Store
from benchmark.tasks.lazy import Images
from benchmark.training.backbones import fresh_state, load_backbone, state_digest
from benchmark.training.features import Normaliser, logits_of, penultimate
from benchmark.training.loop import predict, train_classifier
from benchmark.training.pixels import Pixels
from benchmark.training.remember import remembered, training_key

if TYPE_CHECKING:
    from benchmark.generators.clip import Clip


FILTER_FLOOR = 0.25
"""Mean recall on the run's own validation split, from chance (0) to 1, below which the own filter is refused."""


class Auxiliary:
    """The models of one run.

    Args:
        job: What is being fitted.
        data: Its training and validation splits.
        progress: Where to say how far it is.

    Attributes:
        seconds: Time of their trainings, also when they were remembered.
        spent: Time that this run itself took for them.
    """

    def __init__(self, job: FitJob, data: MethodData, progress: Progress) -> None:
        self._job, self._data, self._progress = job, data, progress
        self._device = torch.device(job.device)
        self._models: dict[str, torch.nn.Module] = {}
        self._clip: Clip | None = None
        self.seconds = 0.0
        self.spent = 0.0

    def features(self, images: Images, kind: FeaturesOf) -> NDArray[np.float32]:
        """Return features for clustering, float32 [n, d].

        Args:
            images: uint8 [n, h, w, 3].
            kind: Whose.

        Raises:
            InvalidValue: For CLIP's where no CLIP model was named.
        """
        if kind == "clip":
            return self.clip.image_features(images)
        job = self._job
        model = self._classifier("features", self._data.train, self._data.validation, "erm", job.spec)
        return penultimate(model, images, mean=job.mean, std=job.std, device=self._device, precision=job.precision)

    def scores(
        self,
        images: NDArray[np.uint8],
        y: NDArray[np.int64],
        a: NDArray[np.int64],
        prompts: Mapping[tuple[int, int | None], str],
        kind: Filter,
    ) -> NDArray[np.float64]:
        """Return how well images show what was asked for; higher is better.

        CLIP's is the cosine similarity with the prompt. The own filter's is P(y), times P(a) where the method may read
        group labels and the prompt named an attribute: by classifiers that were trained on the run's own split.

        Args:
            images: uint8 [n, h, w, 3].
            y: Labels asked for.
            a: Attributes asked for, -1 where the prompt named none.
            prompts: Prompt of each group.
            kind: ``own`` or ``clip``.
        """
        if kind == "clip":
            groups = zip(y.tolist(), a.tolist(), strict=True)
            return self.clip.scores(images, [prompts[c, None if v == NO_ATTRIBUTE else v] for c, v in groups])
        scores = self._probability(self._filter_of_y(), images, y)
        if self._reads(a):
            scores = scores * self._probability(self._filter_of_a(), images, a)
        return scores

    def refusal(self, a: NDArray[np.int64]) -> str:
        """Say why the own filter is too bad to be used on images; empty where it is good enough.

        Args:
            a: Attributes asked for, -1 where the prompt named none.
        """
        sides = [("y", self._filter_of_y(), self._data.validation)]
        if self._reads(a):
            sides.append(("a", self._filter_of_a(), _by_attribute(self._data.validation)))
        job = self._job
        for name, model, known in sides:
            if not len(known):
                continue
            answers, _ = predict(
                model, known.images, mean=job.mean, std=job.std, device=self._device, precision=job.precision
            )
            right = answers == known.y
            recall = float(np.mean([right[known.y == value].mean() for value in np.unique(known.y)]))
            floor = (1 - FILTER_FLOOR) / len(np.unique(known.y)) + FILTER_FLOOR
            if recall < floor:
                return (
                    f"the filter of {name} recalls {recall:.0%} of the validation images, averaged over values, and "
                    f"must recall {floor:.0%}"
                )
        return ""

    def _reads(self, a: NDArray[np.int64]) -> bool:
        """Say whether the own filter also looks at attributes."""
        return self._job.track.covers(Track.TRAIN) and bool((a != NO_ATTRIBUTE).all())

    def _filter_of_y(self) -> torch.nn.Module:
        return self._classifier(
            "filter of y", self._data.train, self._data.validation, self._filter_loss, self._job.spec
        )

    def _filter_of_a(self) -> torch.nn.Module:
        spec = {**self._job.spec, "n_classes": len(self._job.attributes)}
        train, validation = _by_attribute(self._data.train), _by_attribute(self._data.validation)
        return self._classifier("filter of a", train, validation, self._filter_loss, spec)

    @property
    def _filter_loss(self) -> Loss:
        return "resampling" if self._job.track.covers(Track.TRAIN) else "erm"

    def filter_name(self, kind: Filter) -> str:
        """Say what gave the scores, and its identity."""
        if kind == "clip" and self._job.clip is not None:
            identity = self._job.clip.identity
            return f"CLIP {identity['name']}@{identity['revision'] or identity['content_sha256']}"
        parts = {name: state_digest(m.state_dict())[:12] for name, m in self._models.items() if name != "features"}
        return "trained on the run's own split: " + ", ".join(f"{name} {sha}" for name, sha in sorted(parts.items()))

    @property
    def clip(self) -> Clip:
        """The external CLIP model, loaded once.

        Raises:
            InvalidValue: When none was named.
        """
        if self._clip is None:
            from benchmark.generators.clip import Clip
            from benchmark.generators.clip_identity import ClipIdentity

            job = self._job
            if job.clip is None:
                raise InvalidValue(
                    f"{job.method} asks for CLIP, but no model was named; add --clip MODEL (a folder or Hub id)"
                )
            identity = ClipIdentity(**job.clip.identity, location=job.clip.location)
            self._clip = Clip.load(identity, device=job.device, precision=job.precision, offline=job.offline)
        return self._clip

    def _classifier(
        self, purpose: str, images: ImageSet, validation: ImageSet, loss: Loss, spec: Mapping[str, object]
    ) -> torch.nn.Module:
        """Return a classifier that was trained with the task's recipe; its seed is shared by the run's methods."""
        if purpose in self._models:
            return self._models[purpose]
        job = self._job
        seed = derive_seed(base=job.seed, task=job.task, purpose=f"auxiliary {purpose}")
        config = training_config(job, steps=job.training.steps, seed=seed, loss=loss, spec=dict(spec))
        initial = fresh_state(config.spec, seed)
        handle = self._progress.start(f"training the {purpose}", config.steps)

        def advance(n: int) -> None:
            self._progress.advance(handle, n)

        try:
            key = training_key(
                config,
                images=images.digest,
                validation=validation.digest,
                initial=state_digest(initial),
                device=self._device,
            )
            start = time.perf_counter()
            outcome, seconds, _ = remembered(
                Store(job.store),
                key,
                lambda: train_classifier(config, images, validation, initial, self._device, advance),
            )
            spent = time.perf_counter() - start
            self.spent += spent
            self.seconds += max(seconds, spent)
        finally:
            self._progress.finish(handle)
        model = load_backbone(config.spec, outcome.checkpoints[SelectionRule.LAST])
        self._models[purpose] = model.to(self._device).to(memory_format=torch.channels_last)
        return self._models[purpose]

    def _probability(
        self, model: torch.nn.Module, images: NDArray[np.uint8], wanted: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        job = self._job
        normalise = Normaliser(job.mean, job.std, self._device)
        logits = logits_of(model, Pixels(images, self._device, limit=0), normalise, self._device, job.precision)
        return torch.softmax(logits.double(), 1).cpu().numpy()[np.arange(len(wanted)), wanted]


def _by_attribute(images: ImageSet) -> ImageSet:
    """Return the images with label and attribute exchanged, for a classifier of the attribute."""
    labels = images.a if images.needs is Track.TRAIN else attributes_for_measurement(images)
    names = GroupNames(images.names.attributes, images.names.labels)
    return dataclasses.replace(images, y=labels.copy(), names=names, _attributes=images.y.copy())
