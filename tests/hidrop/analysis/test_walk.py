"""The walk and its probes against transformers' own hidden states and eager attention, and against whole runs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from hidrop.analysis import probes, sweeps
from hidrop.analysis.walk import Walk, unreduced
from hidrop.geometry import Geometry
from hidrop.plan import Schedule
from hidrop.reducer import Reducer
from hidrop.runtime import reduce
from tests.conftest import IMAGE, make_llava_next
from tests.hidrop.runtime.test_llava_next import inputs as anyres_inputs

LAYERS, LONGEST = 6, 5


class Exiting(Reducer):
    """All visual tokens enter and leave at these layers, for a whole run to compare with the walk's branch."""

    name = "exiting"

    def __init__(self, inject: int, exit: int | None) -> None:
        object.__setattr__(self, "at", (inject, exit))

    def __post_init__(self) -> None: ...

    def schedule(self, geometry: Geometry) -> Schedule:
        inject, exit = self.at  # type: ignore[attr-defined]
        return Schedule(inject, (), exit)


@pytest.fixture
def batch(tiny_llava: Callable[..., Any], prompt: Callable[..., Any], pixels: Callable[..., Any], padded: Any) -> Any:
    """A model in double precision and three prompts of different lengths, padded left."""
    model = tiny_llava(kv_heads=2).double()
    prompts = [prompt(before=2 + i, after=4 + 2 * i, seed=i) for i in range(3)]
    inputs = {**padded(prompts), "pixel_values": torch.cat([pixels(seed=i) for i in range(3)]).double()}
    return model, prompts, inputs


def generated(model: Any, inputs: dict[str, Any], reducer: Reducer | None = None) -> list[list[int]]:
    """What transformers' generate makes of the prompts, reduced or not."""
    width = inputs["input_ids"].shape[1]
    if reducer is None:
        return model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)[:, width:].tolist()
    with reduce(model, reducer):
        return model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)[:, width:].tolist()


def test_answers_are_those_of_whole_runs_at_every_exit(batch: Any) -> None:
    model, prompts, inputs = batch
    decoding = sweeps.Decoding(LONGEST, [])
    with torch.inference_mode():
        walk = Walk(unreduced(model), inputs)
        leaving = sweeps.Leaving(walk, decoding, (1.0, 0.5), [5, 6, 7])
        probes.measure(walk, top=0.25, windows=(1, 2), at=leaving)
    assert leaving.own == generated(model, inputs)
    for layer in range(2, LAYERS + 1):
        assert leaving.answers[1.0][layer - 1] == generated(model, inputs, Exiting(1, layer)), layer
    for row, ids in enumerate(prompts):  # before layer 1: text alone, at the positions of the whole prompt
        place = (ids[0] != IMAGE).nonzero()[:, 0]
        states = model.model.language_model(
            inputs_embeds=model.get_input_embeddings()(ids[:, place]), position_ids=place[None]
        ).last_hidden_state
        assert leaving.answers[1.0][0][row][0] == int(model.lm_head(states[0, -1]).argmax())
    assert len(leaving.answers[0.5]) == LAYERS


def test_answers_are_those_of_whole_runs_at_every_injection(batch: Any) -> None:
    model, _, inputs = batch
    with torch.inference_mode():
        found = sweeps.entering(Walk(unreduced(model), inputs, blind=True), sweeps.Decoding(LONGEST, []))
    for layer in range(1, LAYERS + 1):
        assert found[layer - 1] == generated(model, inputs, Exiting(layer, None)), layer


def test_an_end_token_ends_a_row_and_is_part_of_its_answer(batch: Any) -> None:
    model, _, inputs = batch
    with torch.inference_mode():
        walk = Walk(unreduced(model), inputs)
        stations = list(walk.stations())
        whole = walk.answers(LAYERS + 1, walk.own(stations[-1][1]), LONGEST, [])
        end = whole[0][1]
        cut = walk.answers(LAYERS + 1, walk.own(walk.sequence), LONGEST, [end])
    for ids, short in zip(whole, cut, strict=True):
        assert short == (ids[: ids.index(end) + 1] if end in ids else ids)


def test_similarities_and_attention_are_those_of_transformers(batch: Any) -> None:
    """Each prompt alone, without padding, through the plain model with eager attention."""
    model, prompts, inputs = batch
    with torch.inference_mode():
        found = probes.measure(Walk(unreduced(model), inputs), top=0.25, windows=(1, 3))
        model.set_attn_implementation("eager")
        for row, ids in enumerate(prompts):
            out = model(
                input_ids=ids, pixel_values=inputs["pixel_values"][row : row + 1],
                output_hidden_states=True, output_attentions=True,
            )  # fmt: skip
            states = _after_each_layer(model, out)
            image = (ids[0] == IMAGE).nonzero()[:, 0]
            members = {"system": range(int(image[0])), "visual": image.tolist()}
            members["text"] = range(int(image[-1]) + 1, ids.shape[1])
            for name, places in members.items():
                pairs = pairwise(states)
                slow = [torch.stack([_cosine(a[p], b[p]) for p in places]).mean() for a, b in pairs]
                torch.testing.assert_close(found.intra[name][row].double(), torch.stack(slow), atol=1e-6, rtol=0)
            seen = torch.stack([layer[0, :, -1][:, image] for layer in out.attentions])  # (L, H, V)
            torch.testing.assert_close(found.mass[row], seen.mean(1).sum(-1).float(), atol=1e-6, rtol=0)
            for n in (1, 3):
                slow = [_ilvas(seen[layer], seen[layer + n], count=4) for layer in range(LAYERS - n)]
                torch.testing.assert_close(found.ilvas[n][row].double(), torch.stack(slow).double(), atol=1e-5, rtol=0)
            for layer in range(LAYERS):
                best = seen[layer].mean(0).argsort(descending=True, stable=True)[:4]
                assert found.top[row][layer] == best.tolist()


