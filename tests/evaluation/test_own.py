"""Images of own generators: bootstrap here; labels of a classifier, filters that are refused, budgets of a process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmark.contract.generation import Bootstrap, FromScratch, Invertible
from benchmark.contract.images import MethodData, attributes_for_measurement
from benchmark.errors import BudgetExceeded, InvalidValue, UndeclaredGroupLabels
from benchmark.evaluation import auxiliary
from benchmark.evaluation.cell import ResolvedCell
from benchmark.evaluation.job import make_job, method_data, split_parts
from benchmark.evaluation.tools import HarnessTools
from benchmark.evaluation.used import used_images
from benchmark.progress import Silent
from benchmark.records.store import Store

SCRATCH = FromScratch(steps=2, batch_size=8, learning_rate=1e-3, channels=(32,), patch=8, sampling_steps=2)
INVERTIBLE = Invertible(
    autoencoder_steps=2, steps=2, batch_size=8, learning_rate=1e-3, latent=8, blocks=2, width=8, depth=1
)

Lend = Callable[..., tuple[HarnessTools, MethodData]]


@pytest.fixture
def lend(short_cell: Callable[..., ResolvedCell], tmp_path: Path) -> Lend:
    """What the harness lends to the loop, and the run's data."""

    def lent(method: str = "self-consuming-loop", **overrides: object) -> tuple[HarnessTools, MethodData]:
        cell = short_cell(method, level="0.9", overrides=overrides)
        job = make_job(cell, store=tmp_path, device="cpu", precision="float32", threads=1, remember=True)
        data = method_data(job, split_parts(cell))
        return HarnessTools(job, data, Silent()), data

    return lent


def test_a_bootstrap_draws_real_images_of_the_classes_asked_for_with_replacement(lend: Lend) -> None:
    tools, data = lend()
    drawn = tools.generate(data.train, plan={(0, None): 60, (3, None): 200}, model=Bootstrap())
    originals = {image.tobytes(): int(y) for image, y in zip(np.asarray(data.train.images), data.train.y, strict=True)}
    assert [originals[image.tobytes()] for image in np.asarray(drawn.images)] == [0] * 60 + [3] * 200
    assert drawn.y.tolist() == [0] * 60 + [3] * 200
    assert drawn.synthetic.all()
    distinct = len({image.tobytes() for image in np.asarray(drawn.images)[60:]})
    assert distinct < 100 < 200  # about 99 threes are there, two hundred were drawn


def test_what_the_record_says_of_a_bootstrap_finds_the_images_again(lend: Lend, tmp_path: Path) -> None:
    tools, data = lend()
    drawn = tools.generate(data.train, plan={(1, None): 5}, model=Bootstrap(), generation=2)
    use = tools.pools[0]
    assert use.recipe["generation"] == 2
    assert use.own is not None
    assert use.own.kind == "bootstrap"
    assert use.own.images == len(data.train)
    assert (used_images(Store(tmp_path), use).images == np.asarray(drawn.images)).all()


def test_generations_draw_different_images(lend: Lend) -> None:
    tools, data = lend()
    first, second = (tools.generate(data.train, plan={(1, None): 30}, model=Bootstrap(), generation=g) for g in (1, 2))
    assert not (np.asarray(first.images) == np.asarray(second.images)).all()


def test_the_labels_of_a_classifier_replace_those_asked_for_and_are_written_down(lend: Lend) -> None:
    tools, data = lend()
    model = tools.train(data.train, share=1 / 6)
    drawn = tools.generate(data.train, plan={(1, None): 20, (2, None): 20}, model=Bootstrap(), labels=model)
    use = tools.pools[0].labels
    assert use is not None
    assert use.y == drawn.y.tolist() == tools.predict(model, drawn).tolist()
    assert use.changed == int((drawn.y != np.repeat([1, 2], 20)).sum())


