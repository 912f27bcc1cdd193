"""What metrics are computed from, and what they return; every module of the package uses these types."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import InvalidValue

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

CONFIDENCE = 0.95
"""Level of every interval (protocol section 7)."""


@dataclass(frozen=True, eq=False)
class TestLabels:
    """The labels of a test split and what its card declares about them.

    Attributes:
        y: Labels, integers [n].
        a: Bias attributes, integers [n].
        unit: Resampling unit of each row, integers [n]: the digit in crossed tests, the identity, or the image.
        n_classes: Number of labels.
        n_attributes: Number of attribute values.
        aligned: bool [n_classes, n_attributes]; True where the pair is bias-aligned.
        comparable: Families of attribute values that may be compared; one family of all when empty.
        class_family: For each class the index of its family; the first family when empty.
        crossed: Each unit appears once with every attribute value, always with the same label.
        bias_kind: ``spurious``, or ``subpopulation`` where the attribute is nested in the label or says nothing of it.
        positive_class: The positive class of a binary task; None treats every class one-vs-rest.
        ranking_metric: Name of the metric that ranks methods of the task.
    """

    __test__: ClassVar[bool] = False

    y: IntArray
    a: IntArray
    unit: IntArray
    n_classes: int
    n_attributes: int
    aligned: BoolArray
    comparable: tuple[tuple[int, ...], ...] = ()
    class_family: tuple[int, ...] = ()
    crossed: bool = False
    bias_kind: Literal["spurious", "subpopulation"] = "spurious"
    positive_class: int | None = None
    ranking_metric: str = "acc_worst_group"

    def __post_init__(self) -> None:
        """Bring columns to int64, fill in the defaults, and refuse labels that contradict each other."""
        for name in ("y", "a", "unit"):
            object.__setattr__(self, name, np.asarray(getattr(self, name)).astype(np.int64, copy=False))
        object.__setattr__(self, "aligned", np.asarray(self.aligned, dtype=np.bool_))
        object.__setattr__(self, "comparable", self.comparable or (tuple(range(self.n_attributes)),))
        object.__setattr__(self, "class_family", self.class_family or (0,) * self.n_classes)
        self._check_columns()
        self._check_declarations()
        if self.crossed:
            self._check_crossed()

    def _check_columns(self) -> None:
        if not len(self.y) or {self.y.shape, self.a.shape, self.unit.shape} != {(len(self.y),)}:
            raise InvalidValue(
                f"y, a and unit must be equally long, with rows; got {self.y.shape}, {self.a.shape}, {self.unit.shape}"
            )
        for name, column, size in (("y", self.y, self.n_classes), ("a", self.a, self.n_attributes)):
            if column.min() < 0 or column.max() >= size:
                raise InvalidValue(
                    f"test labels: {name} spans {column.min()}..{column.max()}, allowed are 0..{size - 1}"
                )

    def _check_declarations(self) -> None:
        if self.aligned.shape != (self.n_classes, self.n_attributes):
            raise InvalidValue(
                f"`aligned` has shape {self.aligned.shape}, expected {(self.n_classes, self.n_attributes)}"
            )
        values = [value for family in self.comparable for value in family]
        if len(set(values)) != len(values) or not set(values) <= set(range(self.n_attributes)):
            raise InvalidValue(f"`comparable` must name attribute values at most once each; got {self.comparable}")
        if len(self.class_family) != self.n_classes or not set(self.class_family) <= set(range(len(self.comparable))):
            raise InvalidValue(
                f"`class_family` must give each of {self.n_classes} classes one of {len(self.comparable)} families"
            )
        if self.bias_kind not in ("spurious", "subpopulation"):
            raise InvalidValue(f"bias_kind {self.bias_kind!r} is neither 'spurious' nor 'subpopulation'")
        if self.positive_class is not None and not 0 <= self.positive_class < self.n_classes:
            raise InvalidValue(f"positive_class {self.positive_class} is none of the {self.n_classes} classes")

    def _check_crossed(self) -> None:
        order = np.lexsort((self.a, self.unit))
        whole = len(self.y) % self.n_attributes == 0
        if whole:
            a, y, unit = (column[order].reshape(-1, self.n_attributes) for column in (self.a, self.y, self.unit))
            whole = bool(
                (a == np.arange(self.n_attributes)).all() and (y == y[:, :1]).all() and (unit == unit[:, :1]).all()
            )
        if not whole:
            raise InvalidValue(
                "a crossed test needs every unit exactly once with each attribute value, under one label"
            )

    def __len__(self) -> int:
        return len(self.y)

    @property
    def group(self) -> IntArray:
        """Index ``y * n_attributes + a`` of each row's group, int64 [n]."""
        return self.y * self.n_attributes + self.a

    @property
    def comparable_pairs(self) -> BoolArray:
        """True where an attribute value belongs to the family of a class, bool [n_classes, n_attributes]."""
        table = np.zeros((self.n_classes, self.n_attributes), dtype=np.bool_)
        for y, family in enumerate(self.class_family):
            table[y, list(self.comparable[family])] = True
        return table