def _after_each_layer(model: Any, out: Any) -> list[torch.Tensor]:
    """States after layers 1 .. L. transformers returns the last ones after the final norm, whose weights are 1 here: it
    changes their length and not their direction."""
    assert (model.model.language_model.norm.weight == 1).all()
    return [states[0] for states in out.hidden_states[1:]]


def _cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a @ b) / (a.norm() * b.norm())


def _ilvas(early_HV: torch.Tensor, late_HV: torch.Tensor, count: int) -> torch.Tensor:
    best = early_HV.mean(0).argsort(descending=True, stable=True)[:count]
    return torch.stack([_cosine(early_HV[:, i], late_HV[:, i]) for i in best]).mean()


def test_cross_modal_similarity_compares_the_instruction_with_two_images(batch: Any) -> None:
    model, prompts, inputs = batch
    other = {**inputs, "pixel_values": inputs["pixel_values"].flip(0)}
    with torch.inference_mode():
        found = probes.cross_modal(Walk(unreduced(model), inputs), Walk(unreduced(model), other))
        same = probes.cross_modal(Walk(unreduced(model), inputs), Walk(unreduced(model), inputs))
        for row, ids in enumerate(prompts):
            sides = []
            for pixels in (inputs["pixel_values"], other["pixel_values"]):
                sides.append(
                    model(input_ids=ids, pixel_values=pixels[row : row + 1], output_hidden_states=True).hidden_states
                )
            behind = int((ids[0] == IMAGE).nonzero()[-1]) + 1
            slow = [
                torch.stack([_cosine(a[0, p], b[0, p]) for p in range(behind, ids.shape[1])]).mean()
                for a, b in zip(sides[0][1:], sides[1][1:], strict=True)
            ]
            torch.testing.assert_close(found[row].double(), torch.stack(slow), atol=1e-6, rtol=0)
    torch.testing.assert_close(same, torch.ones_like(same))
    torch.testing.assert_close(found[1], torch.ones_like(found[1]))  # rows 0 and 2 exchange images
    assert (found[0] < 0.999).all() and (found[2] < 0.999).all()


def test_a_share_leaves_the_same_tokens_in_every_layer_whatever_the_batch(batch: Any) -> None:
    model, _, inputs = batch
    with torch.inference_mode():
        walk = Walk(unreduced(model), inputs)
        leaving = sweeps.Leaving(walk, sweeps.Decoding(1, []), (0.5,), [5, 6, 7])
        kept = []
        for _, sequence in walk.stations():
            branch = walk.leaving(sequence, leaving._rank, 0.5)
            kept.append(branch.sequence.order.gather(1, branch.sequence.visual))
            assert branch.counts == [8, 8, 8]
    assert all((one == kept[0]).all() for one in kept)


def test_anyres_images_of_different_sizes_share_a_batch() -> None:
    """Rows with different numbers of visual tokens: probes and answers are those of each row alone."""
    model = make_llava_next().double()

    def measured(prompts: list[list[int]]) -> tuple[probes.Measured, sweeps.Leaving]:
        inputs = {name: x.double() if x.is_floating_point() else x for name, x in anyres_inputs(model, prompts).items()}
        with torch.inference_mode():
            walk = Walk(unreduced(model), inputs)
            leaving = sweeps.Leaving(walk, sweeps.Decoding(3, []), (1.0, 0.5), [5] * len(prompts))
            return probes.measure(walk, top=0.2, windows=(2,), at=leaving), leaving

    (both, left), (one, alone) = measured([[0], [2]]), measured([[0]])
    torch.testing.assert_close(both.mass[:1], one.mass)
    torch.testing.assert_close(both.ilvas[2][:1], one.ilvas[2])
    for name, curve in both.intra.items():
        torch.testing.assert_close(curve[:1], one.intra[name])
    assert both.top[:1] == one.top
    assert [rows[0] for rows in left.answers[1.0]] == [rows[0] for rows in alone.answers[1.0]]
    assert len(both.top[0][0]) != len(both.top[1][0]), "the two have different numbers of tokens"


def test_a_prompt_without_an_image_is_refused(batch: Any, prompt: Callable[..., Any]) -> None:
    model, _, inputs = batch
    with pytest.raises(ValueError, match="without an image"):
        Walk(unreduced(model), {"input_ids": prompt(images=0), "pixel_values": inputs["pixel_values"]})


def test_the_model_is_as_it_was_afterwards(batch: Any) -> None:
    model, _, inputs = batch
    before = generated(model, inputs)
    with torch.inference_mode():
        probes.measure(Walk(unreduced(model), inputs), top=0.25, windows=(1,))
    assert "forward" not in model.__dict__ and generated(model, inputs) == before
