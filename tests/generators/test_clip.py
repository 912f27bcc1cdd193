"""A CLIP is found and checked without loading it; loaded, it says how well an image fits its text."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from benchmark.errors import GeneratorError, InvalidValue, NotAvailable, UnknownName
from benchmark.generators.clip import Clip
from benchmark.generators.clip_identity import ClipIdentity, resolve_clip
from benchmark.generators.identity import GeneratorIdentity
from benchmark.tasks.lazy import LazyImages

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXTS = ["a red seven", "a blue one", "a red seven", "a much longer text about a green letter", "a blue one"]
Parts = tuple[CLIPModel, CLIPTokenizer, CLIPImageProcessorPil]


@pytest.fixture(scope="module")
def parts() -> Parts:
    """A random CLIP of 20,000 weights for images of 32x32 pixels, whose tokens are bytes."""
    symbols = list(bytes_to_unicode().values())
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: k for k, token in enumerate(tokens)}, merges=[], model_max_length=24)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1}
    config = CLIPConfig(
        text_config={**sizes, **ends, "vocab_size": len(tokens), "max_position_embeddings": 24},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=12,
        initializer_factor=8.0,  # so that images and texts differ visibly
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(config).eval()
    return model, tokenizer, CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


@pytest.fixture(scope="module")
def folder(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, saved; copy it before changing it."""
    folder = tmp_path_factory.mktemp("clips") / "small-clip"
    for part in parts:
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Clip:
    return load(folder)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (5, 40, 48, 3), dtype=np.uint8)


def load(folder: Path, **options: Any) -> Clip:
    return Clip.load(resolve_clip(str(folder), offline=True), **{"device": "cpu", "offline": True, **options})


def rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_image_features_have_length_one_and_differ(clip: Clip, images: NDArray[np.uint8]) -> None:
    features = clip.image_features(images)
    assert features.shape == (5, 12)
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    assert np.abs(features[0] - features[1]).max() > 0.01
    assert clip.image_features(images[:0]).shape == (0, 12)


def test_features_do_not_depend_on_the_batch(folder: Path, clip: Clip, images: NDArray[np.uint8]) -> None:
    features = clip.image_features(images)
    for batch_size in (1, 2):
        other = load(folder, batch_size=batch_size).image_features(images)
        np.testing.assert_allclose(other, features, atol=1e-6)
    np.testing.assert_allclose(clip.image_features(images[::-1]), features[::-1], atol=1e-6)


