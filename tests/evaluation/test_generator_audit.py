"""Audits for real on short cells: of generators, pools and mixtures; damaged, foreign and missing images; streaming."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import benchmark.evaluation.audit
import benchmark.evaluation.audited_images
from benchmark.audits.auditors import Auditors
from benchmark.audits.report import Report
from benchmark.audits.shares import group_audit, training_conflicting
from benchmark.errors import DamagedFile, DataError, InvalidValue, NotAvailable, UnknownName
from benchmark.evaluation import typical
from benchmark.evaluation.audit import auditors_of
from benchmark.evaluation.audited_images import Seen, Stream, look, losses, obtain
from benchmark.evaluation.cell import ResolvedCell
from benchmark.evaluation.generator_audit import Audited, audit_subject
from benchmark.evaluation.job import FitJob, make_job, method_data, split_parts
from benchmark.evaluation.matched import levels_to_match
from benchmark.evaluation.subjects import (
    METHODS,
    AuditRequest,
    AuditSubject,
    Source,
    default_folder,
    find_pool,
    resolve_subject,
    scaled,
)
from benchmark.evaluation.used import used_images
from benchmark.generators import pools
from benchmark.generators.pools import Pool, open_pool
from benchmark.generators.recipe import GroupKey, PoolRecipe
from benchmark.progress import Silent
from benchmark.records.results import read_record
from benchmark.records.schema import FilterUse, LabelUse, PoolUse, Record
from benchmark.records.store import Store
from benchmark.training.device import default_precision

pytestmark = pytest.mark.slow

RESULTS = Path(__file__).parents[2] / "leaderboard" / "results" / "colorized-digits"
STEPS = 60
IMAGES = 120
SCRATCH = {
    "generator_steps": 3, "generator_batch_size": 8, "channels": "32", "patch": 8, "sampling_steps": 2,
}  # fmt: skip
INVERTIBLE = {
    "autoencoder_steps": 3, "network_steps": 3, "network_batch_size": 8, "latent": 8, "blocks": 2, "width": 8,
    "depth": 1,
}  # fmt: skip

Cell = Callable[..., ResolvedCell]
Make = Callable[..., AuditSubject]
Do = Callable[..., Audited]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module, so that each image is sampled once and auditors are trained once."""
    return tmp_path_factory.mktemp("audits")


@pytest.fixture(scope="module")
def make(short_cell: Cell) -> Make:
    """Make a subject whose auditors are trained for few steps and whose images are quickly sampled."""

    def made(
        source: Source = "text-to-image", images: int = IMAGES, overrides: Any = None, **more: Any
    ) -> AuditSubject:
        cell = short_cell(METHODS[source], level="0.9", overrides=overrides, steps=STEPS)
        cell = dataclasses.replace(cell, sampling=cell.sampling.model_copy(update={"steps": 2}))
        return AuditSubject(source, more.pop("name", source), cell, images, **more)

    return made


@pytest.fixture(scope="module")
def do(root: Path) -> Do:
    """Audit a subject into a folder of its own."""

    def done(subject: AuditSubject, out: str, *, force: bool = False) -> Audited:
        return audit_subject(
            subject, out=root / out, store=root / "store", device="cpu", threads=1, force=force, progress=Silent()
        )

    return done


def job_of(subject: AuditSubject, root: Path) -> FitJob:
    precision = default_precision(torch.device("cpu"))
    return make_job(subject.cell, store=root / "store", device="cpu", precision=precision, threads=1, remember=True)


@pytest.fixture(scope="module")
def tiny(make: Make, do: Do) -> Audited:
    """The audit of tiny-sd that most tests look at."""
    return do(make(name="tiny-sd"), "tiny")


@pytest.fixture(scope="module")
def auditors(tiny: Audited, make: Make, root: Path) -> Auditors:
    subject = make()
    found, _ = auditors_of(subject.cell, job_of(subject, root), Silent())
    assert found is not None
    return found


@pytest.fixture
def pool(tiny: Audited, root: Path) -> Pool:
    (pool_id,) = tiny.report.subject.pool_ids
    return open_pool(Store(root / "store"), pool_id)


