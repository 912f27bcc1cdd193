"""Loads text-to-image pipelines of `diffusers` and samples them reproducibly, one seed per image.

`pools.Pool` calls `TextToImage.sample`; fine-tuning works on `TextToImage.pipe`.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from benchmark.errors import GeneratorError, InvalidValue, NotAvailable, UnknownName
from benchmark.generators.adapters import Stack, base_of, load_adapter
from benchmark.generators.identity import GeneratorIdentity
from benchmark.generators.recipe import NATIVE, RESIZE_FILTERS, SCHEDULERS

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_LOADING_ERRORS = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, NotImplementedError,
    SafetensorError,
)  # fmt: skip
_INCOMPLETE = ("newly initialized", "MISSING")
_NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")
_KEPT_PROMPTS = 1024

logger = logging.getLogger(__name__)

Pipeline = Any
"""A `diffusers.DiffusionPipeline`; the attributes used here are those of its text-to-image subclasses."""


def load_pipeline(identity: GeneratorIdentity, *, device: str, dtype: torch.dtype, offline: bool = False) -> Pipeline:
    """Load a text-to-image pipeline from safetensors onto a device, ready for inference.

    Args:
        identity: What `resolve_generator` returned.
        device: Such as ``cpu`` or ``cuda:0``.
        dtype: Of weights and arithmetic.
        offline: Load a Hub model from the local cache only.

    Raises:
        GeneratorError: When it is no text-to-image pipeline, or its files are incomplete or damaged.
        NotAvailable: When the device is not there.
    """
    _check_device(device)
    with _library_chatter() as complaints:
        try:
            pipe = diffusers.AutoPipelineForText2Image.from_pretrained(
                identity.location,
                revision=identity.revision,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=offline or identity.kind == "local",
            )
        except _LOADING_ERRORS as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise GeneratorError(
                f"generator {identity.name!r} cannot be loaded: {reason.replace(identity.location, identity.name)}"
            ) from error
    _check_complete(pipe, identity.name, complaints)
    pipe.set_progress_bar_config(disable=True)
    try:
        pipe.to(device)
    except torch.OutOfMemoryError as error:
        raise GeneratorError(f"generator {identity.name!r} does not fit into the memory of {device}") from error
    # In the default layout: channels-last weights are slower on CPUs, and on an H200 (6.7 against 7.4 images a second).
    return pipe


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InvalidValue(f"{device!r} is not a device; give cpu, cuda or cuda:N") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise NotAvailable(f"device {device!r} was asked for, but torch finds no CUDA device; use cpu")


@contextlib.contextmanager
def _library_chatter() -> Iterator[list[str]]:
    """Switch off loading bars, and collect warnings: that weights are missing is said there and nowhere else."""
    complaints: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: complaints.append(record.getMessage())  # type: ignore[method-assign]
    libraries = (diffusers_logging, transformers_logging)
    before = [(library.is_progress_bar_enabled(), library.get_verbosity()) for library in libraries]
    for library in libraries:
        library.disable_progress_bar()
        library.set_verbosity_warning()
        library.add_handler(handler)
    try:
        yield complaints
    finally:
        for library, (bars, verbosity) in zip(libraries, before, strict=True):
            library.remove_handler(handler)
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()


def _check_complete(pipe: Pipeline, name: str, complaints: list[str]) -> None:
    """Refuse a pipeline whose files lack weights; the libraries would fill them with random numbers."""
    incomplete = [
        part
        for part, model in pipe.components.items()
        if isinstance(model, torch.nn.Module) and any(value.is_meta for value in model.parameters())
    ]
    if incomplete or any(word in complaint for complaint in complaints for word in _INCOMPLETE):
        where = f" of its component {incomplete[0]!r}" if incomplete else ""
        raise GeneratorError(
            f"generator {name!r} is incomplete: weights{where} are missing from its files; get it again"
        )


class TextToImage:
    """A loaded text-to-image pipeline with a scheduler.

    Attributes:
        pipe: The pipeline itself, for fine-tuning. Call :meth:`forget_prompts` after changing its text encoder.
        identity: Which generator it is.
        scheduler: Name of the scheduler, ``native`` for the one saved with it.
        precision: Name of the dtype.
        adapters: Files of the fine-tuned weights that may be asked for, by SHA-256.
    """

    def __init__(
        self,
        pipe: Pipeline,
        identity: GeneratorIdentity,
        *,
        scheduler: str = NATIVE,
        precision: str = "float32",
        adapters: Mapping[str, Path] | None = None,
    ) -> None:
        self.pipe, self.identity, self.scheduler, self.precision = pipe, identity, scheduler, precision
        self.adapters = dict(adapters or {})
        self._embeddings: dict[str, torch.Tensor] = {}
        self._stacked: tuple[list[str], Stack] | None = None
        self._set_scheduler(scheduler)

    @classmethod
    def load(
        cls,
        identity: GeneratorIdentity,
        *,
        device: str,
        precision: str = "float32",
        scheduler: str = NATIVE,
        offline: bool = False,
        adapters: Mapping[str, Path] | None = None,
    ) -> TextToImage:
        """Load a generator; see :func:`load_pipeline` and the class.

        Raises:
            UnknownName: For an unknown precision or scheduler.
        """
        if precision not in _DTYPES:
            raise UnknownName("precision", precision, _DTYPES)
        pipe = load_pipeline(identity, device=device, dtype=_DTYPES[precision], offline=offline)
        return cls(pipe, identity, scheduler=scheduler, precision=precision, adapters=adapters)

    @property
    def has_safety_checker(self) -> bool:
        """Whether the pipeline blacks out images that its own checker objects to."""
        return getattr(self.pipe, "safety_checker", None) is not None

    def conditions(self) -> dict[str, Any]:
        """Return what was loaded and how, in the words of a pool's recipe."""
        return {
            "generator": self.identity.as_record(),
            "scheduler": self.scheduler,
            "precision": self.precision,
            "device_kind": self.pipe.device.type,
        }

    def forget_prompts(self) -> None:
        """Drop the text embeddings that were kept, because the text encoder changed."""
        self._embeddings.clear()

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        height: int,
        width: int,
        batch_size: int,
        resize: str = "lanczos",
        adapters: Sequence[str | None] | None = None,
    ) -> NDArray[np.uint8]:
        """Make one image per prompt and seed.

        Images are generated at the generator's own size and then resized. A last batch that is not full is padded:
        an image's last bits depend on the shape of its batch, but not on its place or neighbours in it.

        Args:
            prompts: What to show.
            negative_prompts: What to steer away from, one per prompt; may be empty.
            seeds: One per image, below 2**63, for a generator on the CPU.
            steps: Denoising steps.
            guidance: Classifier-free guidance scale.
            height: Of the finished images, in pixels.
            width: Of the finished images, in pixels.
            batch_size: Images per forward pass.
            resize: Pillow's filter.
            adapters: SHA-256 of the fine-tuned weights that make each image, None for the generator as it is.
                Different ones work side by side in one batch, and no more than a batch needs are on the device.

        Returns:
            uint8 [n, height, width, 3]; levels are rounded half up.

        Raises:
            InvalidValue: When the sequences differ in length.
            GeneratorError: For images with NaN or infinite values, when memory does not suffice, and for adapters of
                another generator.
        """
        if not len(prompts) == len(negative_prompts) == len(seeds):
            raise InvalidValue(f"{len(prompts)} prompts, {len(negative_prompts)} negative ones and {len(seeds)} seeds")
        if adapters is not None and len(adapters) != len(prompts):
            raise InvalidValue(f"{len(prompts)} prompts and {len(adapters)} adapters; give one, or None, per prompt")
        images = np.empty((len(prompts), height, width, 3), dtype=np.uint8)
        for start in range(0, len(prompts), batch_size):
            chosen = list(range(start, min(start + batch_size, len(prompts))))
            padded = chosen + [chosen[0]] * (batch_size - len(chosen))
            with self.adapted([adapters[k] for k in padded] if adapters is not None else []):
                values, finite = self._run(
                    [prompts[k] for k in padded],
                    [negative_prompts[k] for k in padded],
                    [torch.Generator().manual_seed(seeds[k]) for k in padded],
                    steps=steps,
                    guidance=guidance,
                )
            for k, ok in zip(chosen, finite, strict=False):
                if not ok:
                    raise GeneratorError(
                        f"generator {self.identity.name!r} made NaN or infinite values for the prompt {prompts[k]!r} "
                        f"with seed {seeds[k]} in {self.precision}; try float32, another scheduler or less guidance"
                    )
            levels = to_levels(values[: len(chosen)])
            images[start : start + len(chosen)] = resize_images(levels, height, width, resize)
        return images

    @contextlib.contextmanager
    def adapted(self, wanted: list[str | None]) -> Iterator[None]:
        """Let each image of a batch be made by its own adapter."""
        names = sorted({name for name in wanted if name is not None})
        if not names:
            yield
            return
        check_tunable(self.pipe, self.identity.name)
        if self._stacked is None or self._stacked[0] != names:
            base = base_of(self.identity.as_record())
            adapters = [load_adapter(self._adapter_file(name), base) for name in names]
            stack = Stack(self.pipe.unet, adapters, device=self.pipe.device, dtype=self.pipe.unet.dtype)
            self._stacked = names, stack
        choice = [-1 if name is None else names.index(name) for name in wanted]
        with self._stacked[1].applied(torch.tensor(choice, device=self.pipe.device)):
            yield

    def _adapter_file(self, name: str) -> Path:
        if name not in self.adapters:
            raise NotAvailable(f"adapter {name[:12]}… is not in the store; run the same command again to train it")
        return self.adapters[name]

    def _run(
        self,
        prompts: list[str],
        negative_prompts: list[str],
        generators: list[torch.Generator],
        *,
        steps: int,
        guidance: float,
    ) -> tuple[NDArray[np.float32], list[bool]]:
        """Run the pipeline once; returns values in [0, 1], float32 [n, h, w, 3], and which images are finite."""
        try:
            with self._decoder_outputs() as outputs:
                result = self.pipe(
                    **self._text(prompts, negative_prompts, guidance),
                    generator=generators,
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                    output_type="np",
                )
        except (RuntimeError, MemoryError) as error:
            if not no_memory(error):
                raise
            less = f"try a batch size of {len(prompts) // 2}" if len(prompts) > 1 else "use a device with more memory"
            raise GeneratorError(
                f"{self.pipe.device} has not enough memory for {len(prompts)} images at once with generator "
                f"{self.identity.name!r}; {less}"
            ) from error
        if flagged := sum(getattr(result, "nsfw_content_detected", None) or []):
            logger.warning("the safety checker of %s blacked out %d images", self.identity.name, flagged)
        values = np.asarray(result.images, dtype=np.float32)
        finite = [bool(np.isfinite(image).all()) for image in values]
        decoded = torch.cat(outputs).tolist() if outputs else finite
        if len(decoded) != len(finite):
            # A VAE that decodes in tiles gives several outputs per image: then one bad tile condemns the batch.
            decoded = [all(decoded)] * len(finite)
        return values, [image and output for image, output in zip(finite, decoded, strict=True)]

    @contextlib.contextmanager
    def _decoder_outputs(self) -> Iterator[list[torch.Tensor]]:
        """Note which outputs of the decoder are finite: the pipeline's clipping turns infinite values into white."""
        outputs: list[torch.Tensor] = []
        decoder = getattr(getattr(self.pipe, "vae", None), "decoder", None)
        if decoder is None:
            yield outputs
            return
        hook = decoder.register_forward_hook(
            lambda _module, _inputs, output: outputs.append(torch.isfinite(output).flatten(1).all(dim=1))
        )
        try:
            yield outputs
        finally:
            hook.remove()

    def _text(self, prompts: list[str], negative_prompts: list[str], guidance: float) -> dict[str, Any]:
        """Return the pipeline's arguments for a batch of prompts."""
        if isinstance(self.pipe, diffusers.StableDiffusionPipeline):
            text = {"prompt_embeds": torch.cat([self.embed(prompt) for prompt in prompts])}
            if guidance > 1:
                text["negative_prompt_embeds"] = torch.cat([self.embed(prompt) for prompt in negative_prompts])
            return text
        if not any(negative_prompts):
            return {"prompt": prompts}
        if "negative_prompt" not in inspect.signature(self.pipe.__call__).parameters:
            raise GeneratorError(
                f"generator {self.identity.name!r} is a {type(self.pipe).__name__}, which takes no negative prompt; "
                "leave it empty"
            )
        return {"prompt": prompts, "negative_prompt": negative_prompts}

    @torch.no_grad()
    def embed(self, prompt: str) -> torch.Tensor:
        """Encode one prompt alone, so that its embedding does not depend on the others; each is encoded once."""
        if prompt not in self._embeddings:
            if len(self._embeddings) >= _KEPT_PROMPTS:
                self._embeddings.clear()
            self._embeddings[prompt] = self.pipe.encode_prompt([prompt], self.pipe.device, 1, False)[0]
        return self._embeddings[prompt]

    def _set_scheduler(self, name: str) -> None:
        if name not in SCHEDULERS:
            raise UnknownName("scheduler", name, SCHEDULERS)
        if name == NATIVE:
            return
        kind = getattr(diffusers, name)
        native = self.pipe.scheduler
        if kind not in native.compatibles:
            raise GeneratorError(
                f"generator {self.identity.name!r} was made for {type(native).__name__}, which {name} cannot replace; "
                f"use the scheduler {NATIVE!r}"
            )
        self.pipe.scheduler = kind.from_config(native.config)


