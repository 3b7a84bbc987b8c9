"""Tiny random checkpoints of multimodal families, in the files that transformers 5.17 writes.

    python -m tests.tiny_checkpoints DIR [family ...]     # writes DIR/qwen2_5_vl, DIR/gemma3, ...

`make_model` returns the model alone. `write` fills a whole folder: config, weights, tokenizer, processor, chat template
and generation settings. A family is one function that returns a `Family`; its name is the model_type of config.json.

Weights are larger than usual, and biases and norms are random too: logits reach 7 to 12 and attention is not uniform,
so that a missing part changes the output. Tokenizers know bytes and the family's special tokens. An image of 56 x 84
pixels has between 4 and about 200 visual tokens, and several tiles in families with tiles.

transformers' video processors need torchvision, which the project does not install. Their settings are therefore
written here by hand, and `read_processor` loads a processor for images only.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from hidrop.pretrained import pretrained

LAYERS = 6
HIDDEN = 64
VOCAB = 384  # rows of the embedding; no tokenizer fills them, as in most releases
SPREAD = 0.25  # of weight matrices
JITTER = 0.2  # of biases and norms around their initial value

# What all decoders share: grouped-query attention, and room for prompts of bytes.
TEXT = dict(
    vocab_size=VOCAB,
    hidden_size=HIDDEN,
    intermediate_size=96,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
)
TOWER = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)

# Mean and standard deviation of red, green and blue.
CLIP = dict(image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711])
IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
HALF = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)


@dataclass(frozen=True)
class Family:
    """Everything in a family's folder except the weights.

    `config` has the fields of config.json. `tokens` are the special tokens in the order of their ids, and `named` are
    those that the processor looks up by name on the tokenizer. `images` and `video` are the settings of the image and
    video processors, `processor` those of the processor itself. `generation` has fields of generation_config.json.
    """

    model_class: str
    processor_class: str
    image_processor: tuple[str, str]  # model type whose folder of transformers has the class, and its name
    config: dict[str, Any]
    tokens: list[str]
    bos: str | None
    eos: str
    pad: str
    template: str
    images: dict[str, Any]
    named: dict[str, str] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    video: dict[str, Any] | None = None
    generation: dict[str, Any] = field(default_factory=dict)
    tokenizer: Callable[[Family], Any] = field(default_factory=lambda: qwen_tokenizer)

    def token_id(self, token: str) -> int:
        """Special tokens follow the bytes."""
        return 256 + self.tokens.index(token)


def video(kind: str, **settings: Any) -> dict[str, Any]:
    """A video processor's section of processor_config.json, with the fields that all of them write."""
    steps = dict(do_convert_rgb=True, do_normalize=True, do_rescale=True, do_resize=True, do_sample_frames=False)
    steps |= dict(resample=3, rescale_factor=1 / 255, return_metadata=False)
    return {"video_processor_type": kind, **steps, **settings}


# ---- Qwen ------------------------------------------------------------------------------------------------------------

