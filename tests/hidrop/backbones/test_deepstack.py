"""DeepStack (Qwen3-VL) where tokens skip layers or are merged, against transformers' decoder run by hand.

The reference takes transformers' own decoder layers one by one and adds the levels itself, so that every variant of
what happens to them can be written down.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from baselines.grid import cells
from hidrop.backbones import backbone_of
from hidrop.reducer import Mixture
from hidrop.runtime import reduce
from hidrop.runtime.media_table import media_table
from tests.hidrop.backbones.families import FAMILIES, batch_of, eager_of, model_of

NAME = "qwen3_vl"
ATOL = 1e-4  # logits are up to 8


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    return batch_of(NAME, [[*FAMILIES[NAME].sizes][:2]])


def parts(inputs: dict[str, torch.Tensor]) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Decoder, embedded prompt (S, D) with features in it, visual places, positions (3, S) and levels, each (V, D)."""
    model = eager_of(NAME)
    backbone = backbone_of(model)
    ids = inputs["input_ids"]
    kinds = backbone.kinds(ids)
    visual = (kinds[0] > 0).nonzero()[:, 0]
    vision = backbone.vision(inputs)
    assert vision is not None
    with torch.no_grad():
        wide = torch.cat(vision.features())
        hidden = backbone.decoder.embed_tokens(ids)[0].clone()
    features, *levels = wide.split(hidden.shape[1], 1)
    hidden[visual] = features
    places = backbone.places(torch.ones_like(ids, dtype=torch.bool), kinds, vision)
    return backbone.decoder, hidden, visual, places.position_PBS[:, 0], levels


def through(
    decoder: Any, hidden: torch.Tensor, position: torch.Tensor, first: int, last: int, added: dict[int, torch.Tensor]
) -> torch.Tensor:
    """Layers `first` to `last` (1-based) over a sequence (S, D); after layer l `added[l]`, (S, D), is added."""
    length = len(hidden)
    mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
    with torch.no_grad():
        rope = decoder.rotary_emb(hidden[None], position[:, None])
        states = hidden[None]
        for number in range(first, last + 1):
            states = decoder.layers[number - 1](states, attention_mask=mask, position_embeddings=rope)
            states = states + added.get(number, torch.zeros(()))
    return states[0]


def logits(hidden: torch.Tensor) -> torch.Tensor:
    model = eager_of(NAME)
    with torch.no_grad():
        return model.lm_head(model.model.language_model.norm(hidden[-1]))


def spread(levels: list[torch.Tensor], visual: torch.Tensor, length: int) -> list[torch.Tensor]:
    """Levels (V, D) at their places of a sequence, (S, D)."""
    found = []
    for level in levels:
        full = torch.zeros(length, level.shape[1])
        full[visual] = level
        found.append(full)
    return found


@pytest.mark.parametrize("inject", [2, 3, 5])
@pytest.mark.parametrize("deepstack", ["carry", "drop", "shift"])
def test_levels_of_skipped_layers(inputs: dict[str, torch.Tensor], inject: int, deepstack: str) -> None:
    """Text alone runs before `inject`; then the visual tokens enter, and nothing is cut until they leave before 6."""
    decoder, hidden, visual, position, levels = parts(inputs)
    length = len(hidden)
    text = torch.tensor([place for place in range(length) if place not in visual.tolist()])
    before = through(decoder, hidden[text], position[:, text], 1, inject - 1, {})
    entering = hidden.clone()
    entering[text] = before
    full = spread(levels, visual, length)
    if deepstack == "carry":
        entering[visual] = entering[visual] + sum(levels[: inject - 1])
    first = inject if deepstack == "shift" else 1
    added = {first + number: level for number, level in enumerate(full) if first + number >= inject}
    after = through(decoder, entering, position, inject, 5, added)
    wanted = logits(through(decoder, after[text], position[:, text], 6, 6, {}))
    cut = inject - 1 if inject == 5 else inject  # it keeps all tokens
    fields: dict[str, Any] = dict(inject=inject, filters=[cut], keep=[len(visual)], exit=6, deepstack=deepstack)
    with torch.no_grad(), reduce(model_of(NAME), "hidrop", reference_tokens=len(visual), **fields):
        made = model_of(NAME)(**inputs, logits_to_keep=1).logits[0, -1]
    torch.testing.assert_close(made, wanted, atol=ATOL, rtol=0)


