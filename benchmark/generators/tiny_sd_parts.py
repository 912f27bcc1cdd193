"""The untrained parts of tiny-sd: tokenizer, text encoder, VAE, UNet and scheduler, sized for a laptop.

Called by `make_tiny_sd`, which trains them and saves them as one `StableDiffusionPipeline` folder.
"""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from benchmark.generators.typeset import COLOURS, DIGIT_WORDS, IMAGE_SIZE

PROMPT_TOKENS = 16
"""Longest prompt in tokens, start and end included; longer prompts are cut."""

TEXT_WIDTH = 96
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def make_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer with one token for each caption word, and byte-level tokens that spell any other prompt.

    Byte-pair encoding reaches a whole word by merging its characters from the left; longer words merge first, so that
    no merge of a short word breaks up a long one.
    """
    words = sorted({*COLOURS, *DIGIT_WORDS, "letter"}, key=lambda word: (-len(word), word))
    merges: list[str] = []
    tokens: list[str] = []
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        head = pieces[0]
        for piece in pieces[1:]:
            merge, head = f"{head} {piece}", head + piece
            if merge not in merges:
                merges.append(merge)
                tokens.append(head)
    symbols = list(bytes_to_unicode().values())
    ordered = [*symbols, *(symbol + "</w>" for symbol in symbols), *tokens, BEGIN, END]
    vocabulary = {token: index for index, token in enumerate(ordered)}
    pairs: Any = [tuple(merge.split()) for merge in merges]
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=PROMPT_TOKENS)


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A two-layer CLIP text encoder with random weights for the tokenizer's vocabulary."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=PROMPT_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def make_vae() -> AutoencoderKL:
    """An untrained VAE from (3, 32, 32) images in [-1, 1] to (4, 8, 8) latents."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def make_unet() -> UNet2DConditionModel:
    """An untrained UNet over (4, 8, 8) latents; it attends to the prompt at 4x4, where attention is cheap."""
    return UNet2DConditionModel(
        sample_size=IMAGE_SIZE // 4,
        block_out_channels=(48, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def make_scheduler() -> DPMSolverMultistepScheduler:
    """The sampler saved with the model; the same noise schedule and v-prediction are used in training."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        algorithm_type="dpmsolver++",
        solver_order=2,
        timestep_spacing="linspace",
        steps_offset=1,
    )
