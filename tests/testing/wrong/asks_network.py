"""Asks the network, and goes on without an answer."""

import contextlib
import urllib.request

from genbias_bench import Method, MethodCard, Stage, Track


class AsksNetwork(Method):
    card = MethodCard(
        name="asks-network", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        with contextlib.suppress(OSError):
            urllib.request.urlopen("http://weights.invalid/resnet.pt", timeout=5)
        yield Stage("real", tools.train(data.train))
