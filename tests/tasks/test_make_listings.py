"""The listings that ship are what the committed script makes of the original files."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.errors import InvalidValue
from benchmark.tasks.listings import read_listing
from benchmark.tasks.make_listings import UNSEEN, main, mnist_columns, utkface_columns


def test_mnist_s_listing_is_that_of_its_label_files(real_data: Path) -> None:
    made = mnist_columns(real_data / "mnist")
    assert {name: column.to_pylist() for name, column in made.items()} == read_listing("colorized-mnist", ("id", "y"))


@pytest.mark.slow
def test_utkface_s_listing_is_that_of_its_archive_and_one_unseen_name(real_data: Path) -> None:
    made = utkface_columns(real_data / "utkface" / "UTKFace.tar.gz")
    found = {name: column.to_pylist() for name, column in made.items()}
    assert found == read_listing("utkface", ("name", "sha256"))
    assert len(found["name"]) == 23_708
    assert [name for name, digest in zip(found["name"], found["sha256"], strict=True) if digest is None] == [UNSEEN]


def test_the_script_wants_one_folder() -> None:
    with pytest.raises(InvalidValue, match="give the folder that holds mnist/ and utkface/"):
        main([])
