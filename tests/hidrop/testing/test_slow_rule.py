"""The slow rules of users: short ones for methods of hidrop agree with them, and wrong ones are found."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from hidrop.methods import build
from hidrop.testing import MethodError, SlowPrompt, SlowToken, check_method
from tests.hidrop.testing.faulty import Good, GoodMerge

Tokens = list[SlowToken]


def best(scores: dict[int, float], keep: int) -> list[int]:
    return sorted(scores, key=lambda rank: (-scores[rank], rank))[:keep]


def largest(before: Tokens, after: Tokens, layer: int, prompt: SlowPrompt) -> list[int]:
    return best({t.rank: math.hypot(*t.hidden) for t in after if t.visual}, prompt.keep)


def fastv(before: Tokens, after: Tokens, layer: int, prompt: SlowPrompt) -> list[int]:
    seen = prompt.attention(layer, before, query=len(before) - 1)
    return best({t.rank: seen[slot] for slot, t in enumerate(after) if t.visual}, prompt.keep)


def following(before: Tokens, after: Tokens, layer: int, prompt: SlowPrompt) -> list[int]:
    """The rule of HiDrop and PDrop: the next layer's attention."""
    seen = prompt.attention(layer + 1, after, query=len(after) - 1)
    return best({t.rank: seen[slot] for slot, t in enumerate(after) if t.visual}, prompt.keep)


def status_of(method: Any, rule: Any) -> tuple[str, str]:
    report = check_method(method, slow=rule, families=("llava",))
    [found] = [one for one in report.outcomes if one.property == "slow rule"]
    return found.status, found.why


HIDROP = dict(inject=2, filters=[3, 4], keep=[5, 2], exit=6)


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        (Good(), largest),
        (Good(layer=0, keep=3), largest),
        (build("fastv", {"keep": 5}), fastv),
        (build("pdrop", {}), following),
        (build("pdrop", {"positions": "persistent"}), following),
        (build("hidrop", HIDROP), following),
        (build("hidrop", dict(HIDROP, positions="group")), following),
    ],
    ids=lambda one: getattr(one, "__name__", str(one)),
)
def test_a_rule_of_a_few_lines_agrees_with_the_method(method: Any, rule: Any) -> None:
    assert status_of(method, rule) == ("ok", "")


@pytest.mark.parametrize(
    ("method", "rule", "words"),
    [
        (Good(), fastv, r"after layer 2 it keeps \[.*\], and the slow rule \["),
        (build("fastv", {"keep": 5}), following, r"after layer 2 it keeps \[.*\], and the slow rule \["),
        (Good(), lambda *_: [0, 1], r"the slow rule keeps \[0, 1\] after layer 2, but the plan keeps 5"),
        (Good(), lambda before, after, layer, prompt: [99, 1, 2, 3, 4], r"keeps \[1, 2, 3, 4, 99\] after layer 2"),
        (Good(), lambda before, after, layer, prompt: after.nothing, "AttributeError: .* at test_slow_rule.py"),
    ],
)
def test_a_rule_that_disagrees_is_a_failure_in_words(method: Any, rule: Any, words: str) -> None:
    with pytest.raises(MethodError) as caught:
        check_method(method, slow=rule, families=("llava",))
    [failure] = caught.value.report.failures
    assert failure.property == "slow rule" and failure.families == ("llava",)
    assert re.search(words, failure.seen), failure.seen


def test_a_rule_sees_the_prompt_as_it_is() -> None:
    seen: list[tuple[int, int, SlowPrompt]] = []

    def rule(before: Tokens, after: Tokens, layer: int, prompt: SlowPrompt) -> list[int]:
        seen.append((len(before), layer, prompt))
        assert [t.place for t in after] == list(range(len(prompt.ids)))
        assert all(t.token_id == (None if t.visual else prompt.ids[t.place]) for t in after)
        assert [t.rank for t in after if t.visual] == list(range(prompt.visual_tokens))
        return largest(before, after, layer, prompt)

    assert status_of(Good(), rule)[0] == "ok"
    assert {(layer, prompt.keep, prompt.images) for _, layer, prompt in seen} == {(2, 5, (16,)), (2, 10, (16, 16))}


def test_a_method_that_merges_is_not_compared_and_says_so() -> None:
    assert status_of(GoodMerge(), largest) == (
        "skipped",
        "slow rules choose tokens: they neither merge nor work in the tower",
    )
