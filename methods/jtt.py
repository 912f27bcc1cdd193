"""JTT: train briefly, see which training images are still wrong, and train again with those repeated."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from genbias_bench import Hparams, Method, MethodCard, MethodData, Stage, Tools, Track


class JTTHparams(Hparams):
    """How long to look for mistakes, and what they weigh."""

    identification_share: float = Field(0.25, gt=0, lt=1, description="share of all steps that look for mistakes")
    upweight: int = Field(50, ge=1, le=1000, description="how often a mistaken image stands in the second training set")


class JTT(Method):
    """Just train twice (Liu 2021, arXiv 2107.09044): no group label is read in training.

    Theirs: an identification model trained for a few epochs, its errors on the training set repeated, a fresh model
    on the enlarged set; 50 repetitions are their CelebA setting. Ours: both trainings together spend the task's steps,
    where theirs tunes the number of epochs by the worst validation group.
    """

    card = MethodCard(
        name="jtt",
        version=1,
        summary="Train, find the images that are still wrong, and train afresh with those repeated.",
        source="Liu et al. 2021 (arXiv 2107.09044); the division of the steps is our protocol.",
        track=Track.NONE,
        stages=("identification", "real"),
        hparams=JTTHparams,
        tier_defaults={"demo": {"upweight": 10}},
        space={
            "identification_share": (0.05, 0.5),
            "upweight": (5, 100, "log"),
        },
        citation="""@inproceedings{liu2021just,
  title = {Just Train Twice: Improving Group Robustness without Training Group Information},
  author = {Liu, Evan Z. and Haghgoo, Behzad and Chen, Annie S. and Raghunathan, Aditi and Koh, Pang Wei and
            Sagawa, Shiori and Liang, Percy and Finn, Chelsea},
  booktitle = {ICML},
  year = {2021}
}""",
    )

    def fit(self, data: MethodData, tools: Tools, hparams: JTTHparams) -> Iterator[Stage]:
        """Train twice; where nothing is wrong after the first time, the second training set is the first."""
        first = tools.train(data.train, share=hparams.identification_share)
        yield Stage("identification", first)
        wrong = np.flatnonzero(tools.predict(first, data.train) != data.train.y)
        tools.note(f"{len(wrong)} of {len(data.train)} training images were wrong after the identification stage")
        repeated = np.concatenate([np.arange(len(data.train)), np.repeat(wrong, hparams.upweight - 1)])
        yield Stage("real", tools.train(data.train.take(repeated), share=1 - hparams.identification_share))
