"""The embedded models know what the embedded sets of MME and ScienceQA ask, and they need the image for it."""

from __future__ import annotations

from typing import Any

import pytest

from evals.model.lmms_model import HidropLlava
from evals.tasks import TaskSpec, evaluate, missing
from evals.tasks.evaluation import TaskResult
from hidrop.methods import build
from hidrop.models import Loaded, load

PROTOCOLS = ("llava", "lmms-eval")
ASKED = 40


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load("mini:vanilla-choices")


def result(loaded: Loaded, name: str, protocol: str, reducer: Any = None) -> TaskResult:
    lm = HidropLlava.from_loaded(loaded, reducer, protocol, batch_size=20)
    found = evaluate(lm, TaskSpec(name, "mini", protocol), limit=ASKED)
    assert found.n == ASKED and found.n_failed == 0
    return found


@pytest.mark.parametrize("name", ["mme", "scienceqa_img"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_their_data_is_complete(name: str, protocol: str) -> None:
    assert missing(TaskSpec(name, "mini", protocol)) == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_mmes_pairs_are_known_and_a_constant_answer_gets_50_points_a_sub_task(protocol: str, loaded: Loaded) -> None:
    """Four sub-tasks with 200 points each. A constant answer gets half of the answers and no pair."""
    seen, blind = (result(loaded, "mme", protocol, reducer) for reducer in (None, build("text_only", {})))
    assert seen.value > 500 and blind.value < 350
    assert seen.metric.endswith("of 4 of 10 sub-tasks")
    pairs = {}
    for sample in seen.samples:
        pairs.setdefault(sample["group"], []).append(sample["target"])
    assert sorted(map(sorted, pairs.values())) == [["No", "Yes"]] * (ASKED // 2)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scienceqas_choices_are_known_with_an_image_and_with_a_hint_alone(protocol: str, loaded: Loaded) -> None:
    """A constant letter gets about 36 %."""
    seen, blind = (result(loaded, "scienceqa_img", protocol, reducer) for reducer in (None, build("text_only", {})))
    told, shown = ({s["doc_id"]: s["score"] for s in seen.samples if (s["doc_id"] % 4 == 3) == text} for text in (1, 0))
    assert len(told) == ASKED // 4
    assert sum(shown.values()) / len(shown) > 0.6 and sum(told.values()) / len(told) > 0.5
    # Without the image, a hint is as good as before.
    assert all(s["score"] == told[s["doc_id"]] for s in blind.samples if s["doc_id"] in told)
    assert sum(s["score"] for s in blind.samples if s["doc_id"] in shown) / len(shown) < 0.55


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_other_models_answer_choices_by_the_text_first_which_scienceqas_rule_does_not_read(protocol: str) -> None:
    found = result(load("mini:vanilla"), "scienceqa_img", protocol)
    assert {sample["reading"] for sample in found.samples if sample["doc_id"] % 4 != 3} == {""}
