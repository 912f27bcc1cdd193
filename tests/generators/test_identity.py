"""Names of generators become identities; what cannot be used is refused with a reason."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmark.errors import GeneratorError, InvalidValue, NotAvailable, UnknownName
from benchmark.generators.identity import list_generators, resolve_generator

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "safety_checker": [None, None],
    "unet": ["diffusers", "UNet2DConditionModel"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The skeleton of a pipeline: enough for what is checked without loading it."""
    root = tmp_path / "my-model"
    for part, file in (("unet", "diffusion_pytorch_model.safetensors"), ("tokenizer", "vocab.json")):
        (root / part).mkdir(parents=True)
        (root / part / file).write_bytes(b"{}")
    (root / "model_index.json").write_text(json.dumps(INDEX))
    return root


def write_index(folder: Path, **changes: object) -> None:
    (folder / "model_index.json").write_text(json.dumps({**INDEX, **changes}))


def test_a_folder_is_known_by_base_name_and_content(folder: Path, tmp_path: Path) -> None:
    identity = resolve_generator(str(folder), offline=True)
    assert identity.as_record() == {
        "kind": "local",
        "name": "my-model",
        "revision": None,
        "content_sha256": identity.content_sha256,
    }
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / "my-model")
    (copy / "README.md").write_text("no part of the model")
    assert resolve_generator(str(copy), offline=True) == identity
    (copy / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"{ }")
    assert resolve_generator(str(copy), offline=True) != identity


def test_resolving_and_listing_import_nothing_heavy(folder: Path) -> None:
    program = (
        "import sys; from benchmark.generators.identity import *; import benchmark.generators.pools;"
        f"list_generators(); resolve_generator({str(folder)!r}, offline=True);"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'datasets', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tiny_sd_is_listed() -> None:
    assert "tiny-sd" in [entry.name for entry in list_generators()]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("tiny-ds", UnknownName, "did you mean 'tiny-sd'"),
        ("./nowhere", InvalidValue, "there is no folder"),
        ("/no/such/folder", InvalidValue, "there is no folder"),
        (__file__, InvalidValue, "is a file"),
        ("", UnknownName, "unknown generator"),
        ("org/../name", InvalidValue, "there is no folder"),
    ],
)
def test_what_is_neither_folder_nor_hub_id_is_refused(
    name: str, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        resolve_generator(name, offline=True)


def test_a_folder_must_be_a_pipeline(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")
    with pytest.raises(GeneratorError, match="cannot be read as JSON"):
        resolve_generator(str(folder), offline=True)
    (folder / "model_index.json").write_text("[]")
    with pytest.raises(GeneratorError, match="names no pipeline class"):
        resolve_generator(str(folder), offline=True)
    (folder / "model_index.json").unlink()
    with pytest.raises(GeneratorError, match="not a diffusers pipeline"):
        resolve_generator(str(folder), offline=True)


def test_a_pipeline_must_make_images_from_text(folder: Path) -> None:
    write_index(folder, _class_name="StableDiffusionInpaintPipeline")
    with pytest.raises(GeneratorError, match="StableDiffusionInpaintPipeline, which makes no images from text"):
        resolve_generator(str(folder), offline=True)
    write_index(folder, _class_name="DDPMPipeline", tokenizer=[None, None])
    with pytest.raises(GeneratorError, match="DDPMPipeline, which makes no images from text"):
        resolve_generator(str(folder), offline=True)
    write_index(folder, _class_name=["pipeline", "MyPipeline"])
    with pytest.raises(GeneratorError, match="names no pipeline class"):
        resolve_generator(str(folder), offline=True)


def test_a_component_must_be_there_and_safe(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(GeneratorError, match="'unet' as a pickle"):
        resolve_generator(str(folder), offline=True)
    weights.with_suffix(".bin").rename(weights)
    (folder / "unet" / "model.py").write_text("raise SystemExit")
    with pytest.raises(GeneratorError, match="code of its own"):
        resolve_generator(str(folder), offline=True)
    shutil.rmtree(folder / "unet")
    with pytest.raises(GeneratorError, match="lacks the folder of its component 'unet'"):
        resolve_generator(str(folder), offline=True)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def fill(cache: Path, folder: Path) -> None:
    model = cache / "models--org--model"
    shutil.copytree(folder, model / "snapshots" / COMMIT)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)


def test_offline_a_hub_model_comes_from_the_cache(cache: Path, folder: Path) -> None:
    with pytest.raises(NotAvailable, match="hf download org/model --revision main"):
        resolve_generator("org/model", offline=True)
    fill(cache, folder)
    for name in ("org/model", "org/model@main", f"org/model@{COMMIT}"):
        identity = resolve_generator(name, offline=True)
        assert (identity.kind, identity.name, identity.revision) == ("hub", "org/model", COMMIT)
        assert identity.content_sha256 is None
    with pytest.raises(NotAvailable, match="org/model@v2 is not in the local"):
        resolve_generator("org/model@v2", offline=True)


class Hub(BaseHTTPRequestHandler):
    """The one route of the Hub that resolving a revision needs."""

    def do_GET(self) -> None:
        known = {
            f"/api/models/org/{model}/revision/main": {"id": f"org/{model}", "sha": COMMIT, "siblings": files}
            for model, files in (
                ("model", [{"rfilename": "model_index.json"}]),
                ("bert", [{"rfilename": "config.json"}]),
            )
        }
        answer = known.get(self.path)
        missing = "RevisionNotFound" if self.path.startswith("/api/models/org/model") else "RepoNotFound"
        body = json.dumps(answer or {"error": "not found"}).encode()
        self.send_response(200 if answer else 404)
        if not answer:
            self.send_header("X-Error-Code", missing)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Hub on this machine, and the real client pointed at it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def test_online_a_revision_becomes_a_commit(hub: None) -> None:
    identity = resolve_generator("org/model", offline=False)
    assert (identity.name, identity.revision) == ("org/model", COMMIT)
    with pytest.raises(InvalidValue, match="no revision 'v9'"):
        resolve_generator("org/model@v9", offline=False)
    with pytest.raises(UnknownName, match="has no model org/other"):
        resolve_generator("org/other", offline=False)
    with pytest.raises(GeneratorError, match="not a diffusers pipeline"):
        resolve_generator("org/bert", offline=False)


def test_without_a_network_the_message_says_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(NotAvailable, match="could not be asked about generator org/model"):
        resolve_generator("org/model", offline=False)
