"""What holds for every method on every model family with images of its own kind. LLaVA: test_every_method.py.

Counts are shares of the family's reference image, so that one table serves images of any size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from hidrop.backbones import backbone_of
from hidrop.backbones.model_inputs import size_of
from hidrop.geometry import Geometry
from hidrop.methods import METHODS as REGISTRY
from hidrop.methods import build
from hidrop.reducer import Reducer
from hidrop.runtime import reduce
from tests.hidrop.backbones.families import FAMILIES, batch_of, model_of, with_own

THIRD = 0.35
# Row -> (method, its fields); `keep`, `dominant` and `contextual` are shares.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "vanilla": ("vanilla", {}),
    "hidrop": ("hidrop", dict(inject=2, filters=(3, 4), keep=(0.6, THIRD), exit=6)),
    "hidrop-ties": ("hidrop", dict(inject=3, filters=(2, 4), keep=(0.6, THIRD), exit=6, ties="released")),
    "hidrop-text": ("hidrop", dict(inject=2, filters=(3, 4), keep=(0.6, THIRD), exit=6, query="text")),
    "fastv": ("fastv", dict(keep=THIRD, layer=1)),
    "fastv-all": ("fastv", dict(keep=THIRD, query="all")),
    "fastv-rechosen": ("fastv", dict(keep=THIRD, rechosen=True)),
    "pdrop": ("pdrop", {}),
    "sparsevlm": ("sparsevlm", {}),
    "sparsevlm-2.0": ("sparsevlm", dict(version="2.0", heads=2)),
    "sparsevlm-1.0": ("sparsevlm", dict(version="1.0", scale=100.0, bias=50.0)),
    "random": ("random", dict(keep=THIRD)),
    "uniform": ("uniform", dict(keep=THIRD)),
    "pool": ("pool", dict(keep=THIRD)),
    "divprune": ("divprune", dict(keep=THIRD)),
    "visionzip": ("visionzip", dict(dominant=0.4, contextual=0.15)),
    "fastervlm": ("fastervlm", dict(keep=THIRD)),
    "vispruner": ("vispruner", dict(keep=THIRD, step=2)),
    "holov": ("holov", dict(keep=THIRD, crops=3)),
    "holov-score": ("holov", dict(keep=THIRD, crops=4, pick="score")),
    "cdpruner": ("cdpruner", dict(keep=THIRD)),
    "cdpruner-none": ("cdpruner", dict(keep=THIRD, relevance="none")),
    "text_only": ("text_only", {}),
    "dart": ("dart", dict(keep=THIRD)),
    "dart-norm": ("dart", dict(keep=THIRD, layer=1, image_pivots=1, order="norm")),
    "dart-embedding": ("dart", dict(keep=THIRD, variant="embedding")),
    "feather": ("feather", {}),
    "feather-released": ("feather", dict(layers=(2, 4), union="released")),
    "vtw": ("vtw", dict(exit=4)),
    "stack": ("stack", dict(stack=(dict(divprune=dict(keep=0.6)), dict(pdrop=dict(layers=(3, 4), ratios=(0.6, 0.3)))))),
    "stack-tower": (
        "stack", dict(stack=(dict(visionzip=dict(dominant=0.4, contextual=0.15)), dict(fastv=dict(keep=0.3))))
    ),
    "stack-exit": ("stack", dict(stack=(dict(fastv=dict(keep=THIRD)), dict(vtw=dict(exit=5))))),
}  # fmt: skip
# Refused in words: images in tiles with line ends. See test_visionzip.py and test_chosen.py.
TOWER = ("visionzip", "fastervlm", "vispruner", "holov", "holov-score", "stack-tower")
REFUSED = {(name, row) for name in ("llava_next", "llava_onevision") for row in TOWER}
# Refused by all of these families: see test_downsample.py and test_prumerge.py.
NOWHERE = {"downsample", "prumerge"}
M_ROPE = with_own("places")
NEW = 3

cells = pytest.mark.parametrize(
    ("name", "row"),
    [(name, row) for name in FAMILIES if name != "llava" for row in METHODS if (name, row) not in REFUSED],
)


def stated(name: str) -> dict[str, int]:
    """The image that counts are of, where each has its own number of tokens."""
    return {"reference_tokens": 1000} if backbone_of(model_of(name)).geometry.dynamic else {}


def geometry_of(name: str) -> Geometry:
    return backbone_of(model_of(name)).geometry.counted(stated(name).get("reference_tokens"))


def reducer_of(row: str, geometry: Geometry) -> Reducer:
    """The method of a row with its shares as counts of the reference image."""
    name, fields = METHODS[row]

    def count(share: Any) -> Any:
        return tuple(map(count, share)) if isinstance(share, tuple) else round(share * geometry.visual_tokens)

    def counted(fields: dict[str, Any]) -> dict[str, Any]:
        shares = ("keep", "dominant", "contextual")
        return {key: count(value) if key in shares else value for key, value in fields.items()}

    members = [{name: counted(own) for name, own in one.items()} for one in fields.get("stack", ())]
    return build(name, {**counted(fields), **({"stack": members} if members else {})})


def generate(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """New ids and their logits, (B, NEW, vocab)."""
    settings = dict(max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True, output_logits=True)
    out = model.generate(**inputs, **settings)
    return out.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(out.logits, 1)


def plan_of(method: Reducer, geometry: Geometry, inputs: dict[str, torch.Tensor], name: str) -> tuple[int, ...]:
    """Visual tokens that enter each layer for one prompt: its images together, or each if the tower chooses."""
    vision = backbone_of(model_of(name)).vision(inputs)
    sizes = [] if vision is None else [size_of(grids) for grids in vision.grids]
    plans = [method.plan(geometry, size).entering for size in (sizes if method.encodes else [sum(sizes)])]
    return tuple(map(sum, zip(*plans, strict=True))) if plans else (0,) * geometry.layers


def test_the_table_has_every_method_but_those_that_all_families_refuse() -> None:
    assert {name for name, _ in METHODS.values()} == {*REGISTRY} - NOWHERE


@cells
def test_a_batch_equals_single_runs_and_every_layer_holds_the_plan(name: str, row: str) -> None:
    """Rows with one image, with two of other sizes, and with none, padded left; then each row alone."""
    model, geometry, sizes = model_of(name), geometry_of(name), list(FAMILIES[name].sizes)
    rows = [sizes[:1], sizes[:2], []]
    with reduce(model, reducer_of(row, geometry), **stated(name)) as reduction:
        ids, logits = generate(model, batch_of(name, rows))
        together = reduction.trace.rows
        for number, images in enumerate(rows):
            inputs = batch_of(name, [images], seed=number)
            single, wanted = generate(model, inputs)
            assert ids[number].tolist() == single[0].tolist()
            torch.testing.assert_close(logits[number], wanted[0], atol=5e-5, rtol=1e-4)
            (entering,) = reduction.trace.rows
            assert together[number] == entering
            planned = plan_of(reduction.reducer, geometry, inputs, name)
            bounded = all(n <= most for n, most in zip(entering, planned, strict=True))
            assert bounded if reduction.reducer.bound == "<=" else entering == planned
            assert images or set(entering) == {0}


@cells
def test_right_padding_changes_nothing(name: str, row: str) -> None:
    model, sizes = model_of(name), list(FAMILIES[name].sizes)
    method, rows, last = reducer_of(row, geometry_of(name)), [sizes[1:2], sizes[:1]], []
    with reduce(model, method, **stated(name)) as reduction, torch.no_grad():
        kept = []
        for side in ("left", "right"):
            last.append(model(**batch_of(name, rows, side), logits_to_keep=1).logits)
            kept.append([one.rows for one in reduction.kept])
    torch.testing.assert_close(last[0], last[1], atol=5e-5, rtol=1e-4)
    assert kept[0] == kept[1]


@pytest.mark.parametrize("name", M_ROPE)
@pytest.mark.parametrize(
    ("row", "scheme"),
    [("pdrop", "compacted"), ("sparsevlm", "compacted"), ("pool", "compacted"), ("hidrop", "group")],
)
def test_renumbered_positions_are_refused_in_words_with_three_axes(name: str, row: str, scheme: str) -> None:
    model = model_of(name)
    method: Any = replace(reducer_of(row, geometry_of(name)), positions=scheme)  # type: ignore[call-arg]
    with pytest.raises(
        ValueError, match=rf"positions: {scheme} has no meaning where a position is 3 numbers \(M-RoPE\)"
    ):
        reduce(model, method, **stated(name))
    assert "forward" not in model.__dict__


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in M_ROPE])
def test_renumbered_positions_are_the_default_with_one_axis_and_change_answers(name: str) -> None:
    model = model_of(name)
    inputs, method = batch_of(name, [list(FAMILIES[name].sizes)[:1]]), reducer_of("pdrop", geometry_of(name))
    logits = []
    for positions in (None, "compacted", "persistent"):
        with reduce(model, replace(method, positions=positions)), torch.no_grad():  # type: ignore[call-arg]
            logits.append(model(**inputs, logits_to_keep=1).logits)
    assert torch.equal(logits[0], logits[1])
    assert (logits[0] - logits[2]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "llava_onevision"])
def test_a_video_is_reduced_as_the_plan_says_and_every_frame_keeps_some_of_an_even_choice(name: str) -> None:
    model, (video, *_) = model_of(name), FAMILIES[name].videos
    frames, rows, columns = video
    inputs = batch_of(name, [[]], videos=[[video]])
    with reduce(model, reducer_of("uniform", geometry_of(name)), **stated(name)) as reduction, torch.no_grad():
        model(**inputs)
        (kept,) = reduction.kept[0].rows
    there = [sum(n // (rows * columns) == frame for n in kept) for frame in range(frames)]
    assert sum(there) == len(kept) and max(there) - min(there) <= 1 and min(there) >= 2
