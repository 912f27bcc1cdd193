"""The hypotheses of the official grid: hypotheses.toml as models, and the table that docs/hypotheses.md shows of it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from benchmark.errors import DamagedFile
from benchmark.tasks.card import DEFAULT_RECIPE
from leaderboard.findings.markup import table

HYPOTHESES_FILE = Path(__file__).resolve().parents[1] / "hypotheses.toml"

Kind = Literal["difference", "slope", "slope-difference", "aligned-share", "rank-correlation"]
Direction = Literal["greater", "less", "none"]
Part = TypeVar("Part", bound=BaseModel)

_SEEDS = re.compile(r"(\d{1,4})-(\d{1,4})")
_NEEDED: dict[Kind, tuple[str, ...]] = {
    "difference": ("first", "second"),
    "slope": ("first", "metric"),
    "slope-difference": ("first", "second", "metric"),
    "aligned-share": ("first",),
    "rank-correlation": ("probe",),
}
_SHOWN_DIRECTION: dict[Direction, str] = {"greater": "> 0", "less": "< 0", "none": "0"}
_HEADERS = ("id", "task, level, seeds", "quantity", "expected by the claim", "claim", "primary", "runs")


def _seeds(value: object) -> object:
    """Turn ``"5-9"`` into the seeds 5 to 9."""
    match = _SEEDS.fullmatch(value) if isinstance(value, str) else None
    return value if match is None else tuple(range(int(match[1]), int(match[2]) + 1))


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class RowSpec(_Strict):
    """A row: a method with what differs from its defaults."""

    method: str
    changed: dict[str, Any] = Field(default={}, alias="set")

    @property
    def text(self) -> str:
        """The row in Markdown."""
        changed = ", ".join(
            f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in self.changed.items()
        )
        return f"`{self.method}`" + (f" ({changed})" if changed else "")


class Hypothesis(_Strict):
    """One hypothesis; the head of hypotheses.toml says what its fields mean."""

    id: str
    claim: str
    kind: Kind
    task: str
    recipe: str = DEFAULT_RECIPE
    level: str
    seeds: Annotated[tuple[int, ...], BeforeValidator(_seeds)] = Field(min_length=1)
    first: RowSpec | None = None
    second: RowSpec | None = None
    metric: str | None = None
    probe: Literal["a", "g", "ag"] | None = None
    expected: Direction
    primary: bool
    new: bool

    @model_validator(mode="after")
    def _complete(self) -> Hypothesis:
        for name in _NEEDED[self.kind]:
            if getattr(self, name) is None:
                raise ValueError(f"hypothesis {self.id}, a {self.kind}, needs {name}")
        return self

    @property
    def rows(self) -> tuple[RowSpec, ...]:
        """The rows that it is about."""
        return tuple(row for row in (self.first, self.second) if row is not None)

    @property
    def quantity(self) -> str:
        """What is estimated, in Markdown."""
        rows = " − ".join(row.text for row in self.rows)
        if self.kind == "difference":
            return rows if self.metric is None else f"{rows}, `{self.metric}`"
        if self.kind == "aligned-share":
            return f"aligned share beyond what was asked, {rows}"
        if self.kind == "rank-correlation":
            probed = ", ".join(str(self.probe).upper())
            return f"rank correlation of the ({probed}) probe and the ranking metric"
        return f"slope of `{self.metric}`, {rows}"

    @property
    def place(self) -> str:
        """Task, level and seeds in Markdown."""
        return f"`{self.task}` {self.level}, {span_of(self.seeds)}"


class Hypotheses(_Strict):
    """The content of hypotheses.toml."""

    format_version: Literal[1]
    written_at_release: int
    hypothesis: tuple[Hypothesis, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _told_apart(self) -> Hypotheses:
        names = [each.id for each in self.hypothesis]
        if len(set(names)) < len(names):
            raise ValueError("two hypotheses have the same id")
        return self


def read_hypotheses(file: Path = HYPOTHESES_FILE) -> Hypotheses:
    """Read the hypotheses.

    Raises:
        DamagedFile: When the file is missing or wrong.
    """
    return read_toml(file, Hypotheses)


def read_toml(file: Path, model: type[Part]) -> Part:
    """Read a TOML file into a model.

    Raises:
        DamagedFile: When it is missing or does not fit.
    """
    try:
        return model.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise DamagedFile(f"{file} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise DamagedFile(f"{file}: {where}: {first['msg']}") from error


def hypotheses_table(hypotheses: Hypotheses) -> str:
    """Return the table of docs/hypotheses.md."""
    return table(
        _HEADERS,
        [
            [
                each.id,
                each.place,
                each.quantity,
                _SHOWN_DIRECTION[each.expected],
                each.claim,
                "yes" if each.primary else "no",
                "new" if each.new else "seen",
            ]
            for each in hypotheses.hypothesis
        ],
    )


def span_of(seeds: tuple[int, ...]) -> str:
    """Return seeds in words: a range where they follow each other."""
    if len(seeds) > 1 and seeds == tuple(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}–{seeds[-1]}"
    return ", ".join(map(str, seeds))
