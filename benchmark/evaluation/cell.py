"""Resolving what was asked for into one cell of the grid, with its identity; imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast, get_args

from benchmark.contract.budget import Budget
from benchmark.contract.method import Hparams, Method
from benchmark.contract.registry import load_method, resolve_hparams
from benchmark.contract.space import SEED
from benchmark.contract.tracks import SelectionRule, Track
from benchmark.errors import GenBiasError, InvalidValue
from benchmark.generators.clip_identity import ClipIdentity, resolve_clip
from benchmark.generators.identity import GeneratorIdentity, resolve_generator
from benchmark.generators.sampling import sampling_of
from benchmark.progress import Progress, Silent
from benchmark.records.canonical import sha256_of
from benchmark.records.schema import SCHEMA_MAJOR, Cell, TuningUse
from benchmark.tasks.block import GeneratorDefault, TrainingRecipe
from benchmark.tasks.card import DEFAULT_RECIPE, DataCard
from benchmark.tasks.catalog import DEFAULT_TASK, load_task
from benchmark.tasks.law import DRAWS
from benchmark.tasks.manifest import TRAIN, Manifest
from benchmark.tasks.task import Task
from benchmark.training.specs import backbone_spec, named_weights, weights_identity

CLIP = "clip"
"""The value of a hyper-parameter that asks for an external CLIP model."""

MAX_SEED = 2**31 - 1

Found = TypeVar("Found")


@dataclass(frozen=True)
class Configuration:
    """What a tuning study tries, or has chosen.

    Attributes:
        study: SHA-256 of what defines the study; of a chosen configuration, of its finished content.
        method: Name and version of the method that it is for.
        task: Name and version of the task.
        recipe: Name of the card's recipe.
        generator: Identity of the generator; None without one.
        hparams: Values of hyper-parameters.
        training: Values of the recipe's settings that every method may tune.
        criterion: What is judged on the validation split.
        trial: Number of the trial.
        chosen: What the record of a run says about the study; None: the run is the trial itself.
    """

    study: str
    method: str
    task: str
    recipe: str
    generator: Mapping[str, Any] | None
    hparams: Mapping[str, Any]
    training: Mapping[str, float]
    criterion: SelectionRule
    trial: int
    chosen: TuningUse | None = None


@dataclass(frozen=True)
class Request:
    """What a user asks for: one method on one task at one level with one seed.

    Attributes:
        recipe: Name of one of the card's training recipes; None takes the default.
        backbone_weights: ``none``, ``imagenet`` or torchvision's name; None takes the recipe's.
        clip: Folder or Hub id of a CLIP model, for methods whose hyper-parameters ask for one.
        sampling: Changes of how the generator is sampled: ``scheduler``, ``steps``, ``guidance``, ``batch_size``.
        configuration: Of a trial of a tuning study, or of a tuned run; nothing else is configured then.
    """

    method: str
    task: str = DEFAULT_TASK
    level: str | None = None
    seed: int = 0
    generator: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    offline: bool = False
    recipe: str | None = None
    backbone_weights: str | None = None
    clip: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    configuration: Configuration | None = None

    @property
    def is_trial(self) -> bool:
        """Whether it is a trial of a tuning study, which is judged on the validation split and never ranked."""
        return self.configuration is not None and self.configuration.chosen is None


@dataclass(frozen=True)
class ResolvedCell:
    """A request with everything looked up.

    Attributes:
        recipe: The training recipe, with the backbone weights that were asked for.
        image_size: Height and width of its images in pixels.
        budget: What the method may spend.
        generator: The generator's identity, or None for a method that uses none.
        sampling: How the generator is sampled.
        clip: The CLIP model's identity, or None.
        cell: What identifies the run.
        cell_id: SHA-256 of it.
    """

    request: Request
    task: Task
    manifest: Manifest
    method: Method
    hparams: Hparams
    track: Track
    recipe: TrainingRecipe
    image_size: int
    budget: Budget
    generator: GeneratorIdentity | None
    sampling: GeneratorDefault
    clip: ClipIdentity | None
    cell: Cell
    cell_id: str

    @property
    def card(self) -> DataCard:
        """The task's card."""
        return self.task.card


