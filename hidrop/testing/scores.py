"""Properties of `prepare`, `score` and `merge` themselves, on views that the runtime has shown them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from hidrop.runtime.scoring import Prompt, View
from hidrop.runtime.tensor_tree import mapped
from hidrop.testing.case import Case
from hidrop.testing.properties import Property
from hidrop.testing.report import Fault, Skip
from hidrop.testing.watched import Merged, Seen, Seens

NOISE = 50.0  # what is put where a score must not look


def cuts_of(case: Case) -> Iterator[tuple[Seens, Seen]]:
    """Every cut of the case's prompts. Raises Skip for a schedule without one."""
    found = [(seens, seen) for seens in case.seen for seen in seens.cuts]
    if not found:
        raise Skip("the schedule has no cut")
    yield from found


def scored(case: Case, view: View) -> torch.Tensor:
    """The score of a view, of which the method gets a copy."""
    shown = mapped(torch.clone, view)
    with torch.no_grad():
        return case.method.choose(shown)[0] if case.method.adaptive else case.method.score(shown)


def prepared(case: Case, prompt: Prompt | None) -> Any:
    with torch.no_grad():
        return None if prompt is None else case.method.prepare(mapped(torch.clone, prompt))


def apart(got: torch.Tensor, wanted: torch.Tensor, where_BV: torch.Tensor, *, most: bool = False) -> float:
    """The largest difference at some slots (`most`: the median), as a share of the wanted finite scores' spread there.

    Infinite for NaN, and for a number that is infinite in one of the two only, or with the other sign.
    """
    one, other = got.double()[where_BV], wanted.double()[where_BV]
    if not len(other):
        return 0.0
    # inf - inf is NaN, which no comparison would find too large.
    finite = one.isfinite() & other.isfinite()
    difference = torch.where(finite, (one - other).abs(), torch.where(one == other, 0.0, torch.inf))
    known = other[other.isfinite()]
    least, spread = 1e-12, 0.0
    if len(known):
        least = 1e-6 * max(1e-6, known.abs().max().item())
        spread = (known.max() - known.min()).item()
    return (difference.median() if most else difference.max()).item() / max(spread, least)


def shape_and_type(case: Case) -> None:
    for _, seen in cuts_of(case):
        view, score = seen.view, seen.score
        if not isinstance(score, torch.Tensor):
            raise Fault(f"score gave {type(score).__name__}, not a tensor")
        if score.shape != view.visual_BV.shape:
            raise Fault(
                f"score has the shape {tuple(score.shape)}, not {tuple(view.visual_BV.shape)}: (batch, visual slots)"
            )
        if score.dtype != torch.float32:
            raise Fault(f"score is {str(score.dtype).removeprefix('torch.')}, not float32")
        if bool(score[view.valid_BV].isnan().any()):
            raise Fault(f"score after layer {view.layer} has NaN at {int(score[view.valid_BV].isnan().sum())} tokens")
        if score.requires_grad:
            raise Fault("score is attached to the graph in a forward without gradients")


def nothing_in_place(case: Case) -> None:
    for seens in case.seen:
        if seens.prompt_changed:
            raise Fault(f"prepare changed prompt.{seens.prompt_changed[0]} in place")
        for seen in seens.cuts:
            if seen.changed:
                raise Fault(f"score or merge after layer {seen.view.layer} changed view.{seen.changed[0]} in place")
    for name, value in case.model.state_dict().items():
        if not torch.equal(value, case.weights[name]):
            raise Fault(f"the model's weight {name} has changed")
    if vars(case.method) != case.fields_before:
        raise Fault(f"the method's own fields changed: {case.fields_before} became {vars(case.method)}")


def repeatable(case: Case) -> None:
    """The same view and the same forward again, with other states of the random generators, bit for bit."""
    for _, seen in cuts_of(case):
        answers = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            random.seed(seed)
            answers.append(scored(case, seen.view))
        if not same_numbers(*answers):
            raise Fault(f"two calls of score for one view (after layer {seen.view.layer}) gave two answers")
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        runs.append(case.run(case.batch(case.rows, seed=3)))
    if runs[0].kept != runs[1].kept or not torch.equal(runs[0].logits, runs[1].logits):
        raise Fault("two forwards of one batch gave two answers")


def fillers_are_not_read(case: Case) -> None:
    """Other numbers in the slots that hold no token, in the prompt and in the view."""
    for seens, seen in cuts_of(case):
        there_BN = seen.view.order_BN >= 0
        if bool(there_BN.all()) and (seens.prompt is None or bool(seens.prompt.visual_valid_BV.all())):
            continue
        prompt = seens.prompt
        if prompt is not None:
            prompt = replace(
                prompt,
                visual_BVD=noisy(prompt.visual_BVD, ~prompt.visual_valid_BV),
                text_BTD=noisy(prompt.text_BTD, ~prompt.text_valid_BT),
            )
        view = disturbed(seen.view, ~there_BN, prepared(case, prompt))
        if apart(scored(case, view), seen.score, seen.view.valid_BV) > 1e-3:
            raise Fault(f"the scores after layer {seen.view.layer} change with what is in filler slots (order_BN < 0)")


