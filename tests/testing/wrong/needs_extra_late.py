"""Imports a package that is not installed, where it needs it."""

from genbias_bench import Method, MethodCard, Stage, Track


class NeedsExtraLate(Method):
    card = MethodCard(
        name="needs-extra-late", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        import a_package_that_nobody_has

        yield Stage("real", a_package_that_nobody_has.fit(data, tools))