def no_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in _NO_MEMORY)


def check_tunable(pipe: Pipeline, name: str) -> None:
    """Refuse pipelines whose conditioning fine-tuning does not know.

    Raises:
        GeneratorError: For anything but a Stable Diffusion 1.x or 2.x pipeline.
    """
    if not isinstance(pipe, diffusers.StableDiffusionPipeline):
        raise GeneratorError(
            f"generator {name!r} is a {type(pipe).__name__}; fine-tuning works on a StableDiffusionPipeline (Stable "
            "Diffusion 1.x, 2.x) only, since others, SDXL among them, have further text encoders and conditions. Use "
            "one of those, or a method without fine-tuning such as sd-augment"
        )


def to_levels(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Turn finite values in [0, 1] into levels 0-255, rounded half up and clipped."""
    return np.clip(np.floor(values * np.float32(255) + np.float32(0.5)), 0, 255).astype(np.uint8)


def resize_images(images: NDArray[np.uint8], height: int, width: int, resize: str) -> NDArray[np.uint8]:
    """Resize uint8 [n, h, w, 3] with one of Pillow's filters; images of the right size are returned as they are.

    Raises:
        UnknownName: For an unknown filter.
    """
    if resize not in RESIZE_FILTERS:
        raise UnknownName("resize filter", resize, RESIZE_FILTERS)
    if images.shape[1:3] == (height, width):
        return images
    resampling = Image.Resampling[resize.upper()]
    return np.stack([np.asarray(Image.fromarray(image).resize((width, height), resampling)) for image in images])