def other_rows_are_not_read(case: Case) -> None:
    """Other numbers in the second row change nothing in the others."""
    for seens, seen in cuts_of(case):
        view, valid_BV = seen.view, seen.view.valid_BV.clone()
        if len(valid_BV) < 2:
            continue
        second = torch.zeros(len(valid_BV), 1, dtype=torch.bool)
        second[1] = True
        prompt = seens.prompt
        if prompt is not None:
            visual, text = (second.expand(x.shape[:2]) for x in (prompt.visual_BVD, prompt.text_BTD))
            prompt = replace(prompt, visual_BVD=noisy(prompt.visual_BVD, visual), text_BTD=noisy(prompt.text_BTD, text))
        valid_BV[1] = False
        changed = disturbed(view, second.expand_as(view.order_BN), prepared(case, prompt))
        if apart(scored(case, changed), seen.score, valid_BV) > 1e-3:
            raise Fault(f"the scores after layer {view.layer} of one row change with what is in another row")


def same_numbers(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal, NaN where the other has NaN: that is for "scores" to say."""
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def noisy(states_BND: torch.Tensor, where_BN: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(states_BND.shape, generator=torch.Generator().manual_seed(0)).to(states_BND) * NOISE
    return torch.where(where_BN[:, :, None], noise, states_BND)


def disturbed(view: View, where_BN: torch.Tensor, memory: Any) -> View:
    """The view with noise in some slots of its states and keys."""
    keys = view.keys
    if keys is not None:
        keys = torch.where(
            where_BN[:, None, :, None], noisy(keys.flatten(0, 1), torch.ones(1, 1).bool()).view_as(keys), keys
        )
    before = None if view.input_BND is None else noisy(view.input_BND, where_BN)
    return replace(view, hidden_BND=noisy(view.hidden_BND, where_BN), input_BND=before, keys=keys, memory=memory)


def merged_tokens(case: Case) -> None:
    found = [(seen.view, seen.merged) for _, seen in cuts_of(case) if seen.merged is not None]
    if not found:
        raise Skip("the schedule merges nothing")
    for view, merged in found:
        check_mixture(view, merged)
        inside = torch.where(view.valid_BV[:, :, None], view.visual_BVD, torch.full_like(view.visual_BVD, NOISE))
        wanted, got = merged.mixture.of(view.visual_BVD), merged.mixture.of(inside)
        for row, count in enumerate(view.cut.merge_B.tolist()):
            if not torch.isfinite(wanted[row, :count]).all():
                raise Fault(f"merged tokens after layer {view.layer} are not finite: a total is 0")
            if not torch.allclose(wanted[row, :count], got[row, :count], atol=1e-5, rtol=1e-4):
                raise Fault(f"merged tokens after layer {view.layer} have a weight of a filler slot")


def check_mixture(view: View, merged: Merged) -> None:
    mixture, (batch, slots) = merged.mixture, view.visual_BV.shape
    columns = slots if mixture.among_BC is None else mixture.among_BC.shape[1]
    if mixture.weight_BMC.shape != (batch, merged.count, columns):
        raise Fault(f"weights of {tuple(mixture.weight_BMC.shape)}, not {(batch, merged.count, columns)}")
    if mixture.at_BM is None:
        return
    for row, count in enumerate(view.cut.merge_B.tolist()):
        at = mixture.at_BM[row, :count].tolist()
        if any(not 0 <= slot < slots for slot in at):
            raise Fault(f"at_BM of row {row} is {at}, and there are slots 0..{slots - 1}")
        if any(not view.valid_BV[row, slot] for slot in at):
            raise Fault(f"at_BM of row {row} is {at}, of which some slots hold no token of this row")
        if len(set(at)) < len(at):
            raise Fault(f"at_BM of row {row} is {at}: two merged tokens at one place")


PROPERTIES: tuple[Property[Case], ...] = (
    Property(
        "scores",
        "score gives one float32 number for each visual slot, (batch, visual slots), none of them NaN",
        "score view.visual_BVD.float() (or attention_to_visual), and reduce over the last axis",
        shape_and_type,
    ),
    Property(
        "nothing in place",
        "a method changes neither what it is shown, nor the model's weights, nor itself",
        "write x = x * 2 in place of x *= 2 or x.mul_(2), and clone before you write into a tensor",
        nothing_in_place,
    ),
    Property(
        "repeatable",
        "the same input gives the same bits, whatever the state of random generators",
        "use no torch.rand: derive random numbers from the prompt by integer arithmetic, as baselines/random.py does",
        repeatable,
    ),
    Property(
        "no fillers",
        "scores do not depend on what is in filler slots, which a batch with rows of other lengths has",
        "mask with view.valid_BV (visual slots) or order_BN >= 0 before a mean, a maximum or a norm over tokens",
        fillers_are_not_read,
    ),
    Property(
        "no other rows",
        "scores of a row depend on this row alone",
        "reduce over the tokens of a row (dim=1), never over the batch (dim=0, or all elements)",
        other_rows_are_not_read,
    ),
    Property(
        "merged tokens",
        "merged tokens are finite weighted sums of the row's own tokens, each at a place of its own",
        "give fillers the weight 0, every merged token a total above 0, and at_BM slots of "
        "view.visual_BV that hold tokens",
        merged_tokens,
    ),
)
