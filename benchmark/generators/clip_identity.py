"""Which CLIP is meant: from a name on the command line to an identity that a record can hold (torch-free).

`resolve_clip` is called before anything heavy is imported; `clip.Clip.load` takes what it returns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from benchmark.errors import DamagedFile, GeneratorError
from benchmark.generators.identity import ModelIdentity, ModelKind, resolve_model
from benchmark.records.files import read_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
SHARDS = "model.safetensors.index.json"
PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"  # what transformers 5 writes for a whole CLIPProcessor: the preprocessor is in it
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
FILES = (
    CONFIG, WEIGHTS, SHARDS, "model-*.safetensors", PREPROCESSOR, PROCESSOR, "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", *(file for files in TOKENIZERS for file in files),
)  # fmt: skip
"""What loading may read, as patterns: no more is downloaded."""

_PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")
_FORMS = (
    "Give a folder of a CLIPModel saved by transformers, or a Hub id such as openai/clip-vit-large-patch14 or "
    "org/name@revision."
)


class ClipIdentity(ModelIdentity):
    """What a record says about a CLIP."""


def resolve_clip(name: str, *, offline: bool) -> ClipIdentity:
    """Find out which CLIP ``name`` means and check, without loading it, that it has all its parts in safe files.

    A folder that exists goes before a Hub id of the same spelling.

    Args:
        name: A folder, or a Hub id ``org/name`` with or without ``@revision`` (branch, tag or commit).
        offline: Use only what is on this machine.

    Raises:
        UnknownName: For something that is neither a folder nor a plausible Hub id, or not on the Hub.
        InvalidValue: For a file, or a path where there is nothing.
        GeneratorError: For what is no CLIP, lacks a part, or holds its weights as a pickle.
        NotAvailable: When the Hub cannot be asked, or an offline model was never downloaded.
    """
    return resolve_model(_CLIP, name, offline=offline)


def check_clip_folder(folder: Path, name: str) -> None:
    """Check that a folder holds a whole CLIP: configuration, safetensors, tokenizer and image preprocessor.

    Args:
        folder: The folder.
        name: What messages call it.

    Raises:
        GeneratorError: When it does not.
    """
    files = {path.name for path in folder.iterdir() if path.is_file()}
    config = _read(folder / CONFIG, name) if CONFIG in files else None
    _check(files, config, name)
    if PREPROCESSOR not in files and "image_processor" not in _read(folder / PROCESSOR, name):
        raise GeneratorError(f"CLIP model {name!r} has no image preprocessor: {PROCESSOR} describes none")
    if WEIGHTS not in files:
        _check_shards(_read(folder / SHARDS, name), files, name)


def _read(file: Path, name: str) -> dict[str, Any]:
    try:
        content = read_json(file)
    except DamagedFile as error:
        reason = str(error).replace(str(file), file.name)  # messages end up in records, which hold no paths
        raise GeneratorError(f"CLIP model {name!r} is damaged: {reason}") from error
    if not isinstance(content, dict):
        raise GeneratorError(f"CLIP model {name!r} is damaged: {file.name} holds no JSON object")
    return content


def _check(files: Collection[str], config: Mapping[str, Any] | None, name: str) -> None:
    """Check the names of the files beside each other, and the configuration where it is known."""
    if CONFIG not in files:
        raise GeneratorError(f"{name!r} is not a CLIP model: there is no {CONFIG}")
    if config is not None:
        _check_config(config, name)
    if WEIGHTS not in files and SHARDS not in files:
        _refuse_weights(files, name)
    if not any(all(part in files for part in tokenizer) for tokenizer in TOKENIZERS):
        raise GeneratorError(
            f"CLIP model {name!r} has no tokenizer: it needs tokenizer.json, or vocab.json and merges.txt"
        )
    if PREPROCESSOR not in files and PROCESSOR not in files:
        raise GeneratorError(f"CLIP model {name!r} has no image preprocessor: it needs {PREPROCESSOR}")


def _check_config(config: Mapping[str, Any], name: str) -> None:
    kind, architectures = config.get("model_type"), config.get("architectures")
    if kind != "clip" and not (isinstance(architectures, list) and "CLIPModel" in architectures):
        what = f"of the model type {kind!r}" if kind else "of no known model type"
        raise GeneratorError(
            f"{name!r} is not a CLIP model but {what}; give a CLIPModel of transformers, with both its halves"
        )


def _refuse_weights(files: Collection[str], name: str) -> None:
    pickles = sorted(file for file in files if file.endswith(_PICKLE_SUFFIXES))
    if pickles:
        raise GeneratorError(
            f"CLIP model {name!r} holds its weights as a pickle ({pickles[0]}), which is never opened; give a revision "
            "that has model.safetensors, or load it where you trust it and save it with save_pretrained"
        )
    raise GeneratorError(f"CLIP model {name!r} has no weights: there is no {WEIGHTS}; get it again")


def _check_shards(index: Mapping[str, Any], files: Collection[str], name: str) -> None:
    """Weights in several files are whole when each file that the index names is there."""
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise GeneratorError(f"CLIP model {name!r} is damaged: {SHARDS} names no files; get it again")
    if missing := sorted({str(shard) for shard in shards.values()} - set(files)):
        raise GeneratorError(f"CLIP model {name!r} lacks {missing[0]}, a part of its weights; get it again")


_CLIP = ModelKind(
    noun="CLIP model",
    identity=ClipIdentity,
    index=CONFIG,
    forms=_FORMS,
    known=(),
    check_folder=check_clip_folder,
    check_listing=_check,
)