# --- a generator ------------------------------------------------------------------------------------------------------


def test_half_of_the_images_are_asked_for_by_class_and_half_by_group(tiny: Audited, pool: Pool) -> None:
    by = {sample.asked_by: sample for sample in tiny.report.samples}
    assert {name: sample.images for name, sample in by.items()} == {"class": 60, "group": 60}
    held = pool.held()
    classes = [held[y, None] for y in range(10)]
    assert (sum(classes), min(classes), max(classes)) == (60, 6, 6)
    groups = [n for (_, a), n in held.items() if a is not None]
    assert (sum(groups), set(groups)) == (60, {1})
    assert by["group"].by_group is not None
    assert sum(map(sum, by["group"].by_group.images)) == 60


def test_the_report_is_written_as_json_and_as_a_page(tiny: Audited) -> None:
    assert Report.model_validate(json.loads(tiny.json.read_text())) == tiny.report
    page = tiny.page.read_text()
    assert "Audit of tiny-sd on colorized-digits@1" in page
    assert "<script" not in page
    assert tiny.report.subject.identity["name"] == "tiny-sd"
    assert tiny.report.task.level == "0.9"
    assert not tiny.report.task.faces
    assert tiny.report.training.conflicting == pytest.approx(100 / 990)


def test_shares_are_those_of_all_images_at_once(tiny: Audited, auditors: Auditors, pool: Pool, make: Make) -> None:
    (sample,) = (part for part in tiny.report.samples if part.asked_by == "class")
    images = pool.read({group: n for group, n in pool.held().items() if group[1] is None})
    card = make().cell.card
    whole = group_audit(
        images.y, images.a, auditors.a.answers(images.images), auditors.a.confusion,
        independent=auditors.a.independent, aligned=card.law.aligned, n_classes=10, n_attributes=10, seed=0,
    )  # fmt: skip
    assert sample.groups is not None
    assert sample.groups.raw == whole.raw
    assert sample.groups.corrected == whole.corrected
    assert sample.groups.conflicting.value == whole.conflicting.value
    answered = float((auditors.y.answers(images.images) == images.y).mean())
    assert sample.fidelity.y_raw.value == pytest.approx(answered, abs=1e-12)


def test_only_images_asked_for_by_class_are_judged(tiny: Audited, make: Make) -> None:
    by = {sample.asked_by: sample for sample in tiny.report.samples}
    judged = by["class"].conflicting
    assert judged.verdict == "reduced"  # typeset digits in any ink, against .9
    counts = make().cell.manifest.counts("train")
    expected, within = training_conflicting(counts, tiny.report.task.aligned, np.full(10, 6))
    assert judged.training == expected
    assert [part.training for part in by["class"].conflicting_by_class] == within
    for part in (by["group"].conflicting, *by["group"].conflicting_by_class):
        assert (part.verdict, part.generated.value) == ("not measured", None)
    assert by["class"].fidelity.a.reason == "images were asked for by class alone"
    assert by["class"].by_group is None


def test_every_measure_is_there_with_what_it_is_measured_on(tiny: Audited) -> None:
    for sample in tiny.report.samples:
        assert sample.memorised_share.value == 0
        assert sample.kid.value is None  # too few images for the subsets
        assert "KID needs 100 of each" in str(sample.kid.reason)
        assert sample.probes.g.value is not None
        assert sample.groups is not None
        assert sample.groups.extractor in tiny.report.extractors["fid"]
    held = tiny.report.held_out
    assert held is not None
    assert held.conflicting == pytest.approx(0.9)  # each digit in every ink
    assert sum(map(sum, held.shares)) == pytest.approx(1, abs=1e-3)  # type: ignore[arg-type]
    assert set(tiny.report.auditors) == {"y", "a"}


def test_typicality_is_of_the_images_asked_for_by_group_and_names_them(tiny: Audited) -> None:
    found = tiny.report.typicality
    assert found is not None
    assert found.of == "generated"
    assert len(found.groups) == 60
    for group in found.groups:
        assert [image.index for image in group.most] == [found.groups.index(group)]
        assert group.least == []  # one image each: none is both
        assert "one image" in str(group.mean.reason)