def test_the_three_variants_differ_where_layers_are_skipped(inputs: dict[str, torch.Tensor]) -> None:
    made = {}
    for deepstack in ("carry", "drop", "shift"):
        settings = dict(inject=3, filters=[3], exit=6, budget="30%", deepstack=deepstack)
        with torch.no_grad(), reduce(model_of(NAME), "hidrop", **settings):
            made[deepstack] = model_of(NAME)(**inputs, logits_to_keep=1).logits
    for one, other in (("carry", "drop"), ("carry", "shift"), ("drop", "shift")):
        assert (made[one] - made[other]).abs().max() > 0.1


def test_merged_tokens_have_the_mean_of_their_members_levels_and_a_place_among_them(
    inputs: dict[str, torch.Tensor],
) -> None:
    """`pool` to 2 cells an image: each is the mean of its half, and so are its levels; it is where the middle is."""
    decoder, hidden, visual, position, levels = parts(inputs)
    vision = backbone_of(model_of(NAME)).vision(inputs)
    assert vision is not None and vision.grids == (((1, 3, 4),), ((1, 5, 2),))
    table = media_table(torch.arange(len(visual))[None], vision)
    prompt: Any = type(
        "Prompt", (), {"visual_valid_BV": torch.ones(1, len(visual), dtype=torch.bool), "media": table}
    )()
    cell, centre = cells(prompt, torch.tensor([4]))
    members = [(cell[0] == number).nonzero()[:, 0].tolist() for number in range(4)]
    assert sorted(rank for one in members for rank in one) == [*range(22)] and all(
        max(m) < 12 or min(m) >= 12 for m in members
    )
    middle = [next(m for m in one if centre[0, m]) for one in members]
    text = [place for place in range(len(hidden)) if place not in visual.tolist()]
    order = sorted([(place, None) for place in text] + [(int(visual[m]), n) for n, m in enumerate(middle)])
    states = torch.stack([hidden[place] if n is None else hidden[visual[members[n]]].mean(0) for place, n in order])
    added = {
        number + 1: torch.stack(
            [torch.zeros(hidden.shape[1]) if n is None else level[members[n]].mean(0) for _, n in order]
        )
        for number, level in enumerate(levels)
    }
    places = position[:, [place for place, _ in order]]
    wanted = logits(through(decoder, states, places, 1, 6, added))
    with torch.no_grad(), reduce(model_of(NAME), "pool", keep=4, reference_tokens=len(visual)):
        made = model_of(NAME)(**inputs, logits_to_keep=1).logits[0, -1]
    torch.testing.assert_close(made, wanted, atol=ATOL, rtol=0)


def test_recycled_tokens_get_levels_too(inputs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """SparseVLM's merged tokens of a cut after layer 1: without their levels the answer is another one."""
    settings = dict(layers=[1, 4, 5], keep=[12, 8, 6], reference_tokens=22)
    model = model_of(NAME)
    with torch.no_grad(), reduce(model, "sparsevlm", **settings) as reduction:
        made = model(**inputs, logits_to_keep=1).logits
        assert reduction.trace.entering[1] > len(reduction.kept[0].rows[0])
    right, calls = Mixture.of, []

    def without(self: Mixture, states: torch.Tensor) -> torch.Tensor:
        calls.append(states)
        return right(self, states) * (len(calls) == 1 or len(calls) > 3)  # the states of the first cut, not its levels

    monkeypatch.setattr(Mixture, "of", without)
    with torch.no_grad(), reduce(model, "sparsevlm", **settings):
        other = model(**inputs, logits_to_keep=1).logits
    assert (made - other).abs().max() > 0.05
