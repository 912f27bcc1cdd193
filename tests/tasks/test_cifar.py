"""CIFAR-100 in Toronto's layout and in the Hub's, whole, in part, and as something else."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmark.errors import DataError, NotAvailable
from benchmark.tasks.card import load_card
from benchmark.tasks.cifar import Cifar20
from benchmark.tasks.locks import load_lock
from benchmark.tasks.manifest import AUDIT, TEST, TRAIN, VALIDATION
from benchmark.tasks.pinning import agree, level_counts_of, pin_task, verify_task

CARD = load_card("cifar20-100")
FINE, COARSE = CARD.task.attribute.values, CARD.task.label.values
SUPERCLASS = {name: k for k, family in enumerate(CARD.task.attribute_family) for name in family}
HUB = {"train": "cifar100/train-00000-of-00001.parquet", "test": "cifar100/test-00000-of-00001.parquet"}
SIZES = {"train": 10, "test": 2}
Content = dict[Any, Any]


class Python2(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Writes bytes and text as Python 2 wrote its strings, and arrays under NumPy 1's names."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def _string(self, value: bytes | str) -> None:
        content = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = _string


def python2(content: Content) -> bytes:
    stream = io.BytesIO()
    Python2(stream, 2).dump(content)
    return stream.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def part(name: str, per_class: int | None = None) -> Content:
    """One part in a shuffled order: every fine class as often as asked for, every image another."""
    n = len(FINE) * (SIZES[name] if per_class is None else per_class)
    rng = np.random.default_rng(len(name))
    fine = rng.permutation(np.arange(n) % len(FINE)).tolist()
    return {
        "filenames": [f"{FINE[k].replace(' ', '_')}_s_{i:06d}.png" for i, k in enumerate(fine)],
        "batch_label": f"{name}ing batch 1 of 1",
        "fine_labels": fine,
        "coarse_labels": [SUPERCLASS[FINE[k]] for k in fine],
        "data": rng.integers(0, 256, (n, 3072), dtype=np.uint8),
    }


def meta() -> Content:
    return {
        "fine_label_names": [name.replace(" ", "_") for name in FINE],
        "coarse_label_names": [name.replace(" ", "_") for name in COARSE],
    }


@pytest.fixture(scope="module")
def parts() -> dict[str, Content]:
    return {"train": part("train"), "test": part("test"), "meta": meta()}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[str, Content]) -> Callable[..., Path]:
    """Write Toronto's three files, some of them changed, as a folder or as the archive."""
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / "data"))

    def write(form: str = "folder", raw: dict[str, bytes] | None = None, **changed: Content) -> Path:
        folder = tmp_path / "data" / "cifar"
        folder.mkdir(parents=True)
        files = {name: python2({**content, **changed.get(name, {})}) for name, content in parts.items()} | (raw or {})
        if form == "archive":
            with tarfile.open(folder / "cifar-100-python.tar.gz", "w:gz", compresslevel=1) as tar:
                for name, content in files.items():
                    add(tar, f"cifar-100-python/{name}", content)
        else:
            place = folder / ("cifar-100-python" if form == "folder" else "")
            place.mkdir(exist_ok=True)
            for name, content in files.items():
                (place / name).write_bytes(content)
        return folder

    return write


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def task() -> Cifar20:
    return Cifar20(CARD)


# --- Toronto's layout ----------------------------------------------------------------------------------------------


def test_the_test_writes_its_pickles_as_python_2_did(parts: dict[str, Content]) -> None:
    content = python2(parts["meta"])
    assert content.startswith(b"\x80\x02}q\x00(T\x10\x00\x00\x00fine_label_names")
    assert b"numpy.core.multiarray" in python2(parts["test"])
    assert b"_core" not in python2(parts["test"])


