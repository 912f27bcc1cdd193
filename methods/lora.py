"""LoRA: a low-rank adapter of the generator per group, then two-step training on its images."""

from __future__ import annotations

from genbias_bench import FineTuning, MethodCard
from methods._fine_tuned import CITATION, DEMO, FineTunedHparams, FineTunedPretraining


class LoRAHparams(FineTunedHparams):
    """Low-rank adapters on the prompts as they are."""

    def tuning(self) -> FineTuning:
        """Return how the generator is fine-tuned."""
        return FineTuning(**self.common())


class LoRA(FineTunedPretraining):
    """LoRA per group (Basu 2025, arXiv 2511.08711; LoRA: Hu 2022, arXiv 2106.09685).

    Theirs: one adapter per group; pre-training on balanced generated images with cross-entropy and supervised
    contrastive loss; then the last layer alone on the real biased images. Ours, since the paper's code and settings
    could not be read: the adapters' steps and rank, the weight of the contrastive loss and its temperature .1, the
    division of the steps, groups of fewer than eight images (protocol §4), and the arm with the base generator.
    """

    card = MethodCard(
        name="lora",
        version=1,
        summary="Fine-tune the generator by LoRA per group, pre-train on its images, then the last layer on real ones.",
        source="Basu, Gupta, Bhat, Babu 2025 (arXiv 2511.08711); settings, steps and small groups: our protocol.",
        track=LoRAHparams.track,
        stages=("synthetic", "real"),
        hparams=LoRAHparams,
        uses_generator=True,
        tier_defaults={"demo": DEMO},
        space={
            "adapter_learning_rate": (1e-5, 1e-2, "log"),
            "rank": (4, 64, "log"),
            "contrastive": (0.0, 2.0),
            "synthetic_share": (0.25, 0.9),
            "real_loss": ["erm", "resampling", "group-dro"],
        },
        citation=CITATION,
    )
