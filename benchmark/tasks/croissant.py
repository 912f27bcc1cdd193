"""Data cards as Croissant metadata (JSON-LD), for catalogues that read it; mlcroissant is not needed to write it.

``python -m benchmark.tasks.croissant`` writes ``data_cards/<task>.croissant.json`` for every card.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from benchmark.errors import DataError
from benchmark.records.files import write_json
from benchmark.tasks.block import Source, SourceFile, TaskBlock, Variable
from benchmark.tasks.card import DataCard, card_names, cards_folder, load_card
from benchmark.tasks.law import DRAWS
from benchmark.tasks.manifest import SPLITS

CONFORMS_TO = ("http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0")
_LICENCES = {
    "cc-by-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "cc-by-sa-3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
}
_FORMATS = {
    ".parquet": "application/x-parquet",
    ".tar.gz": "application/gzip",
    ".gz": "application/gzip",
    ".txt": "text/plain",
    ".csv": "text/csv",
}
_UNKNOWN_FORMAT = "application/octet-stream"
_MANIFEST = "manifest"
_FEW_VALUES = 20

# Croissant 1.1's own context, as mlcroissant 1.1.1 writes it.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant_of(card: DataCard) -> dict[str, Any]:
    """Return a card as Croissant 1.1 with the responsible-AI extension, from the card alone.

    What a card does not know is left out: no address, date, author or checksum is made up. A source without a known
    checksum becomes a set of files, which needs none.

    Raises:
        DataError: When the prose lacks a section that a responsible-AI field is taken from.
    """
    task, sections = card.task, prose_sections(card)
    return {
        "@context": dict(_CONTEXT),
        "@type": "sc:Dataset",
        "conformsTo": list(CONFORMS_TO),
        "name": task.name,
        "alternateName": str(card.hub["pretty_name"]),
        "description": _section(card, sections, "What it is"),
        "version": f"{task.version}.0.0",
        "license": licence_of(card),
        "citeAs": _citation(card, sections),
        "keywords": [*card.hub["tags"], task.bias_kind, f"{task.tier} tier"],
        "distribution": [*_distribution(task), _manifest_file(task)],
        "recordSet": [_record_set(task)],
        **_responsible_ai(card, sections),
    }


def licence_of(card: DataCard) -> str:
    """Return the address of a card's licence, or the terms of use in words where it is none of the usual ones."""
    licence = str(card.hub["license"])
    if licence in _LICENCES:
        return _LICENCES[licence]
    return f"{card.hub.get('license_name', licence)}: {card.task.terms}"


# --- prose ---------------------------------------------------------------------------------------------------------


def prose_sections(card: DataCard) -> dict[str, str]:
    """Return the text below each second-level heading of a card's prose."""
    parts = re.split(r"^## +(.+)$", card.prose, flags=re.MULTILINE)
    return {heading.strip(): text.strip() for heading, text in zip(parts[1::2], parts[2::2], strict=True)}


def _section(card: DataCard, sections: dict[str, str], heading: str) -> str:
    """Return a section with each paragraph, and each point of a list, on one line."""
    if not sections.get(heading):
        raise DataError(f"the prose of data card {card.task.name}.md has no section `## {heading}`")
    blocks = re.split(r"\n\s*\n|\n(?=\* )", sections[heading])
    return "\n".join(" ".join(line.strip() for line in block.splitlines()) for block in blocks)


def _citation(card: DataCard, sections: dict[str, str]) -> str:
    """Return the BibTeX entries of the section Citation."""
    entries = re.findall(r"^```bibtex\n(.*?)^```$", sections.get("Citation", ""), flags=re.MULTILINE | re.DOTALL)
    if not entries:
        raise DataError(f"the prose of data card {card.task.name}.md has no BibTeX under `## Citation`")
    return "\n".join(entry.strip() for entry in entries)


# --- files ---------------------------------------------------------------------------------------------------------


def _distribution(task: TaskBlock) -> list[dict[str, Any]]:
    """Return every source: files with a known checksum one by one, the others as a set."""
    found: list[dict[str, Any]] = []
    for number, source in enumerate(task.sources, 1):
        if source.sha256 is not None:
            found.append(_package_file(source))
        for file in source.files:
            if _checksum(file):
                found.append(_file_object(source, file))
        rest = [file for file in source.files if not _checksum(file)]
        if rest or source.kind == "folder":
            found.append(_file_set(number, source, rest))
    return found


def _checksum(file: SourceFile) -> dict[str, str]:
    """Return a file's own checksum; that of its content is the file's own where the name has no compression in it."""
    if file.sha256:
        return {"sha256": file.sha256}
    md5 = file.md5 or file.content_md5
    return {"md5": md5} if md5 else {}


def _file_object(source: Source, file: SourceFile) -> dict[str, Any]:
    address = source.location + (file.remote or file.name) if source.kind == "url" else file.name
    where = source.layout if source.kind == "url" else f"from a copy of the user's own: {source.location}"
    return {
        "@type": "cr:FileObject",
        "@id": file.name,
        "name": file.name,
        "description": f"{where}; optional" if file.optional else where,
        "contentUrl": address,
        "encodingFormat": _format_of(file.name),
        **_checksum(file),
    }


def _package_file(source: Source) -> dict[str, Any]:
    """Describe a file inside an installed package, whose checksum is that of its decompressed content."""
    name = source.location.removesuffix(".gz")
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "description": f"{source.location}, decompressed; {source.layout}",
        "contentUrl": name,
        "encodingFormat": _format_of(name),
        "sha256": source.sha256,
    }


