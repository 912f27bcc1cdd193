"""Reweighting: every group weighs the same in the loss, although batches follow the data."""

from __future__ import annotations

from collections.abc import Iterator

from genbias_bench import Hparams, Method, MethodCard, MethodData, Stage, Tools, Track


class Reweighting(Method):
    """Inverse group frequency as a weight of the loss (compared by Idrissi 2022, arXiv 2110.14503).

    Theirs: the weights. Ours: they average one over the training set, so that the learning rate of the task's recipe
    keeps its meaning; recipe and number of steps.
    """

    card = MethodCard(
        name="reweighting",
        version=1,
        summary="Real images, with the loss of each image weighted by the inverse size of its group.",
        source="Importance weights as in Idrissi 2022 (arXiv 2110.14503) and Sagawa 2020; steps: our protocol.",
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
        yield Stage("real", tools.train(data.train, loss="reweighting"))