@pytest.mark.parametrize("form", ["folder", "archive", "bare"])
def test_every_form_gives_the_same_list_and_pixels(
    make: Callable[..., Path], parts: dict[str, Content], form: str
) -> None:
    make(form)
    found = task()
    listing = found.listing
    assert listing.ids == tuple(f"train-{k:05d}" for k in range(1000)) + tuple(f"test-{k:05d}" for k in range(200))
    for name, where in (("train", slice(0, 1000)), ("test", slice(1000, 1200))):
        assert listing.y[where].tolist() == parts[name]["coarse_labels"]
        assert listing.a[where].tolist() == parts[name]["fine_labels"]
        assert listing.partition is not None
        assert set(listing.partition[where]) == {name}
    ids = ["train-00000", "test-00199", "train-00987"]
    images = found.prepared(32).images(ids)
    # Toronto writes the red plane, the green one and the blue one, each row by row.
    for k, (name, row) in enumerate((("train", 0), ("test", 199), ("train", 987))):
        plane = parts[name]["data"][row].reshape(3, 32, 32)
        np.testing.assert_array_equal(images[k], np.moveaxis(plane, 0, 2))
    assert images[0][1, 2].tolist() == [parts["train"]["data"][0][channel * 1024 + 32 + 2] for channel in range(3)]


def test_pickles_of_python_3_are_the_same_data(make: Callable[..., Path], parts: dict[str, Content]) -> None:
    raw = {
        "train": pickle.dumps(parts["train"]),
        "test": pickle.dumps({key.encode(): value for key, value in parts["test"].items()}, protocol=2),
        "meta": pickle.dumps({key: [name.encode() for name in names] for key, names in parts["meta"].items()}),
    }
    make(raw=raw)
    listing = task().listing
    assert listing.a[:1000].tolist() == parts["train"]["fine_labels"]
    assert listing.y[1000:].tolist() == parts["test"]["coarse_labels"]


def test_labels_may_be_an_array(make: Callable[..., Path], parts: dict[str, Content]) -> None:
    make(train={"fine_labels": np.array(parts["train"]["fine_labels"])})
    assert task().listing.a[:1000].tolist() == parts["train"]["fine_labels"]


def test_a_small_copy_is_partial_and_its_official_test_is_kept(make: Callable[..., Path]) -> None:
    make()
    found = task()
    assert not found.listing.complete
    manifest = found.manifest("0.9", 0)
    assert found.pin_state(manifest) == "partial"
    assert all(name.startswith("test-") for name in manifest.splits[TEST].ids)
    assert len(manifest.splits[TEST]) == 200
    # Ten training images a class: half an image rounds up to one for auditors, one is for validation.
    assert (manifest.counts(AUDIT).sum(axis=1) == 5).all()
    assert (manifest.counts(VALIDATION)[np.arange(20), CARD.law.aligned] == 1).all()
    assert not manifest.counts(TRAIN)[~CARD.allowed_groups()].any()


def test_a_part_of_the_data_set_cannot_be_pinned(make: Callable[..., Path]) -> None:
    make()
    with pytest.raises(DataError, match=r"cifar20-100@1 is only partly at hand, so it cannot be pinned"):
        pin_task(task())


def test_nothing_here_is_not_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path))
    (tmp_path / "cifar-100-python").mkdir()
    with pytest.raises(NotAvailable, match=r"cifar20-100 are not here.*cifar-100-python\.tar\.gz or the folder"):
        task().listing  # noqa: B018


# --- what is wrong with it -----------------------------------------------------------------------------------------

GOOD = part("test")


def fine_labels(first: Any) -> Content:
    return {"fine_labels": [first, *GOOD["fine_labels"][1:]]}