def _file_set(number: int, source: Source, files: list[SourceFile]) -> dict[str, Any]:
    if source.kind == "hub":
        where = f"data set {source.location} on the Hugging Face Hub, commit {source.revision}"
    elif files:
        where = ", ".join(source.location + (file.remote or file.name) for file in files)
    else:
        where = source.location
    return {
        "@type": "cr:FileSet",
        "@id": f"source-{number}",
        "name": f"source {number}",
        "description": f"{where}: {source.layout}. The card has no checksum of these files.",
        "includes": [file.name for file in files] or ["**"],
        "encodingFormat": _format_of(files[0].name) if files else _UNKNOWN_FORMAT,
    }


def _format_of(name: str) -> str:
    return next((form for suffix, form in _FORMATS.items() if name.endswith(suffix)), _UNKNOWN_FORMAT)


# --- records -------------------------------------------------------------------------------------------------------


def _manifest_file(task: TaskBlock) -> dict[str, Any]:
    name = f"{task.name}.manifest.parquet"
    return {
        "@type": "cr:FileSet",
        "@id": _MANIFEST,
        "name": "frozen splits",
        "description": f"Made on the user's machine by `genbias-bench data manifest {task.name} --output {name}`; not "
        "distributed. It names samples, and holds no image.",
        "includes": [name],
        "encodingFormat": _format_of(name),
    }


def _record_set(task: TaskBlock) -> dict[str, Any]:
    rendered = task.attribute_kind == "rendered"
    cell = f"{task.default_level} draw {DRAWS[0]}"
    each = f"One such column for every bias level ({', '.join(task.levels)}) and draw ({DRAWS[0]} to {DRAWS[-1]})."
    attribute = _meaning(task.attribute)
    if rendered:
        attribute += f"; `crossed` where a sample is shown with every value. {each}"
    fields = (
        ("id", "id", "identifier of the sample, from which every split is computed"),
        ("y", "y", _meaning(task.label)),
        ("a", f"a {cell}" if rendered else "a", attribute),
        ("split", f"split {cell}", f"one of {', '.join(SPLITS)}; empty where the level leaves a sample out. {each}"),
    )
    return {
        "@type": "cr:RecordSet",
        "@id": "samples",
        "name": "samples",
        "description": "One record per sample: its label, its bias attribute and its split.",
        "key": {"@id": "samples/id"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"samples/{name}",
                "name": name,
                "description": description,
                "dataType": "sc:Text",
                "source": {"fileSet": {"@id": _MANIFEST}, "extract": {"column": column}},
            }
            for name, column, description in fields
        ],
    }


def _meaning(variable: Variable) -> str:
    values = variable.values
    names = f"one of {', '.join(values)}" if len(values) <= _FEW_VALUES else f"{len(values)} values"
    return f"{variable.name}: {variable.description}; {names}"


# --- responsible AI ------------------------------------------------------------------------------------------------


def _responsible_ai(card: DataCard, sections: dict[str, str]) -> dict[str, Any]:
    """Return the fields of the responsible-AI extension, from the block where it has them, else from the prose."""
    task = card.task
    ethics = _section(card, sections, "Ethical considerations")
    pixels = task.pixels
    return {
        "rai:dataCollection": f"{_section(card, sections, 'What it is')}\n{task.terms}",
        "rai:dataCollectionRawData": "\n".join(_raw(source) for source in task.sources),
        "rai:dataPreprocessingProtocol": [
            f"{pixels.size}x{pixels.size} pixels; decoding: {pixels.decoder}; resize: {pixels.resize}",
            _section(card, sections, "How it is made"),
        ],
        "rai:dataAnnotationProtocol": [_meaning(task.label), _meaning(task.attribute)],
        "rai:dataBiases": _biases(task),
        "rai:dataLimitations": _section(card, sections, "Known problems"),
        "rai:dataUseCases": _section(card, sections, "Intended and prohibited uses"),
        "rai:personalSensitiveInformation": [_people(task), ethics],
        "rai:dataSocialImpact": ethics,
        "rai:dataReleaseMaintenancePlan": _maintenance(task),
    }


def _raw(source: Source) -> str:
    licence = f" ({source.licence})" if source.licence else ""
    return f"{source.kind}: {source.location}{licence}"


def _biases(task: TaskBlock) -> str:
    pairs = ", ".join(f"{y} with {a}" for y, a in zip(task.label.values, task.aligned, strict=True))
    return (
        f"Deliberate ({task.bias_kind}): in the training split the label goes with the attribute {task.attribute.name} "
        f"at a chosen share. Aligned pairs: {pairs}. Levels: {', '.join(task.levels)}."
    )


def _people(task: TaskBlock) -> str:
    if task.faces:
        return "Photographs of people's faces; label and attribute annotate how they were read."
    return "The task is not about faces."


def _maintenance(task: TaskBlock) -> str:
    end = f"superseded by {task.superseded_by}" if task.superseded_by else "not superseded"
    return (
        f"Card version {task.version}, split version {task.split_version}, {end}. "
        "A change that moves a result is a new version, never an edit."
    )


def croissant_path(name: str) -> Path:
    """Return the file of a task's Croissant metadata, beside its card."""
    return cards_folder() / f"{name}.croissant.json"


def write_all() -> list[Path]:
    """Write the Croissant metadata of every card, and return the files."""
    paths = []
    for name in card_names():
        paths.append(croissant_path(name))
        write_json(paths[-1], croissant_of(load_card(name)))
    return paths


if __name__ == "__main__":
    write_all()
