"""Writes into the images that it was given."""

from genbias_bench import Method, MethodCard, Stage, Track


class ChangesImages(Method):
    card = MethodCard(
        name="changes-images", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        data.train.images.setflags(write=True)
        data.train.images[:, :2] = 0
        yield Stage("real", tools.train(data.train))
