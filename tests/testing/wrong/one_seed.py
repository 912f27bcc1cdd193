"""Draws its weights with a seed of its own, whatever the run's seed is."""

from genbias_bench import Method, MethodCard, Stage, Track


class OneSeed(Method):
    card = MethodCard(
        name="one-seed", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        import torch

        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.build({})
        yield Stage("real", model)

    def build(self, spec):
        import torch

        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
