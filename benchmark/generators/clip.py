"""Loads a CLIP of `transformers` for image features and for how well an image fits its text.

Clustering takes its features, filters its scores; both are external data of a run and named in its record.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel
from transformers.utils import logging as transformers_logging

from benchmark.errors import GeneratorError, InvalidValue, NotAvailable, UnknownName
from benchmark.generators.clip_identity import CONFIG, FILES, ClipIdentity, check_clip_folder
from benchmark.generators.pipelines import no_memory
from benchmark.tasks.lazy import Images, blocks
from benchmark.training.device import Precision, resolve_device

BATCH = 64

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_KEPT_TEXTS = 1024
_EOS_BEFORE_FIX = 2  # in configurations older than a fix of 2023: the model then looks for the highest token


class Clip:
    """A loaded CLIP (Radford et al. 2021): one space for images and texts.

    Images are prepared by Pillow, as the original was, on every device alike; the torchvision preprocessor gives
    slightly other pixels.

    Attributes:
        identity: Which CLIP it is.
        precision: Name of the dtype of weights and arithmetic; features are float32 all the same.
        batch_size: Images per forward pass.
        device: Where it is.
    """

    def __init__(
        self,
        identity: ClipIdentity,
        model: Any,
        tokenizer: Any,
        preprocessor: Any,
        *,
        precision: Precision = "float32",
        batch_size: int = BATCH,
    ) -> None:
        self.identity, self.precision, self.batch_size = identity, precision, batch_size
        self.device: torch.device = model.device
        self._model, self._tokenizer, self._preprocessor = model, tokenizer, preprocessor
        self._texts: dict[str, NDArray[np.float32]] = {}

    @classmethod
    def load(
        cls,
        identity: ClipIdentity,
        *,
        device: str,
        precision: Precision = "float32",
        offline: bool = False,
        batch_size: int = BATCH,
    ) -> Clip:
        """Load a CLIP from safetensors onto a device, ready for inference.

        Args:
            identity: What `resolve_clip` returned.
            device: Such as ``cpu`` or ``cuda:0``.
            precision: ``float32`` or ``bfloat16``.
            offline: Load a Hub model from the local cache only.
            batch_size: Images per forward pass.

        Raises:
            UnknownName: For an unknown precision.
            InvalidValue: For a name that is no device, and a batch of no images.
            GeneratorError: When it is no CLIP, its files are incomplete, damaged or do not fit each other, or memory
                does not suffice.
            NotAvailable: When the device is not there, or the model neither cached nor reachable.
        """
        if precision not in _DTYPES:
            raise UnknownName("precision", precision, _DTYPES)
        if batch_size < 1:
            raise InvalidValue(f"a batch size of {batch_size} makes no sense; use 1 or more")
        place = resolve_device(device)
        folder = _folder(identity, offline=offline)
        check_clip_folder(folder, identity.name)
        model, tokenizer, preprocessor = _parts(folder, identity.name, _DTYPES[precision])
        _check_tokenizer(tokenizer, model.config.text_config, identity.name)
        try:
            model.eval().requires_grad_(False).to(place)
        except torch.OutOfMemoryError as error:
            raise GeneratorError(f"CLIP model {identity.name!r} does not fit into the memory of {device}") from error
        clip = cls(identity, model, tokenizer, preprocessor, precision=precision, batch_size=batch_size)
        clip._pixels(np.zeros((1, 32, 32, 3), dtype=np.uint8))  # now rather than after a pool was made
        return clip

    def image_features(self, images: Images) -> NDArray[np.float32]:
        """Return one unit vector per image.

        A vector does not depend on the other images, but for its last bits (about 1e-7).

        Args:
            images: uint8 [n, height, width, 3]; lazy ones are read in batches.

        Returns:
            float32 [n, dimensions], each row of length 1.

        Raises:
            InvalidValue: For arrays of another kind.
            GeneratorError: For NaN or infinite values, and when memory does not suffice.
        """
        _check_images(images)
        features = np.empty((len(images), self._model.config.projection_dim), dtype=np.float32)
        for start, block in blocks(images, self.batch_size):
            features[start : start + len(block)] = self._images(start, block)
        return features

    def scores(self, images: Images, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return how well each image fits its own text: the cosine of the angle between their vectors.

        Each distinct text is encoded once, alone, and cut to what the model takes (77 tokens in the original).

        Args:
            images: uint8 [n, height, width, 3]; lazy ones are read in batches.
            texts: One per image.

        Returns:
            float64 [n] in [-1, 1].

        Raises:
            InvalidValue: When the two differ in length, and for arrays of another kind.
            GeneratorError: For NaN or infinite values, and when memory does not suffice.
        """
        _check_images(images)
        if isinstance(texts, str) or len(images) != len(texts):
            raise InvalidValue(f"{len(images)} images need as many texts, not {texts!r:.40} of length {len(texts)}")
        vectors = {text: self._text(text) for text in dict.fromkeys(texts)}
        scores = np.empty(len(images), dtype=np.float64)
        for start, block in blocks(images, self.batch_size):
            stop = start + len(block)
            own = np.stack([vectors[text] for text in texts[start:stop]]).astype(np.float64)
            scores[start:stop] = np.einsum("nd,nd->n", self._images(start, block).astype(np.float64), own)
        return np.clip(scores, -1.0, 1.0)  # vectors have length 1 to float32's precision only

    @torch.inference_mode()
    def _images(self, start: int, block: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode one batch; ``start`` is the position of its first image, for messages."""
        with self._enough_memory(len(block)):
            pixels = self._pixels(block).to(self.device, self._model.dtype)
            features, finite = _unit(self._model.get_image_features(pixel_values=pixels).pooler_output)
        if not finite.all():
            self._refuse_values(f"image {start + int(np.argmin(finite))}")
        return features

    @torch.inference_mode()
    def _text(self, text: str) -> NDArray[np.float32]:
        """Encode one text alone, so that its vector does not depend on the others."""
        if text not in self._texts:
            if len(self._texts) >= _KEPT_TEXTS:
                self._texts.clear()
            longest = min(self._tokenizer.model_max_length, self._model.config.text_config.max_position_embeddings)
            with self._enough_memory(1):
                tokens = self._tokenizer(text, truncation=True, max_length=longest, return_tensors="pt").to(self.device)
                output = self._model.get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"])
                features, finite = _unit(output.pooler_output)
            if not finite.all():
                self._refuse_values(f"the text {text!r}")
            self._texts[text] = features[0]
        return self._texts[text]

    def _pixels(self, block: NDArray[np.uint8]) -> torch.Tensor:
        """Resize, crop and normalise as the preprocessor's configuration says."""
        try:
            prepared = self._preprocessor(list(block), return_tensors="pt", input_data_format="channels_last")
            pixels: torch.Tensor = prepared["pixel_values"]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise GeneratorError(
                f"CLIP model {self.identity.name!r} has an image preprocessor that fails: {_first_line(error)}"
            ) from error
        size = self._model.config.vision_config.image_size
        if tuple(pixels.shape[1:]) != (3, size, size):
            height, width = pixels.shape[-2:]
            raise GeneratorError(
                f"CLIP model {self.identity.name!r} does not fit together: its preprocessor makes images of "
                f"{height}x{width} pixels, its model takes {size}x{size}; get it again"
            )
        return pixels

    @contextlib.contextmanager
    def _enough_memory(self, n: int) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not no_memory(error):
                raise
            less = f"try a batch size of {n // 2}" if n > 1 else "use a device with more memory"
            raise GeneratorError(
                f"{self.device} has not enough memory for a batch size of {n} with CLIP model "
                f"{self.identity.name!r}; {less}"
            ) from error

    def _refuse_values(self, what: str) -> None:
        advice = "its weights may be damaged" if self.precision == "float32" else "try float32"
        raise GeneratorError(
            f"CLIP model {self.identity.name!r} made NaN or infinite values for {what} in {self.precision}; {advice}"
        )


def _unit(features: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Scale each row to length 1, and say which rows are finite; a row of zeros has no direction and is not."""
    rows = features.float()
    rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows.cpu().numpy(), torch.isfinite(rows).all(dim=1).cpu().numpy()


def _check_images(images: Images) -> None:
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise InvalidValue(f"images must be uint8 [n, h, w, 3], not {images.dtype} {images.shape}")


def _folder(identity: ClipIdentity, *, offline: bool) -> Path:
    """Return where the files are; a Hub model is downloaded unless the cache holds all of it."""
    from huggingface_hub import errors, is_offline_mode, snapshot_download, try_to_load_from_cache

    if identity.kind == "local":
        if not Path(identity.location).is_dir():
            raise NotAvailable(f"the folder of CLIP model {identity.name!r} is no longer there; put it back")
        return Path(identity.location)
    name, revision = f"{identity.name}@{identity.revision}", identity.revision
    found = try_to_load_from_cache(identity.location, CONFIG, revision=revision)
    if isinstance(found, str):
        with contextlib.suppress(GeneratorError):
            check_clip_folder(Path(found).parent, name)
            return Path(found).parent
    if offline or is_offline_mode():
        raise NotAvailable(
            f"CLIP model {name} is not whole in the local Hugging Face cache and this run is offline; run "
            f"`hf download {identity.name} --revision {revision}` with a network first, or give a folder"
        )
    transport_error = getattr(errors, "HTTPError", OSError)  # the base class of whichever HTTP client it uses
    try:
        with _quietly():
            return Path(snapshot_download(identity.location, revision=revision, allow_patterns=list(FILES)))
    except (transport_error, OSError) as error:
        raise NotAvailable(
            f"CLIP model {name} could not be downloaded ({type(error).__name__}); check the network, or give a folder"
        ) from error


def _parts(folder: Path, name: str, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """Load model, tokenizer and image preprocessor; weights that the files lack would be random numbers."""
    try:
        with _quietly():
            loaded: Any = CLIPModel.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            preprocessor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # damaged files: tokenizers, for one, raises nothing more specific
        reason = _first_line(error).replace(str(folder), name)
        raise GeneratorError(f"CLIP model {name!r} cannot be loaded: {reason}") from error
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        raise GeneratorError(
            f"CLIP model {name!r} is incomplete: {len(missing)} of its weights are missing from its files, "
            f"{missing[0]} among them; get it again"
        )
    return model, tokenizer, preprocessor


def _check_tokenizer(tokenizer: Any, config: Any, name: str) -> None:
    """Refuse a tokenizer of another model: the text's vector is read off at a token that it would never write."""
    wrong = None
    if len(tokenizer) > config.vocab_size:
        wrong = f"its tokenizer has {len(tokenizer)} tokens, its model {config.vocab_size}"
    elif config.eos_token_id not in (tokenizer.eos_token_id, _EOS_BEFORE_FIX):
        wrong = f"its tokenizer ends a text with token {tokenizer.eos_token_id}, its model with {config.eos_token_id}"
    if wrong is not None:
        raise GeneratorError(f"CLIP model {name!r} does not fit together: {wrong}; get it again")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Switch off bars and reports: what is wrong with a model becomes an error here, what is not is no news."""
    bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