def test_lazy_images_give_the_same_and_are_read_in_batches(folder: Path, clip: Clip) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    reads: list[int] = []

    def read(positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        reads.append(len(positions))
        return pixels[positions]

    features = load(folder, batch_size=2).image_features(LazyImages(5, 32, read))
    np.testing.assert_allclose(features, clip.image_features(pixels), atol=1e-6)
    assert reads == [2, 2, 1]


def test_a_score_is_the_cosine_that_transformers_computes(clip: Clip, parts: Parts, images: NDArray[np.uint8]) -> None:
    model, tokenizer, preprocessor = parts
    inputs = CLIPProcessor(preprocessor, tokenizer)(
        images=[Image.fromarray(image) for image in images],
        text=TEXTS,
        padding=True,
        truncation=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        output = model(**inputs)
    expected = (output.image_embeds * output.text_embeds).sum(dim=1).numpy()
    scores = clip.scores(images, TEXTS)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert np.ptp(scores) > 0.01


def test_each_distinct_text_is_encoded_once(folder: Path, images: NDArray[np.uint8]) -> None:
    clip = load(folder)
    encoded: list[int] = []
    hook = clip._model.text_model.register_forward_hook(lambda *_: encoded.append(1) and None)
    first = clip.scores(images, TEXTS)
    assert len(encoded) == 3
    np.testing.assert_array_equal(clip.scores(images[1:2], TEXTS[1:2]).round(6), first[1:2].round(6))
    assert len(encoded) == 3
    hook.remove()


def test_lower_precision_is_close(folder: Path, clip: Clip, images: NDArray[np.uint8]) -> None:
    low = load(folder, precision="bfloat16")
    assert low._model.dtype == torch.bfloat16
    features = low.image_features(images)
    assert features.dtype == np.float32
    assert 0 < np.abs(features - clip.image_features(images)).max() < 0.1


def test_loading_draws_no_random_numbers_and_says_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = torch.get_rng_state()
    load(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")


def test_images_and_texts_must_go_together(clip: Clip, images: NDArray[np.uint8]) -> None:
    with pytest.raises(InvalidValue, match="5 images need as many texts"):
        clip.scores(images, TEXTS[:2])
    with pytest.raises(InvalidValue, match="5 images need as many texts, not 'seven'"):
        clip.scores(images, "seven")
    with pytest.raises(InvalidValue, match=r"not float64 \(5, 40, 48, 3\)"):
        clip.image_features(images / 255)  # type: ignore[arg-type]


def test_options_that_cannot_be_are_refused(folder: Path) -> None:
    with pytest.raises(UnknownName, match="unknown precision 'float16'"):
        load(folder, precision="float16")
    with pytest.raises(InvalidValue, match="a batch size of 0"):
        load(folder, batch_size=0)
    with pytest.raises(InvalidValue, match="'gpu' is no device"):
        load(folder, device="gpu")


def test_nan_is_refused_with_the_image_or_the_text(folder: Path, images: NDArray[np.uint8]) -> None:
    clip = load(folder, batch_size=2)
    with torch.no_grad():
        clip._model.text_projection.weight[0, 0] = float("nan")
    with pytest.raises(GeneratorError, match="NaN or infinite values for the text 'a red seven' in float32; its w"):
        clip.scores(images, TEXTS)
    black = images.copy()
    black[3] = 0
    # The projection is made to fail on the vector of a black image alone.
    of_black = clip._model.vision_model(clip._pixels(black[3:4])).pooler_output
    clip._model.visual_projection.register_forward_pre_hook(
        lambda _module, inputs: inputs[0] / ((inputs[0] - of_black).abs().amax(dim=1, keepdim=True) > 1e-4)
    )
    with pytest.raises(GeneratorError, match="NaN or infinite values for image 3 in float32; its weights may be"):
        clip.image_features(black)


def test_too_little_memory_names_the_batch_size(folder: Path, images: NDArray[np.uint8]) -> None:
    clip = load(folder, batch_size=4)
    # A real failure of the allocator, inside a real forward pass.
    clip._model.vision_model.register_forward_pre_hook(lambda *_: torch.empty(2**60, dtype=torch.uint8) and None)
    with pytest.raises(GeneratorError, match=r"not enough memory for a batch size of 4 .* try a batch size of 2"):
        clip.image_features(images)
    with pytest.raises(GeneratorError, match=r"for a batch size of 1 .* use a device with more memory"):
        clip.image_features(images[:1])


def test_missing_weights_are_never_filled_with_random_ones(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(GeneratorError, match=r"1 of its weights are missing .* visual_projection.weight among them"):
        load(copy)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "preprocessor_config.json", "config.json"])
def test_damaged_files_are_one_sentence_without_the_path(copy: Path, file: str) -> None:
    identity = resolve_clip(str(copy), offline=True)
    (copy / file).write_bytes((copy / file).read_bytes()[:100])
    with pytest.raises(GeneratorError, match=r"CLIP model 'copy' (cannot be loaded|is damaged)") as raised:
        Clip.load(identity, device="cpu")
    assert str(copy) not in str(raised.value)


def test_parts_must_fit_each_other(copy: Path) -> None:
    rewrite(copy / "preprocessor_config.json", crop_size={"height": 24, "width": 24})
    with pytest.raises(GeneratorError, match="makes images of 24x24 pixels, its model takes 32x32"):
        load(copy)
    CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}, merges=[]).save_pretrained(copy)
    with pytest.raises(GeneratorError, match="ends a text with token 1, its model with 513"):
        load(copy)
    more = {str(k): k + 2 for k in range(600)}
    CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1, **more}, merges=[]).save_pretrained(copy)
    with pytest.raises(GeneratorError, match="its tokenizer has 602 tokens, its model 514"):
        load(copy)


