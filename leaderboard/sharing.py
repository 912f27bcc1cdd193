"""One instance of what many records have in common, so that thousands of them fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from benchmark.records.schema import Record

_PARTS = ("task", "environment", "isolation", "budget")
"""Parts that are equal in many records: one split's, one machine's, one protocol's."""


class Common:
    """What records have in common so far."""

    def __init__(self) -> None:
        self._parts: dict[Any, Any] = {}
        self._fields: dict[type, set[str]] = {}

    def record(self, record: Record) -> Record:
        """Return an equal record that shares parts with earlier ones."""
        for pool in record.pools:
            for uses in pool.tuning.adapters.values() if pool.tuning else ():
                uses[:] = [self._parts.setdefault((use.sha256, use.name, use.images), use) for use in uses]
        shared = record.model_copy(update={name: self._one(getattr(record, name)) for name in _PARTS})
        for model in _many(shared):
            self._share_fields(model)
        return shared

    def _one(self, part: BaseModel | None) -> BaseModel | None:
        return part and self._parts.setdefault((type(part), part.model_dump_json()), part)

    def _share_fields(self, model: BaseModel) -> None:
        """Let equal sets of given fields be one: pydantic keeps a set in every model, larger than most models."""
        fields = model.__pydantic_fields_set__
        last = self._fields.setdefault(type(model), fields)
        if last == fields:
            object.__setattr__(model, "__pydantic_fields_set__", last)
        else:
            self._fields[type(model)] = fields


def _many(record: Record) -> Iterator[BaseModel]:
    """Yield the models that every record has of its own."""
    yield from (record, record.cell, record.method)
    for stage in record.stages:
        yield stage
        yield from stage.probes.values()
        if stage.mixture is not None:
            yield from (stage.mixture, stage.mixture.information_y_a, stage.mixture.information_y_ag)
        for checkpoint in stage.checkpoints:
            yield from (checkpoint, checkpoint.predictions, checkpoint.groups)
    for pool in record.pools:
        yield pool
        yield from pool.label_fidelity.values()
        yield from pool.quality.values()
