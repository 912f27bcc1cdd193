"""What a method receives: image sets of the training and validation splits, with guarded group labels.

The test split is in none of these objects. In process the guards protect against mistakes; a ranked run calls ``fit``
in a process whose data folder holds no test split.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from benchmark.contract.tracks import Track
from benchmark.errors import InvalidValue, UndeclaredGroupLabels
from benchmark.tasks.lazy import Images, blocks, concatenated

NO_ATTRIBUTE = -1


@dataclass(frozen=True)
class GroupNames:
    """The names of labels and attribute values, in index order: public knowledge, not group labels."""

    labels: tuple[str, ...]
    attributes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of classes and of attribute values."""
        return len(self.labels), len(self.attributes)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with their labels; immutable.

    Attributes:
        images: uint8 [n, height, width, 3]: an array, or for large data sets an object that is indexed like one and
            reads images when they are asked for (``np.asarray`` reads all of them).
        y: Labels, int64 [n].
        synthetic: Whether each image is generated, bool [n].
        names: Names of labels and attribute values.
        needs: The track that a method must declare to read the attributes of these images; ``none`` for
            generated images, whose attribute is what the method itself asked for.
        granted: The track that the running method declared.
    """

    images: Images
    y: NDArray[np.int64]
    synthetic: NDArray[np.bool_]
    names: GroupNames
    needs: Track
    granted: Track
    _attributes: NDArray[np.int64] = field(repr=False)

    def __post_init__(self) -> None:
        """Freeze the arrays and check their shapes."""
        n = len(self.images)
        if self.images.ndim != 4 or self.images.shape[-1] != 3 or self.images.dtype != np.uint8:
            raise InvalidValue(f"images must be uint8 [n, h, w, 3], not {self.images.dtype} {self.images.shape}")
        if not n == len(self.y) == len(self.synthetic) == len(self._attributes):
            raise InvalidValue("images, labels and attributes have different lengths")
        for array in (self.images, self.y, self.synthetic, self._attributes):
            if isinstance(array, np.ndarray):
                array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def a(self) -> NDArray[np.int64]:
        """Attributes, int64 [n]; -1 where a generated image was asked for by class alone.

        Raises:
            UndeclaredGroupLabels: When the method's card does not declare that it uses them.
        """
        if not self.granted.covers(self.needs):
            raise UndeclaredGroupLabels(
                f"the method reads group labels of the {'training' if self.needs is Track.TRAIN else 'validation'} "
                f"split but its card declares track {self.granted.value!r}; declare track={self.needs.value!r}"
            )
        return self._attributes

    @property
    def group_counts(self) -> NDArray[np.int64]:
        """Number of images per group, int64 [classes, attributes]; guarded like :attr:`a`."""
        table = np.zeros(self.names.shape, dtype=np.int64)
        known = self.a != NO_ATTRIBUTE
        np.add.at(table, (self.y[known], self.a[known]), 1)
        return table

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """Number of images per class, int64 [classes]."""
        return np.bincount(self.y, minlength=len(self.names.labels)).astype(np.int64)

    def take(self, indices: NDArray[np.int64] | Sequence[int]) -> ImageSet:
        """Return the chosen images, in the order given; an index may stand several times.

        Raises:
            InvalidValue: For a mask or fractions: read as positions they would silently choose other images.
        """
        positions = np.asarray(indices)
        if positions.size and positions.dtype.kind not in "iu":
            raise InvalidValue(f"take() wants positions, not {positions.dtype}; for a mask use np.flatnonzero(mask)")
        chosen = positions.astype(np.int64)
        return replace(
            self,
            images=self.images[chosen] if isinstance(self.images, np.ndarray) else self.images.take(chosen),
            y=self.y[chosen],
            synthetic=self.synthetic[chosen],
            _attributes=self._attributes[chosen],
        )

    def with_images(self, images: Images) -> ImageSet:
        """Return the same labels with other pixels, such as augmented copies."""
        return replace(self, images=images)

    def relabelled(self, y: NDArray[np.int64]) -> ImageSet:
        """Return the same images with other labels, such as a classifier's answers to generated images."""
        labels = np.array(y, dtype=np.int64)
        if labels.shape != self.y.shape or (
            len(labels) and not 0 <= labels.min() <= labels.max() < self.names.shape[0]
        ):
            raise InvalidValue(f"{labels.shape} labels do not fit {len(self)} images of {self.names.shape[0]} classes")
        return replace(self, y=labels)

    def __add__(self, other: ImageSet) -> ImageSet:
        """Mix two sets; the mixture needs the more restrictive track of the two."""
        if self.names != other.names:
            raise InvalidValue("image sets of different tasks cannot be mixed")
        return ImageSet(
            images=concatenated(self.images, other.images),
            y=np.concatenate([self.y, other.y]),
            synthetic=np.concatenate([self.synthetic, other.synthetic]),
            names=self.names,
            needs=max(self.needs, other.needs, key=lambda track: track.rank),
            granted=self.granted,
            _attributes=np.concatenate([self._attributes, other._attributes]),
        )

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over pixels, labels and attributes: the identity under which training on it is remembered."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        for _, block in blocks(self.images):
            digest.update(np.ascontiguousarray(block).data)
        for array in (self.y, self.synthetic, self._attributes):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class MethodData:
    """Everything that ``fit`` is given: the biased training split and the validation split. Never the test split."""

    train: ImageSet
    validation: ImageSet

    @property
    def names(self) -> GroupNames:
        """Names of labels and attribute values."""
        return self.train.names


def attributes_for_measurement(images: ImageSet) -> NDArray[np.int64]:
    """Return the attributes without the guard: for the harness's own losses, selection and records, never a method."""
    return images._attributes
