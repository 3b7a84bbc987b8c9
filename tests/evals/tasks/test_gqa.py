"""GQA's readings and scores, worked out by hand, and compared with lmms-eval's own metric."""

from __future__ import annotations

import pytest

from evals.tasks.base import Answer
from evals.tasks.gqa import GQA

TASK = GQA()


def test_llava_strips_only_trailing_dots_and_case() -> None:
    said = [Answer({"answer": "red"}, text) for text in ("Red.", "red..", "red", "a red", "red!", "")]
    result = TASK.score(said, "llava")
    assert result.samples == (1, 1, 1, 0, 0, 0)
    assert result.readings == ("red", "red", "red", "a red", "red!", "")
    assert (result.value, result.metric, result.extra) == (50.0, "accuracy", {})


def test_llava_compares_with_the_answer_as_it_is() -> None:
    said = [Answer({"answer": text}, text) for text in ("t-shirt", "t-shirt.", "Red")]
    assert TASK.score(said, "llava").samples == (1, 0, 0)
    assert TASK.score(said, "lmms-eval").samples == (1, 1, 1)


def test_lmms_eval_strips_all_punctuation() -> None:
    said = [Answer({"answer": "red"}, text) for text in ("Red.", "r-e-d!", "a red")]
    result = TASK.score(said, "lmms-eval")
    assert result.samples == (1, 1, 0) and result.metric == "exact_match"


@pytest.mark.parametrize("text", ["Red.", "t-shirt", "A red", "no, it is", "2", ""])
def test_scores_agree_with_lmms_evals_metric(text: str) -> None:
    from lmms_eval.api.metrics import exact_match_hf_evaluate

    for target in ("red", "tshirt", "t-shirt", "2"):
        official = exact_match_hf_evaluate([text], [target], ignore_case=True, ignore_punctuation=True)["exact_match"]
        assert TASK.score([Answer({"answer": target}, text)], "lmms-eval").samples == (official,)


@pytest.mark.parametrize("protocol", ["llava", "lmms-eval"])
def test_a_failed_sample_is_wrong(protocol: str) -> None:
    assert TASK.score([Answer({"answer": ""}, "", failed=True)], protocol).samples == (0.0,)
