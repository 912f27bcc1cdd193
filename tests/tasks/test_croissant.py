"""Croissant metadata: what is committed comes from the cards, and mlcroissant reads it without errors."""

from __future__ import annotations

import copy
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import DataError
from benchmark.records.files import pretty_json
from benchmark.tasks import croissant
from benchmark.tasks.card import card_names, cards_folder, load_card, parse_card
from benchmark.tasks.croissant import croissant_of, croissant_path, licence_of

# rdflib's own parser uses a class that rdflib deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib.*")

# The cards know no date of publication, and none is made up.
ACCEPTED = '[Metadata({name})] Property "https://schema.org/datePublished" is recommended, but does not exist.'
RESPONSIBLE_AI = {
    "data_collection",
    "data_collection_raw_data",
    "data_preprocessing_protocol",
    "data_annotation_protocol",
    "data_biases",
    "data_limitations",
    "data_use_cases",
    "personal_sensitive_information",
    "data_social_impact",
    "data_release_maintenance_plan",
}


def text_of(value: object) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def metadata_of(name: str) -> Any:
    """The committed file as mlcroissant reads it."""
    mlcroissant = pytest.importorskip("mlcroissant")
    return mlcroissant.Dataset(jsonld=str(croissant_path(name))).metadata


@pytest.mark.parametrize("name", card_names())
def test_the_committed_file_is_what_the_card_gives(name: str) -> None:
    committed = croissant_path(name).read_text(encoding="utf-8")
    assert committed == pretty_json(croissant_of(load_card(name))), "run `python -m benchmark.tasks.croissant`"


def test_no_file_is_left_of_a_card_that_is_gone() -> None:
    assert {path.name.removesuffix(".croissant.json") for path in cards_folder().glob("*.json")} == set(card_names())


@pytest.mark.parametrize("name", card_names())
def test_mlcroissant_reads_it_and_warns_of_the_missing_date_only(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        metadata = metadata_of(name)
    assert metadata.ctx.issues.errors == set()
    assert metadata.ctx.issues.warnings == {ACCEPTED.format(name=name)}
    assert [record.getMessage() for record in caplog.records if "@context" in record.getMessage()] == []
    assert metadata.ctx.is_v1_1()


@pytest.mark.parametrize("name", card_names())
def test_name_version_and_licence_are_the_card_s(name: str) -> None:
    card, metadata = load_card(name), metadata_of(name)
    assert metadata.name == card.task.name
    assert metadata.version == f"{card.task.version}.0.0"
    assert metadata.license == [licence_of(card)]
    assert set(card.hub["tags"]) < set(metadata.keywords)
    assert metadata.url is None
    assert metadata.cite_as.startswith("@")


def test_a_usual_licence_is_an_address_and_another_one_is_its_terms_in_words() -> None:
    assert licence_of(load_card("colorized-digits")) == "https://creativecommons.org/licenses/by/4.0/"
    assert licence_of(load_card("colorized-mnist")) == "https://creativecommons.org/licenses/by-sa/3.0/"
    for name in set(card_names()) - {"colorized-digits", "colorized-mnist"}:
        card = load_card(name)
        label = card.hub.get("license_name", "unknown")
        assert licence_of(card) == f"{label}: {card.task.terms}"


@pytest.mark.parametrize("name", card_names())
def test_the_responsible_ai_fields_are_filled(name: str) -> None:
    metadata, task = metadata_of(name), load_card(name).task
    assert {field for field in RESPONSIBLE_AI if len(text_of(getattr(metadata, field))) < 40} == set()
    protocol = text_of(metadata.data_annotation_protocol)
    assert task.label.description in protocol
    assert task.attribute.description in protocol
    assert task.bias_kind in text_of(metadata.data_biases)
    assert all(level in text_of(metadata.data_biases) for level in task.levels)
    if task.faces:
        personal = text_of(metadata.personal_sensitive_information)
        assert "annotations" in personal
        assert "takedown" in personal
        assert "Prohibited" in text_of(metadata.data_use_cases)


@pytest.mark.parametrize("name", card_names())
def test_only_files_with_a_known_checksum_stand_alone(name: str) -> None:
    metadata, task = metadata_of(name), load_card(name).task
    known = {source.sha256 for source in task.sources} | {
        digest
        for source in task.sources
        for file in source.files
        for digest in (file.sha256, file.md5, file.content_md5)
    }
    for file in metadata.file_objects:
        (digest,) = (value for value in (file.sha256, file.md5) if value is not None)
        assert digest in known
    unknown = {file.name for s in task.sources for file in s.files if not (file.sha256 or file.md5 or file.content_md5)}
    in_sets = {name for files in metadata.file_sets for name in files.includes}
    assert unknown <= in_sets
    assert len(metadata.file_objects) == len(known - {None})


@pytest.mark.parametrize("name", card_names())
def test_the_records_are_the_columns_of_the_manifest(name: str) -> None:
    (records,) = metadata_of(name).record_sets
    task = load_card(name).task
    cell = f"{task.default_level} draw 0"
    columns = {field.name: field.source.extract.column for field in records.fields}
    rendered = task.attribute_kind == "rendered"
    assert columns == {"id": "id", "y": "y", "a": f"a {cell}" if rendered else "a", "split": f"split {cell}"}
    assert {field.source.uuid for field in records.fields} == {"manifest"}


def test_a_described_column_is_one_that_the_manifest_has(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from benchmark.tasks.catalog import load_task
    from benchmark.tasks.export import write_manifest

    path = tmp_path / "manifest.parquet"
    write_manifest(load_task("colorized-digits"), path)
    (records,) = metadata_of("colorized-digits").record_sets
    assert {field.source.extract.column for field in records.fields} <= set(pq.read_schema(path).names)


def test_the_command_writes_every_file_afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(croissant, "cards_folder", lambda: tmp_path)
    paths = croissant.write_all()
    assert [path.name for path in paths] == [f"{name}.croissant.json" for name in card_names()]
    for path in paths:
        assert path.read_bytes() == (cards_folder() / path.name).read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("## Known problems\n", "## Known faults\n", "no section `## Known problems`"),
        ("```bibtex\n", "```\n", "no BibTeX"),
    ],
)
def test_a_card_without_a_section_that_is_needed_is_refused(old: str, new: str, named: str) -> None:
    text = (cards_folder() / "colorized-digits.md").read_text(encoding="utf-8")
    assert old in text
    with pytest.raises(DataError, match=f"colorized-digits.md has {named}"):
        croissant_of(parse_card(text.replace(old, new), "x"))


def test_two_calls_share_nothing_that_a_reader_could_change() -> None:
    card = load_card("colorized-digits")
    first = croissant_of(card)
    before = copy.deepcopy(first)
    first["@context"]["@base"] = "changed"
    assert croissant_of(card) == before


def test_writing_needs_neither_mlcroissant_nor_anything_heavy() -> None:
    code = (
        "import json, sys, benchmark.tasks.croissant as c; from benchmark.tasks.card import load_card; "
        "c.croissant_of(load_card('utkface')); print(json.dumps(sorted(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(out.stdout))
    assert loaded & {"mlcroissant", "rdflib", "torch", "pandas", "datasets", "sklearn"} == set()