def test_a_folder_is_known_by_base_name_and_content(folder: Path, copy: Path) -> None:
    identity = resolve_clip(str(folder), offline=True)
    assert identity.as_record() == {
        "kind": "local",
        "name": "small-clip",
        "revision": None,
        "content_sha256": identity.content_sha256,
    }
    other = shutil.copytree(copy, copy.parent / "elsewhere" / "small-clip")
    (other / "README.md").write_text("no part of the model")
    assert resolve_clip(str(other), offline=True) == identity
    rewrite(other / "preprocessor_config.json", resample=2)
    assert resolve_clip(str(other), offline=True) != identity


def test_the_identity_of_a_clip_is_none_of_a_generator(folder: Path) -> None:
    identity = resolve_clip(str(folder), offline=True)
    assert identity != GeneratorIdentity(**identity.as_record(), location=str(folder))  # type: ignore[arg-type]


def test_resolving_imports_nothing_heavy(folder: Path) -> None:
    program = (
        "import sys; from benchmark.generators.clip_identity import resolve_clip;"
        f"resolve_clip({str(folder)!r}, offline=True);"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'sklearn', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("small-clip", UnknownName, "unknown CLIP model 'small-clip'.*such as openai/clip-vit-large-patch14"),
        ("./nowhere", InvalidValue, "there is no folder"),
        (__file__, InvalidValue, "CLIP model .* is a file; give the folder that holds config.json"),
        ("org/name", NotAvailable, "CLIP model org/name@main is not in the local Hugging Face cache"),
    ],
)
def test_what_is_neither_folder_nor_hub_id_is_refused(
    name: str, error: type[Exception], message: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cache.parent)
    with pytest.raises(error, match=message):
        resolve_clip(name, offline=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "'copy' is not a CLIP model: there is no config.json"),
        (lambda f: (f / "config.json").write_text("["), "is damaged: .*cannot be read as JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json holds no JSON object"),
        (
            lambda f: rewrite(f / "config.json", model_type="siglip", architectures=["SiglipModel"]),
            "not a CLIP model but of the model type 'siglip'",
        ),
        (lambda f: (f / "config.json").write_text("{}"), "not a CLIP model but of no known model type"),
        (lambda f: (f / "model.safetensors").unlink(), "has no weights: there is no model.safetensors"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), r"as a pickle \(pytorch_model.bin\)"),
        (
            lambda f: (f / "model.safetensors").rename(f / "model.safetensors.index.json"),
            "model.safetensors.index.json cannot be read as JSON",
        ),
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "has no image preprocessor: it needs preprocessor_c"),
        (
            lambda f: (f / "preprocessor_config.json").rename(f / "processor_config.json"),
            "processor_config.json describes none",
        ),
    ],
)
def test_a_folder_must_hold_a_whole_clip(copy: Path, change: Callable[[Path], object], message: str) -> None:
    change(copy)
    with pytest.raises(GeneratorError, match=message):
        resolve_clip(str(copy), offline=True)