WRONG: dict[str, tuple[Content, str]] = {
    "no data": ({"data": None}, r"the file `test` of CIFAR-100 lacks data, fine_labels or coarse_labels"),
    "no fine labels": ({"fine_labels": None}, r"lacks data, fine_labels or coarse_labels"),
    "no superclasses": ({"coarse_labels": None}, r"lacks data, fine_labels or coarse_labels"),
    "an image less": ({"data": GOOD["data"][1:]}, r"holds uint8 \(199, 3072\) beside 200 labels"),
    "a superclass less": ({"coarse_labels": GOOD["coarse_labels"][1:]}, r"beside 200 labels"),
    "a label less": ({"fine_labels": GOOD["fine_labels"][1:]}, r"holds uint8 \(200, 3072\) beside 199 labels"),
    "cubes": ({"data": GOOD["data"].reshape(-1, 3, 32, 32)}, r"holds uint8 \(200, 3, 32, 32\)"),
    "ten by ten": ({"data": GOOD["data"][:, :300]}, r"holds uint8 \(200, 300\)"),
    "floats": ({"data": GOOD["data"] / 255}, r"holds float64 \(200, 3072\)"),
    "a list of pixels": ({"data": [1, 2]}, r"holds int64 \(2,\)"),
    "a fine class too many": (fine_labels(100), r"test file of CIFAR-100 holds fine labels outside 0\.\.99"),
    "a negative fine class": (fine_labels(-1), r"holds fine labels outside 0\.\.99"),
    "another superclass": (
        {"coarse_labels": [(GOOD["coarse_labels"][0] + 1) % 20, *GOOD["coarse_labels"][1:]]},
        r"the test file of CIFAR-100 pairs fine classes and superclasses otherwise than the card",
    ),
    "a superclass too many": ({"coarse_labels": [20, *GOOD["coarse_labels"][1:]]}, r"otherwise than the card"),
    "names for labels": ({"fine_labels": [FINE[k] for k in GOOD["fine_labels"]]}, r"the file `test` of CIFAR-100"),
    "halves for labels": ({"fine_labels": [k + 0.5 for k in GOOD["fine_labels"]]}, r"the file `test` of CIFAR-100"),
    "one label for all": ({"fine_labels": 5}, r"the file `test` of CIFAR-100"),
    "a table of labels": ({"fine_labels": [[k] for k in GOOD["fine_labels"]]}, r"the file `test` of CIFAR-100"),
    "ragged labels": ({"fine_labels": [[1], [2, 3]]}, r"the file `test` of CIFAR-100"),
    "no image": (
        {"data": GOOD["data"][:0], "fine_labels": [], "coarse_labels": []},
        r"of CIFAR-100 holds .* beside 0 labels",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_file_that_is_not_the_original_is_refused_with_the_reason(make: Callable[..., Path], what: str) -> None:
    changed, said = WRONG[what]
    content = {key: value for key, value in {**GOOD, **changed}.items() if value is not None}
    make(raw={"test": python2(content)})
    with pytest.raises(DataError, match=said):
        task().listing  # noqa: B018


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x80\x02}q\x00", python2(GOOD)[:-5_000], python2(["a"])])  # type: ignore[arg-type]
def test_a_damaged_pickle_or_one_of_something_else_is_refused(make: Callable[..., Path], content: bytes) -> None:
    make(raw={"train": content})
    with pytest.raises(DataError, match="the file `train` of CIFAR-100"):
        task().listing  # noqa: B018


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("fine_label_names", ["apple", *FINE[:0:-1]]),
        ("fine_label_names", FINE[:99]),
        ("coarse_label_names", COARSE[::-1]),
        ("coarse_label_names", None),
    ],
)
def test_other_class_names_are_refused(make: Callable[..., Path], key: str, names: list[str] | None) -> None:
    make(meta={key: names})
    with pytest.raises(DataError, match=rf"the file `meta` of CIFAR-100 names other classes under {key} than the card"):
        task().listing  # noqa: B018


