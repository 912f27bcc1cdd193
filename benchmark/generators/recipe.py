"""The recipe of a synthetic pool: everything that changes its images, and the identities that follow (torch-free).

A pool's id is the hash of its recipe without any count, so every method, level and seed with the same recipe shares
one pool, and image i of a group is the same image in all of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from benchmark.errors import DamagedFile, GeneratorError, InvalidValue, UnknownName
from benchmark.records.canonical import derive_seed, sha256_of

NATIVE = "native"
SCHEDULERS = (NATIVE, "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DDIMScheduler")
RESIZE_FILTERS = ("lanczos", "bicubic", "bilinear", "box")
PRECISIONS = ("float32", "bfloat16")
DEVICE_KINDS = ("cpu", "cuda")
NO_ATTRIBUTE = -1

_LAW = 1
"""Version of the law by which seeds, rounding and batches follow from a recipe; part of every pool's id."""


class GroupKey(NamedTuple):
    """A group as pools see it; equal to the plain pair ``(y, a)`` that plans use.

    Attributes:
        y: Label.
        a: Attribute value; None where images are asked for by class alone.
    """

    y: int
    a: int | None

    @property
    def attribute(self) -> int:
        """The attribute as arrays hold it: -1 for None."""
        return NO_ATTRIBUTE if self.a is None else self.a

    @property
    def order(self) -> tuple[int, int]:
        """Sorting key: by label, then attribute, class-only first."""
        return self.y, self.attribute

    def __str__(self) -> str:
        return f"(y={self.y}, a={'any' if self.a is None else self.a})"


def sorted_groups(groups: Mapping[Any, Any]) -> list[GroupKey]:
    """Return the groups of a mapping in their one order."""
    return sorted((GroupKey(y, a) for y, a in groups), key=lambda group: group.order)


def sorted_items(groups: Mapping[Any, Any]) -> list[tuple[GroupKey, Any]]:
    """Return the items of a mapping in the one order of its groups."""
    return [(group, groups[group]) for group in sorted_groups(groups)]


