"""Writes a file beside the user's others, and leaves it."""

import pathlib

from genbias_bench import Method, MethodCard, Stage, Track


class LeavesFile(Method):
    card = MethodCard(
        name="leaves-file", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        model = tools.train(data.train)
        pathlib.Path("best_model.txt").write_text(model.digest)
        yield Stage("real", model)
