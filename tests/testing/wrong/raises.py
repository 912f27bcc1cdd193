"""Fails in its tenth line."""

from genbias_bench import Method, MethodCard, Stage, Track


class Raises(Method):
    card = MethodCard(name="raises", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",))

    def fit(self, data, tools, hparams):
        raise ValueError("the moon is in the wrong phase")
        yield Stage("real", tools.train(data.train))