@dataclass(frozen=True)
class PoolRecipe:
    """Everything that changes a pool's images, except how many there are.

    Attributes:
        task: Task with version, such as ``colorized-digits@1``.
        generator: ``GeneratorIdentity.as_record()``.
        prompts: Prompt of each group ``(y, a)``; ``a`` is None for class-only prompts.
        negative_prompt: What to steer away from; may be empty.
        scheduler: One of :data:`SCHEDULERS`; ``native`` is the one saved with the generator.
        steps: Denoising steps.
        guidance: Classifier-free guidance scale; 1 or less is none.
        image_size: Height and width of the finished images in pixels.
        batch_size: Images per forward pass. Every pass has exactly this shape, because the last bits of an image
            depend on it (a batch of 1 and one of 2 differ on a CPU).
        resize: Pillow's filter where the generator's own size differs; one of :data:`RESIZE_FILTERS`.
        precision: One of :data:`PRECISIONS`.
        device_kind: One of :data:`DEVICE_KINDS`.
        adapters: SHA-256 of the fine-tuned weights that make a group's images in turn (image ``i`` takes entry ``i``
            modulo their number); None, or a group that is not named, is the generator as it is.
        generation: Generation in a self-consuming loop; 0 outside.
        oracle: Whether an auditor took part in making the images.
    """

    task: str
    generator: Mapping[str, str | None]
    prompts: Mapping[tuple[int, int | None], str]
    negative_prompt: str
    scheduler: str
    steps: int
    guidance: float
    image_size: int
    batch_size: int
    resize: str = "lanczos"
    precision: str = "float32"
    device_kind: str = "cpu"
    adapters: Mapping[tuple[int, int | None], tuple[str | None, ...]] = field(default_factory=dict)
    generation: int = 0
    oracle: bool = False

    def __post_init__(self) -> None:
        """Copy the mappings, in order, and refuse what cannot be sampled."""
        prompts = {group: self.prompts[group] for group in sorted_groups(self.prompts)}
        object.__setattr__(self, "prompts", prompts)
        adapters = {group: tuple(self.adapters[group]) for group in sorted_groups(self.adapters)}
        object.__setattr__(self, "adapters", {group: cycle for group, cycle in adapters.items() if any(cycle)})
        object.__setattr__(self, "generator", dict(self.generator))
        object.__setattr__(self, "guidance", float(self.guidance))
        for kind, value, known in (
            ("scheduler", self.scheduler, SCHEDULERS),
            ("resize filter", self.resize, RESIZE_FILTERS),
            ("precision", self.precision, PRECISIONS),
            ("device kind", self.device_kind, DEVICE_KINDS),
        ):
            if value not in known:
                raise UnknownName(kind, value, known)
        for name in ("steps", "image_size", "batch_size"):
            if getattr(self, name) < 1:
                raise InvalidValue(f"{name} must be at least 1, not {getattr(self, name)}")
        if not (math.isfinite(self.guidance) and self.guidance >= 0) or self.generation < 0:
            raise InvalidValue(f"guidance {self.guidance} and generation {self.generation} must be finite and >= 0")
        if not prompts:
            raise InvalidValue(f"the recipe of a pool of {self.task} needs at least one prompt")
        for group, prompt in prompts.items():
            if group.y < 0 or group.attribute < NO_ATTRIBUTE or not prompt.strip():
                raise InvalidValue(f"group {group} has the prompt {prompt!r}; indices are >= 0 and prompts not empty")
        if strangers := sorted_groups({group: None for group in self.adapters if group not in prompts}):
            raise InvalidValue(f"group {strangers[0]} has an adapter but no prompt")

    @property
    def groups(self) -> list[GroupKey]:
        """The groups that the pool can hold, in order."""
        return sorted_groups(self.prompts)

    @property
    def bytes_per_image(self) -> int:
        """Size of one finished image in memory."""
        return self.image_size * self.image_size * 3

    @property
    def generator_version(self) -> str | None:
        """The generator's commit, or ``sha256:`` with the hash of its content."""
        content = self.generator.get("content_sha256")
        return self.generator.get("revision") or (f"sha256:{content}" if content else None)

    def as_record(self) -> dict[str, Any]:
        """Return the recipe as JSON; `from_record` reads it back."""
        record: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "adapters"}
        record["generator"] = dict(self.generator)
        # A pool without adapters keeps the identity that it had before there were any.
        record["adapter"] = [[g.y, g.a, list(cycle)] for g, cycle in sorted_items(self.adapters)] or None
        record["prompts"] = [[group.y, group.a, self.prompts[group]] for group in self.groups]
        record["law"] = _LAW
        return record

    @classmethod
    def from_record(cls, record: Any) -> PoolRecipe:
        """Read a recipe back.

        Raises:
            DamagedFile: When it is not one, or one of another version of the sampling law.
        """
        try:
            values = dict(record)
            if values.pop("law") != _LAW:
                raise ValueError("it follows another version of the sampling law")
            values["prompts"] = {GroupKey(y, a): prompt for y, a, prompt in values["prompts"]}
            values["adapters"] = {GroupKey(y, a): tuple(cycle) for y, a, cycle in values.pop("adapter") or ()}
            return cls(**values)
        except (TypeError, ValueError, KeyError, AttributeError, InvalidValue, UnknownName) as error:
            raise DamagedFile(f"this is no recipe of a pool: {error}") from error

    @functools.cached_property
    def pool_id(self) -> str:
        """SHA-256 of the recipe."""
        return sha256_of(self.as_record())

    def seed(self, group: GroupKey, index: int) -> int:
        """Return the seed of image ``index`` of a group, below 2**63."""
        return derive_seed(pool=self.pool_id, y=group.y, a=group.attribute, index=index)

    def adapter(self, group: GroupKey, index: int) -> str | None:
        """Return the fine-tuned weights that make image ``index`` of a group; None is the generator as it is."""
        cycle = self.adapters.get(group)
        return cycle[index % len(cycle)] if cycle else None

    def check_made_by(self, conditions: Mapping[str, Any]) -> None:
        """Refuse a sampler that was loaded under other conditions than the recipe names.

        Args:
            conditions: What the sampler says of itself; keys are attributes of the recipe.

        Raises:
            GeneratorError: When a value differs.
        """
        for name, value in conditions.items():
            if getattr(self, name) != value:
                raise GeneratorError(
                    f"the loaded generator has {name} {value!r}, the recipe of the pool says {getattr(self, name)!r}"
                )
