"""CelebA as the Hub serves it: the same pinned splits, with identities; another copy is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.errors import DataError, NotAvailable
from benchmark.tasks import home
from benchmark.tasks.card import load_card
from benchmark.tasks.celeba import CelebA, read_annotations
from benchmark.tasks.manifest import TEST, TRAIN, VALIDATION


def accepted(name: str) -> CelebA:
    """A task whose terms are accepted in the store at hand."""
    home.accept_terms(load_card(name))
    return CelebA(load_card(name))


HUB = ((TRAIN, "train", 19), (VALIDATION, "valid", 3), (TEST, "test", 3))


@pytest.fixture(scope="module")
def hub(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Hub's 25 Parquet files over the real lists; every image is the same few bytes."""
    lists = read_annotations(real_data / "celeba", ("Blond_Hair", "Smiling", "Male"))
    folder = tmp_path_factory.mktemp("hub") / "img_align+identity+attr"
    folder.mkdir()
    parts = np.array(lists.partition)
    for part, prefix, shards in HUB:
        for k, rows in enumerate(np.array_split(np.flatnonzero(parts == part), shards)):
            columns = {
                "image": pa.array([{"bytes": b"x", "path": None}] * len(rows)),
                "celeb_id": pa.array(rows // 20),
                **{name: pa.array(values[rows]) for name, values in lists.values.items()},
            }
            pq.write_table(pa.table(columns), folder / f"{prefix}-{k:05d}-of-{shards:05d}.parquet")
    return folder.parent


@pytest.mark.slow
def test_the_hub_s_copy_gives_the_pinned_splits_and_its_identities(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path))
    monkeypatch.setenv("GENBIAS_DATA", str(hub))
    task = accepted("celeba-smiling")
    assert task.listing.whole
    manifest = task.manifest("0.99", 0)
    assert task.pin_state(manifest) == "pinned"
    assert task.resampling_unit == "identity"
    rows = manifest.splits[TEST]
    assert task.units(rows)[:3] == [str((int(name[:6]) - 1) // 20) for name in rows.ids[:3]]


@pytest.mark.parametrize("what", ["a row less", "a part gone", "no column", "no answer", "numbers", "damaged"])
def test_a_hub_copy_that_is_not_the_data_set_is_refused(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path))
    copy = tmp_path / "img_align+identity+attr"
    copy.mkdir()
    for file in (hub / copy.name).iterdir():
        (copy / file.name).symlink_to(file)
    part = copy / "valid-00001-of-00003.parquet"
    content = pq.read_table(part)
    damaged = part.read_bytes()[:-200]
    part.unlink()
    if what == "a row less":
        pq.write_table(content.slice(1), part)
    elif what == "no column":
        pq.write_table(content.drop_columns(["Blond_Hair"]), part)
    elif what == "no answer":
        nothing = pa.array([None, *content.column("Blond_Hair").to_pylist()[1:]], pa.bool_())
        place = content.column_names.index("Blond_Hair")
        pq.write_table(content.set_column(place, "Blond_Hair", nothing), part)
    elif what == "numbers":
        signs = pa.array([1 if blond else -1 for blond in content.column("Blond_Hair").to_pylist()])
        place = content.column_names.index("Blond_Hair")
        pq.write_table(content.set_column(place, "Blond_Hair", signs), part)
    elif what == "damaged":
        part.write_bytes(damaged)
    said = {
        "a row less": (DataError, r"split valid holds 19,866 rows, CelebA's has 19,867"),
        "a part gone": (NotAvailable, r"are not here"),
        "no column": (DataError, r"valid-00001-of-00003\.parquet has no column 'Blond_Hair'"),
        "no answer": (DataError, r"valid-00001-of-00003\.parquet.*Blond_Hair"),
        "numbers": (DataError, r"split valid holds annotations of type int, expected bool"),
        "damaged": (DataError, r"valid-00001-of-00003\.parquet cannot be read as Parquet"),
    }
    error, message = said[what]
    with pytest.raises(error, match=message):
        accepted("celeba-blond").listing  # noqa: B018
