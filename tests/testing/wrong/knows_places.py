"""Knows by heart where conflicting images stand: the order of samples as a group label."""

from genbias_bench import Method, MethodCard, Stage, Track

PLACES = [
    25,
    75,
    102,
    141,
    149,
    179,
    198,
    204,
    207,
    249,
    252,
    273,
    300,
    306,
    340,
    359,
    374,
    376,
    390,
    405,
    417,
    419,
    442,
    460,
    511,
    543,
    571,
    584,
    589,
    600,
    604,
    630,
    702,
    707,
    711,
    749,
    752,
    769,
    778,
    811,
    817,
    836,
    885,
    894,
    926,
    943,
    950,
    966,
    975,
    976,
]
"""Where the frozen split of seed 0 at bias level .95 has conflicting images."""


class KnowsPlaces(Method):
    card = MethodCard(
        name="knows-places", version=1, summary="Wrong.", source="A test.", track=Track.NONE, stages=("real",)
    )

    def fit(self, data, tools, hparams):
        yield Stage("real", tools.train(data.train + data.train.take(PLACES * 5)))
