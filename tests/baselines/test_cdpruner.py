"""CDPruner's greedy choice, and its relevance by embeddings. By CLIP: test_cdpruner_clip.py.

Its choices in a model are compared with a slow rule in test_every_method.py.
"""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.cdpruner import CDPruner
from baselines.determinantal import greedy_order
from baselines.relevance import by_embeddings, of_image, weighed
from hidrop.geometry import PRESETS
from hidrop.methods import build, check_published
from tests.baselines.slow_cdpruner import best_of_each_step, kernel

LLAVA = PRESETS["llava-1.5-7b"]


def choices(tokens: torch.Tensor, weights: list[float] | None, count: int) -> list[int]:
    """The tokens of one prompt in the order in which they are chosen."""
    weight_BV = None if weights is None else torch.tensor([weights])
    score = greedy_order(tokens[None], weight_BV, torch.ones(1, len(tokens), dtype=torch.bool), count)[0]
    assert int((score > 0).sum()) == min(count, len(tokens))
    return score.argsort(descending=True, stable=True)[:count].tolist()


FEATURES = torch.tensor([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0, 0.8, 0.6], [0, 0, 1]])
COSINES = [math.cos(math.radians(degrees)) for degrees in (80, 70, 20, 40, 10)]


def released_weights(match: list[float]) -> list[float]:
    return [(m - min(match) + 1e-6) / (max(match) - min(match)) for m in match]


def test_the_worked_example():
    """Five tokens whose patches are at 80, 70, 20, 40 and 10 degrees from the text in CLIP's space."""
    weights = released_weights([-c for c in COSINES])
    assert weights == pytest.approx([1.000001, 0.792432, 0.055619, 0.269693, 0.000001], abs=5e-7)
    assert choices(FEATURES, weights, 3) == [0, 3, 1]
    matrix = kernel(list(FEATURES.double()), weights)
    sets = itertools.combinations(range(5), 3)
    best = max(sets, key=lambda s: torch.linalg.det(matrix[list(s)][:, list(s)]).item())
    assert best == (0, 1, 3)  # what is best of all sets, too
    chosen = matrix[list(best)][:, list(best)]
    assert torch.linalg.det(chosen).item() == pytest.approx(2.00518e-4, rel=1e-4)


def test_without_the_minus_sign_the_choice_is_nearly_the_complement():
    assert choices(FEATURES, released_weights(COSINES), 3) == [4, 2, 1]


def test_without_weights_the_first_token_is_the_first_choice():
    tokens = torch.randn(40, 8, generator=torch.Generator().manual_seed(3))
    assert choices(tokens, None, 5)[0] == 0
    assert choices(tokens * torch.linspace(1, 9, 40)[:, None], None, 5) == choices(tokens, None, 5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 24), st.integers(2, 20), st.integers(1, 12), st.booleans(), st.integers(0, 999))
def test_any_choice_is_the_greedy_one_by_determinants(slots: int, size: int, count: int, weighted: bool, seed: int):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(slots, size, generator=generator)
    weights = (0.1 + torch.rand(slots, generator=generator)).tolist() if weighted else None
    count = min(count, slots, size)  # beyond the rank all determinants are 0
    wanted = best_of_each_step(kernel(list(tokens.double()), weights or [1.0] * slots), count)
    found = choices(tokens, weights, count)
    gains = [det(tokens, weights, order) for order in (found, wanted)]
    assert found == wanted or gains[0] == pytest.approx(gains[1], rel=1e-3)  # two gains may be as good as equal


def det(tokens: torch.Tensor, weights: list[float] | None, order: list[int]) -> float:
    matrix = kernel([tokens[i].double() for i in order], [weights[i] if weights else 1.0 for i in order])
    return torch.linalg.det(matrix).item()


@pytest.mark.parametrize("weighted", [False, True])
def test_padding_and_other_rows_of_a_batch_change_no_choice(weighted: bool):
    generator = torch.Generator().manual_seed(8)
    tokens, valid = torch.randn(3, 30, 16, generator=generator), torch.arange(30) >= torch.tensor([[0], [11], [30]])
    weights = torch.rand(3, 30, generator=generator) if weighted else None
    together = greedy_order(tokens, weights, valid, 6)
    for row, first in ((0, 0), (1, 11)):
        own = None if weights is None else weights[row : row + 1, first:]
        alone = greedy_order(tokens[row : row + 1, first:], own, valid[row : row + 1, first:], 6)
        found, wanted = (score.argsort(descending=True)[:6].tolist() for score in (together[row], alone[0]))
        assert found == [first + n for n in wanted]
    assert not together[2].any() and not together[1, :11].any()