def test_a_filter_that_errs_too_often_is_refused_and_the_first_images_are_kept(
    lend: Lend, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools, data = lend()
    monkeypatch.setattr(auxiliary, "FILTER_FLOOR", 0.9)
    kept = tools.generate(data.train, plan={(4, None): 6}, model=Bootstrap(), keep="own")
    use = tools.pools[0]
    assert use.filter is not None
    assert use.filter.kept_indices == {"4-any": [0, 1, 2, 3, 4, 5]}
    assert "refused" in use.filter.model
    assert any("must recall 91%" in note for note in tools.notes)
    assert (use.kept, use.sampled, len(kept)) == (6, 12, 6)

    monkeypatch.setattr(auxiliary, "FILTER_FLOOR", -1.0)
    tools.generate(data.train, plan={(4, None): 6}, model=Bootstrap(), keep="own")
    chosen = tools.pools[1].filter
    assert chosen is not None
    assert chosen.mean_score_kept is not None
    assert chosen.mean_score_dropped is not None
    assert chosen.mean_score_kept > chosen.mean_score_dropped


@pytest.mark.parametrize(
    ("model", "plan", "said"),
    [
        (SCRATCH, {(0, 1): 1}, "cannot be asked for groups"),
        (INVERTIBLE, {(0, None): 1}, "cannot be asked for classes alone"),
    ],
)
def test_a_plan_that_the_model_cannot_serve_is_refused(lend: Lend, model: object, plan: object, said: str) -> None:
    tools, data = lend()
    with pytest.raises(InvalidValue, match=said):
        tools.generate(data.train, plan=plan, model=model)  # type: ignore[arg-type]


def test_generators_of_groups_need_the_track_that_reads_them(lend: Lend) -> None:
    tools, data = lend()
    with pytest.raises(UndeclaredGroupLabels):
        tools.generate(data.train, plan={(0, 1): 1}, model=INVERTIBLE)
    with pytest.raises(UndeclaredGroupLabels):
        tools.generate(data.train, plan={(0, 1): 1}, model=Bootstrap())


def test_a_process_may_make_as_many_images_a_round_as_there_are_real_ones_and_no_more(lend: Lend) -> None:
    tools, data = lend(generations=2)
    assert tools.budget.synthetic == 2 * len(data.train)
    assert tools.budget.steps == 3 * 12
    plan = tools.budget.marginal(data.train, len(data.train), by="class")
    assert sum(plan.values()) == len(data.train)
    for generation in (1, 2):
        tools.generate(data.train, plan=plan, model=Bootstrap(), generation=generation)
    with pytest.raises(BudgetExceeded):
        tools.generate(data.train, plan={(0, None): 1}, model=Bootstrap())


def test_own_images_of_a_class_alone_have_no_attribute(lend: Lend) -> None:
    tools, data = lend()
    drawn = tools.generate(data.train, plan={(0, None): 3}, model=Bootstrap())
    assert (attributes_for_measurement(drawn) == -1).all()
    assert (drawn.a == -1).all()


def test_an_invertible_network_moves_images_of_the_class_and_is_asked_for_groups(lend: Lend) -> None:
    tools, data = lend("cinn-transfer")
    moved = tools.generate(data.train, plan={(2, 5): 4, (2, 2): 3}, model=INVERTIBLE)
    assert moved.y.tolist() == [2] * 7
    assert moved.a.tolist() == [2] * 3 + [5] * 4
    use = tools.pools[0].own
    assert use is not None
    assert use.kind == "invertible"
    assert use.settings["condition"] == "group"
    assert {"autoencoder_loss", "network_loss"} <= {name for row in use.curves for name in row}


def test_moved_images_do_not_depend_on_what_was_asked_for_before(
    short_cell: Callable[..., ResolvedCell], tmp_path: Path
) -> None:
    cell = short_cell("cinn-transfer", level="0.9")

    def asked(store: str, *plans: dict[tuple[int, int | None], int]) -> list[bytes]:
        made = []
        for plan in plans:
            job = make_job(cell, store=tmp_path / store, device="cpu", precision="float32", threads=1, remember=True)
            data = method_data(job, split_parts(cell))
            moved = HarnessTools(job, data, Silent()).generate(data.train, plan=plan, model=INVERTIBLE)
            made.append(np.asarray(moved.images).tobytes())
        return made

    few: dict[tuple[int, int | None], int] = {(0, 1): 2, (0, 2): 2}
    more: dict[tuple[int, int | None], int] = {(0, 1): 3, (0, 2): 2}
    assert asked("both", more, few)[1] == asked("alone", few)[0]
    assert asked("both", few) == asked("alone", few)
