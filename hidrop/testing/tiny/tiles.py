"""Tiny families that see an image in tiles, with a SigLIP or InternViT tower: LLaVA-OneVision, InternVL, SmolVLM and
Idefics3."""

from __future__ import annotations

from dataclasses import replace

from hidrop.testing.tiny.family import HALF, IMAGENET, TEXT, TOWER, Family, video
from hidrop.testing.tiny.family_tokenizers import byte_tokenizer


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
