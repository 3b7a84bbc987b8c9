"""Whether the runtime can run a model, asked of its config: the model is built without memory for its weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from hidrop.checkpoint_files import in_words
from hidrop.errors import UserError, shown

if TYPE_CHECKING:
    from hidrop.backbones.base import Backbone


def check_runs(family: type[Backbone], config: Any, place: str) -> None:
    """Raises UserError, naming `place`, for a config that transformers can read and the runtime cannot run.

    The model is built on torch's device "meta" as `load` builds it. Position embeddings have no weights, so they are
    computed: at the first position, at the last one, and beyond it, where some kinds change.
    """
    import torch
    import transformers

    with in_words(f"{place}: transformers cannot build this model"):
        asked = copy.deepcopy(config)
        # `load` chooses a kernel. Some fields of a config do not go with every kernel.
        asked._attn_implementation = "sdpa"
        asked.validate()
        with torch.device("meta"):
            backbone = family(getattr(transformers, family.model_class)(asked))
    if (why := backbone.unsupported()) is not None:
        raise UserError(f"{place}: {why}")
    with in_words(f"{place}: the decoder's position embeddings cannot be computed", "Correct rope_parameters"):
        decoder, last = backbone.decoder, backbone.geometry.max_positions
        decoder.rotary_emb = type(decoder.rotary_emb)(config=asked.text_config)
        angles = [value for name, value in decoder.rotary_emb.named_buffers() if name.endswith("inv_freq")]
        for position in (0, last - 1, 4 * last):
            cos, sin = backbone.rope(torch.zeros(1, 1, 1), torch.tensor([[[position]]]))
            if not (cos.isfinite().all() and sin.isfinite().all() and all((one > 0).all() for one in angles)):
                raise UserError(
                    f"{place}: text_config.rope_parameters {shown(asked.text_config.rope_parameters)} give position "
                    "embeddings that are not finite, or angles that are not positive. Correct rope_theta and factor"
                )
