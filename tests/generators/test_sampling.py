"""How a generator is sampled: the card's way for its own, a sensible one for others, and what a user asks for."""

from __future__ import annotations

from typing import Any

import pytest

from benchmark.errors import InvalidValue, UnknownName
from benchmark.evaluation.cell import Request, resolve_cell
from benchmark.generators.identity import TINY_SD
from benchmark.generators.sampling import sampling_of
from benchmark.records.canonical import sha256_of
from benchmark.tasks.block import GeneratorDefault
from benchmark.tasks.catalog import find_card

CARD = GeneratorDefault(name="someone/model", scheduler="UniPCMultistepScheduler", steps=12, guidance=4, batch_size=4)


def test_the_cards_generator_is_sampled_as_the_card_says() -> None:
    assert sampling_of("someone/model", CARD) == CARD


def test_another_generator_does_not_inherit_what_was_made_for_the_cards() -> None:
    tiny = sampling_of(TINY_SD, CARD)
    assert tiny == find_card("colorized-digits").task.generator
    digits = find_card("colorized-digits").task.generator
    other = sampling_of("stable-diffusion-v1-5/stable-diffusion-v1-5", digits)
    assert other == find_card("utkface").task.generator
    assert (other.scheduler, other.steps, other.guidance) == ("DPMSolverMultistepScheduler", 25, 7.5)


def test_a_user_may_change_it_and_the_cell_is_then_another() -> None:
    assert sampling_of("someone/model", CARD, {"steps": "20", "guidance": "2.5"}) == CARD.model_copy(
        update={"steps": 20, "guidance": 2.5}
    )
    default, changed, batch = (
        resolve_cell(Request("ffr", sampling=changes)) for changes in ({}, {"steps": "9"}, {"batch_size": 8})
    )
    assert default.cell.generator is not None
    assert changed.cell.generator == {**default.cell.generator, "steps": 9}
    # The shape of a batch shows in an image's last bits, so it belongs to the identity once it is not the default.
    assert batch.cell.generator == {**default.cell.generator, "batch_size": 8}
    assert len({each.cell_id for each in (default, changed, batch)}) == 3
    assert default.cell_id == sha256_of(default.cell.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"steps": "0"}, InvalidValue, "--sampling steps='0': Input should be greater than or equal to 1"),
        ({"guidance": "much"}, InvalidValue, "--sampling guidance='much'"),
        ({"step": 9}, UnknownName, "unknown sampling setting 'step'; did you mean 'steps'"),
        ({"name": "other"}, UnknownName, "unknown sampling setting 'name'"),
        ({"scheduler": "DDIM"}, UnknownName, "unknown scheduler 'DDIM'; did you mean 'DDIMScheduler'"),
    ],
)
def test_what_cannot_be_sampled_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sampling_of("someone/model", CARD, changes)
