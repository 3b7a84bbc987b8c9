from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest

from evals.tasks.protocol import decoding, protocol, protocol_version
from evals.tasks.registry import TASKS, get_task
from hidrop.errors import UserError
from hidrop.prompts import SYSTEM, pad_to_square, piecewise

IMAGE = 99


def decode(tokenizer: Any, ids: list[int]) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(ids))


def test_llava_prompt_is_vicuna_with_the_system_sentence(tokenizer: Any) -> None:
    text = protocol("llava").text(tokenizer, "Is it red?", 1)
    assert text == f"{SYSTEM} USER: <image>\nIs it red? ASSISTANT:"


def test_piece_after_the_image_starts_with_a_word_boundary_and_bos_stands_once(tokenizer: Any) -> None:
    ids = protocol("llava").ids(tokenizer, "Is it red?", [16], image_token_id=IMAGE)
    first = ids.index(IMAGE)
    assert ids.count(IMAGE) == 16 and set(ids[first : first + 16]) == {IMAGE}
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    assert decode(tokenizer, ids[first + 16 :]) == "▁\nIs▁it▁red?▁ASSISTANT:"
    assert decode(tokenizer, ids[1:first]).endswith("questions.▁USER:▁")


def test_whole_string_tokenising_gives_other_ids_than_llavas(tokenizer: Any) -> None:
    whole = tokenizer(protocol("llava").text(tokenizer, "Is it red?", 1)).input_ids
    pieces = protocol("llava").ids(tokenizer, "Is it red?", [1], image_token_id=IMAGE)
    assert decode(tokenizer, whole).replace("<image>\n", "<image>▁\n") == decode(tokenizer, pieces)
    assert whole != pieces


@pytest.mark.parametrize("name", ["llava", "lmms-eval"])
@pytest.mark.parametrize("images", [0, 1, 3])
def test_every_image_becomes_as_many_tokens_as_it_has_features(name: str, images: int, tokenizer: Any) -> None:
    ids = protocol(name).ids(tokenizer, "What?", [5] * images, image_token_id=IMAGE)
    assert ids.count(IMAGE) == 5 * images
    assert ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("name", ["llava", "lmms-eval"])
def test_a_placeholder_inside_a_question_is_refused(name: str, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="question itself"):
        protocol(name).ids(tokenizer, "What is <image>?", [5], image_token_id=IMAGE)


def test_a_tokenizer_without_bos_gets_none(tokenizer: Any) -> None:
    class Bare:
        bos_token_id = None

        def __call__(self, text: str) -> Any:
            return type("Encoded", (), {"input_ids": [ord(c) for c in text]})

    assert piecewise(Bare(), "a<image>b", [2], 0) == [97, 0, 0, 98]


def test_lmms_eval_prompt_without_a_template_is_transformers_default(tokenizer: Any) -> None:
    assert protocol("lmms-eval").text(tokenizer, "Is it red?", 1) == "USER: <image>\nIs it red? ASSISTANT:"
    assert protocol("lmms-eval").text(tokenizer, "Is it red?", 0) == "USER: Is it red? ASSISTANT:"


LISTS = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
)
STRINGS = "{{ bos_token }}{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}"
ADDED = "{{ bos_token }}{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endfor %}"
BLIND = "{% for m in messages %}hello{% endfor %}"


