"""CDPruner with relevance by CLIP, on a tiny random CLIP, against a second implementation in float64."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from baselines.cdpruner import CDPruner
from baselines.clip_relevance import asked
from hidrop.backbones import backbone_of
from hidrop.backbones.tokenizers import state_tokenizer
from hidrop.errors import UserError
from hidrop.methods import build
from hidrop.models import load
from hidrop.pretrained import pretrained
from hidrop.runtime import reduce
from hidrop.runtime.feature_cache import FeatureCache
from tests.baselines.slow_cdpruner import best_of_each_step, cosine, kernel
from tests.conftest import make_llava, make_pixels, make_prompt, pad
from tests.hidrop.backbones.families import model_of
from tests.tiny_clip import SEGMENT, word_tokenizer, write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def model() -> Any:
    made = make_llava(kv_heads=2, seed=1)
    with torch.no_grad():
        for parameter in made.model.vision_tower.post_layernorm.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    state_tokenizer(made, word_tokenizer())
    return made


def slow_kept(model: Any, folder: Path, question: str, images: torch.Tensor, keep: int) -> tuple[int, ...]:
    """The tokens that stay of one prompt with these images."""
    from transformers import CLIPModel, CLIPTokenizer

    tower = pretrained(CLIPModel, folder).double()
    ids = pretrained(CLIPTokenizer, folder)(question).input_ids
    ids += [0] * (-len(ids) % SEGMENT)
    texts = []
    for first in range(0, len(ids), SEGMENT):
        segment = ids[first : first + SEGMENT]
        states = tower.text_model(input_ids=torch.tensor([segment])).last_hidden_state[0]
        texts.append(tower.text_projection.weight @ states[segment.index(max(segment))])
    own = copy.deepcopy(model).double()
    features, weights = [], list[float]()
    for image in images.double():
        states = own.model.vision_tower(image[None], output_hidden_states=True).hidden_states[-2][0, 1:]
        patches = [tower.visual_projection.weight @ own.model.vision_tower.post_layernorm(state) for state in states]
        match = [-sum(cosine(patch, text) for text in texts) / len(texts) for patch in patches]
        weights += [(m - min(match) + 1e-6) / (max(match) - min(match)) for m in match]
        features += [own.model.multi_modal_projector(state) for state in states]
    return tuple(sorted(best_of_each_step(kernel(features, weights), keep * len(images))))


def words_of(ids: list[int]) -> str:
    return " ".join(f"w{number}" for number in ids)


@torch.no_grad()
def kept_of(model: Any, method: CDPruner, inputs: dict[str, torch.Tensor], **more: Any) -> tuple[tuple[int, ...], ...]:
    with reduce(model, method, **more) as reduction:
        model(**inputs)
    return reduction.kept[0].rows


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_padded_batch_keeps_what_the_slow_reference_keeps(side: str, model: Any, clip: Path):
    """Short and long questions (several segments), two images, and a row without one."""
    prompts = [make_prompt(3, 2, seed=1), make_prompt(2, 14, seed=2), make_prompt(4, 5, images=2, seed=3)]
    prompts.append(make_prompt(2, 6, images=0, seed=4))
    images = [make_pixels(seed=1), make_pixels(seed=2), make_pixels(2, seed=3)]
    method = CDPruner(5, "clip", text_tower=str(clip))
    rows = kept_of(model, method, {**pad(prompts, side), "pixel_values": torch.cat(images)})
    for row, count, image, ids in zip(rows, (2, 14, 5), images, prompts, strict=False):
        assert row == slow_kept(model, clip, words_of(ids[0, -count:].tolist()), image, 5)
    assert rows[3] == ()


def test_the_question_and_the_text_tower_decide_and_no_other_row_does(model: Any, clip: Path, tmp_path: Path):
    method = CDPruner(4, "clip", text_tower=str(clip))
    pixels = make_pixels(seed=7)
    prompts = [make_prompt(3, 6, seed=seed) for seed in range(5)]
    together = kept_of(model, method, {**pad(prompts), "pixel_values": pixels.expand(5, -1, -1, -1)})
    alone = [kept_of(model, method, {"input_ids": ids, "pixel_values": pixels})[0] for ids in prompts]
    assert list(together) == alone
    assert len(set(together)) > 1
    other = CDPruner(4, "clip", text_tower=str(write_clip(tmp_path, seed=6)))
    assert kept_of(model, other, {**pad(prompts), "pixel_values": pixels.expand(5, -1, -1, -1)}) != together


def test_an_image_is_encoded_once_for_many_questions_and_apart_from_other_methods(model: Any, clip: Path):
    method, cache = CDPruner(4, "clip", text_tower=str(clip)), FeatureCache()
    pixels = make_pixels(seed=7)
    for seed in range(4):
        inputs = {"input_ids": make_prompt(3, 6, seed=seed), "pixel_values": pixels}
        assert kept_of(model, method, inputs, features=cache) == kept_of(model, method, inputs)
    assert (cache.hits, cache.misses) == (3, 1)
    kept_of(model, CDPruner(4), inputs, features=cache)
    kept_of(model, CDPruner(5, "none"), inputs, features=cache)
    assert (cache.hits, cache.misses) == (4, 2)  # these two share the model's own features


@torch.no_grad()
def test_features_are_the_models_own_and_answers_are_those_of_the_kept_tokens(model: Any, clip: Path):
    inputs = {"input_ids": make_prompt(3, 6), "pixel_values": make_pixels()}
    own = model.get_image_features(inputs["pixel_values"]).pooler_output[0]
    with reduce(model, CDPruner(16, "clip", text_tower=str(clip))):
        every = model(**inputs)
        made = model.generate(**inputs, max_new_tokens=3, num_beams=2, do_sample=False)
    assert torch.equal(every.image_hidden_states, own)
    torch.testing.assert_close(every.logits, model(**inputs).logits, atol=1e-5, rtol=1e-5)
    assert made.shape == (1, inputs["input_ids"].shape[1] + 3)


def test_half_precision_keeps_the_same_tokens_with_relevance_in_float32(model: Any, clip: Path):
    half = copy.deepcopy(model).bfloat16()
    state_tokenizer(half, word_tokenizer())
    inputs = {"input_ids": make_prompt(3, 6), "pixel_values": make_pixels().bfloat16()}
    seen: list[Any] = []

    class Watched(CDPruner):
        def prepare(self, prompt: Any) -> Any:
            seen.append(prompt)
            return super().prepare(prompt)

    kept_of(half, Watched(5, "clip", text_tower=str(clip)), inputs)
    assert seen[0].visual_BVD.dtype == torch.bfloat16 and seen[0].side_BVS.dtype == torch.float32


def test_training_gives_the_projector_gradients_and_clip_none(model: Any, clip: Path):
    inputs = {"input_ids": make_prompt(3, 9), "pixel_values": make_pixels()}
    labels = inputs["input_ids"].clone()
    labels[:, :-4] = -100
    own = copy.deepcopy(model).train()
    state_tokenizer(own, word_tokenizer())
    with reduce(own, CDPruner(5, "clip", text_tower=str(clip))):
        own(**inputs, labels=labels).loss.backward()
    assert own.model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0
    assert own.model.vision_tower.post_layernorm.weight.grad is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("\nIs it red?\nAnswer the question using a single word or phrase. ASSISTANT:", "Is it red?"),
        (" \nIs it red? ASSISTANT:", "Is it red?"),
        (
            "\nWhich?\nA. One\nAnswer with the option's letter from the given choices directly. ASSISTANT: ",
            "Which?\nA. One\nAnswer with the option's letter from the given choices directly.",
        ),
        ("plain", "plain"),
        (" ASSISTANT:", ""),
    ],
)
def test_the_question_is_what_the_released_code_leaves_of_the_prompt(text: str, wanted: str):
    assert asked(text) == wanted


def test_the_embedded_models_tokenizer_gives_the_question_back(clip: Path, tmp_path: Path):
    loaded = load("mini:vanilla")
    own = write_clip(tmp_path, hidden=loaded.model.config.vision_config.hidden_size)
    seen: list[str] = []

    class Watched(CDPruner):
        def prepare(self, prompt: Any) -> Any:
            seen.extend(map(asked, prompt.questions()))
            return super().prepare(prompt)

    question = "Is the circle red?\nAnswer the question using a single word or phrase."
    text = loaded.tokenizer(f"<image>\n{question} ASSISTANT:".replace("<image>", ""), return_tensors="pt").input_ids
    count, image = loaded.geometry.visual_tokens, loaded.model.config.image_token_id
    ids = torch.cat([text[:, :1], torch.full((1, count), image), text[:, 1:]], 1)
    pixels = torch.randn(1, *loaded.backbone.pixel_shape)
    with torch.no_grad(), reduce(loaded.model, Watched(5, "clip", text_tower=str(own))):
        loaded.model(input_ids=ids, pixel_values=pixels)
    assert seen == ["Is the circle red?"]


# ---- what is refused ------------------------------------------------------------------------------------------------


def refused(model: Any, folder: Path | str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        reduce(model, CDPruner(5, "clip", text_tower=str(folder)))
    assert "forward" not in model.__dict__


def test_a_missing_folder_is_refused_in_words(model: Any, tmp_path: Path):
    refused(model, tmp_path / "nowhere", "^text_tower: model '.*nowhere': no such folder")


def test_a_folder_without_a_text_tower_is_refused_in_words(model: Any, tmp_path: Path):
    model.model.vision_tower.save_pretrained(tmp_path)
    refused(model, tmp_path, "has no text tower of CLIP .model_type 'clip_vision_model', not 'clip'.. Use a whole CLIP")


def test_a_clip_of_another_width_is_refused_in_words(model: Any, tmp_path: Path):
    refused(model, write_clip(tmp_path, hidden=32), "belongs to a vision tower of width 32, and the model's has 24")


def test_a_clip_without_its_tokenizer_or_with_other_sizes_is_refused_in_words(model: Any, clip: Path, tmp_path: Path):
    without = shutil.copytree(clip, tmp_path / "without")
    for file in without.glob("*token*"):
        file.unlink()
    refused(model, without, "^text_tower: .*without: CLIP's tokenizer is missing, or is another one")
    wrong = shutil.copytree(clip, tmp_path / "wrong")
    config = json.loads((wrong / "config.json").read_text())
    config["projection_dim"] = 10
    (wrong / "config.json").write_text(json.dumps(config))
    refused(model, wrong, "^text_tower: .*wrong shapes: text_projection.weight")


def test_a_family_without_clips_tower_is_refused_in_words(clip: Path):
    with pytest.raises(UserError, match="relevance: clip needs a model with CLIP's vision tower, and Qwen2-VL has"):
        reduce(model_of("qwen2_vl"), CDPruner(5, "clip", text_tower=str(clip)), reference_tokens=100)


def test_a_model_without_a_tokenizer_is_refused_in_words_and_one_from_a_folder_finds_its_own(
    model: Any, clip: Path, tmp_path: Path
):
    from transformers import LlavaForConditionalGeneration

    method = CDPruner(5, "clip", text_tower=str(clip))
    with pytest.raises(ValueError, match="no tokenizer is known for this LlavaForConditionalGeneration .*hidrop.load"):
        reduce(make_llava(), method)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no tokenizer is known"):
        reduce(pretrained(LlavaForConditionalGeneration, tmp_path), method)
    word_tokenizer().save_pretrained(tmp_path)
    again = pretrained(LlavaForConditionalGeneration, tmp_path).eval()
    inputs = {"input_ids": make_prompt(3, 6), "pixel_values": make_pixels()}
    assert kept_of(again, method, inputs) == kept_of(model, method, inputs)


def test_a_stack_refuses_it_in_words_and_takes_the_other_forms(model: Any, clip: Path):
    fields = dict(keep=8, relevance="clip", text_tower=str(clip))
    with pytest.raises(ValueError, match="^cdpruner: it reads the question as text, .* which a stack does not hand on"):
        build("stack", {"stack": [{"cdpruner": fields}, {"fastv": dict(keep=4, layer=2)}]})
    inputs = {"input_ids": make_prompt(3, 6), "pixel_values": make_pixels()}
    for first, then in (({"cdpruner": dict(keep=8)}, {"fastv": dict(keep=4, layer=2)}), ("vanilla", "cdpruner")):
        then = {"cdpruner": dict(keep=8)} if then == "cdpruner" else then
        with torch.no_grad(), reduce(model, build("stack", {"stack": [first, then]})) as reduction:
            model(**inputs)
        (wanted,) = kept_of(model, CDPruner(8), inputs)
        assert reduction.kept[0].rows[0] == wanted


def test_a_long_question_gives_no_warning(model: Any, clip: Path, caplog: pytest.LogCaptureFixture):
    method = CDPruner(5, "clip", text_tower=str(clip))
    with caplog.at_level(logging.WARNING):
        kept_of(model, method, {"input_ids": make_prompt(3, 30), "pixel_values": make_pixels()})
    assert not caplog.records


def test_it_is_not_captured_as_a_graph(clip: Path):
    method = CDPruner(5, "clip", text_tower=str(clip))
    assert not method.capturable and CDPruner(5).capturable
    assert backbone_of(make_llava()).class_token
