"""Plain training."""

from genbias_bench import Method, MethodCard, Stage, Track


class Plain(Method):
    card = MethodCard(name="plain", version=4, summary="Train.", source="A test.", track=Track.NONE, stages=("real",))

    def fit(self, data, tools, hparams):
        yield Stage("real", tools.train(data.train))
