"""Changes the weights of a classifier that the harness remembers by their digest."""

from genbias_bench import Method, MethodCard, Stage, Track


class ChangesWeights(Method):
    card = MethodCard(
        name="changes-weights", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        model = tools.train(data.train, share=0.5)
        for weights in next(iter(model.checkpoints.values())).values():
            if weights.is_floating_point():
                weights.mul_(1.5)
        yield Stage("real", tools.train(data.train, init=model, share=0.5))
