"""What is decided before and after `generate`, without a model."""

from __future__ import annotations

from typing import Any

from evals.model.requests import Request, batches, cut, decoding
from hidrop.runtime.generation import new_tokens


def request(place: int, settings: dict[str, Any]) -> Request:
    return Request(place, "", settings, None, place, "toy", "test")


def test_batches_hold_equal_settings_longest_first() -> None:
    short, long = {"max_new_tokens": 1}, {"max_new_tokens": 2}
    asked = [request(0, short), request(1, long), request(2, short), request(3, short), request(4, short)]
    found = batches(asked, [5, 5, 9, 5, 7], 2)
    assert [[r.place for r in batch.requests] for batch in found] == [[2, 4], [0, 3], [1]]


def test_decoding_is_greedy_unless_asked() -> None:
    plain = {"do_sample": False, "num_beams": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
    assert decoding({}) == plain
    assert decoding({"temperature": 0.0, "do_sample": True, "until": ["x"], "image_aspect_ratio": "pad"}) == plain
    assert decoding({"temperature": 0.7, "top_p": 0.9}) == {
        **plain,
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.9,
    }
    assert decoding({"num_beams": 4})["num_beams"] == 4


def test_cut_and_new_tokens() -> None:
    assert cut(" yes \n\nno", ["\n\n", "ASSISTANT:"]) == "yes"
    assert cut("a ASSISTANT: b", "ASSISTANT:") == "a"
    assert cut(" a ", None) == cut("a", []) == cut("a", [""]) == "a"
    assert new_tokens([5, 6, 2, 3, 3], [2]) == [5, 6, 2]
    assert new_tokens([5, 6], [2]) == [5, 6]