class MakesFolder:
    """What a stranger's pickle does when it is loaded without care."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(
    make: Callable[..., Path], tmp_path: Path, form: str, name: str
) -> None:
    harm = pickle.dumps({"data": MakesFolder(tmp_path / "harm")}, protocol=2)
    make(form, raw={name: harm})
    with pytest.raises(DataError, match=rf"the file `{name}` of CIFAR-100 .*posix\.mkdir"):
        task().listing  # noqa: B018
    assert not (tmp_path / "harm").exists()
    pickle.loads(harm)
    assert (tmp_path / "harm").exists()  # the pickle was a real one


def test_an_archive_is_never_unpacked_so_that_its_paths_lead_nowhere(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make("archive")
    with tarfile.open(folder / "cifar-100-python.tar.gz") as tar:
        files = {member.name: (tar.extractfile(member) or io.BytesIO()).read() for member in tar}
    with tarfile.open(folder / "cifar-100-python.tar.gz", "w:gz", compresslevel=1) as tar:
        for climbing in ("../escaped", "/tmp/genbias-escaped", "cifar-100-python/../../escaped"):
            add(tar, climbing, b"harm")
        link = tarfile.TarInfo("cifar-100-python/train")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name, content in files.items():
            add(tar, name, content)
    before = {path for path in tmp_path.rglob("*") if "store" not in path.parts}
    found = task()
    assert len(found.prepared(32).ids) == len(found.listing.ids) == 1200
    assert {path for path in tmp_path.rglob("*") if "store" not in path.parts} == before
    assert not Path("/tmp/genbias-escaped").exists()


def test_an_archive_without_one_of_the_files_is_refused_by_its_name(
    make: Callable[..., Path], parts: dict[str, Content]
) -> None:
    folder = make("archive")
    with tarfile.open(folder / "cifar-100-python.tar.gz", "w:gz") as tar:
        add(tar, "cifar-100-python/test", python2(parts["test"]))
    with pytest.raises(DataError, match=r"cifar-100-python\.tar\.gz holds no cifar-100-python/train"):
        task().listing  # noqa: B018


def test_a_file_that_is_replaced_in_its_folder_is_read_again(
    make: Callable[..., Path], parts: dict[str, Content]
) -> None:
    folder = make()
    before = task()
    assert before.listing.a[:2].tolist() == parts["train"]["fine_labels"][:2]
    before.prepared(32)
    path = folder / "cifar-100-python" / "train"
    time = path.stat().st_mtime_ns
    turned = {key: parts["train"][key][::-1] for key in ("data", "fine_labels", "coarse_labels")}
    with path.open("r+b") as stream:  # in place, so that the folder itself does not change
        stream.write(python2({**parts["train"], **turned}))
        stream.truncate()
    os.utime(path, ns=(time + 10**9, time + 10**9))
    after = task()
    assert after.listing.a[:1000].tolist() == parts["train"]["fine_labels"][::-1]
    image = after.prepared(32).images(["train-00000"])[0]
    np.testing.assert_array_equal(image, np.moveaxis(parts["train"]["data"][-1].reshape(3, 32, 32), 0, 2))


# --- the Hub's copy ------------------------------------------------------------------------------------------------


def png(row: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.moveaxis(row.reshape(3, 32, 32), 0, 2))).save(stream, "PNG")
    return stream.getvalue()


def parquet(folder: Path, contents: dict[str, Content], images: dict[str, list[bytes]] | None = None) -> None:
    for name, path in HUB.items():
        content = contents[name]
        cells = images[name] if images else [png(row) for row in content["data"]]
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        columns = {
            "img": pa.array([{"bytes": cell, "path": None} for cell in cells]),
            "fine_label": pa.array(content["fine_labels"], pa.int64()),
            "coarse_label": pa.array(content["coarse_labels"], pa.int64()),
        }
        pq.write_table(pa.table(columns), folder / path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_the_hub_s_copy_gives_the_list_and_pixels_of_toronto_s(
    make: Callable[..., Path], parts: dict[str, Content], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    toronto = task()
    expected = toronto.listing, toronto.prepared(32), toronto.manifest("0.9", 2)
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / "hub"))
    parquet(tmp_path / "hub", parts)
    found = task()
    assert found.listing.ids == expected[0].ids
    np.testing.assert_array_equal(found.listing.y, expected[0].y)
    np.testing.assert_array_equal(found.listing.a, expected[0].a)
    assert found.prepared(32).pixels_sha256 == expected[1].pixels_sha256
    assert found.manifest("0.9", 2).digest == expected[2].digest


def test_the_official_numbers_are_complete_and_give_the_card_s_counts(hub: Path) -> None:
    contents = {"train": part_labels(500), "test": part_labels(100)}
    parquet(hub, contents, {name: [b"x"] * len(content["fine_labels"]) for name, content in contents.items()})
    found = task()
    assert found.listing.whole
    expected = {counts.level: counts for counts in CARD.task.expected}
    assert set(expected) == set(CARD.task.levels)
    for level in CARD.task.levels:
        for draw in (0, 3):
            assert agree(expected[level], level_counts_of(found, found.manifest(level, draw)))
    # The real digests are not known: the official order of the labels was not at hand.
    assert "cifar20-100" not in load_lock("splits").entries
    assert found.pin_state(found.manifest("0.9", 0)) == "unpinned"


def part_labels(per_class: int) -> Content:
    fine = (np.arange(100 * per_class) % 100).tolist()
    return {"fine_labels": fine, "coarse_labels": [SUPERCLASS[FINE[k]] for k in fine]}


@pytest.mark.parametrize(("train", "test"), [(500, 99), (499, 100)])
def test_other_numbers_per_class_are_not_complete(hub: Path, train: int, test: int) -> None:
    contents = {"train": part_labels(train), "test": part_labels(test)}
    parquet(hub, contents, {name: [b"x"] * len(content["fine_labels"]) for name, content in contents.items()})
    assert not task().listing.complete


@pytest.mark.parametrize("what", ["another hierarchy", "no column", "no label", "no image", "not an image", "damaged"])
def test_a_hub_copy_of_something_else_is_refused(hub: Path, parts: dict[str, Content], what: str) -> None:
    small = {name: {key: parts[name][key][:200] for key in ("data", "fine_labels", "coarse_labels")} for name in HUB}
    parquet(hub, small)
    path = hub / HUB["train"]
    table = pq.read_table(path)
    said = {
        "another hierarchy": r"the train file of CIFAR-100 pairs fine classes and superclasses otherwise",
        "no column": r"train-00000-of-00001\.parquet has no column 'coarse_label'",
        "no label": r"train-00000-of-00001\.parquet.*fine_label",
        "no image": r"train-00000-of-00001\.parquet holds a row without an image",
        "not an image": r"1 image\(s\) of cifar-100 cannot be read: train-00000",
        "damaged": r"train-00000-of-00001\.parquet cannot be read as Parquet",
    }
    images = table.column("img").to_pylist()
    changes: dict[str, tuple[str, list[Any], pa.DataType]] = {
        "another hierarchy": ("coarse_label", [(k + 1) % 20 for k in small["train"]["coarse_labels"]], pa.int64()),
        "no label": ("fine_label", [None, *small["train"]["fine_labels"][1:]], pa.int64()),
        "no image": ("img", [None, *images[1:]], table.schema.field("img").type),
        "not an image": ("img", [{"bytes": b"GIF?", "path": None}, *images[1:]], table.schema.field("img").type),
    }
    if what in changes:
        column, values, kind = changes[what]
        pq.write_table(table.set_column(table.column_names.index(column), column, pa.array(values, kind)), path)
    elif what == "no column":
        pq.write_table(table.drop_columns(["coarse_label"]), path)
    else:
        path.write_bytes(path.read_bytes()[:-100])
    found = task()
    with pytest.raises(DataError, match=said[what]):  # noqa: PT012
        assert found.listing
        found.prepared(32)


# --- the real images that are at hand ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def subset(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cifar20]:
    """80 and 20 real images of every fine class."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENBIAS_DATA", str(real_data))
        patch.setenv("GENBIAS_STORE", str(tmp_path_factory.mktemp("store")))
        yield task()


