"""Which generator is meant: from a name on the command line to an identity that a record can hold (torch-free).

`resolve_generator` is called before anything heavy is imported; `pipelines.load_pipeline` takes what it returns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmark.errors import DamagedFile, GeneratorError, InvalidValue, NotAvailable, UnknownName
from benchmark.records.canonical import sha256_folder
from benchmark.records.files import read_json

TINY_SD = "tiny-sd"
MODEL_INDEX = "model_index.json"

_BUNDLED = Path(__file__).parent / "tiny_sd"
_MODEL_SUFFIXES = (".json", ".safetensors", ".txt", ".model")
_PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")
_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>\w[\w./-]*))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OTHER_USES = ("Inpaint", "Control", "Upscale", "Video", "Audio", "Pix2Pix", "Img2Img", "Depth2Img", "Variation")
_TIMEOUT_S = 20.0
_FORMS = "Give tiny-sd, a folder of a diffusers pipeline, or a Hub id such as org/name or org/name@revision."

_content_hashes: dict[Path, tuple[object, str]] = {}


@dataclass(frozen=True)
class GeneratorIdentity:
    """What a record says about a generator.

    Attributes:
        kind: A folder on this machine, or a repository on the Hub.
        name: The Hub id, or the folder's base name; never an absolute path.
        revision: The resolved commit of a Hub repository, 40 hexadecimal digits; None for a folder.
        content_sha256: SHA-256 over names and contents of a folder's model files; None on the Hub.
        location: Where to load it from, a path or a Hub id. No part of the identity.
    """

    kind: Literal["local", "hub"]
    name: str
    revision: str | None
    content_sha256: str | None
    location: str = field(compare=False, repr=False)

    def as_record(self) -> dict[str, str | None]:
        """Return the identity alone, without the location."""
        return {
            "kind": self.kind,
            "name": self.name,
            "revision": self.revision,
            "content_sha256": self.content_sha256,
        }


class GeneratorEntry(NamedTuple):
    """One line of ``list generators``."""

    name: str
    description: str


def list_generators() -> list[GeneratorEntry]:
    """Return what can be named as a generator; reads and hashes nothing."""
    return [
        GeneratorEntry(
            TINY_SD, "Stable Diffusion in miniature, 32x32, trained on typeset coloured digits and letters; bundled"
        ),
        GeneratorEntry("ORG/NAME[@REVISION]", "any text-to-image model of diffusers on the Hugging Face Hub"),
        GeneratorEntry("FOLDER", "any text-to-image pipeline saved by diffusers as safetensors"),
    ]


def resolve_generator(name: str, *, offline: bool) -> GeneratorIdentity:
    """Find out which generator ``name`` means and check, without loading it, that it can make images from text.

    A folder that exists goes before a Hub id of the same spelling.

    Args:
        name: ``tiny-sd``, a folder, or a Hub id ``org/name`` with or without ``@revision`` (branch, tag or commit).
        offline: Use only what is on this machine.

    Raises:
        UnknownName: For something that is neither a folder nor a plausible Hub id, or not on the Hub.
        InvalidValue: For a file, or a path where there is nothing.
        GeneratorError: For what is no text-to-image pipeline, lacks a component, or holds pickles.
        NotAvailable: When the Hub cannot be asked, or an offline model was never downloaded.
    """
    if name == TINY_SD:
        if not _BUNDLED.is_dir():
            raise NotAvailable("tiny-sd is missing from this installation; reinstall genbias-bench")
        return _local(TINY_SD, _BUNDLED)
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return _local(folder.resolve().name, folder.resolve())
    if name and folder.exists():
        raise InvalidValue(f"generator {name!r} is a file; give the folder that holds {MODEL_INDEX}")
    if (match := _HUB_ID.fullmatch(name)) is not None and ".." not in name:
        return _hub(match["repo"], match["revision"] or "main", offline=offline)
    if name.startswith((".", "~", "/")) or "\\" in name or name.count("/") > 1:
        raise InvalidValue(f"there is no folder {name!r}. {_FORMS}")
    raise UnknownName("generator", name, [TINY_SD], _FORMS)


def check_pipeline_folder(folder: Path, name: str) -> dict[str, Any]:
    """Check that a folder looks like a complete text-to-image pipeline in safetensors, and return its index.

    Args:
        folder: The folder.
        name: What messages call it.

    Raises:
        GeneratorError: When it does not.
    """
    if not (folder / MODEL_INDEX).is_file():
        raise GeneratorError(f"generator {name!r} is not a diffusers pipeline: the folder has no {MODEL_INDEX}")
    try:
        index = read_json(folder / MODEL_INDEX)
    except DamagedFile as error:
        raise GeneratorError(f"generator {name!r} is not a diffusers pipeline: {error}") from error
    components = _components(index, name)
    for component in components:
        part = folder / component
        if not part.is_dir():
            raise GeneratorError(f"generator {name!r} lacks the folder of its component {component!r}; get it again")
        files = [path.name for path in part.iterdir()]
        pickles = sorted(file for file in files if file.endswith(_PICKLE_SUFFIXES))
        if pickles and not any(file.endswith(".safetensors") for file in files):
            raise GeneratorError(
                f"generator {name!r} holds its component {component!r} as a pickle ({pickles[0]}), which is never "
                "opened; load it where you trust it and save it with save_pretrained(..., safe_serialization=True)"
            )
        if any(file.endswith(".py") for file in files):
            raise GeneratorError(f"generator {name!r} brings code of its own in {component!r}, which is never run")
    return dict(index)


def _components(index: Any, name: str) -> list[str]:
    kind = index.get("_class_name") if isinstance(index, dict) else None
    if not isinstance(kind, str):
        raise GeneratorError(f"generator {name!r}: {MODEL_INDEX} names no pipeline class of diffusers")
    components = [
        key
        for key, value in index.items()
        if not key.startswith("_") and isinstance(value, list) and len(value) == 2 and value[0] is not None
    ]
    _check_use(kind, components, name)
    return components


def _check_use(kind: str, components: list[str], name: str) -> None:
    text = any("text" in component or "tokenizer" in component for component in components)
    if any(use in kind for use in _OTHER_USES) or not text:
        raise GeneratorError(
            f"generator {name!r} is a {kind}, which makes no images from text alone; "
            "give a text-to-image pipeline such as a StableDiffusionPipeline"
        )


def _local(name: str, folder: Path) -> GeneratorIdentity:
    check_pipeline_folder(folder, name)
    return GeneratorIdentity("local", name, None, _content_sha256(folder), str(folder))


def _content_sha256(folder: Path) -> str:
    """Hash a folder's model files; in one process again only after a name, size or time changed."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in _MODEL_SUFFIXES)
    stats = [(path, path.stat()) for path in files]
    signature = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    known = _content_hashes.get(folder)
    if known is None or known[0] != signature:
        known = _content_hashes[folder] = (signature, sha256_folder(folder, _MODEL_SUFFIXES))
    return known[1]


