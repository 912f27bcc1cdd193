"""What can be audited, resolved without torch: a generator, a pool of the store, or the training mixture of a run.

`genbias-bench audit` calls :func:`resolve_subject`; `audited_images` then makes or finds the images.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from benchmark.errors import DamagedFile, DataError, InvalidValue, NotAvailable, UnknownName
from benchmark.evaluation.cell import Request, ResolvedCell, resolve_cell
from benchmark.generators.pools import RECIPE, Counts, Pool, open_pool
from benchmark.generators.recipe import sorted_items
from benchmark.progress import Progress
from benchmark.records.files import read_json
from benchmark.records.results import read_record
from benchmark.records.schema import Record
from benchmark.records.store import Store
from benchmark.tasks.card import DEFAULT_RECIPE, DataCard
from benchmark.tasks.catalog import DEFAULT_TASK, load_task

FEWEST = 50
"""Images without which an audit says nothing."""
DEFAULT_IMAGES = 2000

Source = Literal["text-to-image", "from-scratch", "invertible", "pool", "record"]

METHODS: dict[Source, str] = {
    "text-to-image": "lora",
    "from-scratch": "self-consuming-loop",
    "invertible": "cinn-transfer",
    "pool": "erm",
    "record": "erm",
}
"""Method to whose cell of the grid the images belong: with its defaults, audits share pools and weights with runs."""

SETTINGS: dict[Source, tuple[str, ...]] = {
    "text-to-image": ("adapter_steps", "adapter_batch_size", "adapter_learning_rate", "rank"),
    "from-scratch": (
        "generator_steps", "generator_batch_size", "generator_learning_rate", "channels", "layers", "patch",
        "sampling_steps", "guidance",
    ),
    "invertible": (
        "autoencoder_steps", "network_steps", "network_batch_size", "network_learning_rate", "latent", "blocks",
        "width", "depth", "condition",
    ),
    "pool": (),
    "record": (),
}  # fmt: skip
"""Hyper-parameters of these methods that change a generator; the others are about classifiers."""

_NEAREST = 8
_SHORT = 12


@dataclass(frozen=True)
class AuditRequest:
    """What a user asks for; exactly one of ``generator``, ``pool`` and ``record`` is given.

    Attributes:
        generator: ``from-scratch``, ``invertible``, or a text-to-image generator's name, folder or Hub id.
        pool: Start of a pool's id.
        record: A record, or the folder that holds it.
        task: None takes the default task, or the record's.
        level: Whose training split the images are held against; None takes the card's, or the record's.
        seed: Of what is trained; ``seed % 5`` is the draw.
        images: How many to make, or at most to look at.
        fine_tune: Fine-tune a text-to-image generator per class on the level's training split first.
        settings: Of the generator's training.
        sampling: Changes of how a text-to-image generator is sampled.
        recipe: One of the card's training recipes, which says how large images are; None takes the default.
        offline: Never ask the Hub.
    """

    generator: str | None = None
    pool: str | None = None
    record: Path | None = None
    task: str | None = None
    level: str | None = None
    seed: int = 0
    images: int = DEFAULT_IMAGES
    fine_tune: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    offline: bool = False


@dataclass(frozen=True)
class AuditSubject:
    """A request with everything looked up.

    Attributes:
        source: Where its images come from.
        name: What to call it.
        cell: The cell of the grid that it is held against.
        images: How many to make, or at most to look at.
        fine_tune: Whether the text-to-image generator is fine-tuned first.
        pool: The pool, if one was named.
        record: The record, if one was named.
        notes: What a reader should know.
    """

    source: Source
    name: str
    cell: ResolvedCell
    images: int
    fine_tune: bool = False
    pool: Pool | None = None
    record: Record | None = None
    notes: tuple[str, ...] = ()


def resolve_subject(request: AuditRequest, store: Path, progress: Progress | None = None) -> AuditSubject:
    """Look everything up, and prepare the task's data where that has not been done.

    Args:
        request: What is asked for.
        store: Folder of pools and trained models.
        progress: Where to say how far preparing is.

    Raises:
        UsageError: For none or several subjects, unknown names, levels, pools and settings, a pool of another task, and
            options that have no use.
        DataError: When the task's data are not at hand, or are others than a record was made on.
        GeneratorError: When a generator cannot be identified.
        NotAvailable: When pools of a record are not in the store.
        DamagedFile: For a damaged record or recipe.
    """
    given = [name for name in ("generator", "pool", "record") if getattr(request, name) is not None]
    if len(given) != 1:
        raise InvalidValue(
            f"audit takes exactly one of --generator, --pool and --record, not {' and '.join(given) or 'none'}"
        )
    if request.images < FEWEST:
        raise InvalidValue(f"--images {request.images} is too few to say anything; use {FEWEST} or more")
    source = _source(request)
    _check_options(request, source)
    if source == "pool":
        return _pool(request, Store(store.resolve()), progress)
    if source == "record":
        return _record(request, Store(store.resolve()), progress)
    cell = resolve_cell(_cell_request(request, source, overrides=dict(request.settings)), progress)
    name: str = source
    if cell.generator is not None:
        name = f"{cell.generator.name}, fine-tuned" if request.fine_tune else cell.generator.name
    return AuditSubject(source, name, cell, request.images, request.fine_tune)


def default_folder(subject: AuditSubject) -> Path:
    """Return the folder that a report goes to unless told otherwise."""
    return Path("audit-" + "-".join(re.findall(r"[A-Za-z0-9._]+", subject.name)))


def check_folder(folder: Path, *, force: bool) -> None:
    """Refuse a folder that something stands in.

    Args:
        folder: Where the report is to go.
        force: Whether a report in it may be replaced.

    Raises:
        InvalidValue: For a file, and when it is not empty and nothing was said about replacing.
    """
    if folder.exists() and not folder.is_dir():
        raise InvalidValue(f"{folder} is a file; give a folder as --out")
    if folder.is_dir() and not force and any(folder.iterdir()):
        raise InvalidValue(f"{folder} is not empty; choose another folder with --out, or replace a report with --force")


def _source(request: AuditRequest) -> Source:
    if request.pool is not None:
        return "pool"
    if request.record is not None:
        return "record"
    own: dict[str | None, Source] = {"from-scratch": "from-scratch", "invertible": "invertible"}
    return own.get(request.generator, "text-to-image")


def _check_options(request: AuditRequest, source: Source) -> None:
    trained = request.fine_tune if source == "text-to-image" else bool(SETTINGS[source])
    if request.fine_tune and source != "text-to-image":
        raise InvalidValue(f"--fine-tune is for a text-to-image generator; {_called(request)} is none")
    if request.settings and not trained:
        advice = "; add --fine-tune" if source == "text-to-image" else ""
        raise InvalidValue(f"nothing is trained for {_called(request)}, so --set has no use{advice}")
    for name in request.settings:
        if name not in SETTINGS[source]:
            raise UnknownName(f"setting of {_called(request)}", name, SETTINGS[source])
    if request.sampling and source != "text-to-image":
        raise InvalidValue(f"--sampling is for a text-to-image generator; {_called(request)} is none")


def _called(request: AuditRequest) -> str:
    if request.pool is not None:
        return f"pool {request.pool}"
    return str(request.generator or request.record)


def _cell_request(request: AuditRequest, source: Source, **changes: Any) -> Request:
    cell = Request(
        METHODS[source],
        task=request.task or DEFAULT_TASK,
        level=request.level,
        seed=request.seed,
        generator=request.generator if source == "text-to-image" else None,
        offline=request.offline,
        recipe=request.recipe,
        sampling=request.sampling,
    )
    return replace(cell, **changes)


# --- pools of the store ----------------------------------------------------------------------------------------------


def _pool(request: AuditRequest, store: Store, progress: Progress | None) -> AuditSubject:
    assert request.pool is not None
    pool = open_pool(store, find_pool(store, request.pool))
    card = load_task(request.task or DEFAULT_TASK).card
    short = pool.recipe.pool_id[:_SHORT]
    if pool.recipe.task != card.id:
        raise InvalidValue(
            f"pool {short} holds images of {pool.recipe.task}, not of {card.id}; add --task "
            f"{pool.recipe.task.partition('@')[0]}"
        )
    recipe = request.recipe or _recipe_of_size(card, pool.recipe.image_size)
    cell = resolve_cell(_cell_request(request, "pool", recipe=recipe), progress)
    if cell.image_size != pool.recipe.image_size:
        raise InvalidValue(
            f"pool {short} holds images of {pool.recipe.image_size} pixels, recipe {recipe} of {card.id} is for "
            f"{cell.image_size}; leave --recipe out"
        )
    note = (
        f"held against the training data of level {cell.manifest.level}, which was asked for; a pool does not say on "
        "which level its generator was trained"
    )
    return AuditSubject("pool", f"pool {short}", cell, request.images, pool=pool, notes=(note,))


def find_pool(store: Store, start: str) -> str:
    """Return the id of the one pool of a store that starts so.

    Raises:
        InvalidValue: When there is none, or several; it names those that are near.
    """
    folder = store.root / "pools"
    known = sorted(path.parent.name for path in folder.glob(f"*/{RECIPE}"))
    found = [name for name in known if start and name.startswith(start.lower())]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(_described(folder / name) for name in found[:_NEAREST])
        raise InvalidValue(f"--pool {start} fits {len(found)} pools: {listed}; give more of its id")
    near = difflib.get_close_matches(start.lower()[:_SHORT], [name[:_SHORT] for name in known], n=_NEAREST, cutoff=0.4)
    shown = [name for name in known if name[:_SHORT] in near] or known[:_NEAREST]
    listed = ", ".join(_described(folder / name) for name in shown) or "none"
    raise InvalidValue(
        f"--pool {start}: the store {store.root} holds no such pool. {'Near' if near else 'There'}: {listed}. Records "
        "name the pools that they used under pools, pool_id; --store chooses another store"
    )


def _described(folder: Path) -> str:
    """Return the start of a pool's id with its task and generator, as far as its recipe says them."""
    try:
        recipe = read_json(folder / RECIPE)
        return f"{folder.name[:_SHORT]} ({recipe['task']}, {recipe['generator']['name']})"
    except (DamagedFile, KeyError, TypeError):
        return folder.name[:_SHORT]


