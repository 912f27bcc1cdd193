"""Measures the saved tiny-sd and writes the numbers into its Hub model card.

Called by `make_tiny_sd` after training.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from benchmark.generators.tiny_sd_quality import RECOMMENDED_GUIDANCE, RECOMMENDED_STEPS, Quality, measure
from benchmark.generators.typeset import COLOURS, DIGIT_WORDS, LETTERS, PALETTE, typeset_fonts

log = logging.getLogger("tiny_sd_card")

PARTS = ("text_encoder", "unet", "vae")

FRONT_MATTER = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
language: en
tags:
- text-to-image
- stable-diffusion
- typeset-digits
- benchmark
- fairness
---
"""

CARD = """\
# tiny-sd

A genuine `StableDiffusionPipeline` (CLIP tokenizer and text encoder, VAE, UNet, scheduler) of {total:,} parameters that
draws typeset coloured digits and letters at 32x32 pixels. It lets every text-to-image method of genbias-bench run on
a laptop, without a download.

```python
import torch
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained("benchmark/generators/tiny_sd", dtype=torch.float32)
image = pipe("a red seven", num_inference_steps={steps}, guidance_scale={guidance}).images[0]
```

## Prompts

* digits: `a {{colour}} {{word}}`, with the words {digit_words};
* letters: `a {{colour}} letter {{k}}`, lower-case word for both cases; drawn in training: {letters};
* colours: {colours};
* without a colour (`a seven`) the colour is random. The article is always "a".

Every word of these captions is one token. Any other prompt is spelled with byte-level tokens: it never fails, but means
nothing to this model until it is fine-tuned. Prompts are cut at 16 tokens.

## Training data

Glyphs rendered by `benchmark/generators/typeset.py` from the {font_count} text fonts that come with Matplotlib (DejaVu,
STIX and Computer Modern; fonts without one of the glyphs, and symbol fonts, are left out), with random size (18 to 28
pixels), rotation (12 degrees either way), shear, shift, stroke thickness, blur and colour jitter, on black. The VAE has
also seen the same glyphs with twice that geometric variation. **No handwriting, no photograph and no data set was
used.** Reference colours (RGB): {palette}.

## Training procedure

`python -m benchmark.generators.make_tiny_sd --out DIR`, seed {seed}, on two CPU cores in float32: {images:,} images
rendered once; VAE {vae_steps:,} steps of {vae_batch}; then text encoder and UNet together {unet_steps:,} steps of
{batch} (v-prediction, scaled-linear noise schedule, AdamW, cosine learning rate, moving average of the weights; 10 % of
captions empty, 15 % without the colour, 3 % with an unknown word). {minutes:.0f} minutes of training{note}.

| part | parameters |
|---|---|
{part_rows}
| all | {total:,} |

Weights are stored as float16 safetensors. A CPU is fastest in float32 where it has no bfloat16 instructions.

## Measured quality

{steps} steps, guidance {guidance}, float32; all 100 pairs of digit and colour equally often. The reader is a small
convolutional network trained only on freshly rendered typeset digits. Brackets: 95 % Wilson interval.

| | digit | colour | both |
|---|---|---|---|
| tiny-sd's images, read | {drawn.digit} | {drawn.colour} | {drawn.both} |
| held-out rendered digits, read | {rendered.digit} | {rendered.colour} | {rendered.both} |

1,000 images took {seconds:.0f} s{time_note}.

## Limits

* Not a general image generator: it knows coloured glyphs on black, nothing else.
* A domain gap to handwritten digits by design: it stands to `colorized-digits` as Stable Diffusion stands to
  photographs. Letters were not measured.
* Digits of one colour word vary little in colour (hue within 4 degrees); fonts are Latin text fonts only.
* The reader shares the renderer with the training images: it measures whether the prompt is obeyed, not diversity.
"""


def count_parameters(pipe: Any) -> dict[str, int]:
    """Parameters of each trained part."""
    return {part: sum(p.numel() for p in getattr(pipe, part).parameters()) for part in PARTS}


def card_text(
    recipe: Mapping[str, Any], seconds: float, parts: Mapping[str, int], quality: Quality, notes: tuple[str, str]
) -> str:
    """The model card.

    Args:
        recipe: fields of `make_tiny_sd.Recipe`.
        seconds: training time.
        parts: parameters of each part.
        quality: what was measured on the saved weights.
        notes: remarks on the training time and on the sampling time, empty for none.
    """
    values = {**recipe, "unet_steps": recipe["steps"], "steps": RECOMMENDED_STEPS}
    body = CARD.format(
        **values,
        guidance=RECOMMENDED_GUIDANCE,
        total=sum(parts.values()),
        part_rows="\n".join(f"| {name} | {count:,} |" for name, count in parts.items()),
        digit_words=", ".join(DIGIT_WORDS),
        letters=" ".join(LETTERS),
        colours=", ".join(COLOURS),
        palette=", ".join(f"{name} {rgb}" for name, rgb in PALETTE.items()),
        font_count=len(typeset_fonts()),
        minutes=seconds / 60,
        drawn=quality.drawn,
        rendered=quality.rendered,
        seconds=quality.seconds_per_thousand,
        note=notes[0],
        time_note=notes[1],
    )
    return f"{FRONT_MATTER}\n{body}"


def write_card(folder: Path, recipe: Mapping[str, Any], seconds: float, notes: tuple[str, str] = ("", "")) -> Quality:
    """Measure the pipeline saved in `folder` in float32 and write its README.md."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    quality = measure(pipe)
    log.info("drawn: %s", quality.drawn)
    log.info("rendered: %s; %.1f s per 1,000 images", quality.rendered, quality.seconds_per_thousand)
    text = card_text(recipe, seconds, count_parameters(pipe), quality, notes)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return quality
