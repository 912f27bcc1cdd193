"""Frozen splits as Parquet, for people who use them without this package."""

from __future__ import annotations

from pathlib import Path

from benchmark.records.files import make_folder, storage_error
from benchmark.tasks.law import DRAWS
from benchmark.tasks.manifest import SPLITS
from benchmark.tasks.task import Task


def write_manifest(task: Task, path: Path) -> int:
    """Write one row per sample: its id, label and attribute, and a column per level and draw with its split.

    A rendered attribute differs between levels and draws, so there a second column per level and draw holds it, and
    ``crossed`` stands for samples that the test or audit shows with every attribute value.

    Args:
        task: The task, ready.
        path: The file to write.

    Returns:
        The number of samples.

    Raises:
        StoreError: When the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = task.card.task.attribute.values
    rendered = task.card.task.attribute_kind == "rendered"
    listing = task.listing
    columns: dict[str, pa.Array] = {
        "id": pa.array(listing.ids),
        "y": pa.array([task.card.task.label.values[y] for y in listing.y.tolist()]),
    }
    if not rendered:
        columns["a"] = pa.array([names[a] for a in listing.a.tolist()])
    for level in task.card.task.levels:
        for draw in DRAWS:
            manifest = task.manifest(level, draw, whole=True)
            where: dict[str, str] = {}
            colour: dict[str, str] = {}
            for split in SPLITS:
                rows = manifest.splits[split]
                where |= dict.fromkeys(rows.sources, split)
                if rendered:
                    crossed = len(set(rows.sources)) < len(rows)
                    pairs = zip(rows.sources, rows.a.tolist(), strict=True)
                    colour |= {source: "crossed" if crossed else names[a] for source, a in pairs}
            columns[f"split {level} draw {draw}"] = pa.array([where.get(name) for name in listing.ids])
            if rendered:
                columns[f"a {level} draw {draw}"] = pa.array([colour.get(name) for name in listing.ids])
    metadata = {"task": task.card.id, "split_version": str(task.card.task.split_version)}
    table = pa.table(columns).replace_schema_metadata(metadata)
    make_folder(path.parent)
    try:
        pq.write_table(table, path, compression="zstd")
    except OSError as error:
        raise storage_error(path, error) from error
    return len(listing.ids)
