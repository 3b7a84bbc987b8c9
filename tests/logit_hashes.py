"""Hash all logits of 13 method settings on two small random models, to show that a change keeps every bit.

    python -m tests.logit_hashes > before.json     # at one commit
    python -m tests.logit_hashes > after.json      # at another one, on the same machine
    diff before.json after.json

Hashes depend on the processor and on torch's version, so they are compared between two commits and never stored.
Each setting is hashed on LLaVA-1.5 and LLaVA-NeXT: the logits of every place of a left-padded batch of two prompts, and
those of 8 generated tokens.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from hidrop.methods import build
from hidrop.runtime import reduce
from tests.conftest import make_llava, make_llava_next, make_pixels, make_prompt, pad

HIDROP = dict(inject=2, filters=[3, 4], keep=[5, 2], exit=6)
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "vanilla": ("vanilla", {}),
    "hidrop": ("hidrop", HIDROP),
    "hidrop-group": ("hidrop", dict(HIDROP, positions="group")),
    "hidrop-compacted": ("hidrop", dict(HIDROP, positions="compacted")),
    "hidrop-text": ("hidrop", dict(HIDROP, query="text")),
    "fastv": ("fastv", dict(layer=2, keep=5)),
    "fastv-rechosen": ("fastv", dict(layer=2, keep=5, rechosen=True)),
    "pdrop": ("pdrop", {}),
    "pdrop-persistent": ("pdrop", dict(positions="persistent")),
    "sparsevlm-2.0": ("sparsevlm", dict(version="2.0", heads=2)),
    "sparsevlm-1.0": ("sparsevlm", dict(version="1.0", scale=100, bias=50)),
    "divprune": ("divprune", dict(keep=5)),
    "pool": ("pool", dict(keep=5)),
}
NEW_TOKENS = 8


def llava_inputs() -> dict[str, torch.Tensor]:
    """Two prompts of different lengths with an image each."""
    prompts = pad([make_prompt(3, 7, seed=1), make_prompt(5, 2, seed=2)])
    return {**prompts, "pixel_values": torch.cat([make_pixels(seed=1), make_pixels(seed=2)])}


def next_inputs() -> dict[str, torch.Tensor]:
    """Two prompts whose images have different numbers of tiles: 2 x 1 and 2 x 2 of 16 tokens, with line ends."""
    generator = torch.Generator().manual_seed(7)
    pixels = torch.randn(2, 5, 3, 32, 32, generator=generator)
    pixels[0, 3:] = 0  # the first image has two tiles and the whole image; the rest is padding
    sizes = torch.tensor([[32, 64], [64, 64]])
    prompts = pad([make_prompt(3, 7, seed=1, count=16 + 4 * 9), make_prompt(5, 2, seed=2, count=16 + 8 * 9)])
    return {**prompts, "pixel_values": pixels, "image_sizes": sizes}


def hash_of(*tensors: torch.Tensor) -> str:
    """sha256 (16 digits) over the bytes of the tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def hashes() -> dict[str, str]:
    """One hash for each model and setting."""
    found = {}
    models = {"llava": (make_llava(kv_heads=2), llava_inputs()), "llava-next": (make_llava_next(), next_inputs())}
    for family, (model, inputs) in models.items():
        for label, (name, params) in SETTINGS.items():
            with torch.no_grad(), reduce(model, build(name, params)):
                prompt = model(**inputs).logits
                made = model.generate(
                    **inputs,
                    max_new_tokens=NEW_TOKENS,
                    do_sample=False,
                    return_dict_in_generate=True,
                    output_logits=True,
                )
            found[f"{family}/{label}"] = hash_of(prompt, torch.stack(made.logits, 1))
    return found


if __name__ == "__main__":
    print(json.dumps(hashes(), indent=1))
