"""Resampling: batches in which every group is equally likely; the simplest use of group labels."""

from __future__ import annotations

from collections.abc import Iterator

from genbias_bench import Hparams, Method, MethodCard, MethodData, Stage, Tools, Track


class Resampling(Method):
    """Batches balanced over groups (RWG of Idrissi 2022, arXiv 2110.14503).

    Theirs: groups are drawn with equal probability, images inside a group with replacement. Ours: the task's recipe and
    its number of optimiser steps instead of a search over both.
    """

    card = MethodCard(
        name="resampling",
        version=1,
        summary="Real images, with every populated group equally often in each batch.",
        source="Idrissi, Arjovsky, Pezeshki, Lopez-Paz 2022 (arXiv 2110.14503), RWG; steps matched by our protocol.",
        track=Track.TRAIN,
        stages=("real",),
        citation="""@inproceedings{idrissi2022simple,
  title = {Simple data balancing achieves competitive worst-group-accuracy},
  author = {Idrissi, Badr Youbi and Arjovsky, Martin and Pezeshki, Mohammad and Lopez-Paz, David},
  booktitle = {CLeaR},
  year = {2022}
}""",
    )

    def fit(self, data: MethodData, tools: Tools, hparams: Hparams) -> Iterator[Stage]:
        """Train once, on everything."""
        yield Stage("real", tools.train(data.train, loss="resampling"))
