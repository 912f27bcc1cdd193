"""Sets the global seed, for itself and for everybody after it."""

from genbias_bench import Method, MethodCard, Stage, Track


class SetsSeed(Method):
    card = MethodCard(
        name="sets-seed", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        import torch

        torch.manual_seed(tools.seed("mine") % 2**31)
        yield Stage("real", tools.train(data.train))
