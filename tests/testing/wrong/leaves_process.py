"""Starts a helper and forgets it."""

import subprocess

from genbias_bench import Method, MethodCard, Stage, Track


class LeavesProcess(Method):
    card = MethodCard(
        name="leaves-process", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        subprocess.Popen(["sleep", "1000"])
        yield Stage("real", tools.train(data.train))