def test_extremes_never_name_an_image_twice() -> None:
    values = np.array([0.1, 0.4, 0.2, 0.3, 0.9], dtype=np.float32)
    most, least = typical.extremes(np.array([0, 1, 2, 3]), values, 4)
    assert (most.tolist(), least.tolist()) == ([1, 3], [0, 2])
    most, least = typical.extremes(np.array([2]), values, 4)
    assert (most.tolist(), least.tolist()) == ([2], [])


def test_a_report_is_not_overwritten_unless_that_is_asked_for(tiny: Audited, make: Make, do: Do) -> None:
    before = tiny.json.read_bytes()
    with pytest.raises(InvalidValue, match="is not empty; choose another folder with --out"):
        do(make(name="tiny-sd"), "tiny")
    with pytest.raises(InvalidValue, match=r"report\.json is a file; give a folder as --out"):
        do(make(name="tiny-sd"), "tiny/report.json", force=True)
    assert tiny.json.read_bytes() == before


@pytest.mark.slow
def test_the_same_audit_again_gives_the_same_numbers_and_leaves_other_files_alone(
    tiny: Audited, make: Make, do: Do, root: Path
) -> None:
    (root / "kept").mkdir()
    (root / "kept" / "note.txt").write_text("mine")
    again = do(make(name="tiny-sd"), "kept", force=True)
    different = {"created", "seconds"}
    assert again.report.model_dump(exclude=different) == tiny.report.model_dump(exclude=different)
    assert sorted(path.name for path in (root / "kept").iterdir()) == ["note.txt", "report.html", "report.json"]


# --- streaming --------------------------------------------------------------------------------------------------------


def seen_by(streams: list[Stream], auditors: Auditors | None, block: int) -> Seen:
    found = look(streams, "group", auditors, Silent(), block)
    assert found is not None
    return found


def test_blocks_of_any_size_give_the_same_answers(pool: Pool, auditors: Auditors) -> None:
    stream = Stream.of_pool(pool, pool.held())
    small, large = (seen_by([stream], auditors, block) for block in (7, 1000))
    images = pool.read({group: n for group, n in pool.held().items() if group[1] is not None})
    assert small.answered is not None
    assert large.answered is not None
    for name, auditor in (("y", auditors.y), ("a", auditors.a)):
        whole = auditor.answers(images.images)
        assert (small.answered[name] == large.answered[name]).all()
        assert (small.answered[name] == whole).all()
    np.testing.assert_array_equal(small.images, images.images)
    for column in ("y", "a", "index"):
        assert (getattr(small, column) == getattr(images, column)).all()


def test_an_evenly_spaced_part_of_the_images_is_held(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark.evaluation.audited_images, "MOST_LOOKED_AT", 20)
    seen = seen_by([Stream.of_pool(pool, pool.held())], None, 16)
    assert len(seen) == 60
    assert len(seen.images) == len(seen.chosen) == 20
    assert (seen.chosen[0], seen.chosen[-1]) == (0, 59)
    assert set(np.diff(seen.chosen).tolist()) <= {3, 4}
    whole = pool.read({group: n for group, n in pool.held().items() if group[1] is not None})
    np.testing.assert_array_equal(seen.images, whole.images[seen.chosen])


def test_a_filter_and_a_classifier_s_labels_are_respected(pool: Pool, root: Path) -> None:
    held = pool.held()
    ranges = {f"{y}-{'any' if a is None else a}": (0, n) for (y, a), n in held.items() if y < 2}
    kept = {key: list(range(0, stop, 2)) for key, (_, stop) in ranges.items()}
    n = sum(map(len, kept.values()))
    labels = [(k * 3) % 10 for k in range(n)]
    null = {"value": None, "interval": "none", "reason": "not looked at"}
    use = PoolUse(
        pool_id=pool.recipe.pool_id, recipe={}, ranges=ranges, rows_sha256="0" * 64, kept=n, sampled=2 * n, seconds=0,
        label_fidelity={"y": null, "a": null},  # type: ignore[dict-item]
        filter=FilterUse(kind="own", model="m", kept_indices=kept, mean_score_kept=None, mean_score_dropped=None),
        labels=LabelUse(source="classifier", y=labels, changed=1),
    )  # fmt: skip
    used = used_images(Store(root / "store"), use)
    stream = Stream.of_use(Store(root / "store"), use)
    assert len(stream) == len(used) == n
    for by, free in (("class", True), ("group", False)):
        seen = look([stream], by, None, Silent(), 5)  # type: ignore[arg-type]
        assert seen is not None
        mine = (used.a == -1) == free
        np.testing.assert_array_equal(seen.images, used.images[mine])
        assert seen.y.tolist() == np.array(labels)[mine].tolist()
        assert seen.asked_y.tolist() == used.y[mine].tolist()
        assert seen.index.tolist() == used.index[mine].tolist()


