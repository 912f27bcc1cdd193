"""Clustered DreamBooth: an adapter per cluster inside each group, then two-step training on their images."""

from __future__ import annotations

from pydantic import Field

from genbias_bench import FeaturesOf, FineTuning, MethodCard
from methods._fine_tuned import CITATION, DEMO, DreamBoothHparams, FineTunedPretraining


class ClusteredDreamBoothHparams(DreamBoothHparams):
    """One adapter per cluster of a group."""

    clusters: int = Field(0, ge=0, le=64, description="clusters per group; 0 chooses the number by silhouette")
    features: FeaturesOf = Field("erm", description="clustered features: of an ERM model of the own split, or CLIP's")

    def tuning(self) -> FineTuning:
        """Return how the generator is fine-tuned."""
        clusters = self.clusters or None
        return FineTuning(
            **self.common(), **self.dreambooth(), per="cluster", clusters=clusters, features=self.features
        )


class ClusteredDreamBooth(FineTunedPretraining):
    """DreamBooth per cluster (Basu 2025, arXiv 2511.08711): a group varies more than one adapter can hold.

    Theirs: clusters inside each group, a DreamBooth each. Ours: k-means on features of an ERM model of the run's own
    split (CLIP's where one is named), k by silhouette, clusters of at least eight images, the same number of images
    from each, and what `dreambooth` names as ours.
    """

    card = MethodCard(
        name="clustered-dreambooth",
        version=1,
        summary="Fine-tune the generator by DreamBooth per cluster of a group, pre-train, then the last layer.",
        source="Basu, Gupta, Bhat, Babu 2025 (arXiv 2511.08711); clusters, low-rank weights, settings: our protocol.",
        track=ClusteredDreamBoothHparams.track,
        stages=("synthetic", "real"),
        hparams=ClusteredDreamBoothHparams,
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
