"""DreamBooth: an adapter with a rare token and prior preservation per group, then two-step training on its images."""

from __future__ import annotations

from genbias_bench import FineTuning, MethodCard
from methods._fine_tuned import CITATION, DEMO, DreamBoothHparams, FineTunedPretraining


class DreamBoothPerGroupHparams(DreamBoothHparams):
    """One adapter per group."""

    def tuning(self) -> FineTuning:
        """Return how the generator is fine-tuned."""
        return FineTuning(**self.common(), **self.dreambooth())


class DreamBooth(FineTunedPretraining):
    """DreamBooth per group (Basu 2025, arXiv 2511.08711; DreamBooth: Ruiz 2023, arXiv 2208.12242).

    Theirs: a rare token per group, then the two-step training that `lora` describes. Ours: low-rank weights instead of
    a whole model per group, prior preservation on pooled images of the base generator, and what `lora` names as ours.
    """

    card = MethodCard(
        name="dreambooth",
        version=1,
        summary="Fine-tune the generator by DreamBooth per group, pre-train, then the last layer on real ones.",
        source="Basu, Gupta, Bhat, Babu 2025 (arXiv 2511.08711); low-rank weights, settings, steps: our protocol.",
        track=DreamBoothPerGroupHparams.track,
        stages=("synthetic", "real"),
        hparams=DreamBoothPerGroupHparams,
        uses_generator=True,
        tier_defaults={"demo": DEMO},
        space={
            "adapter_learning_rate": (1e-5, 1e-2, "log"),
            "rank": (4, 64, "log"),
            "contrastive": (0.0, 2.0),
            "synthetic_share": (0.25, 0.9),
            "real_loss": ["erm", "resampling", "group-dro"],
            "prior_weight": (0.0, 2.0),
        },
        citation=CITATION,
    )
