"""Group-DRO: minimise the worst group's loss by weights over groups that follow the losses."""

from __future__ import annotations

from collections.abc import Iterator

from genbias_bench import Hparams, Method, MethodCard, MethodData, Stage, Tools, Track


class GroupDRO(Method):
    """Group distributionally robust optimisation (Sagawa 2020, arXiv 1911.08731).

    Theirs: online exponentiated weights over groups, batches balanced over groups. The step size .01 is that of FFR's
    public code. Ours: no generalisation adjustment; the task's recipe and number of steps.
    """

    card = MethodCard(
        name="group-dro",
        version=1,
        summary="Real images, with the loss of the groups that do worst weighted up as training goes.",
        source="Sagawa, Koh, Hashimoto, Liang 2020 (arXiv 1911.08731); step size of FFR's code; steps: our protocol.",
        track=Track.TRAIN,
        stages=("real",),
        citation="""@inproceedings{sagawa2020distributionally,
  title = {Distributionally Robust Neural Networks},
  author = {Sagawa, Shiori and Koh, Pang Wei and Hashimoto, Tatsunori B. and Liang, Percy},
  booktitle = {ICLR},
  year = {2020}
}""",
    )

    def fit(self, data: MethodData, tools: Tools, hparams: Hparams) -> Iterator[Stage]:
        """Train once, on everything."""
        yield Stage("real", tools.train(data.train, loss="group-dro"))