@dataclass(frozen=True, eq=False)
class Predictions:
    """Answers of one checkpoint, in the order of the test rows.

    Attributes:
        label: Arg-max taken before any rounding, unsigned integers [n].
        top_probability: Its probability, float16 [n].
    """

    label: NDArray[np.integer]
    top_probability: NDArray[np.floating]

    def checked(self, test: TestLabels) -> Predictions:
        """Return itself when it answers every row of the test with one of its classes.

        Raises:
            InvalidValue: When lengths differ, a label is no class, or a probability is none.
        """
        if self.label.shape != test.y.shape or self.top_probability.shape != test.y.shape:
            raise InvalidValue(
                f"predictions have shapes {self.label.shape} and {self.top_probability.shape}; "
                f"the test split has {len(test)} rows"
            )
        if self.label.min() < 0 or self.label.max() >= test.n_classes:
            raise InvalidValue(
                f"predicted labels span {self.label.min()}..{self.label.max()}; the task has {test.n_classes} classes"
            )
        # Written so that NaN fails too.
        if not bool(((self.top_probability >= 0) & (self.top_probability <= 1)).all()):
            raise InvalidValue("top probabilities must lie in [0, 1]")
        return self


@dataclass(frozen=True)
class Metric:
    """A number with its 95 % interval from test sampling; None with a reason where it is undefined.

    Attributes:
        value: The metric.
        low: Lower end of the interval, None where there is none.
        high: Upper end of the interval, None where there is none.
        interval: How the interval was made: ``cluster-bootstrap``, ``sidak-propagated``, ``bootstrap-band``,
            ``exact``, ``t`` or ``none``.
        reason: Why the value, or the interval, is None.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    interval: str = "none"
    reason: str | None = None

    def __post_init__(self) -> None:
        """Refuse NaN, infinities, half an interval, and nulls without a reason."""
        for number in (self.value, self.low, self.high):
            if number is not None and not math.isfinite(number):
                raise InvalidValue(f"a metric may not be {number}; undefined is None with a reason")
        if self.value is None and not self.reason:
            raise InvalidValue("a metric without a value needs a reason")
        if (self.low is None) != (self.high is None) or (self.low is None) != (self.interval == "none"):
            raise InvalidValue(f"interval {self.interval!r} with ends {self.low} and {self.high}")

    @classmethod
    def undefined(cls, reason: str) -> Metric:
        """Return a metric without a value."""
        return cls(None, reason=reason)


@dataclass(frozen=True)
class GroupResult:
    """One group of the test split.

    Attributes:
        y: Label.
        a: Attribute.
        n: Test rows.
        correct: Right answers among them.
        accuracy: Their share; None in an empty group.
        low: Lower end of the simultaneous 95 % interval over all populated groups; None in an empty group.
        high: Upper end of that interval.
    """

    y: int
    a: int
    n: int
    correct: int
    accuracy: float | None
    low: float | None
    high: float | None
