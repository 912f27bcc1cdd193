"""Joins the task's own list of samples, by name and order, to learn their groups."""

import importlib

from genbias_bench import Method, MethodCard, Stage, Track


class AsksTheTask(Method):
    card = MethodCard(
        name="asks-the-task", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        catalog = importlib.import_module("benchmark.tasks.catalog")
        rows = catalog.load_task("colorized-digits").manifest("0.95", 0).splits["train"]
        self.groups = dict(zip(rows.ids, rows.a, strict=True))
        yield Stage("real", tools.train(data.train))
