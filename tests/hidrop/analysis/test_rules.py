"""The rules on curves whose schedule is known: shaped like the paper's figures, noisy, flat, with several peaks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from hidrop.analysis import rules
from hidrop.analysis.curves import Curve, Curves, drawn, resampled
from hidrop.analysis.suggest import DecidedLayers, counted, suggest
from hidrop.geometry import PRESETS
from hidrop.reducer import BudgetError

SAMPLES = 400
LLAVA = PRESETS["llava-1.5-7b"]


def noisy(shape: Any, noise: float, seed: int, first: int = 1, samples: int = SAMPLES) -> Curve:
    """A curve of this mean with independent noise in each sample and layer."""
    shape = np.asarray(shape, dtype=np.float64)
    return Curve(first, shape + noise * np.random.default_rng(seed).standard_normal((samples, len(shape))))


def answers(right: Any, seed: int, samples: int = SAMPLES) -> Curve:
    """Scores of 0 and 1 whose share of ones falls and rises as `right` says; a sample once right stays right."""
    threshold = np.random.default_rng(seed).random((samples, 1))
    return Curve(1, (threshold < np.asarray(right)).astype(np.float64))


def similarity(layers: int, onset: int) -> np.ndarray:
    """As in the paper's Figure 2: low in the first layers, a dip at the onset of fusion, high after it, a fall."""
    layer = np.arange(1, layers)
    rise = 0.95 - 0.3 * np.exp(-(layer - 1) / 2.0)
    dip = 0.12 * np.exp(-(((layer - onset) / 1.2) ** 2))
    return rise - dip - 0.15 * np.exp(-(layers - 1 - layer) / 1.5)


def agreement(layers: int, peaks: tuple[int, ...], n: int) -> np.ndarray:
    """As in Figure 6: peaks over a slope."""
    layer = np.arange(1, layers - n + 1)
    return 0.5 + 0.004 * layer + sum(0.1 * np.exp(-(((layer - peak) / 0.7) ** 2)) for peak in peaks)


def plateau(layers: int, exit: int, whole: float = 0.62, blind: float = 0.4) -> np.ndarray:
    """As in Figure 4: exits before layers 1, 2, ...: nothing is lost from `exit` on."""
    layer = np.arange(1, layers + 1)
    return np.where(layer >= exit, whole, whole - (whole - blind) * (1 - np.exp(-(exit - layer + 0.5) / 6)))


def paper(noise: float = 0.01, seed: int = 0, samples: int = SAMPLES, layers: int = 32, **other: Any) -> Curves:
    """A 32-layer model of the paper's curves: injection 9, exit 25, filters 10, 14, 16, 18."""
    right = answers(plateau(layers, other.pop("exit", 25)), seed, samples)
    shapes: dict[str, Curve] = {
        "visual": noisy(similarity(layers, other.pop("onset", 9)), noise, seed + 1, samples=samples)
    }
    peaks = other.pop("peaks", (10, 14, 16, 18))
    found = Curves(
        layers=layers,
        visual_tokens=576,
        intra={**shapes, "text": shapes["visual"], "system": shapes["visual"]},
        cross=noisy(1 - 0.3 / (1 + np.exp(-(np.arange(1, layers + 1) - 12) / 2)), noise, seed + 2, samples=samples),
        mass=noisy(np.full(layers, 0.2), noise, seed + 3, samples=samples),
        ilvas={n: noisy(agreement(layers, peaks, n), noise, seed + n, samples=samples) for n in (4, 8)},
        exits={1.0: right},
        exit_agreement={1.0: right},
        inject=None,
        vanilla=(np.random.default_rng(seed).random((samples, 1)) < 0.62).astype(np.float64)[:, 0],
        groups=tuple(map(str, range(samples))),
    )
    return replace(found, **other)


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("seed", [0, 1])
def test_curves_shaped_like_the_papers_give_the_papers_schedule(noise: float, seed: int) -> None:
    found = suggest(paper(noise, seed), LLAVA, 64)
    assert (found.inject.layers, found.exit.layers, found.filters.layers) == ((9,), (25,), (10, 14, 16, 18))
    assert found.schedule is not None and found.problem is None
    plan = found.schedule.plan(LLAVA)
    assert plan.average_tokens == pytest.approx(64, abs=0.1)
    counts = [576, *found.schedule.keep]
    cuts = [a - b for a, b in pairwise(counts)]
    assert cuts == sorted(cuts, reverse=True), "concave: each cut is smaller than the one before"
    low, high = found.inject.range[0]
    assert low <= 9 <= high and found.inject.support > 0.5