def _recipe_of_size(card: DataCard, size: int) -> str:
    """Return the first of a card's training recipes whose images have a size."""
    sizes = {name: card.image_size(card.recipe(name)) for name in (DEFAULT_RECIPE, *card.task.recipes)}
    for name, own in sizes.items():
        if own == size:
            return name
    raise InvalidValue(
        f"the pool's images have {size} pixels; {card.id} is trained on {', '.join(f'{n}' for n in sizes.values())}"
    )


def scaled(counts: Counts, most: int) -> Counts:
    """Return at most so many images of some groups, in the proportions given: largest remainders, ties by order.

    Args:
        counts: Images of each group.
        most: Images in all.
    """
    total = sum(counts.values())
    if total <= most:
        return counts
    whole: dict[tuple[int, int | None], int] = {group: n * most // total for group, n in sorted_items(counts)}
    rest = sorted(whole, key=lambda group: -(counts[group] * most % total))
    for group in rest[: most - sum(whole.values())]:
        whole[group] += 1
    return {group: n for group, n in whole.items() if n}


# --- records ---------------------------------------------------------------------------------------------------------


def _record(request: AuditRequest, store: Store, progress: Progress | None) -> AuditSubject:
    assert request.record is not None
    record = read_record(request.record)
    _check_record(request, record, store)
    task = record.task
    wanted = replace(request, task=task.name, level=task.level, seed=record.seed, recipe=task.recipe)
    cell = resolve_cell(_cell_request(wanted, "record"), progress)
    if cell.manifest.digest != task.split_digest:
        raise DataError(
            f"record {record.run_id} was made on another split of {task.name} than the data here give "
            f"({task.split_digest[:_SHORT]}, here {cell.manifest.digest[:_SHORT]}); see genbias-bench data verify"
        )
    name = f"{record.method.name} {record.run_id}"
    return AuditSubject("record", name, cell, sum(pool.kept for pool in record.pools), record=record)


def _check_record(request: AuditRequest, record: Record, store: Store) -> None:
    task, run = record.task, record.run_id
    own = f"{task.name}@{task.version}"
    if request.task is not None and request.task not in (task.name, own):
        raise InvalidValue(f"record {run} is of task {own}, not of {request.task}; leave --task out")
    card = load_task(task.name).card
    if card.id != own:
        raise DataError(f"record {run} is of {own}, this version has {card.id}")
    if request.level is not None and card.check_level(request.level) != task.level:
        raise InvalidValue(f"record {run} is of bias level {task.level}, not {request.level}; leave --bias-level out")
    if request.recipe is not None and request.recipe != task.recipe:
        raise InvalidValue(f"record {run} is of recipe {task.recipe}, not {request.recipe}; leave --recipe out")
    if not record.pools:
        raise InvalidValue(
            f"record {run} of {record.method.name} used no generated images, so there is nothing to audit"
        )
    missing = [p.pool_id for p in record.pools if not (store.root / "pools" / p.pool_id / RECIPE).is_file()]
    if missing:
        raise NotAvailable(
            f"pool {missing[0][:_SHORT]} of record {run} is not in the store {store.root}; run the cell again with "
            f"this store (evaluate --method {record.method.name} --task {task.name} --bias-level {task.level} --seed "
            f"{record.seed} --force), or name the store that it was made with by --store"
        )
