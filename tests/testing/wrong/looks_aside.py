"""Answers an image in the light of those that stand beside it."""

from genbias_bench import Method, MethodCard, Stage, Track


class LooksAside(Method):
    card = MethodCard(
        name="looks-aside", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        model = self.build({})
        model.weight.data += tools.seed("weights") % 97
        yield Stage("real", model)

    def build(self, spec):
        import torch

        class Wrong(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.arange(30720.0).reshape(10, 3072) / 30720)

            def forward(self, images):
                return (images - images.mean(0)).flatten(1) @ self.weight.T

        return Wrong()