@pytest.mark.parametrize(("layers", "onset", "exit", "peaks"), [(12, 5, 11, (6, 8)), (40, 14, 33, (16, 21, 25, 29))])
def test_other_depths_and_places_are_found_as_well(layers: int, onset: int, exit: int, peaks: tuple[int, ...]) -> None:
    curves = paper(layers=layers, onset=onset, exit=exit, peaks=peaks)
    assert rules.leaving(curves, 0.01).layers == (exit,)
    assert rules.injection(curves, exit).layers == (onset,)
    agreeing = replace(curves, ilvas={2: noisy(agreement(layers, peaks, 2), 0.01, 5)})
    assert rules.filtering(agreeing, onset, exit, 4).layers == peaks


@pytest.mark.parametrize("seed", range(10))
def test_flat_curves_of_noise_alone_have_no_extremum(seed: int) -> None:
    curves = paper(intra={"visual": noisy(np.full(31, 0.9), 0.05, seed)}, ilvas={4: noisy(np.full(28, 0.5), 0.1, seed)})
    assert rules.injection(curves, 25).layers == ()
    assert "stands out against chance" in rules.injection(curves, 25).evidence
    assert rules.filtering(curves, 9, 25, 4).layers == ()
    found = suggest(curves, LLAVA, 64)
    assert found.schedule is None and found.problem is not None and found.problem.startswith("no injection")
    with pytest.raises(ValueError, match="no injection"):
        found.yaml()


def test_of_several_dips_the_deepest_is_taken_and_of_many_peaks_the_most_prominent() -> None:
    layer = np.arange(1, 32)
    two = 0.9 - 0.05 * np.exp(-((layer - 6.0) ** 2)) - 0.15 * np.exp(-((layer - 12.0) ** 2))
    curves = paper(intra={"visual": noisy(two, 0.01, 0)}, peaks=(10, 12, 14, 16, 18, 20))
    assert rules.injection(curves, 25).layers == (12,)
    found = rules.filtering(curves, 9, 25, 2)
    assert len(found.layers) == 2 and "4 less prominent ones left out" in found.evidence


def test_a_dip_after_the_exit_is_no_onset() -> None:
    layer = np.arange(1, 32)
    late = 0.9 - 0.2 * np.exp(-((layer - 28.0) ** 2))
    assert rules.injection(paper(intra={"visual": noisy(late, 0.001, 0)}), 25).layers == ()


def test_a_monotonous_ilvas_has_no_filter_and_says_so() -> None:
    found = suggest(paper(ilvas={4: noisy(np.linspace(0.2, 0.8, 28), 0.001, 0)}), LLAVA, 64)
    assert found.schedule is None
    assert found.problem == "no filters: ILVAS has no maximum between layers 9 and 23 that stands out"
    decided = suggest(paper(), LLAVA, 64, fixed=DecidedLayers(filters=(10, 13)))
    assert decided.schedule is not None and decided.schedule.filters == (10, 13)


def test_a_task_that_needs_no_image_says_nothing_about_the_exit() -> None:
    found = rules.leaving(paper(exits={1.0: answers(np.full(32, 0.62), 0)}), 0.01)
    assert found.layers == () and "do not need the image" in found.evidence


