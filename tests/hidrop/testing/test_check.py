"""What `check_method` takes and gives: families, budgets, the report, and the methods of hidrop."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import pytest
import torch

from hidrop.backbones import BACKBONES, backbone_class
from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule
from hidrop.reducer import BudgetError, Reducer
from hidrop.testing import MethodError, check_method
from tests.baselines.test_every_method import METHODS, reducer_of
from tests.hidrop.testing.faulty import Good, TakenName

ROWS = [row for row in METHODS if not reducer_of(row).composed]
FIRST = list({METHODS[row][0]: row for row in reversed(ROWS)}.values())  # one row of each method


@pytest.mark.parametrize("row", FIRST)
def test_every_method_passes_on_llava(row: str) -> None:
    report = check_method(reducer_of(row), families=("llava",))
    assert report.ok and not report.refused
    assert report.seconds < 30


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_every_row_passes_on_every_family_that_it_takes(row: str) -> None:
    report = check_method(reducer_of(row))
    assert report.ok
    assert {one.family for one in report.outcomes} - {""} == {*BACKBONES}
    if METHODS[row][0] != "downsample":  # which refuses models, and not families
        refusing = {name for name in BACKBONES if reducer_of(row).refuses(backbone_class(name))}
        others = [why for name, why in report.refused.items() if name not in refusing]
        assert refusing <= {*report.refused} and all("M-RoPE" in why for why in others)  # no renumbered positions


# ---- what it takes ---------------------------------------------------------------------------------------------------


def test_a_class_in_the_place_of_an_object_is_refused_in_words() -> None:
    with pytest.raises(TypeError, match=r"such as MyMethod\(keep=5\) was expected, not the class Good"):
        check_method(Good)  # type: ignore[arg-type]


def test_a_stack_is_refused_in_words() -> None:
    with pytest.raises(TypeError, match="a stack is made of other methods: check each of them"):
        check_method(reducer_of("stack-duet"))


def test_an_unknown_family_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match=r"unknown family 'qwen2vl'. Did you mean 'qwen2_vl'\?"):
        check_method(Good(), families=("qwen2vl",))


def test_budgets_of_the_users_own_are_asked_for() -> None:
    @dataclass(frozen=True)
    class Misses(Good):
        name: ClassVar[str] = "misses"

        @classmethod
        def for_budget(cls, average: float, geometry: Any, **params: Any) -> Any:
            return super().for_budget(400 if abs(average - 432) < 3 else average, geometry, **params)

    assert check_method(Misses(), families=("llava",), budgets=[300]).ok
    with pytest.raises(MethodError, match="budget\n") as caught:
        check_method(Misses(), families=("llava",), budgets=[300, "75%"])
    assert "432.00 of 576 tokens became 400.00" in str(caught.value).replace("\n", " ").replace("          ", "")


def test_a_family_that_is_refused_is_named_with_the_reason() -> None:
    @dataclass(frozen=True)
    class Choosy(Good):
        name: ClassVar[str] = "choosy"

        @classmethod
        def refuses(cls, family: Any) -> str | None:
            return "its images have tiles" if family.model_type == "llava_next" else None

    report = check_method(Choosy(), families=("llava", "llava_next"))
    assert report.refused == {"llava_next": "its images have tiles"}
    assert "refused: llava_next: its images have tiles" in str(report)


def test_a_constant_count_is_no_field_and_needs_no_name_in_counts() -> None:
    @dataclass(frozen=True)
    class Eight(Reducer):
        layer: int = 2
        name: ClassVar[str] = "eight"
        score = Good.score

        def schedule(self, geometry: Geometry) -> Schedule:
            return Schedule(cuts=(Cut(self.layer, 8),))

    assert check_method(Eight(), families=("llava",)).ok


def test_infinite_scores_are_right_where_they_do_not_depend_on_what_they_must_not() -> None:
    @dataclass(frozen=True)
    class NeverTheFirst(Good):
        name: ClassVar[str] = "never-the-first"

        def score(self, view: Any) -> torch.Tensor:
            return super().score(view).masked_fill(view.rank_BV == 0, -torch.inf)

    assert check_method(NeverTheFirst(), families=("llava", "qwen2_vl")).ok


def test_tensors_that_name_a_device_or_are_moved_to_it_pass() -> None:
    @dataclass(frozen=True)
    class Elsewhere(Good):
        name: ClassVar[str] = "elsewhere"

        def score(self, view: Any) -> torch.Tensor:
            norm = super().score(view)
            device, slots = norm.device, norm.shape[1]
            there = torch.arange(slots, device=device) + torch.ones(slots).to(norm.device) + torch.zeros(slots).to(norm)
            return norm + 1e-9 * there + torch.zeros_like(norm) + norm.new_ones(slots)

    assert check_method(Elsewhere(), families=("llava",)).ok


def test_a_method_that_refuses_every_budget_is_said_to() -> None:
    @dataclass(frozen=True)
    class Stingy(Good):
        name: ClassVar[str] = "stingy"

        @classmethod
        def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
            raise BudgetError("not this one", (1, 2))

    report = check_method(Stingy(), families=("llava",))
    [found] = [one for one in report.outcomes if one.property == "budget"]
    assert found.status == "skipped"
    assert found.why == "for_budget refuses every budget: check that this is meant. It says: not this one"


def test_an_error_of_the_schedule_on_one_family_is_said_to_be_one() -> None:
    @dataclass(frozen=True)
    class Uneven(Good):
        name: ClassVar[str] = "uneven"

        def schedule(self, geometry: Geometry) -> Schedule:
            return Schedule(cuts=(Cut([self.layer].index(self.layer * geometry.rope_axes) + self.layer, self.keep),))

    refused = check_method(Uneven(), families=("llava", "qwen2_vl")).refused
    assert re.search(
        r"6 is not in list \(ValueError at test_check\.py:\d+ \(in schedule\): check that this is meant\)",
        refused["qwen2_vl"],
    )


def test_a_model_that_is_refused_on_purpose_is_not_said_to_be_a_mistake() -> None:
    @dataclass(frozen=True)
    class OneAxis(Good):
        name: ClassVar[str] = "one-axis"

        def check_backbone(self, backbone: Any) -> None:
            if backbone.geometry.rope_axes > 1:
                raise ValueError("one-axis: positions are one number here")

    refused = check_method(OneAxis(), families=("llava", "qwen2_vl")).refused
    assert refused == {"qwen2_vl": "one-axis: positions are one number here"}


# ---- what it gives ---------------------------------------------------------------------------------------------------


def test_the_report_is_a_table_of_properties() -> None:
    report = check_method(Good(), families=("llava", "gemma3"))
    lines = str(report).splitlines()
    assert lines[0].startswith("Good (good): every property holds (")
    assert lines[1].split() == ["property", "ok", "failed", "skipped", "seconds", "why"]
    assert any(line.startswith("batch = single") and line.split()[3] == "2" for line in lines)
    assert any(line.startswith("merged tokens") and "the schedule merges nothing" in line for line in lines)


def test_all_failures_are_reported_and_not_only_the_first() -> None:
    @dataclass(frozen=True)
    class Several(TakenName):
        counts: ClassVar[tuple[str, ...]] = ()

        def score(self, view: Any) -> torch.Tensor:
            return torch.rand(view.visual_BV.shape).double()

    with pytest.raises(MethodError) as caught:
        check_method(Several(), families=("llava", "gemma3"))
    found = {one.property for one in caught.value.report.failures}
    assert found >= {"name", "counts", "scores", "repeatable", "batch = single"}
    text = str(caught.value)
    assert "scores (llava, gemma3)\n   seen:  score is float64, not float32\n   rule:" in text
    assert max(map(len, text.splitlines())) <= 100


def test_random_generators_are_as_before() -> None:
    torch.manual_seed(3)
    random.seed(3)
    before = torch.get_rng_state(), random.getstate()
    check_method(Good(), families=("llava",))
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]


def test_the_module_needs_neither_tests_nor_the_harness_nor_pytest() -> None:
    code = (
        "import sys, hidrop.testing\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
        "from hidrop.testing import check_method\n"
        "from hidrop.methods import build\n"
        "assert check_method(build('fastv', {'keep': 5}), families=('llava',)).ok\n"
        "heavy = {'pytest', '_pytest', 'tests', 'evals', 'hypothesis'} & {name.split('.')[0] for name in sys.modules}\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