@pytest.mark.parametrize("strings", [STRINGS, ADDED])
def test_lmms_eval_prompt_follows_the_chat_template(
    strings: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = protocol("lmms-eval")
    monkeypatch.setattr(tokenizer, "chat_template", LISTS)
    assert asked.text(tokenizer, "Is it red?", 2) == "USER: <image>\n<image>\nIs it red? ASSISTANT:"
    assert asked.text(tokenizer, "Is it red?", 0) == "USER: Is it red? ASSISTANT:"
    monkeypatch.setattr(tokenizer, "chat_template", strings)
    assert asked.text(tokenizer, "Is it red?", 1) == "<s>[INST] <image>\nIs it red? [/INST]"
    assert asked.text(tokenizer, "Is it red?", 0) == "<s>[INST] Is it red? [/INST]"
    ids = asked.ids(tokenizer, "Is it red?", [4], image_token_id=IMAGE)
    assert ids.count(tokenizer.bos_token_id) == 1


def test_a_template_that_loses_the_image_is_the_users_problem(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", BLIND)
    with pytest.raises(UserError, match="chat template"):
        protocol("lmms-eval").text(tokenizer, "Is it red?", 1)


def test_lmms_eval_ids_are_those_of_transformers_processor(tokenizer: Any, image_processor: Any) -> None:
    from PIL import Image
    from transformers import LlavaProcessor

    processor = LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    picture = Image.new("RGB", (50, 32), (200, 20, 20))
    asked = protocol("lmms-eval")
    text = asked.text(tokenizer, "Is it red?", 1)
    reference = processor(text=text, images=picture, return_tensors="pt")
    ids = asked.ids(tokenizer, "Is it red?", [16], image_token_id=IMAGE)
    assert reference["input_ids"][0].tolist() == ids
    assert (asked.pixels(image_processor, [picture])["pixel_values"] == reference["pixel_values"]).all()


@pytest.mark.parametrize("size", [(40, 20), (20, 41), (30, 30)])
def test_padding_centres_the_image_on_the_fill_colour(size: tuple[int, int]) -> None:
    from PIL import Image

    padded = pad_to_square(Image.new("RGB", size, (255, 0, 0)), (122, 116, 104))
    side = max(size)
    assert padded.size == (side, side)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    assert padded.getpixel((left, top)) == (255, 0, 0)
    assert padded.getpixel((side - 1 - left - (side - size[0]) % 2, side // 2)) == (255, 0, 0)
    if size[0] != size[1]:
        assert padded.getpixel((0, 0)) == (122, 116, 104)


def test_llava_pads_and_lmms_eval_crops(image_processor: Any) -> None:
    from PIL import Image

    wide = Image.new("RGB", (96, 32), (255, 255, 255))
    padded = protocol("llava").pixels(image_processor, [wide])["pixel_values"]
    cropped = protocol("lmms-eval").pixels(image_processor, [wide])["pixel_values"]
    assert padded.shape == cropped.shape == (1, 3, 32, 32)
    assert cropped[0].std() < 1 and (cropped[0, 0] == cropped[0, 0, 0, 0]).all()
    # The padding is the mean colour, which is (almost) zero after normalisation.
    assert padded[0, :, 0].abs().max() < 0.02 and padded[0, :, 16].min() > 1


def test_fill_colour_is_the_one_llava_uses_with_clip(image_processor: Any) -> None:
    assert tuple(int(255 * mean) for mean in image_processor.image_mean) == (122, 116, 104)


def test_decoding_settings_are_part_of_a_cells_identity() -> None:
    greedy = {"do_sample": False, "num_beams": 1, "temperature": 0.0, "until": []}
    assert decoding("llava", "gqa") == {"max_new_tokens": 128, **greedy}
    assert decoding("llava", "mmbench_en_dev") == {"max_new_tokens": 1024, **greedy}
    assert decoding("lmms-eval", "gqa") == f"lmms-eval {metadata.version('lmms-eval')}"


def test_a_change_of_one_task_gives_that_task_alone_another_version() -> None:
    """LLaVA's TextVQA is capitalised since 1.1; finished cells of other tasks under that protocol stay valid."""
    asked = [task for task in TASKS if "llava" in get_task(task).protocols]
    found = {task: protocol_version("llava", task) for task in asked}
    assert found == dict.fromkeys(asked, "1") | {"textvqa_val": "1.1"}
    assert {protocol_version("lmms-eval", task) for task in TASKS} == {"2"}


def test_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="llava, lmms-eval"):
        protocol("lava")
    with pytest.raises(UserError, match="llava, lmms-eval"):
        protocol_version("lava", "gqa")
