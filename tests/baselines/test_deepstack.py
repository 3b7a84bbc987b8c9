"""What Qwen3-VL's decoder adds to visual tokens after its first layers, when they skip layers or are merged."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from baselines.pool import Pool
from hidrop.backbones import backbone_of
from hidrop.hidrop import HiDrop
from hidrop.reducer import Reducer
from hidrop.runtime import reduce
from tests.hidrop.backbones.families import batch_of, model_of

SIZE = (96, 128)  # 3 x 4 tokens
LATE: dict[str, Any] = dict(inject=2, filters=(3,), keep=(12,), exit=6)


def watched(reducer: Reducer, name: str = "qwen3_vl") -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """What enters each layer and what is added to it before the next one, (N, D) each, and the last token's logits.

    Nothing is said of an addition where tokens enter or leave.
    """
    model = model_of(name)
    entered, left = dict[int, torch.Tensor](), dict[int, torch.Tensor]()
    hooks = []
    for number, layer in enumerate(backbone_of(model).decoder.layers, 1):
        hooks.append(layer.register_forward_pre_hook(lambda _, args, n=number: entered.update({n: args[0][0]})))
        hooks.append(layer.register_forward_hook(lambda _, args, out, n=number: left.update({n: out[0]})))
    try:
        with reduce(model, reducer, reference_tokens=12), torch.no_grad():
            logits = model(**batch_of(name, [[SIZE]]), logits_to_keep=1).logits
    finally:
        for hook in hooks:
            hook.remove()
    pairs = [(entered[n + 1], left[n]) for n in range(1, 6)]
    between = [after - before if after.shape == before.shape else torch.empty(0, 0) for after, before in pairs]
    return list(entered.values()), between, logits


def parts() -> list[torch.Tensor]:
    """The image's features, and its three levels, (12, D) each."""
    model = model_of("qwen3_vl")
    vision = backbone_of(model).vision(batch_of("qwen3_vl", [[SIZE]]))
    assert vision is not None
    with torch.no_grad():
        (wide,) = vision.features()
    return list(wide.chunk(4, -1))


def added(rows_ND: torch.Tensor) -> torch.Tensor:
    """The rows of an addition that are not zero."""
    return rows_ND[rows_ND.abs().amax(1) > 1e-4]


@pytest.mark.parametrize("deepstack", ["carry", "drop", "shift"])
def test_levels_of_skipped_layers_are_carried_dropped_or_shifted(deepstack):
    """Late injection before layer 2: the first level belongs after a layer that the tokens skip."""
    features, first, second, third = parts()
    entered, between, _ = watched(HiDrop(**LATE, deepstack=deepstack))
    rows = entered[1]
    assert len(entered[0]) == len(rows) - 12
    wanted = features + first if deepstack == "carry" else features
    start = next(n for n in range(len(rows)) if torch.allclose(rows[n], wanted[0], atol=1e-5))
    torch.testing.assert_close(rows[start : start + 12], wanted, atol=1e-5, rtol=1e-5)
    levels = [first, second, third] if deepstack == "shift" else [second, third]
    for addition, level in zip(between[1:], levels, strict=False):
        torch.testing.assert_close(added(addition), level, atol=1e-4, rtol=1e-4)
    assert all(len(added(rest)) == 0 for rest in between[1 + len(levels) : 4])


def test_the_three_choices_differ_and_say_nothing_where_there_are_no_levels():
    choices = [HiDrop(**LATE, deepstack=choice) for choice in ("carry", "drop", "shift")]
    carry, drop, shift = (watched(choice)[2] for choice in choices)
    assert min((carry - drop).abs().max(), (carry - shift).abs().max(), (drop - shift).abs().max()) > 0.05
    plain = [watched(choice, "qwen2_vl")[2] for choice in choices]
    assert torch.equal(plain[0], plain[1]) and torch.equal(plain[0], plain[2])
    with pytest.raises(ValueError, match="deepstack: 'keep' is not one of 'carry', 'drop', 'shift'"):
        HiDrop(**LATE, deepstack="keep")


def test_a_pooled_token_gets_the_mean_of_its_tokens_levels():
    """Four cells of 3 x 4: two of four tokens, two of two."""
    cell = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3])
    _, between, _ = watched(Pool(keep=4))
    for addition, level in zip(between, parts()[1:], strict=False):
        wanted = torch.stack([level[cell == number].mean(0) for number in range(4)])
        torch.testing.assert_close(added(addition), wanted, atol=1e-4, rtol=1e-4)
    assert len(added(between[3])) == len(added(between[4])) == 0
