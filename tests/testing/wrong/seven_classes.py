"""Answers with seven logits where there are ten classes."""

from genbias_bench import Method, MethodCard, Stage, Track


class SevenClasses(Method):
    card = MethodCard(
        name="seven-classes", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
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
                return images.flatten(1) @ self.weight[:7].T

        return Wrong()
