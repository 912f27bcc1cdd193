"""Reads address zero."""

import ctypes

from genbias_bench import Method, MethodCard, Track


class Crashes(Method):
    card = MethodCard(name="crashes", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",))

    def fit(self, data, tools, hparams):
        tools.train(data.train)
        ctypes.string_at(0)
        yield