@pytest.mark.parametrize(("own", "size"), [(10, 16), (31, 64), (53, 128), (101, 96)])
@pytest.mark.parametrize("seed", range(4))
def test_of_copies_of_a_token_the_earliest_is_chosen_and_the_others_come_after_all_other_tokens(own, size, seed):
    once = torch.randn(own, size, generator=torch.Generator().manual_seed(seed))
    tokens, count = torch.cat([once, once.flip(0), once]), min(own, size * 3 // 4)
    assert max(choices(tokens, None, count)) < own
    if own < size:
        assert choices(tokens, None, own + 4)[own:] == [own, own + 1, own + 2, own + 3]


@pytest.mark.parametrize("extra", [0, 1, 40])
def test_as_many_choices_as_dimensions_or_more_stay_finite_and_go_on_in_order(extra: int):
    tokens = torch.randn(80, 12, generator=torch.Generator().manual_seed(4))
    found = choices(tokens, None, 12 + extra)
    assert len(set(found)) == 12 + extra
    rest = [n for n in range(80) if n not in found[:12]]
    assert found[12:] == rest[:extra]
    basis = torch.linalg.det(tokens[found[:12]].double() @ tokens[found[:12]].double().T)
    assert basis > 0


def test_the_first_choices_of_a_larger_count_are_those_of_a_smaller_one():
    tokens = torch.randn(50, 32, generator=torch.Generator().manual_seed(6))
    weights = torch.rand(50, generator=torch.Generator().manual_seed(7)).tolist()
    assert choices(tokens, weights, 20)[:7] == choices(tokens, weights, 7)


# ---- relevance ------------------------------------------------------------------------------------------------------


def prompt_of(visual: torch.Tensor, medium: list[list[int]], text: torch.Tensor, asked: list[list[bool]]) -> Any:
    return SimpleNamespace(
        visual_BVD=visual,
        text_BTD=text,
        question_BT=torch.tensor(asked),
        media=SimpleNamespace(medium_BV=torch.tensor(medium)),
    )


def test_relevance_by_embeddings_is_the_cosine_with_the_mean_of_the_question_within_each_image():
    generator = torch.Generator().manual_seed(1)
    visual, text = torch.randn(2, 5, 8, generator=generator), torch.randn(2, 3, 8, generator=generator)
    medium = [[0, 0, 0, 1, 1], [-1, -1, 2, 2, 2]]
    asked = [[False, True, True], [True, False, False]]
    rho = by_embeddings(prompt_of(visual, medium, text, asked))
    for row, slots, words in ((0, [0, 1, 2], [1, 2]), (0, [3, 4], [1, 2]), (1, [2, 3, 4], [0])):
        mean = text[row, words].mean(0)
        match = [torch.cosine_similarity(visual[row, slot], mean, dim=0).item() for slot in slots]
        wanted = [(m - min(match)) / (max(match) - min(match)) for m in match]
        assert rho[row, slots].tolist() == pytest.approx(wanted, abs=1e-5)


def test_equal_tokens_and_a_prompt_without_a_question_make_all_tokens_equally_relevant():
    visual, text = torch.ones(2, 4, 8), torch.randn(2, 3, 8)
    visual[1] = torch.randn(4, 8)
    medium, asked = [[0] * 4, [1] * 4], [[True] * 3, [False] * 3]
    assert by_embeddings(prompt_of(visual, medium, text, asked)).tolist() == [[1.0] * 4] * 2


def test_an_images_extremes_are_its_own():
    value = torch.tensor([[5.0, 1.0, 2.0, 8.0], [-3.0, -4.0, 9.0, 9.0]])
    medium = torch.tensor([[0, 0, 3, 3], [-1, 1, 1, 1]])
    assert of_image(value, medium, "amin").tolist() == [[1, 1, 2, 2], [-3, -4, -4, -4]]
    assert of_image(value, medium, "amax").tolist() == [[5, 5, 8, 8], [-3, 9, 9, 9]]


@pytest.mark.parametrize(
    ("weight", "wanted"), [(0, [1, 1]), (0.5, [1, math.exp(0.5)]), (0.8, [1, math.e**2]), (1, [0, 1])]
)
def test_the_weight_goes_from_no_relevance_to_relevance_alone(weight: float, wanted: list[float]):
    assert weighed(torch.tensor([[0.0, 1.0]]), weight)[0].tolist() == pytest.approx(wanted)


# ---- fields ---------------------------------------------------------------------------------------------------------


def test_a_budget_is_the_number_that_is_kept():
    assert CDPruner.for_budget(64, LLAVA, relevance="none") == CDPruner(64, "none")
    assert CDPruner(64).plan(LLAVA).average_tokens == 64


@pytest.mark.parametrize("keep", [32, 64, 128])
def test_published_settings_are_those_with_clip_and_need_its_folder(keep: int):
    fields = {"published": str(keep)}
    check_published(CDPruner, fields, LLAVA)
    method = build("cdpruner", {**fields, "text_tower": "somewhere"})
    assert method == CDPruner(keep, "clip", text_tower="somewhere")
    assert method.plan(LLAVA).average_tokens == keep
    with pytest.raises(ValueError, match="text_tower: a CLIP checkpoint for relevance: clip"):
        build("cdpruner", fields).plan(LLAVA)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            dict(relevance="clip"),
            "^text_tower: a CLIP checkpoint for relevance: clip, and for no other; give the folder",
        ),
        (dict(text_tower="somewhere"), "^text_tower: a CLIP checkpoint for relevance: clip, and for no other"),
        (dict(weight=1.5), "^weight: 1.5: it must be in 0..1"),
        (dict(weight=0.5, relevance="none"), "relevance: none has no weight"),
        (dict(relevance="text"), "^relevance: 'text' is not one of 'none', 'embeddings', 'clip'$"),
    ],
)
def test_fields_that_do_not_fit_are_refused_in_words(fields: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        CDPruner(64, **fields).plan(LLAVA)


def test_tiles_have_no_relevance_by_clip():
    with pytest.raises(ValueError, match="relevance: clip does not support images in tiles"):
        CDPruner(64, "clip", text_tower="somewhere").plan(PRESETS["llava-next-7b"])
