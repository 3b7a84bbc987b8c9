"""What a method notes of each token in the tower reaches its `prepare`, at the token's slot, whatever the batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch

from hidrop.backbones import backbone_of
from hidrop.plan import Cut, Schedule
from hidrop.reducer import Reducer
from hidrop.runtime import reduce
from hidrop.runtime.feature_cache import FeatureCache
from tests.conftest import make_llava, make_pixels, make_prompt, pad
from tests.hidrop.backbones.families import FAMILIES, batch_of, model_of


@dataclass(frozen=True)
class Noting(Reducer):
    """After each feature come its first number and the token's number in its image. An image's later half stays."""

    again: bool = False
    seen: list[Any] = field(default_factory=list, compare=False, hash=False)

    name: ClassVar[str] = "noting"
    encodes = property(lambda self: False)
    annotates = property(lambda self: True)
    rechosen = property(lambda self: self.again)

    def schedule(self, geometry: Any) -> Schedule:
        return Schedule(cuts=(Cut(1, geometry.visual_tokens // 2),))

    def encode(self, vision: Any) -> list[torch.Tensor]:
        made = vision.features()
        return [torch.cat([one, one[:, :1], torch.arange(len(one))[:, None]], 1) for one in made]

    def prepare(self, prompt: Any) -> torch.Tensor:
        self.seen.append(prompt)
        if prompt.side_BVS is None:
            return torch.zeros_like(prompt.visual_valid_BV, dtype=torch.float32)
        assert prompt.side_BVS.shape == (*prompt.visual_valid_BV.shape, 2)
        there = prompt.visual_valid_BV
        assert torch.equal(prompt.side_BVS[..., 0][there], prompt.visual_BVD[..., 0][there])
        return prompt.side_BVS[..., 1]

    def score(self, view: Any) -> torch.Tensor:
        return view.memory


def inputs() -> dict[str, torch.Tensor]:
    prompts = [make_prompt(3, 7, seed=1), make_prompt(2, 4, images=2, seed=2), make_prompt(2, 5, images=0, seed=3)]
    return {**pad(prompts), "pixel_values": make_pixels(3, seed=1)}


@pytest.mark.parametrize("cached", [False, True])
def test_each_slot_has_its_own_numbers_with_padding_and_several_images(cached: bool) -> None:
    model, method = make_llava(kv_heads=2), Noting()
    with torch.no_grad(), reduce(model, method, features=FeatureCache() if cached else None) as reduction:
        model(**inputs())
        out = model(**inputs())
    (prompt, _), (kept,) = method.seen, reduction.kept
    assert kept.rows == (tuple(range(8, 16)), (*range(8, 16), *range(24, 32)), ())
    assert prompt.side_BVS[1, :, 1].tolist() == [*range(16), *range(16)]
    assert out.image_hidden_states.shape == (48, 32)
    with torch.no_grad():
        own = model.get_image_features(inputs()["pixel_values"]).pooler_output
    torch.testing.assert_close(out.image_hidden_states, torch.cat(list(own)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("beams", [1, 2])
def test_a_sequence_that_runs_again_has_them_too(beams: int) -> None:
    model = make_llava(kv_heads=2)
    settings = dict(max_new_tokens=4, do_sample=False, num_beams=beams)
    with torch.no_grad():
        with reduce(model, Noting()):
            wanted = model.generate(**inputs(), **settings)
        method = Noting(again=True)
        with reduce(model, method):
            found = model.generate(**inputs(), **settings)
    assert torch.equal(found, wanted)  # the numbers do not depend on what is generated
    assert len(method.seen) == 4 and all(prompt.side_BVS.shape[0] == 3 * beams for prompt in method.seen)


def test_without_images_there_are_none() -> None:
    model, method = make_llava(), Noting()
    with torch.no_grad(), reduce(model, method):
        model(input_ids=make_prompt(images=0))
    assert method.seen[0].side_BVS is None


def test_they_come_after_deepstacks_levels() -> None:
    model, method = model_of("qwen3_vl"), Noting()
    sizes = list(FAMILIES["qwen3_vl"].sizes)
    batch = batch_of("qwen3_vl", [sizes[:1], sizes[:2]])
    with torch.no_grad(), reduce(model, method, reference_tokens=100) as reduction:
        model(**batch)
    assert backbone_of(model).levels and method.seen[0].side_BVS.shape[2] == 2
    assert len(reduction.kept[0].rows) == 2


def test_questions_are_text_of_each_row_alone() -> None:
    from hidrop.backbones.tokenizers import state_tokenizer
    from tests.tiny_clip import word_tokenizer

    class Reading(Noting):
        reads_text = property(lambda self: True)

    model, method, batch = make_llava(), Reading(), inputs()
    state_tokenizer(model, word_tokenizer())
    labels = batch["input_ids"].clone()
    labels[:, :-2] = -100
    with torch.no_grad(), reduce(model, method):
        model(**batch)
        model(**batch, labels=labels)
    words = [
        " ".join(f"w{number}" for number in row[-count:])
        for row, count in zip(batch["input_ids"].tolist(), (7, 4, 6), strict=True)
    ]
    assert method.seen[0].questions() == words
    assert method.seen[1].questions() == [" ".join(text.split()[:-2]) for text in words]  # without the answer