def test_the_real_subset_is_read_but_is_not_complete(subset: Cifar20) -> None:
    listing = subset.listing
    assert len(listing.ids) == 10_000
    assert np.bincount(listing.a[:8000]).tolist() == [80] * 100
    assert np.bincount(listing.a[8000:]).tolist() == [20] * 100
    assert not listing.complete
    assert not listing.missing  # nothing tells which images of the whole these are
    assert subset.pin_state(subset.manifest("0.95", 0)) == "partial"


@pytest.mark.slow
def test_verifying_the_subset_says_partial_everywhere(subset: Cifar20) -> None:
    found = verify_task(subset)
    assert len(found) == 5 * len(CARD.task.levels)
    assert {each.state for each in found} == {"partial"}
    assert len({each.digest for each in found}) == len(found)


def test_the_real_subset_cannot_be_pinned(subset: Cifar20) -> None:
    with pytest.raises(DataError, match=r"is only partly at hand, so it cannot be pinned"):
        pin_task(subset)


def test_real_images_look_like_photographs_and_not_like_shuffled_planes(subset: Cifar20) -> None:
    pixels = np.asarray(subset.prepared(32).images([f"test-{k:05d}" for k in range(200)])).astype(float)
    rows, columns = np.abs(np.diff(pixels, axis=1)).mean(), np.abs(np.diff(pixels, axis=2)).mean()
    channels = np.abs(np.diff(pixels, axis=3)).mean()
    # Neighbours are alike, in both directions and over the channels, as they would not be in another layout.
    assert max(rows, columns, channels) < 30
    assert pixels.std() > 50
