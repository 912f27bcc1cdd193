"""DFR: train on the biased images, then fit the last layer anew on group-balanced validation images."""

from __future__ import annotations

from collections.abc import Iterator

from genbias_bench import Hparams, Method, MethodCard, MethodData, Stage, Tools, Track


class DFR(Method):
    """Deep feature reweighting (Kirichenko, Izmailov, Wilson 2023, arXiv 2204.02937), on validation data.

    Theirs: the features of ERM suffice, so only an L1 logistic regression on standardised features is fitted, on
    group-balanced subsets of held-out real images, ten or twenty times, and averaged; C is chosen on a part of them.
    FFR's code: the values of C, twenty fits. Ours: C is judged by the worst populated group, since groups may be empty.
    Where no group has two validation images it does not apply.
    """

    card = MethodCard(
        name="dfr",
        version=1,
        summary="ERM, then the last layer fitted on group-balanced validation images.",
        source="Kirichenko, Izmailov, Wilson 2023 (arXiv 2204.02937), settings of FFR's code.",
        track=Track.VALIDATION_TRAINS,
        stages=("real", "last-layer"),
        citation="""@inproceedings{kirichenko2023last,
  title = {Last Layer Re-Training is Sufficient for Robustness to Spurious Correlations},
  author = {Kirichenko, Polina and Izmailov, Pavel and Wilson, Andrew Gordon},
  booktitle = {ICLR},
  year = {2023}
}""",
    )

    def fit(self, data: MethodData, tools: Tools, hparams: Hparams) -> Iterator[Stage]:
        """Spend every step on the biased images; the refit takes none."""
        model = tools.train(data.train, share=1.0)
        yield Stage("real", model)
        yield Stage("last-layer", tools.refit_last_layer(model, data.validation))
