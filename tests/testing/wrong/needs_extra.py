"""Imports a package that is not installed."""

import a_package_that_nobody_has

from genbias_bench import Method, MethodCard, Stage, Track


class NeedsExtra(Method):
    card = MethodCard(
        name="needs-extra", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        yield Stage("real", a_package_that_nobody_has.fit(data, tools))