def test_weights_in_several_files_and_a_whole_processor_are_loaded(
    clip: Clip, parts: Parts, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    model, tokenizer, preprocessor = parts
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    CLIPProcessor(preprocessor, tokenizer).save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*-of-*.safetensors"))
    assert len(shards) > 1
    assert not (tmp_path / "preprocessor_config.json").exists()
    np.testing.assert_array_equal(load(tmp_path).image_features(images), clip.image_features(images))
    shards[1].unlink()
    with pytest.raises(GeneratorError, match=f"lacks {shards[1].name}, a part of its weights"):
        resolve_clip(str(tmp_path), offline=True)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_offline_a_hub_model_comes_from_the_cache(
    cache: Path, folder: Path, clip: Clip, images: NDArray[np.uint8]
) -> None:
    snapshot = shutil.copytree(folder, cache / "models--org--clip" / "snapshots" / COMMIT)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
    identity = resolve_clip("org/clip", offline=True)
    assert identity == ClipIdentity("hub", "org/clip", COMMIT, None, "org/clip")
    loaded = Clip.load(identity, device="cpu", offline=True)
    np.testing.assert_array_equal(loaded.image_features(images), clip.image_features(images))
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(NotAvailable, match=f"org/clip@{COMMIT} is not whole in the local .*`hf download org/clip"):
        Clip.load(identity, device="cpu", offline=True)
    with pytest.raises(GeneratorError, match="'org/clip@main' has no weights"):
        resolve_clip("org/clip", offline=True)


class Hub(BaseHTTPRequestHandler):
    """What of the Hub is needed to resolve a revision and to download its files."""

    files: dict[str, bytes]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        _, _, file = path.rpartition(f"/resolve/{COMMIT}/")
        model = path.split("/")[4] if path.startswith("/api/models/org/") else ""
        if path.endswith("/revision/main") and model != "gone":
            self.reply(json.dumps(self.info(model)).encode())
        elif path == f"/api/models/org/clip/tree/{COMMIT}":
            tree = [{"type": "file", "path": n, "size": len(c), "oid": self.oid(c)} for n, c in self.files.items()]
            self.reply(json.dumps(tree).encode())
        elif path != file and file in self.files:
            self.reply(self.files[file])
        else:
            self.send_response(404)
            known = path.startswith("/api/models/org/clip/")
            self.send_header("X-Error-Code", "RevisionNotFound" if known else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def do_HEAD(self) -> None:
        self.do_GET()

    def info(self, model: str) -> dict[str, Any]:
        names = {"clip": list(self.files), "pickled": ["config.json", "pytorch_model.bin"]}.get(model, ["config.json"])
        config = {"model_type": "bert"} if model == "bert" else {"model_type": "clip"}
        siblings = [{"rfilename": name} for name in names]
        return {"id": f"org/{model}", "sha": COMMIT, "siblings": siblings, "config": config}

    def oid(self, content: bytes) -> str:
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def reply(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{self.oid(body)}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Hub on this machine, and the real client pointed at it."""
    monkeypatch.setattr(Hub, "files", {p.name: p.read_bytes() for p in folder.iterdir()}, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def test_online_a_revision_becomes_a_commit_and_its_files_are_downloaded_once(
    hub: None, cache: Path, clip: Clip, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = resolve_clip("org/clip", offline=False)
    assert (identity.name, identity.revision) == ("org/clip", COMMIT)
    features = Clip.load(identity, device="cpu").image_features(images)
    np.testing.assert_array_equal(features, clip.image_features(images))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert resolve_clip(f"org/clip@{COMMIT}", offline=False) == identity
    Clip.load(identity, device="cpu")


def test_online_what_is_no_clip_is_refused_before_it_is_downloaded(hub: None, cache: Path) -> None:
    with pytest.raises(GeneratorError, match="'org/bert' is not a CLIP model but of the model type 'bert'"):
        resolve_clip("org/bert", offline=False)
    with pytest.raises(GeneratorError, match=r"'org/pickled' holds its weights as a pickle \(pytorch_model.bin\)"):
        resolve_clip("org/pickled", offline=False)
    with pytest.raises(InvalidValue, match="has no revision 'v9'"):
        resolve_clip("org/clip@v9", offline=False)
    with pytest.raises(UnknownName, match="The Hub has no model org/gone that you may see"):
        resolve_clip("org/gone", offline=False)
    assert not cache.exists()


def test_what_went_away_between_finding_and_loading_is_said_to_be_gone(hub: None, folder: Path) -> None:
    gone = ClipIdentity("hub", "org/gone", COMMIT, None, "org/gone")
    with pytest.raises(NotAvailable, match=f"CLIP model org/gone@{COMMIT} could not be downloaded"):
        Clip.load(gone, device="cpu")
    with pytest.raises(NotAvailable, match="the folder of CLIP model 'small-clip' is no longer there"):
        Clip.load(replace(resolve_clip(str(folder), offline=True), location=str(folder / "gone")), device="cpu")


def test_without_a_network_the_message_says_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(NotAvailable, match="could not be asked about CLIP model org/clip"):
        resolve_clip("org/clip", offline=False)
