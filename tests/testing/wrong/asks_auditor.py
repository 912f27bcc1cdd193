"""Asks an auditor, as every auditor is asked."""

import importlib

from genbias_bench import Method, MethodCard, Stage, Track


class AsksAuditor(Method):
    card = MethodCard(
        name="asks-auditor", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        importlib.import_module("benchmark.contract.oracle").guard("y")
        yield Stage("real", tools.train(data.train))