def test_an_image_that_is_needed_to_the_last_layer_gives_no_exit() -> None:
    curves = paper(exits={1.0: answers(np.linspace(0.1, 0.5, 32), 0)})
    found = rules.leaving(curves, 0.01)
    assert found.layers == () and "last layer still costs" in found.evidence
    said = dict(found.way)
    assert said.keys() == {"tolerance", "task", "exit"}
    assert rules.leaving(curves, float(said["tolerance"]) / 100).layers != ()
    assert rules.leaving(curves, 0.9 * float(said["tolerance"]) / 100).layers == ()


def test_a_declined_suggestion_says_what_would_decide_it() -> None:
    flat = paper(intra={"visual": noisy(np.full(31, 0.9), 0.05, 0)})
    assert suggest(flat, LLAVA, 64).advice == (f"What would decide it: --samples {4 * flat.samples} or --inject LAYER")
    blind = suggest(paper(exits={1.0: answers(np.full(32, 0.62), 0)}), LLAVA, 64)
    assert blind.advice == f"What would decide it: --task TASK,TASK or --samples {4 * flat.samples}"
    rising = suggest(paper(ilvas={4: noisy(np.linspace(0.2, 0.8, 28), 0.001, 0)}), LLAVA, 64)
    assert rising.advice.endswith(", --windows A,B or --filters LAYERS")
    assert suggest(paper(peaks=(20, 22)), LLAVA, 64).advice == (
        "What would decide it: --budget TOKENS or --filters LAYERS"
    )
    assert suggest(paper(), LLAVA, 64).advice == ""


def test_too_few_samples_are_told_with_how_many_would_do() -> None:
    few = paper(samples=60)
    found = rules.leaving(replace(few, exits={1.0: answers(plateau(32, 25, blind=0.1), 7, 60)}), 0.01)
    assert found.layers == () and found.evidence.endswith("samples would do")
    samples = dict(found.way)["samples"]
    assert int(samples) > 60 and f"About {samples} samples would do" in found.evidence


def test_a_budget_that_the_layers_cannot_meet_is_a_problem_with_the_range() -> None:
    found = suggest(paper(peaks=(20, 22)), LLAVA, 64)
    assert found.schedule is None and found.problem is not None and ".." in found.problem


def test_counts_are_geometric_and_the_first_meets_the_budget() -> None:
    found = counted(9, (10, 14, 16, 18), 25, LLAVA, 64)
    assert found.plan(LLAVA).average_tokens == pytest.approx(64, abs=0.07)
    ratios = [b / a for a, b in pairwise(found.keep)]
    assert max(ratios) - min(ratios) < 0.05
    with pytest.raises(BudgetError):
        counted(9, (20,), 25, LLAVA, 64)


def test_the_same_curves_give_the_same_suggestion() -> None:
    assert suggest(paper(0.02), LLAVA, 64) == suggest(paper(0.02), LLAVA, 64)


def test_bootstrap_draws_images_not_samples() -> None:
    groups = ["a", "a", "b", "c", "c", "c"]
    draws = drawn(6, draws=50, groups=groups)
    assert (draws[:, 0] == draws[:, 1]).all() and (draws[:, 3] == draws[:, 5]).all()
    values = np.array([[1.0], [1.0], [np.nan], [4.0], [4.0], [4.0]])
    only_a = np.array([[3.0, 3.0, 3.0, 0.0, 0.0, 0.0]])
    assert resampled(values, only_a)[0, 0] == 1.0
    assert np.isnan(resampled(values, np.array([[0.0, 0.0, 3.0, 0.0, 0.0, 0.0]]))[0, 0])


def test_weights_repeat_whole_samples() -> None:
    curves = paper(samples=4)
    again = curves.weighted(np.array([0.0, 2.0, 1.0, 1.0]))
    assert again.groups == ("1", "1", "2", "3")
    assert (again.intra["visual"].samples[0] == curves.intra["visual"].samples[1]).all()