class Lookups:
    """What many cells have in common, looked up once for all of them; also what was not to be found."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], object] = {}

    def once(self, key: tuple[object, ...], look: Callable[[], Found]) -> Found:
        """Return what ``look()`` returned when this key was first asked for, or raise what it raised."""
        if key not in self._found:
            try:
                self._found[key] = look()
            except GenBiasError as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, GenBiasError):
            raise found.with_traceback(None)
        return cast("Found", found)


def resolve_cell(
    request: Request, progress: Progress | None = None, *, prepare: bool = True, known: Lookups | None = None
) -> ResolvedCell:
    """Look everything up, prepare the task's data where that has not been done, and compute the identity.

    Args:
        request: What is asked for.
        progress: Where to say how far preparing is.
        prepare: Prepare the task's data where needed; without, data that were never prepared are an error.
        known: What was looked up for other cells of one plan.

    Raises:
        UsageError: For unknown names, levels, hyper-parameters, a negative seed, or a CLIP model that is missing or has
            no use.
        DataError: When the task's data are not at hand.
        GeneratorError: When the generator cannot be identified.
    """
    known = known or Lookups()
    if not 0 <= request.seed <= MAX_SEED:
        raise InvalidValue(f"seed {request.seed} must lie in 0..{MAX_SEED}")
    method = load_method(request.method)
    task = load_task(request.task)
    level = task.card.check_level(request.level)
    tuned = request.configuration
    hparams = resolve_hparams(method, dict(tuned.hparams if tuned else request.overrides), task.card.task.tier)
    uses_generator = method.card.generator_for(hparams)
    if request.generator is not None and not uses_generator:
        raise InvalidValue(
            f"method {method.card.name!r} asks no text-to-image generator for images here, so --generator "
            f"{request.generator} has no use"
        )
    check_clip(request, hparams)
    generator = None
    if uses_generator:
        name = request.generator or task.card.task.generator.name
        generator = known.once(
            ("generator", name, request.offline), lambda: resolve_generator(name, offline=request.offline)
        )
    if tuned is not None:
        _check_configuration(request, tuned, method, task.card, generator)
    clip = None if request.clip is None else resolve_clip(request.clip, offline=request.offline)
    recipe = task.card.recipe(request.recipe)
    weights = named_weights(request.backbone_weights, recipe.backbone_weights)
    recipe = recipe.model_copy(update={"backbone_weights": weights, **(tuned.training if tuned else {})})
    spec = backbone_spec(recipe.backbone, task.n_classes, weights)
    identity = known.once(("weights", *spec.values()), lambda: weights_identity(spec))
    image_size = task.card.image_size(recipe)
    if prepare:
        task.make_ready(image_size, progress or Silent())
    draw = request.seed % len(DRAWS)
    manifest = task.manifest(level, draw)
    budget = known.once(
        ("budget", task.card.id, manifest.digest, recipe.steps),
        lambda: Budget.of(
            manifest.counts(TRAIN),
            per_real=task.card.task.synthetic.per_real,
            steps=recipe.steps,
            allowed=task.card.allowed_groups(),
        ),
    )
    if method.card.rounds is not None:
        budget = budget.for_process(images=int(manifest.counts(TRAIN).sum()), rounds=method.card.rounds(hparams))
    default = task.card.task.generator
    sampling = sampling_of(default.name if generator is None else generator.name, default, request.sampling)
    settings = sampling.model_dump(exclude={"name"} if "batch_size" in request.sampling else {"name", "batch_size"})
    cell = Cell(
        task=task.card.id,
        split_digest=manifest.digest,
        level=level,
        draw=draw,
        seed=request.seed,
        method=f"{request.method}@{method.card.version}",
        hparams=hparams.model_dump(mode="json"),
        generator=None if generator is None else {**generator.as_record(), **settings},
        backbone=recipe.backbone,
        backbone_weights=identity,
        training=recipe.model_dump(mode="json"),
        budget={"synthetic": budget.synthetic, "sampled": budget.sampled, "steps": budget.steps},
        schema_major=SCHEMA_MAJOR,
        # Left out where there is none: cells keep the identity that they had before there was any.
        **({} if clip is None else {"clip": clip.as_record()}),
        **({} if tuned is None else {"tuning": tuned.study}),
    )
    return ResolvedCell(
        request=request,
        task=task,
        manifest=manifest,
        method=method,
        hparams=hparams,
        track=method.card.track_of(hparams),
        recipe=recipe,
        image_size=image_size,
        budget=budget,
        generator=generator,
        sampling=sampling,
        clip=clip,
        cell=cell,
        cell_id=sha256_of(cell.model_dump(mode="json")),
    )


def _check_configuration(
    request: Request, tuned: Configuration, method: Method, card: DataCard, generator: GeneratorIdentity | None
) -> None:
    """Refuse a tuned configuration for anything but what it was tuned on: only level and seed are free."""
    asked = {
        "method": f"{request.method}@{method.card.version}",
        "task": card.id,
        "recipe": request.recipe or DEFAULT_RECIPE,
        "generator": None if generator is None else generator.as_record(),
    }
    for name, value in asked.items():
        if value != (known := getattr(tuned, name)):
            said = [each["name"] if isinstance(each, Mapping) else each for each in (known, value)]
            if said[0] == said[1]:  # a generator of the same name
                said = ["of another content", "this one"]
            raise InvalidValue(f"the study tuned {name} {said[0]}, not {said[1]}; tune that, or name what was tuned")
    further = {"--set": request.overrides, "--sampling": request.sampling, "--clip": request.clip}
    for option, given in (further | {"--backbone-weights": request.backbone_weights}).items():
        if given:
            raise InvalidValue(f"{option} contradicts a tuned configuration, which was tuned without it")
    if not request.is_trial and request.seed == SEED:
        raise InvalidValue(f"seed {SEED} is that of the study's trials; a tuned row needs fresh seeds, such as 0-4")


def check_clip(request: Request, hparams: Hparams) -> None:
    """Refuse hyper-parameters that ask for CLIP where none is named, and a CLIP that none of them asks for."""
    asking = [name for name, value in hparams.model_dump().items() if value == CLIP]
    if asking and request.clip is None:
        raise InvalidValue(
            f"{request.method}: {asking[0]}={CLIP} needs a CLIP model; add --clip MODEL (a folder or Hub id)"
        )
    if request.clip is not None and not asking:
        fields = type(hparams).model_fields.items()
        can = [f"--set {name}={CLIP}" for name, info in fields if CLIP in get_args(info.annotation)]
        advice = f"; add {' or '.join(can)}" if can else ""
        raise InvalidValue(
            f"no hyper-parameter of {request.method} asks for CLIP, so --clip {request.clip} has no use{advice}"
        )
