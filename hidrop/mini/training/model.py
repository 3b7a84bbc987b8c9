"""The embedded model, LLaVA's architecture at a size that can be trained on two cores, and its tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hidrop.backbones import backbone_of
from hidrop.geometry import Geometry
from hidrop.mini.scenes import SIDE
from hidrop.prompts import CHAT_TEMPLATE, PLACEHOLDER

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

PATCH, VOCABULARY = 8, 768
GEOMETRY = Geometry(12, 128, 352, 4, 4, 32, VOCABULARY, (SIDE // PATCH) ** 2, max_positions=2048)


def make_tokenizer(corpus: Iterable[str], vocab_size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `corpus`. Every digit is a token of its own, as in LLaMA."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    pieces = Regex(r" ?[0-9]| ?[A-Za-z]+|\s*\n| ?[^\sA-Za-z0-9]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<pad>", PLACEHOLDER]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": PLACEHOLDER},
        padding_side="left",
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_image_processor() -> CLIPImageProcessorPil:
    """CLIP preprocessing at the scenes' own size."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    size = {"height": SIDE, "width": SIDE}
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size)


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlavaForConditionalGeneration:
    """An untrained model: CLIP-type tower, two-layer projector, LLaMA decoder of 12 layers, 100 visual tokens."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        **{**GEOMETRY.text_config(), "vocab_size": len(tokenizer)},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(PLACEHOLDER),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        image_seq_length=GEOMETRY.visual_tokens,
    )
    model = LlavaForConditionalGeneration(config)
    _start_decoder(model)
    return model


def _start_decoder(model: LlavaForConditionalGeneration) -> None:
    """Initial values with which a small decoder learns to use the image.

    With transformers' defaults, a hundred visual tokens are noise that attention soon learns to avoid, and then it
    gets no gradient from them. Here keys start equal to queries, so a word attends to the visual tokens aligned with
    it from the first step. Blocks start as the identity, so this holds in every layer. The head starts as the
    embedding, so a copied token is read as its word.
    """
    import torch
    from torch import nn

    embedding, backbone = model.get_input_embeddings().weight, backbone_of(model)
    nn.init.normal_(embedding, std=0.3)
    for layer in backbone.decoder.layers:
        attention, block = layer.self_attn, layer.mlp
        for linear in (attention.q_proj, attention.v_proj, block.gate_proj, block.up_proj):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
        for linear in (attention.o_proj, block.down_proj):
            nn.init.zeros_(linear.weight)
        with torch.no_grad():
            attention.k_proj.weight.copy_(attention.q_proj.weight)
    with torch.no_grad():
        backbone.head.weight.copy_(0.3 * embedding)
