"""Which generator is meant: from a name on the command line to an identity that a record can hold (torch-free).

`resolve_generator` is called before anything heavy is imported; `pipelines.load_pipeline` takes what it returns.
`resolve_model` is what it shares with `clip_identity`: folders, the local cache and the Hub.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from benchmark.errors import DamagedFile, DataError, GeneratorError, InvalidValue, NotAvailable, UnknownName
from benchmark.records.canonical import sha256_folder
from benchmark.records.files import read_json
from benchmark.tasks.plugins import Listed, module_path, plug_ins

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
class ModelIdentity:
    """What a record says about a model that others made.

    Attributes:
        kind: A folder on this machine, or a repository on the Hub.
        name: The Hub id, or the folder's base name; never an absolute path.
        revision: The resolved commit of a Hub repository, 40 hexadecimal digits; the version of the package that brings
            a plug-in; None for another folder.
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


class GeneratorIdentity(ModelIdentity):
    """What a record says about a generator."""


Identity = TypeVar("Identity", bound=ModelIdentity)


@dataclass(frozen=True)
class ModelKind(Generic[Identity]):
    """What a name has to mean, and how that is checked without loading anything.

    Attributes:
        noun: What messages call it.
        identity: What a name becomes.
        index: The file that every such folder and repository has.
        forms: Which names there are, for messages.
        known: Names besides folders and Hub ids, for messages.
        check_folder: Takes a folder and what to call it; raises `GeneratorError` for anything else or incomplete.
        check_listing: Takes the file names of a repository, its configuration where the Hub knows it, and what to
            call it; raises likewise.
    """

    noun: str
    identity: type[Identity]
    index: str
    forms: str
    known: tuple[str, ...]
    check_folder: Callable[[Path, str], object]
    check_listing: Callable[[Sequence[str], Mapping[str, Any] | None, str], object]


class GeneratorEntry(NamedTuple):
    """One line of ``list generators``."""

    name: str
    description: str


def list_generators() -> list[GeneratorEntry]:
    """Return what can be named as a generator; reads and hashes nothing."""
    plug_ins = [
        GeneratorEntry(name, listed.problem or f"plug-in of {listed.package} {listed.version}")
        for name, listed in plug_in_generators().items()
    ]
    return [
        GeneratorEntry(
            TINY_SD, "Stable Diffusion in miniature, 32x32, trained on typeset coloured digits and letters; bundled"
        ),
        *plug_ins,
        GeneratorEntry("ORG/NAME[@REVISION]", "any text-to-image model of diffusers on the Hugging Face Hub"),
        GeneratorEntry("FOLDER", "any text-to-image pipeline saved by diffusers as safetensors"),
    ]


def resolve_generator(name: str, *, offline: bool) -> GeneratorIdentity:
    """Find out which generator ``name`` means and check, without loading it, that it can make images from text.

    A plug-in, or a folder that exists, goes before a Hub id of the same spelling.

    Args:
        name: ``tiny-sd``, a plug-in, a folder, or a Hub id ``org/name`` with or without ``@revision`` (branch, tag or
            commit).
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
        return _local(_GENERATOR, TINY_SD, _BUNDLED)
    if name in plug_in_generators():
        return _plug_in(plug_in_generators()[name])
    return resolve_model(_GENERATOR, name, offline=offline)


@functools.cache
def plug_in_generators() -> dict[str, Listed]:
    """Return the generators of installed packages by name.

    The entry point ``name = "package.folder"`` names a package whose folder is a pipeline saved by diffusers.
    """
    return plug_ins("generator")


def _plug_in(listed: Listed) -> GeneratorIdentity:
    if listed.problem:
        raise GeneratorError(listed.problem)
    try:
        folder = module_path(listed)
    except DataError as error:
        raise GeneratorError(str(error)) from error
    if not folder.is_dir():
        raise GeneratorError(f"generator {listed.name!r} is {folder}, and must be a package folder with {MODEL_INDEX}")
    return replace(_local(_GENERATOR, listed.name, folder), revision=listed.version)


def resolve_model(kind: ModelKind[Identity], name: str, *, offline: bool) -> Identity:
    """Turn a folder or a Hub id into an identity; a folder that exists goes before a Hub id of the same spelling.

    Args:
        kind: What the name has to mean.
        name: A folder, or a Hub id ``org/name`` with or without ``@revision`` (branch, tag or commit).
        offline: Use only what is on this machine.

    Raises:
        UnknownName: For something that is neither a folder nor a plausible Hub id, or not on the Hub.
        InvalidValue: For a file, or a path where there is nothing.
        GeneratorError: For what fails the checks of its kind.
        NotAvailable: When the Hub cannot be asked, or an offline model was never downloaded.
    """
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return _local(kind, folder.resolve().name, folder.resolve())
    if name and folder.exists():
        raise InvalidValue(f"{kind.noun} {name!r} is a file; give the folder that holds {kind.index}")
    if (match := _HUB_ID.fullmatch(name)) is not None and ".." not in name:
        return _hub(kind, match["repo"], match["revision"] or "main", offline=offline)
    if name.startswith((".", "~", "/")) or "\\" in name or name.count("/") > 1:
        raise InvalidValue(f"there is no folder {name!r}. {kind.forms}")
    raise UnknownName(kind.noun, name, kind.known, kind.forms)


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


def _check_pipeline_listing(files: Sequence[str], _config: Mapping[str, Any] | None, name: str) -> None:
    if MODEL_INDEX not in files:
        raise GeneratorError(f"generator {name} is not a diffusers pipeline: the repository has no {MODEL_INDEX}")


_GENERATOR = ModelKind(
    noun="generator",
    identity=GeneratorIdentity,
    index=MODEL_INDEX,
    forms=_FORMS,
    known=(TINY_SD,),
    check_folder=check_pipeline_folder,
    check_listing=_check_pipeline_listing,
)


def _local(kind: ModelKind[Identity], name: str, folder: Path) -> Identity:
    kind.check_folder(folder, name)
    return kind.identity("local", name, None, _content_sha256(folder), str(folder))


def _content_sha256(folder: Path) -> str:
    """Hash a folder's model files; in one process again only after a name, size or time changed."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in _MODEL_SUFFIXES)
    stats = [(path, path.stat()) for path in files]
    signature = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    known = _content_hashes.get(folder)
    if known is None or known[0] != signature:
        known = _content_hashes[folder] = (signature, sha256_folder(folder, _MODEL_SUFFIXES))
    return known[1]


