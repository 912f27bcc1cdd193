"""Leaves another default dtype and another environment behind."""

import os

from genbias_bench import Method, MethodCard, Stage, Track


class SetsDefaults(Method):
    card = MethodCard(
        name="sets-defaults", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        import torch

        yield Stage("real", tools.train(data.train))
        torch.set_default_dtype(torch.float64)
        os.environ["CUDA_VISIBLE_DEVICES"] = "7"