QWEN_TOKENS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
]
QWEN_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
QWEN_TURNS = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content -%}
{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>\
{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def qwen(
    version: str,
    vision: Mapping[str, Any],
    text: Mapping[str, Any],
    colours: Mapping[str, Any] = CLIP,
    **changes: Any,
) -> Family:
    """What the three Qwen families share. An image has one token for each 2 x 2 patches, between 4 and 64 tokens."""
    ids = {token: 256 + index for index, token in enumerate(QWEN_TOKENS)}
    unit = (2 * vision["patch_size"]) ** 2  # pixels of a token
    patches = dict(patch_size=vision["patch_size"], temporal_patch_size=2, merge_size=2)
    config = dict(
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
        vision_config=dict(num_heads=2, spatial_merge_size=2, temporal_patch_size=2, **vision),
        text_config={
            **TEXT,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            **text,
        },
    )
    return Family(
        model_class=f"{version}ForConditionalGeneration",
        image_processor=("qwen2_vl", "Qwen2VLImageProcessorPil"),
        config=config,
        tokens=QWEN_TOKENS,
        bos=None,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        images=dict(size={"shortest_edge": 4 * unit, "longest_edge": 64 * unit}, **patches, **colours),
        **{"template": QWEN_SYSTEM + QWEN_TURNS, **changes},
    )


def qwen_video(kind: str, side: int, colours: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
    """A video of 2 to 16 frames; `side` is that of a patch in pixels."""
    size = {"shortest_edge": 4 * (2 * side) ** 2, "longest_edge": 64 * (2 * side) ** 2}
    frames = dict(size=size, min_frames=2, max_frames=16, patch_size=side, temporal_patch_size=2, merge_size=2)
    return video(kind, **colours, **frames, **settings)


def qwen2_vl() -> Family:
    return qwen(
        "Qwen2VL",
        vision=dict(depth=2, embed_dim=32, hidden_size=HIDDEN, mlp_ratio=2, patch_size=14),
        text=dict(rope_parameters=mrope([2, 3, 3])),
        processor_class="Qwen2VLProcessor",
        video=qwen_video("Qwen2VLVideoProcessor", 14, CLIP, max_video_tokens=128000),
        generation=dict(do_sample=True, temperature=0.01, top_k=1, top_p=0.001),
    )


def qwen2_5_vl() -> Family:
    """Windows of 2 x 2 tokens (56 pixels); the last of three blocks of the tower sees the whole image."""
    tower = dict(depth=3, hidden_size=32, intermediate_size=48, out_hidden_size=HIDDEN, patch_size=14)
    return qwen(
        "Qwen2_5_VL",
        vision=dict(tower, window_size=56, fullatt_block_indexes=[2], tokens_per_second=2),
        text=dict(rope_parameters=mrope([2, 3, 3])),
        processor_class="Qwen2_5_VLProcessor",
        video=qwen_video("Qwen2VLVideoProcessor", 14, CLIP, max_video_tokens=128000),
        generation=dict(do_sample=True, temperature=1e-6, repetition_penalty=1.05),
    )


def qwen3_vl() -> Family:
    """Heads that are larger than hidden size / heads, and three levels of DeepStack out of a tower of five blocks."""
    tower = dict(depth=5, hidden_size=32, intermediate_size=48, out_hidden_size=HIDDEN, patch_size=16)
    rope = mrope([6, 5, 5], theta=5e6, mrope_interleaved=True)
    return qwen(
        "Qwen3VL",
        vision=dict(tower, num_position_embeddings=36, deepstack_visual_indexes=[1, 2, 3]),
        text=dict(head_dim=32, rope_parameters=rope),
        processor_class="Qwen3VLProcessor",
        colours=HALF,
        video=qwen_video("Qwen3VLVideoProcessor", 16, HALF, max_video_tokens=768, do_sample_frames=True, fps=2),
        template=QWEN_TURNS,
        generation=dict(do_sample=True, temperature=0.7, top_k=20, top_p=0.8),
    )


def mrope(section: list[int], theta: float = 1e6, **settings: Any) -> dict[str, Any]:
    """RoPE of three axes; the sections add up to half of a head."""
    return {"rope_type": "default", "rope_theta": theta, "mrope_section": section, **settings}


# ---- families with a SigLIP or InternViT tower -----------------------------------------------------------------------


def llava_onevision() -> Family:
    """25 tokens a tile of 32 pixels, whose patches do not fill it (as 384 is no multiple of 14); 1 to 36 tiles."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
    pinpoints = [[32 * rows, 32 * columns] for rows in range(1, 7) for columns in range(1, 7)]
    pixels = dict(size={"height": 32, "width": 32}, **HALF)
    tower = dict(TOWER, model_type="siglip_vision_model", image_size=32, patch_size=6, vision_use_head=False)
    return Family(
        model_class="LlavaOnevisionForConditionalGeneration",
        processor_class="LlavaOnevisionProcessor",
        image_processor=("llava_onevision", "LlavaOnevisionImageProcessorPil"),
        config=dict(
            image_token_index=259,
            video_token_index=260,
            image_grid_pinpoints=pinpoints,
            vision_aspect_ratio="anyres_max_9",
            tie_word_embeddings=False,
            vision_config=tower,
            text_config=dict(TEXT, model_type="qwen2", bos_token_id=256, eos_token_id=258),
        ),
        tokens=tokens,
        bos=None,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        template=ONEVISION_TURNS,
        images=dict(pixels, image_grid_pinpoints=pinpoints),
        processor=dict(num_image_tokens=25, vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_9"),
        video=video("LlavaOnevisionVideoProcessor", **pixels),
    )


ONEVISION_TURNS = """\
{% for message in messages %}<|im_start|>{{ message.role }} {% if message.content is string %}
{{ message.content }}{% else %}{% for part in message.content | selectattr('type', 'equalto', 'image') %}<image>\
{% endfor %}{% for part in message.content | selectattr('type', 'equalto', 'video') %}<video>{% endfor %}\
{% for part in message.content | selectattr('type', 'equalto', 'text') %}{{ '\n' + part.text }}{% endfor %}{% endif %}\
<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def internvl() -> Family:
    """16 tokens a tile of 32 pixels, 1 to 4 tiles and the whole image."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    pixels = dict(size={"height": 32, "width": 32}, **IMAGENET)
    return Family(
        model_class="InternVLForConditionalGeneration",
        processor_class="InternVLProcessor",
        image_processor=("got_ocr2", "GotOcr2ImageProcessorPil"),
        config=dict(
            image_token_id=261,
            image_seq_length=16,
            downsample_ratio=0.5,
            tie_word_embeddings=False,
            vision_config=dict(TOWER, image_size=[32, 32], patch_size=[4, 4], attention_bias=True),
            text_config=dict(TEXT, model_type="qwen2", bos_token_id=256, eos_token_id=258),
        ),
        tokens=tokens,
        bos=None,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        template=INTERNVL_TURNS,
        images=dict(pixels, crop_to_patches=True, min_patches=1, max_patches=4),
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        processor=dict(image_seq_length=16),
        video=video("InternVLVideoProcessor", initial_shift=True, **pixels),
    )


INTERNVL_TURNS = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content -%}
{% if part.type == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% elif part.type == 'video' %}{{ '<video>\n' }}\
{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def smolvlm() -> Family:
    """16 tokens a tile of 32 pixels. Each image is resized to 96 pixels on its longer side, and has up to 9 tiles."""
    family = idefics3()
    return replace(
        family,
        model_class="SmolVLMForConditionalGeneration",
        processor_class="SmolVLMProcessor",
        image_processor=("smolvlm", "SmolVLMImageProcessorPil"),
        tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", *family.tokens[3:]],
        bos="<|im_start|>",
        pad="<|im_end|>",
        template="<|im_start|>" + IDEFICS_TURNS,
        video=video(
            "SmolVLMVideoProcessor",
            **HALF,
            size={"longest_edge": 32},
            max_image_size={"longest_edge": 32},
            resample=1,
            do_pad=True,
            do_sample_frames=True,
            fps=1,
            num_frames=8,
        ),
    )


def idefics3() -> Family:
    """As SmolVLM, whose first version has this model type."""
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokens = ["<|end_of_text|>", "<|begin_of_text|>", "<|pad|>", "<fake_token_around_image>", "<image>"]
    tokens += ["<end_of_utterance>", "<global-img>", *places]
    ends = dict(bos_token_id=257, eos_token_id=261, pad_token_id=258)
    return Family(
        model_class="Idefics3ForConditionalGeneration",
        processor_class="Idefics3Processor",
        image_processor=("idefics3", "Idefics3ImageProcessorPil"),
        config=dict(
            image_token_id=260,
            pad_token_id=258,
            scale_factor=2,
            tie_word_embeddings=False,
            vision_config=dict(TOWER, image_size=32, patch_size=4),
            text_config=dict(TEXT, model_type="llama", **ends),
        ),
        tokens=tokens,
        bos="<|begin_of_text|>",
        eos="<end_of_utterance>",
        pad="<|pad|>",
        template="<|begin_of_text|>" + IDEFICS_TURNS,
        images=dict(size={"longest_edge": 96}, max_image_size={"longest_edge": 32}),
        processor=dict(image_seq_len=16),
        tokenizer=byte_tokenizer,
    )


IDEFICS_TURNS = """\
{% for message in messages %}{{ message.role | capitalize }}{% if message.content is string %}: {{ message.content }}\
{% else %}:{{ '' if message.content[0].type == 'image' else ' ' }}{% for part in message.content %}\
{% if part.type == 'image' %}<image>{% elif part.type == 'video' %}<video>{% elif part.type == 'text' %}{{ part.text }}\
{% endif %}{% endfor %}{% endif %}<end_of_utterance>
{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""


def gemma3() -> Family:
    """16 tokens an image. Layers 3 and 6 see everything, the others the last 512 places."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    tokens += ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    text = dict(TEXT, head_dim=16, query_pre_attn_scalar=16, sliding_window=512)
    text |= dict(layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2)
    text |= dict(pad_token_id=256, eos_token_id=257, bos_token_id=258)
    return Family(
        model_class="Gemma3ForConditionalGeneration",
        processor_class="Gemma3Processor",
        image_processor=("gemma3", "Gemma3ImageProcessorPil"),
        config=dict(
            boi_token_index=263,
            eoi_token_index=264,
            image_token_index=265,
            mm_tokens_per_image=16,
            tie_word_embeddings=True,
            vision_config=dict(TOWER, image_size=32, patch_size=4, vision_use_head=False),
            text_config=text,
        ),
        tokens=tokens,
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        template=GEMMA_TURNS,
        images=dict(size={"height": 32, "width": 32}, **HALF),
        named={"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
        processor=dict(image_seq_length=16),
        generation=dict(do_sample=True, top_k=64, top_p=0.95, eos_token_id=[257, 262]),
        tokenizer=gemma_tokenizer,
    )


GEMMA_TURNS = """\
{{ bos_token }}{% set system = messages[0].content if messages[0].role == 'system' else none %}\
{% for message in messages %}\
{% if message.role != 'system' %}<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}
{% if loop.index0 == 1 and system %}{{ system if system is string else system[0].text }}

{% endif %}{% if message.content is string %}{{ message.content | trim }}{% else %}{% for part in message.content -%}
{% if part.type == 'image' %}<start_of_image>{% elif part.type == 'text' %}{{ part.text | trim }}{% endif %}\
{% endfor %}{% endif %}<end_of_turn>
{% endif %}{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""


FAMILIES: dict[str, Callable[[], Family]] = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "llava_onevision": llava_onevision,
    "internvl": internvl,
    "smolvlm": smolvlm,
    "idefics3": idefics3,
    "gemma3": gemma3,
}


# ---- tokenizers ------------------------------------------------------------------------------------------------------


def byte_symbols() -> dict[str, int]:
    """The 256 printable symbols of bytes in byte-level BPE, with their ids."""
    from tokenizers.pre_tokenizers import ByteLevel

    return {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}


def qwen_tokenizer(family: Family) -> Any:
    """Qwen2's own kind, which LLaVA-OneVision and InternVL use too: bytes without merges, then the special tokens."""
    from transformers import Qwen2Tokenizer

    vocab = {**byte_symbols(), **{token: family.token_id(token) for token in family.tokens}}
    return with_tokens(Qwen2Tokenizer(vocab=vocab, merges=[], **named_tokens(family)), family)


def byte_tokenizer(family: Family) -> Any:
    """Bytes without merges and the special tokens; the template writes `bos`, not the tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {**byte_symbols(), **{token: family.token_id(token) for token in family.tokens}}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return with_tokens(PreTrainedTokenizerFast(tokenizer_object=made, **named_tokens(family)), family)


def gemma_tokenizer(family: Family) -> Any:
    """Gemma's own kind: spaces are "\u2581", and all else falls back to bytes. `bos` is in front of every text."""
    from transformers import GemmaTokenizer

    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocab |= {token: family.token_id(token) for token in family.tokens}
    vocab["\u2581"] = len(vocab)
    names = {**named_tokens(family), "unk_token": "<unk>"}
    return with_tokens(GemmaTokenizer(vocab=vocab, merges=[], add_bos_token=True, **names), family)


def named_tokens(family: Family) -> dict[str, Any]:
    """The arguments of a tokenizer that name special tokens."""
    named = {"bos_token": family.bos, "eos_token": family.eos, "pad_token": family.pad}
    return {**named, "unk_token": None, "extra_special_tokens": family.named}


def with_tokens(tokenizer: Any, family: Family) -> Any:
    """The tokenizer, which already has the special tokens in its vocabulary, never splitting one of them."""
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in family.tokens])
    return tokenizer


# ---- models ----------------------------------------------------------------------------------------------------------


def make_model(family: str, seed: int = 0, **changes: Any) -> Any:
    """A random float32 model in eval mode, the same for a seed.

    `changes` replace fields of the config; a dict replaces fields of a part: text_config={"num_hidden_layers": 2}.
    """
    import transformers

    made = FAMILIES[family]()
    torch.manual_seed(seed)
    kind = getattr(transformers, made.model_class)
    model = kind(kind.config_class(**changed(made.config, changes)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, SPREAD)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=JITTER)
    model.generation_config.pad_token_id = made.token_id(made.pad)
    model.generation_config.eos_token_id = None
    return model.eval()


def changed(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with some fields replaced, down into dicts."""
    both = {name: old for name, old in fields.items() if isinstance(old, dict) and isinstance(changes.get(name), dict)}
    return {**fields, **changes, **{name: changed(old, changes[name]) for name, old in both.items()}}


# ---- processors ------------------------------------------------------------------------------------------------------


def images_only(processor_class: str) -> Any:
    """A processor class of transformers without the parts that need torchvision: a new one, which a test may change."""
    from hidrop.backbones import processing

    # The two share all that concerns images, and SmolVLM's own refuses to start without num2words.
    base = "Idefics3Processor" if processor_class == "SmolVLMProcessor" else processor_class
    return type(processor_class, (processing.images_only(base, processor_class),), {})


def image_processor_class(family: Family) -> Any:
    """The class that works on PIL images.

    Without torchvision transformers hides some of these classes, although none of them uses it.
    """
    folder, name = family.image_processor
    return getattr(importlib.import_module(f"transformers.models.{folder}.image_processing_pil_{folder}"), name)


def make_processor(family: str) -> Any:
    """The family's processor for images, with the tokenizer that belongs to `make_model`."""
    made = FAMILIES[family]()
    tokenizer = made.tokenizer(made)
    image_processor = image_processor_class(made)(**made.images)
    kind = images_only(made.processor_class)
    return kind(image_processor=image_processor, tokenizer=tokenizer, chat_template=made.template, **made.processor)


def read_processor(folder: Path) -> Any:
    """The processor of a folder that `write` filled, for images."""
    import transformers

    made = FAMILIES[json.loads((folder / "config.json").read_text())["model_type"]]()
    stated = json.loads((folder / "processor_config.json").read_text())
    own = {name: stated[name] for name in made.processor}
    return images_only(made.processor_class)(
        image_processor=pretrained(image_processor_class(made), folder),
        tokenizer=pretrained(transformers.AutoTokenizer, folder),
        chat_template=(folder / "chat_template.jinja").read_text(),
        **own,
    )


# ---- folders ---------------------------------------------------------------------------------------------------------


def write(family: str, folder: Path, **changes: Any) -> Path:
    """Fill a folder with a checkpoint of the family; `changes` are those of `make_model`. Returns the folder."""
    from transformers import GenerationConfig

    made = FAMILIES[family]()
    model = make_model(family, **changes)
    ends = {"bos_token_id": made.bos, "eos_token_id": made.eos, "pad_token_id": made.pad}
    ids = {name: made.token_id(token) for name, token in ends.items() if token}
    model.generation_config = GenerationConfig(**{**ids, **made.generation})
    model.save_pretrained(folder)

    processor = make_processor(family)
    processor.save_pretrained(folder)
    file = folder / "processor_config.json"
    stated = json.loads(file.read_text())
    if made.video:
        stated["video_processor"] = made.video
    file.write_text(json.dumps(stated, indent=2, sort_keys=True) + "\n")
    return folder


if __name__ == "__main__":
    for chosen in sys.argv[2:] or FAMILIES:
        print(write(chosen, Path(sys.argv[1]) / chosen))