def _hub(repo: str, revision: str, *, offline: bool) -> GeneratorIdentity:
    from huggingface_hub import is_offline_mode

    commit = _cached_commit(repo, revision)
    if offline or is_offline_mode():
        if commit is None:
            raise NotAvailable(
                f"generator {repo}@{revision} is not in the local Hugging Face cache and this run is offline; run "
                f"`hf download {repo} --revision {revision}` with a network first, or give a folder"
            )
    elif commit is None or commit != revision:
        commit = _ask_hub(repo, revision)
    return GeneratorIdentity("hub", repo, commit, None, repo)


def _cached_commit(repo: str, revision: str) -> str | None:
    """Return the commit that the local cache holds for a revision, after checking what it holds."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, MODEL_INDEX, revision=revision)
    if not isinstance(found, str):
        return None
    snapshot = Path(found).parent
    check_pipeline_folder(snapshot, f"{repo}@{revision}")
    return snapshot.name


def _ask_hub(repo: str, revision: str) -> str:
    """Resolve a revision to a commit online, and check from the listing that it is a diffusers pipeline."""
    from huggingface_hub import HfApi, errors

    transport_error = getattr(errors, "HTTPError", OSError)  # the base class of whichever HTTP client it uses
    try:
        info = HfApi().model_info(repo, revision=revision, timeout=_TIMEOUT_S)
    except errors.GatedRepoError as error:
        raise NotAvailable(
            f"generator {repo} is gated: accept its terms on huggingface.co and log in with `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UnknownName(
            "generator", repo, [TINY_SD], f"The Hub has no model {repo} that you may see, and there is no such folder."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InvalidValue(f"generator {repo} has no revision {revision!r} on the Hub") from error
    except (errors.HFValidationError, ValueError) as error:
        raise InvalidValue(f"{repo!r} is not a Hub id. {_FORMS}") from error
    except (transport_error, OSError) as error:
        raise NotAvailable(
            f"the Hub could not be asked about generator {repo} ({type(error).__name__}); check the network, or use "
            "--offline with a model that is already downloaded, or give a folder"
        ) from error
    files = [sibling.rfilename for sibling in info.siblings or []]
    if files and MODEL_INDEX not in files:
        raise GeneratorError(f"generator {repo} is not a diffusers pipeline: the repository has no {MODEL_INDEX}")
    if info.sha is None or not _COMMIT.fullmatch(info.sha):
        raise NotAvailable(f"the Hub named no commit for generator {repo}@{revision}; give a commit as {repo}@COMMIT")
    return info.sha