class Noise:
    """A sampler whose images are a matter of their seed alone."""

    def conditions(self) -> dict[str, Any]:
        return {}

    def sample(self, prompts: Any, negative: Any, seeds: Any, **options: Any) -> Any:
        size = (options["height"], options["width"], 3)
        return np.stack([np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8) for seed in seeds])


@pytest.fixture
def noise(root: Path, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Pool:
    """A pool of 90 images of noise in three shards, in a store of its own."""
    monkeypatch.setattr(pools, "PIECE_IMAGES", 32)
    cell = make().cell
    recipe = PoolRecipe(
        task=cell.card.id, generator={"kind": "local", "name": "noise", "revision": None, "content_sha256": "0" * 64},
        prompts={(y, None): f"a {y}" for y in range(3)}, negative_prompt="", scheduler="native", steps=1, guidance=1,
        image_size=32, batch_size=30,
    )  # fmt: skip
    found = Pool(Store(tmp_path / "store"), recipe)
    found.ensure(dict.fromkeys(recipe.prompts, 30), Noise)
    return found


def truncate(pool: Pool, shards: int) -> None:
    for shard in sorted(path for path in pool.folder.iterdir() if path.is_dir())[:shards]:
        rows = shard / "rows.parquet"
        rows.write_bytes(rows.read_bytes()[:1000])


def pool_subject(make: Make, pool: Pool) -> AuditSubject:
    return make("pool", images=2000, pool=open_pool(pool.store, pool.recipe.pool_id), name="pool")


def test_the_audit_of_a_pool_goes_on_without_its_damaged_images_and_says_so(noise: Pool, make: Make) -> None:
    truncate(noise, 1)
    subject = pool_subject(make, noise)
    job = job_of(subject, noise.store.root.parent)
    material = obtain(subject, job, method_data(job, split_parts(subject.cell)), Silent())
    seen = look(material.streams, "class", None, Silent())
    assert seen is not None
    assert len(seen) == len(seen.images) == 60
    (note,) = losses(material.streams, [seen])
    assert note.startswith(f"pool {noise.recipe.pool_id[:12]} lacks 30 of 90 images")
    whole = [(y, k) for y in range(3) for k in range(30)]
    assert set(zip(seen.y.tolist(), seen.index.tolist(), strict=True)) < set(whole)


def test_too_few_intact_images_are_an_error_that_names_the_pool(noise: Pool, make: Make) -> None:
    truncate(noise, 2)
    with pytest.raises(NotAvailable, match=r"30 intact images are too few .* lacks 60 of 90 images"):
        audit_subject(
            pool_subject(make, noise), out=noise.folder / "report", store=noise.store.root, device="cpu", threads=1,
            force=False, progress=Silent(),
        )  # fmt: skip
    assert not (noise.folder / "report").exists()


def test_a_damaged_list_of_images_is_told(noise: Pool, make: Make) -> None:
    subject = pool_subject(make, noise)
    shard = sorted(path for path in noise.folder.iterdir() if path.is_dir())[0]
    (shard / "ranges.json").write_text("{")
    job = job_of(subject, noise.store.root.parent)
    material = obtain(subject, job, method_data(job, split_parts(subject.cell)), Silent())
    seen = look(material.streams, "class", None, Silent())
    assert seen is not None
    (note,) = losses(material.streams, [seen])
    assert "damaged" in note


def test_at_most_as_many_images_of_a_pool_are_looked_at_in_its_proportions() -> None:
    counts = {GroupKey(0, None): 600, GroupKey(1, None): 300, GroupKey(1, 2): 101}
    assert scaled(counts, 2000) == counts  # type: ignore[arg-type]
    fewer = scaled(counts, 100)  # type: ignore[arg-type]
    assert fewer == {(0, None): 60, (1, None): 30, (1, 2): 10}
    assert sum(scaled(counts, 7).values()) == 7  # type: ignore[arg-type]


def test_the_audit_of_a_pool_finds_the_shares_of_its_generator_also_where_few_images_are_held(
    tiny: Audited, pool: Pool, make: Make, do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark.evaluation.audited_images, "MOST_LOOKED_AT", 50)
    report = do(make("pool", images=2000, pool=pool, name="pool"), "pool").report
    assert report.subject.kind == "pool"
    for one, other in zip(report.samples, tiny.report.samples, strict=True):
        assert one.conflicting == other.conflicting
        assert one.fidelity == other.fidelity
        assert one.groups is not None
        assert other.groups is not None
        assert one.groups.corrected == other.groups.corrected
        assert (one.memorised_share.high or 0) > (other.memorised_share.high or 0)  # of fewer images
    assert sum("50 of 60, evenly spaced" in note for note in report.notes) == 2


# --- other generators -------------------------------------------------------------------------------------------------


def test_a_generator_from_scratch_is_judged_by_class_alone(make: Make, do: Do, tiny: Audited) -> None:
    report = do(make("from-scratch", images=100, overrides=SCRATCH, name="from-scratch"), "scratch").report
    (sample,) = report.samples
    assert (sample.asked_by, sample.images) == ("class", 100)
    assert sample.conflicting.verdict != "not measured"
    assert report.subject.own is not None
    assert report.subject.own.kind == "from-scratch"
    assert report.subject.own.images == 990
    assert report.typicality is not None
    assert [(group.y, group.a) for group in report.typicality.groups] == [(y, None) for y in range(10)]
    assert (report.transfer, report.matched) == (None, None)


@pytest.mark.slow
def test_an_invertible_network_is_asked_to_move_images_and_decodes_the_same_codes_twice(
    make: Make, do: Do, tiny: Audited
) -> None:
    done = do(make("invertible", images=100, overrides=INVERTIBLE, name="invertible"), "invertible")
    report, page = done.report, done.page.read_text()
    assert report.subject.kind == "invertible"
    (sample,) = report.samples
    assert (sample.asked_by, sample.images) == ("group", 100)
    assert report.transfer is not None
    assert report.transfer.overall.images == 100
    assert sum(pair.moved.images for pair in report.transfer.pairs) == 100  # nothing is moved to where it is
    answered = {pair.source for pair in report.transfer.pairs}
    assert answered == set(range(10))
    assert report.matched is not None
    assert report.matched.codes == 100
    assert [condition.name for condition in report.matched.conditions] == ["bias level balanced", "bias level 0.99"]
    assert report.matched.conditions[1].shift is not None
    assert report.typicality is None
    assert "no denoising loss" in str(report.typicality_reason)
    assert "Matched samples" in page
    assert "Changing only the" in page


def test_the_least_and_the_most_biased_level_are_matched(make: Make) -> None:
    assert levels_to_match(make().cell) == ("balanced", "0.99")


@pytest.mark.slow
def test_a_fine_tuned_generator_has_an_adapter_per_class_and_is_judged(make: Make, do: Do, tiny: Audited) -> None:
    settings = {"adapter_steps": 2, "adapter_batch_size": 2, "rank": 2}
    report = do(make(images=100, overrides=settings, fine_tune=True, name="tiny-sd, fine-tuned"), "tuned").report
    tuning = report.subject.tuning
    assert tuning is not None
    assert tuning.kind == "lora"
    assert {use.name for uses in tuning.adapters.values() for use in uses} == {f"class {y}" for y in range(10)}
    assert report.subject.pool_ids != tiny.report.subject.pool_ids
    assert report.typicality is not None


# --- mixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def accepted_folder() -> Path:
    folders = sorted((RESULTS / "ffr").glob("0.9-seed0-*"))
    return next(folder for folder in folders if not read_record(folder).method.hparams_changed)


@pytest.fixture(scope="module")
def accepted(accepted_folder: Path) -> Record:
    return read_record(accepted_folder)


def test_the_training_mixture_of_a_run_is_that_of_its_pools(
    tiny: Audited, pool: Pool, accepted: Record, make: Make, do: Do
) -> None:
    ranges = {f"{y}-{a}": (0, n) for (y, a), n in pool.held().items() if a is not None}
    use = accepted.pools[0].model_copy(
        update={"pool_id": pool.recipe.pool_id, "ranges": ranges, "filter": None, "kept": 60, "sampled": 60}
    )
    record = accepted.model_copy(update={"pools": [use]})
    report = do(make("record", record=record, name="ffr"), "mixture").report
    assert report.subject.kind == "mixture"
    assert report.subject.identity["record"] == accepted.run_id
    (sample,) = report.samples
    assert sample.asked_by == "group"
    (alone,) = (part for part in tiny.report.samples if part.asked_by == "group")
    assert sample.groups == alone.groups


def test_a_record_whose_pools_are_elsewhere_says_how_to_get_them(accepted_folder: Path, tmp_path: Path) -> None:
    request = AuditRequest(record=accepted_folder)
    with pytest.raises(NotAvailable, match=r"evaluate --method ffr --task colorized-digits --bias-level 0\.9 --seed 0"):
        resolve_subject(request, tmp_path)
    with pytest.raises(InvalidValue, match=r"is of bias level 0\.9, not \.95"):
        resolve_subject(dataclasses.replace(request, level=".95"), tmp_path)
    with pytest.raises(InvalidValue, match="is of task colorized-digits@1, not of utkface"):
        resolve_subject(dataclasses.replace(request, task="utkface"), tmp_path)
    with pytest.raises(InvalidValue, match="is of recipe default, not small"):
        resolve_subject(dataclasses.replace(request, recipe="small"), tmp_path)


def test_a_record_without_generated_images_has_nothing_to_audit(tmp_path: Path) -> None:
    folder = sorted((RESULTS / "erm").glob("0.9-seed0-*"))[0]
    with pytest.raises(InvalidValue, match="used no generated images"):
        resolve_subject(AuditRequest(record=folder), tmp_path)
    with pytest.raises(DamagedFile, match="missing"):
        resolve_subject(AuditRequest(record=tmp_path / "missing"), tmp_path)


def test_a_record_of_another_split_is_refused(accepted: Record, pool: Pool, root: Path, tmp_path: Path) -> None:
    task = accepted.task.model_copy(update={"split_digest": "0" * 64})
    use = accepted.pools[0].model_copy(update={"pool_id": pool.recipe.pool_id})
    record = accepted.model_copy(update={"pools": [use], "task": task})
    (tmp_path / "record.json").write_text(json.dumps(record.model_dump(mode="json")))
    with pytest.raises(DataError, match="was made on another split"):
        resolve_subject(AuditRequest(record=tmp_path), root / "store")


# --- where auditors cannot look ---------------------------------------------------------------------------------------


def test_without_auditors_the_report_is_null_with_reasons(
    tiny: Audited, make: Make, do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise NotAvailable("faces has no audit split at hand")

    monkeypatch.setattr(benchmark.evaluation.audit, "load_auditors", fail)
    report = do(make(name="tiny-sd"), "blind").report
    assert (report.auditors, report.held_out, report.extractors) == ({}, None, {})
    for sample in report.samples:
        for null in (sample.fidelity.y, sample.fid, sample.kid, sample.probes.g, sample.y_by_class[0]):
            assert (null.value, null.reason) == (None, "faces has no audit split at hand")
        assert (sample.groups, sample.groups_reason) == (None, "faces has no audit split at hand")
        assert sample.conflicting.verdict == "not measured"
        assert sample.memorised_share.value is not None
    assert report.typicality is not None


# --- what cannot be audited -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "error", "said"),
    [
        (AuditRequest(), InvalidValue, "exactly one of --generator, --pool and --record, not none"),
        (AuditRequest(generator="tiny-sd", pool="a"), InvalidValue, "not generator and pool"),
        (AuditRequest(generator="tiny-sd", images=10), InvalidValue, "use 50 or more"),
        (AuditRequest(generator="tinysd"), UnknownName, "did you mean 'tiny-sd'"),
        (AuditRequest(generator="from-scratch", fine_tune=True), InvalidValue, "from-scratch is none"),
        (AuditRequest(generator="invertible", sampling={"steps": 2}), InvalidValue, "invertible is none"),
        (AuditRequest(generator="tiny-sd", settings={"rank": 2}), InvalidValue, "add --fine-tune"),
        (AuditRequest(pool="a", settings={"rank": 2}), InvalidValue, "nothing is trained for pool a"),
        (
            AuditRequest(generator="tiny-sd", fine_tune=True, settings={"real_loss": "erm"}),
            UnknownName,
            "unknown setting of tiny-sd 'real_loss'",
        ),
        (AuditRequest(generator="from-scratch", settings={"layers": 0}), InvalidValue, "layers"),
        (AuditRequest(generator="tiny-sd", level=".5"), InvalidValue, "no bias level"),
        (AuditRequest(generator="tiny-sd", task="nope"), UnknownName, "unknown task 'nope'"),
        (AuditRequest(pool="abc"), InvalidValue, "holds no such pool"),
    ],
)
def test_what_makes_no_sense_is_refused(
    request_: AuditRequest, error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        resolve_subject(request_, tmp_path)


def test_pools_are_found_by_the_start_of_their_id_and_near_ones_are_named(pool: Pool, root: Path) -> None:
    pool_id, store = pool.recipe.pool_id, Store(root / "store")
    assert find_pool(store, pool_id[:10]) == pool_id
    assert find_pool(store, pool_id.upper()) == pool_id
    wrong = pool_id[:6] + ("0" if pool_id[6] != "0" else "1") + pool_id[7:12]
    with pytest.raises(InvalidValue, match=rf"Near: .*{pool_id[:12]} \(colorized-digits@1, tiny-sd\)"):
        find_pool(store, wrong)
    with pytest.raises(InvalidValue, match="holds no such pool"):
        find_pool(store, "")
    folder = store.root / "pools" / f"{pool_id[:2]}{'f' * 62}"
    folder.mkdir()
    (folder / "recipe.json").write_text("{}")
    try:
        with pytest.raises(InvalidValue, match="fits 2 pools"):
            find_pool(store, pool_id[:2])
    finally:
        (folder / "recipe.json").unlink()
        folder.rmdir()


def test_a_pool_of_another_task_is_refused_and_its_level_is_said(pool: Pool, root: Path) -> None:
    found = resolve_subject(AuditRequest(pool=pool.recipe.pool_id[:12], level=".99"), root / "store")
    assert found.cell.manifest.level == "0.99"
    assert "level 0.99, which was asked for" in found.notes[0]
    with pytest.raises(InvalidValue, match="holds images of colorized-digits@1, not of utkface@1; add --task"):
        resolve_subject(AuditRequest(pool=pool.recipe.pool_id[:12], task="utkface"), root / "store")
    other = dataclasses.replace(pool.recipe, image_size=48)
    Pool(pool.store, other).ensure({(0, None): 1}, lambda: Fixed(other))
    with pytest.raises(InvalidValue, match="the pool's images have 48 pixels"):
        resolve_subject(AuditRequest(pool=other.pool_id), root / "store")


class Fixed(Noise):
    """Noise that says it was made by what a recipe names."""

    def __init__(self, recipe: PoolRecipe) -> None:
        self._generator = recipe.generator

    def conditions(self) -> dict[str, Any]:
        return {"generator": dict(self._generator)}


def test_reports_go_to_a_folder_named_after_the_subject(make: Make) -> None:
    assert default_folder(make(name="tiny-sd, fine-tuned")) == Path("audit-tiny-sd-fine-tuned")
    assert default_folder(make(name="org/name")) == Path("audit-org-name")
