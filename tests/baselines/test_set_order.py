"""The order of a set, against CPython's own sets."""

from __future__ import annotations

import random
import sys

import pytest
import torch

from baselines.set_order import MOST_MEMBERS, MOST_NUMBER, set_order

cpython = pytest.mark.skipif(sys.implementation.name != "cpython", reason="the order of CPython's sets")


def ordered(rows: list[list[int]]) -> list[list[int]]:
    """Each row's numbers in the order of `set_order`, all rows in one batch with non-members anywhere."""
    slots, chance = MOST_MEMBERS + 2, random.Random(0)
    numbers, members = [], []
    for row in rows:
        places = sorted(chance.sample(range(slots), len(row)))
        numbers.append([row[places.index(i)] if i in places else 5 for i in range(slots)])
        members.append([i in places for i in range(slots)])
    order = set_order(torch.tensor(numbers), torch.tensor(members)).tolist()
    return [[numbers[b][i] for i in order[b][: len(row)]] for b, row in enumerate(rows)]


@cpython
@pytest.mark.parametrize("kind", ["prompt", "collisions", "large"])
def test_the_order_is_that_of_a_real_set(kind):
    """Of 0 to 10 numbers; `collisions`: of three remainders only, the end of the table among them."""
    chance = random.Random(kind)
    rows = []
    for _ in range(3000):
        count = chance.randint(0, MOST_MEMBERS)
        if kind == "collisions":
            ends = chance.sample([*range(20, 32), 0, 7, 15], 3)
            pool = [32 * n + end for n in range(200) for end in ends]
        else:
            pool = range(700) if kind == "prompt" else range(MOST_NUMBER)  # type: ignore[assignment]
        rows.append(chance.sample(pool, count))
    assert ordered(rows) == [list(set(row)) for row in rows]


def test_eight_numbers_of_different_remainders_are_sorted_by_them():
    assert ordered([[620, 613, 38, 135, 9, 31, 64, 50]]) == [[64, 613, 38, 135, 9, 620, 50, 31]]


def test_four_numbers_are_sorted_by_their_remainder_of_eight():
    assert ordered([[31, 9, 18, 12]]) == [[9, 18, 12, 31]]
