"""Where data are looked for, in which order, and whether terms of use count as accepted."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from benchmark.errors import DataError, NotAvailable
from benchmark.records.files import read_json
from benchmark.tasks import home
from benchmark.tasks.card import DataCard, load_card


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the test's own, and no data sets in sight."""
    monkeypatch.setenv("GENBIAS_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("GENBIAS_DATA", raising=False)
    return tmp_path / "store"


@pytest.fixture
def mnist() -> DataCard:
    return load_card("colorized-mnist")


@pytest.fixture
def faces() -> DataCard:
    return load_card("utkface")


def reworded(card: DataCard, terms: str) -> DataCard:
    return card.model_copy(update={"task": card.task.model_copy(update={"terms": terms})})


def has_marker(folder: Path) -> bool:
    return (folder / "marker").is_file()


def folder_with_marker(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "marker").write_text("")
    return path


# --- places --------------------------------------------------------------------------------------------------------


def test_data_lie_below_the_store_one_folder_per_data_set(store: Path, mnist: DataCard) -> None:
    assert home.data_home() == store / "data"
    assert home.fetched_folder(mnist) == store / "data" / "files" / "mnist"
    assert home.prepared_folder(mnist) == store / "data" / "prepared" / "mnist"
    assert home.fetched_folder(load_card("celeba-blond")) == home.fetched_folder(load_card("celeba-smiling"))


def test_places_are_the_named_the_fetched_and_the_folders_of_genbias_data(
    tmp_path: Path, mnist: DataCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("data/b/deep", "data/a", "own"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data" / "file").write_text("")
    assert list(home.places(mnist)) == [home.Place(home.fetched_folder(mnist), "fetched")]
    home.remember_location(mnist, tmp_path / "own")
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / "data"))
    assert [(place.folder, place.origin) for place in home.places(mnist)] == [
        (tmp_path / "own", "named by --from"),
        (home.fetched_folder(mnist), "fetched"),
        (tmp_path / "data", "GENBIAS_DATA"),
        (tmp_path / "data" / "a", "GENBIAS_DATA"),
        (tmp_path / "data" / "b", "GENBIAS_DATA"),
    ]


def test_the_first_place_that_matches_is_taken(
    tmp_path: Path, mnist: DataCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert home.find(mnist, has_marker) is None
    monkeypatch.setenv("GENBIAS_DATA", str(folder_with_marker(tmp_path / "data" / "sub").parent))
    found = home.find(mnist, has_marker)
    assert found == home.Place(tmp_path / "data" / "sub", "GENBIAS_DATA")
    folder_with_marker(home.fetched_folder(mnist))
    assert home.find(mnist, has_marker) == home.Place(home.fetched_folder(mnist), "fetched")
    home.remember_location(mnist, folder_with_marker(tmp_path / "own"))
    assert home.find(mnist, has_marker) == home.Place(tmp_path / "own", "named by --from")


def test_a_named_folder_is_remembered_as_it_was_meant_and_can_be_named_again(
    tmp_path: Path, mnist: DataCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    home.remember_location(mnist, Path("own"))
    monkeypatch.chdir("/")
    assert next(home.places(mnist)).folder == tmp_path / "own"
    (tmp_path / "other").mkdir()
    home.remember_location(mnist, tmp_path / "other")
    assert [place.folder.name for place in home.places(mnist)] == ["other", "mnist"]
    assert next(home.places(load_card("cifar20-100"))).origin == "fetched"


def test_a_named_folder_that_is_gone_is_told_and_the_other_places_are_looked_into(
    tmp_path: Path, mnist: DataCard, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "own").mkdir()
    home.remember_location(mnist, tmp_path / "own")
    (tmp_path / "own").rmdir()
    folder_with_marker(home.fetched_folder(mnist))
    with caplog.at_level(logging.WARNING):
        found = home.find(mnist, has_marker)
    assert found == home.Place(home.fetched_folder(mnist), "fetched")
    assert f"the folder that was named for mnist is gone: {tmp_path / 'own'}" in caplog.text


@pytest.mark.parametrize("note", ["", "{", "{}", "[]", "3", '{"folder": 3}', '{"folder": null}'])
def test_a_damaged_note_of_the_named_folder_is_told_and_passed_over(
    mnist: DataCard, caplog: pytest.LogCaptureFixture, note: str
) -> None:
    folder_with_marker(home.fetched_folder(mnist))
    (home.fetched_folder(mnist) / home.LOCATION).write_text(note)
    with caplog.at_level(logging.WARNING):
        assert [place.origin for place in home.places(mnist)] == ["fetched"]
    assert "the folder that was named for mnist is gone: its note is damaged" in caplog.text


@pytest.mark.parametrize("value", ["", "nowhere", "file"])
def test_genbias_data_that_is_no_folder_is_no_place(
    tmp_path: Path, mnist: DataCard, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENBIAS_DATA", str(tmp_path / value) if value else "")
    assert [place.origin for place in home.places(mnist)] == ["fetched"]


def test_data_that_are_nowhere_come_with_what_to_do(mnist: DataCard) -> None:
    error = home.not_here(mnist)
    assert isinstance(error, NotAvailable)
    for part in ("genbias-bench data fetch colorized-mnist`", "--from FOLDER", "the four idx files", "GENBIAS_DATA"):
        assert part in str(error)


# --- terms ---------------------------------------------------------------------------------------------------------


def test_data_without_terms_to_accept_need_no_acceptance(store: Path, mnist: DataCard) -> None:
    assert home.terms_accepted(mnist)
    home.require_terms(mnist)
    assert not store.exists()


def test_terms_are_refused_until_accepted_and_then_remembered(faces: DataCard) -> None:
    assert not home.terms_accepted(faces)
    with pytest.raises(DataError, match="fetch utkface --accept-terms") as caught:
        home.require_terms(faces)
    assert faces.task.terms in str(caught.value)
    home.accept_terms(faces)
    assert home.terms_accepted(faces)
    home.require_terms(faces)
    assert set(read_json(home.fetched_folder(faces) / home.ACCEPTED)) == {"format_version", "terms_sha256"}


def test_a_changed_wording_must_be_accepted_again(faces: DataCard) -> None:
    home.accept_terms(faces)
    changed = reworded(faces, faces.task.terms + " And no tea.")
    assert not home.terms_accepted(changed)
    home.accept_terms(changed)
    assert home.terms_accepted(changed)
    assert not home.terms_accepted(faces)


def test_terms_of_one_data_set_are_accepted_for_its_tasks_and_no_other() -> None:
    home.accept_terms(load_card("celeba-blond"))
    assert home.terms_accepted(load_card("celeba-smiling"))
    assert not home.terms_accepted(load_card("utkface"))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '"accepted"', '{"terms_sha256": null}'])
def test_a_damaged_note_of_acceptance_counts_as_none(faces: DataCard, content: str) -> None:
    home.accept_terms(faces)
    (home.fetched_folder(faces) / home.ACCEPTED).write_text(content)
    assert not home.terms_accepted(faces)
    home.accept_terms(faces)
    assert home.terms_accepted(faces)
