"""Rounding: a choice of tokens does not depend on it, but for near-ties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from hidrop.testing.case import Case, Inputs, Run, compare
from hidrop.testing.properties import Property
from hidrop.testing.report import Fault
from hidrop.testing.scores import apart, cuts_of, scored
from hidrop.testing.watched import Seen

NEAR = 1e-4  # of the spread of a cut's scores: two tokens that are nearer may change places
ROUNDING = 1e-6  # relative noise, a few times the rounding of float32
AMPLIFIED = 0.02  # of the spread of the scores: far more than rounding of the states should become


def float64_is_float32(case: Case) -> str | None:
    """The decoder and the scores in float64, with the same features of the images."""
    for seed, row in enumerate(case.rows[:2]):
        inputs = case.batch([row], seed=seed + 5)
        single, double = case.run(inputs), in_double(case, inputs)
        for number, (got, wanted) in enumerate(zip(single.of_row(0), double.of_row(0), strict=True)):
            if got != wanted:
                if not near_tie(double, number, got, wanted):
                    raise Fault(
                        f"after layer {single.after[number]} it keeps {list(got)}, and in float64 {list(wanted)}"
                    )
                return "some choices are near-ties, which float32 and float64 order differently"
        compare(single.logits, double.logits, "logits in float32 and in float64", atol=1e-3, rtol=1e-3)
    return None


def in_double(case: Case, inputs: Inputs) -> Run:
    """With scores in float64 too, unless the method multiplies by float32 numbers of its own."""
    try:
        return case.run(inputs, case.precise, exact=True)
    except RuntimeError:
        return case.run(inputs, case.precise)


def near_tie(run: Run, cut: int, got: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether the tokens that only one of two choices has score about the same."""
    if cut >= len(run.seen.cuts):
        return False
    ranks, score = _by_rank(run.seen.cuts[cut])
    different = [score[ranks.index(rank)] for rank in {*got} ^ {*wanted} if rank in ranks]
    if not different:
        return False
    if min(different) == max(different):
        return True
    finite = [one for one in score if math.isfinite(one)]  # a spread of infinity would make every pair a near-tie
    return bool(finite) and max(different) - min(different) <= NEAR * (max(finite) - min(finite))


def _by_rank(seen: Seen) -> tuple[list[int], list[float]]:
    return seen.view.rank_BV[0].tolist(), seen.score[0].double().tolist()


def rounding_is_not_amplified(case: Case) -> str | None:
    """Scores again with states that differ by a few roundings. Half may move: ties are broken in another way."""
    generator = torch.Generator().manual_seed(0)
    for _, seen in cuts_of(case):
        view = seen.view

        def moved(states: torch.Tensor) -> torch.Tensor:
            return states * (1 + ROUNDING * torch.randn(states.shape, generator=generator))

        before = None if view.input_BND is None else moved(view.input_BND)
        got = scored(case, replace(view, hidden_BND=moved(view.hidden_BND), input_BND=before))
        if (share := apart(got, seen.score, view.valid_BV, most=True)) > AMPLIFIED:
            raise Fault(
                f"states that differ by {ROUNDING:g} move most scores after layer {view.layer} by {share:.0%} of "
                "their spread"
            )
    return None


PROPERTIES: tuple[Property[Case], ...] = (
    Property(
        "float32 = float64",
        "in float64 the same tokens are kept, and the logits are close; near-ties aside",
        "compute scores in float32 or better (view.visual_BVD.float()), and subtract no large numbers from each other",
        float64_is_float32,
    ),
    Property(
        "rounding",
        "states that differ by rounding give about the same scores",
        "do not subtract large numbers from each other (E[x^2] - E[x]^2), and add no large constant",
        rounding_is_not_amplified,
    ),
)
