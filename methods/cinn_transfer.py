"""Conditional invertible transfer: real images moved to another attribute by an invertible network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from genbias_bench import Filter, Hparams, Invertible, Loss, Method, MethodCard, MethodData, Stage, Tools, Track


class CINNHparams(Hparams):
    """The network, and how its images are used."""

    use: Literal["mix", "two-step"] = Field(
        "two-step", description="mix them into the real images, or train on them first and on real ones then (FFR)"
    )
    condition: Literal["group", "attribute"] = Field(
        "group", description="condition of the network: label and attribute; ablation: the attribute alone"
    )
    loss: Loss = Field("erm", description="loss of the mixture, or of the stage on real images")
    synthetic_share: float = Field(0.5, gt=0, lt=1, description="two-step: share of all steps on moved images")
    filter: Literal["none", "own"] = Field(
        "none", description="`own`: keep the better half of twice as many images, by classifiers of the own split"
    )
    autoencoder_steps: int = Field(20_000, ge=1, le=1_000_000, description="optimiser steps of the autoencoder")
    network_steps: int = Field(20_000, ge=1, le=1_000_000, description="optimiser steps of the invertible network")
    network_batch_size: int = Field(128, ge=2, le=4096, description="images per step of both")
    network_learning_rate: float = Field(3e-4, gt=0, le=1, description="learning rate of both")
    latent: int = Field(128, ge=2, le=4096, description="numbers in the autoencoder's latent")
    blocks: int = Field(20, ge=1, le=200, description="blocks of ActNorm, two affine couplings and a shuffle")
    width: int = Field(1024, ge=1, le=8192, description="hidden width of the couplings")
    depth: int = Field(2, ge=1, le=16, description="hidden layers of the couplings")

    def stages(self) -> tuple[str, ...]:
        """Names of the stages in order."""
        return ("mixed",) if self.use == "mix" else ("synthetic", "real")

    def network(self) -> Invertible:
        """Return how the network is trained."""
        return Invertible(
            autoencoder_steps=self.autoencoder_steps,
            steps=self.network_steps,
            batch_size=self.network_batch_size,
            learning_rate=self.network_learning_rate,
            latent=self.latent,
            blocks=self.blocks,
            width=self.width,
            depth=self.depth,
            condition=self.condition,
        )


class CINNTransfer(Method):
    """Transfer by a conditional invertible network (Esser, Rombach, Ommer 2020, arXiv 2012.02516).

    Theirs: an autoencoder, an invertible network on its latent, translation x' = D(τ⁻¹(τ(E(x)|c)|c')); they condition
    on the data set and train no classifier. Ours: the condition (label, attribute) through added embeddings, so that
    pairs without an image compose; images of other attributes of the class are moved to the attribute that is asked
    for; the result is balanced augmentation. The ablation conditions on the attribute alone, which at a high bias level
    is expected to move the label too.
    """

    card = MethodCard(
        name="cinn-transfer",
        version=1,
        summary="Move real images to the other attribute values by an invertible network, and train on the balance.",
        source="Esser, Rombach, Ommer 2020 (arXiv 2012.02516); conditions, balance and classifier: our protocol.",
        track=Track.TRAIN,
        stages=CINNHparams.stages,
        hparams=CINNHparams,
        tier_defaults={
            "demo": {
                "autoencoder_steps": 600,
                "network_steps": 400,
                "network_batch_size": 64,
                "network_learning_rate": 1e-3,
                "latent": 64,
                "width": 128,
            }
        },
        space={
            "synthetic_share": (0.25, 0.9),
            "network_learning_rate": (1e-4, 3e-3, "log"),
            "loss": ["erm", "resampling", "group-dro"],
        },
        citation="""@inproceedings{esser2020note,
  title = {A Note on Data Biases in Generative Models},
  author = {Esser, Patrick and Rombach, Robin and Ommer, Bj{\\"o}rn},
  booktitle = {NeurIPS Workshop on Machine Learning for Creativity and Design},
  year = {2020}
}""",
    )

    def fit(self, data: MethodData, tools: Tools, hparams: CINNHparams) -> Iterator[Stage]:
        """Move images, then mix them in or train on them first."""
        keep: Filter = hparams.filter
        if hparams.use == "mix":
            moved = tools.generate(data.train, plan=tools.budget.fill(data.train), model=hparams.network(), keep=keep)
            yield Stage("mixed", tools.train(data.train + moved, loss=hparams.loss, share=1.0))
            return
        moved = tools.generate(data.train, plan=tools.budget.balanced(), model=hparams.network(), keep=keep)
        model = tools.train(moved, share=hparams.synthetic_share)
        yield Stage("synthetic", model)
        yield Stage("real", tools.train(data.train, init=model, loss=hparams.loss, share=1 - hparams.synthetic_share))
