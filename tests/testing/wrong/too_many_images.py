"""Keeps more copies than the budget of generated images."""

from genbias_bench import Method, MethodCard, Stage, Track


class TooManyImages(Method):
    card = MethodCard(
        name="too-many-images", version=1, summary="Wrong.", source="A test.", track=Track.TRAIN, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        plan = tools.budget.fill(data.train, populated_only=True)
        images = tools.copies(data.train, plan=plan) + tools.copies(data.train, plan=plan)
        yield Stage("real", tools.train(images))
