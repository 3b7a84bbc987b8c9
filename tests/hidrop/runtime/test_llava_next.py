"""LLaVA-NeXT: an image has as many visual tokens as its tiles and its shape give, and plans scale with them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlavaNextConfig, LlavaNextModel
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from hidrop.backbones import geometry_of
from hidrop.backbones.llava_next import image_tokens
from hidrop.methods import build
from hidrop.runtime import reduce
from tests.baselines.test_every_method import METHODS, reducer_of
from tests.conftest import IMAGE, make_llava_next

IN_THE_TOWER = [row for row in METHODS if reducer_of(row).encodes]
ROWS = [row for row in METHODS if row not in IN_THE_TOWER]
SIZES = [(64, 64), (40, 64), (90, 30), (32, 32)]  # height, width


@pytest.fixture(scope="module")
def model() -> Any:
    """16 tokens per tile, and up to four tiles next to the whole image."""
    return make_llava_next()


def inputs(model: Any, prompts: list[list[int]], seed: int = 0) -> dict[str, torch.Tensor]:
    """A left-padded batch: of each prompt the numbers of its images in SIZES, with words around them."""
    generator = torch.Generator().manual_seed(seed)
    rows, images = [], [n for numbers in prompts for n in numbers]
    pixels = {n: torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(50 + n)) for n in set(images)}

    def batch(numbers: list[int]) -> dict[str, torch.Tensor]:
        return {
            "pixel_values": torch.stack([pixels[n] for n in numbers]),
            "image_sizes": torch.tensor([SIZES[n] for n in numbers]),
        }

    for numbers in prompts:
        ids = [1, *torch.randint(3, IMAGE, (3,), generator=generator).tolist()]
        for n in numbers:
            with torch.no_grad():
                (features,) = model.model.get_image_features(**batch([n]), return_dict=True).pooler_output
            ids += [IMAGE] * len(features)
            ids += torch.randint(3, IMAGE, (4,), generator=generator).tolist()
        rows.append(ids)
    longest = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[0] * (longest - len(ids)) + ids for ids in rows]),
        "attention_mask": torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in rows]),
        **(batch(images) if images else {}),
    }


def generate(model: Any, **batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    out = model.generate(**batch, max_new_tokens=3, do_sample=False, return_dict_in_generate=True, output_logits=True)
    return out.sequences[:, batch["input_ids"].shape[1] :], torch.stack(out.logits, 1)


def test_the_sizes_are_those_of_the_image_with_the_most_tiles(model: Any) -> None:
    assert geometry_of(model.config).visual_tokens == 5 * 16
    published = LlavaNextConfig(
        image_grid_pinpoints=[[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    )
    assert geometry_of(published).visual_tokens == 2880


def test_vanilla_equals_transformers(model: Any) -> None:
    batch = inputs(model, [[0], [1, 2], [3]])
    wanted, wanted_logits = generate(model, **batch)
    with reduce(model, build("vanilla")) as reduction, torch.no_grad():
        got, logits = generate(model, **batch)
        counts = (batch["input_ids"] == IMAGE).sum(1).tolist()
        assert [row[0] for row in reduction.trace.rows] == counts and len(set(counts)) == 3
    assert torch.equal(got, wanted)
    torch.testing.assert_close(logits, wanted_logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("row", ROWS)
def test_a_batch_of_images_of_different_sizes_equals_single_runs(row: str, model: Any) -> None:
    prompts = [[0], [1, 2], [3], []]
    with reduce(model, reducer_of(row)) as reduction:
        together = generate(model, **inputs(model, prompts))
        rows = reduction.trace.rows
        whole = inputs(model, prompts)
        for i, numbers in enumerate(prompts):
            ids = whole["input_ids"][i : i + 1, whole["attention_mask"][i] == 1]
            alone = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if numbers:
                alone |= {k: v for k, v in inputs(model, [numbers]).items() if k in ("pixel_values", "image_sizes")}
            got, logits = generate(model, **alone)
            assert torch.equal(got[0], together[0][i])
            torch.testing.assert_close(logits[0], together[1][i], atol=5e-5, rtol=1e-4)
            assert reduction.trace.rows[0] == rows[i]


def test_plans_scale_with_the_tokens_that_are_really_there(model: Any) -> None:
    hidrop = build("hidrop", dict(inject=2, filters=[3, 4], keep=[40, 8], exit=6))
    batch = inputs(model, [[0], [3]])
    counts = (batch["input_ids"] == IMAGE).sum(1).tolist()
    with reduce(model, hidrop) as reduction, torch.no_grad():
        model(**batch)
        rows = reduction.trace.rows
    assert rows == tuple((0, n, n, n * 40 // 80, n * 8 // 80, 0) for n in counts)


@pytest.mark.parametrize("row", IN_THE_TOWER)
def test_a_method_that_works_in_the_tower_says_that_it_cannot(row: str, model: Any) -> None:
    with pytest.raises(ValueError, match="tiles"), reduce(model, reducer_of(row)):
        pass


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 2000), st.integers(1, 2000))
def test_an_image_has_as_many_tokens_as_its_shape_says(height: int, width: int) -> None:
    """Against transformers' own packing, on tiles of features without a tower."""
    pinpoints = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    config = LlavaNextConfig(image_grid_pinpoints=pinpoints)
    tiles = image_size_to_num_patches([height, width], pinpoints, 336)
    packed, _ = LlavaNextModel.pack_image_features(
        SimpleNamespace(config=config), [torch.zeros(tiles, 576, 1)], [(height, width)], "default", torch.zeros(1)
    )
    assert image_tokens(config, height, width) == len(packed[0])
