"""Takes more optimiser steps than the budget in a loop of its own, where no tool counts them."""

from genbias_bench import Method, MethodCard, Stage, Track


class OwnSteps(Method):
    card = MethodCard(
        name="own-steps", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        import torch

        with torch.random.fork_rng():
            torch.manual_seed(tools.seed("weights") % 2**31)
            model = self.build({})
        optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(tools.budget.steps + 1):
            optimiser.zero_grad()
            model(torch.ones(1, 3, 32, 32)).sum().backward()
            optimiser.step()
        yield Stage("real", model)

    def build(self, spec):
        import torch

        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