def _hub(kind: ModelKind[Identity], repo: str, revision: str, *, offline: bool) -> Identity:
    from huggingface_hub import is_offline_mode

    snapshot = _cached_snapshot(kind, repo, revision)
    if offline or is_offline_mode():
        if snapshot is None:
            raise NotAvailable(
                f"{kind.noun} {repo}@{revision} is not in the local Hugging Face cache and this run is offline; run "
                f"`hf download {repo} --revision {revision}` with a network first, or give a folder"
            )
        kind.check_folder(snapshot, f"{repo}@{revision}")
        commit = snapshot.name
    elif snapshot is not None and snapshot.name == revision and _passes(kind, snapshot, repo):
        commit = revision
    else:
        commit = _ask_hub(kind, repo, revision)
    return kind.identity("hub", repo, commit, None, repo)


def _cached_snapshot(kind: ModelKind[Any], repo: str, revision: str) -> Path | None:
    """Return the folder that the local cache holds for a revision, named for its commit; nothing checks it here."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, kind.index, revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _passes(kind: ModelKind[Any], folder: Path, name: str) -> bool:
    """Whether a cached copy is whole; with a network one that is not is a download to go on with, no error."""
    with contextlib.suppress(GeneratorError):
        kind.check_folder(folder, name)
        return True
    return False


def _ask_hub(kind: ModelKind[Any], repo: str, revision: str) -> str:
    """Resolve a revision to a commit online, and check from the listing that it is what it should be."""
    from huggingface_hub import HfApi, errors

    transport_error = getattr(errors, "HTTPError", OSError)  # the base class of whichever HTTP client it uses
    try:
        info = HfApi().model_info(repo, revision=revision, timeout=_TIMEOUT_S)
    except errors.GatedRepoError as error:
        raise NotAvailable(
            f"{kind.noun} {repo} is gated: accept its terms on huggingface.co and log in with `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        hint = f"The Hub has no model {repo} that you may see, and there is no such folder."
        raise UnknownName(kind.noun, repo, kind.known, hint) from error
    except errors.RevisionNotFoundError as error:
        raise InvalidValue(f"{kind.noun} {repo} has no revision {revision!r} on the Hub") from error
    except (errors.HFValidationError, ValueError) as error:
        raise InvalidValue(f"{repo!r} is not a Hub id. {kind.forms}") from error
    except (transport_error, OSError) as error:
        raise NotAvailable(
            f"the Hub could not be asked about {kind.noun} {repo} ({type(error).__name__}); check the network, or use "
            "--offline with a model that is already downloaded, or give a folder"
        ) from error
    if files := [sibling.rfilename for sibling in info.siblings or []]:
        kind.check_listing(files, info.config, repo)
    if info.sha is None or not _COMMIT.fullmatch(info.sha):
        raise NotAvailable(f"the Hub named no commit for {kind.noun} {repo}@{revision}; give a commit as {repo}@COMMIT")
    return info.sha
