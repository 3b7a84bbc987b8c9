from __future__ import annotations

import threading

import pytest

from evals.model.prefetch import ahead


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_everything_comes_once_and_in_order(workers: int) -> None:
    assert list(ahead(lambda n: n * n, range(20), workers)) == [n * n for n in range(20)]
    assert list(ahead(lambda n: n, [], workers)) == []


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_no_more_is_made_ahead_than_there_are_workers(workers: int) -> None:
    asked: list[int] = []

    def items() -> object:
        for n in range(20):
            asked.append(n)
            yield n

    for taken, _ in enumerate(ahead(lambda n: n, items(), workers)):
        assert len(asked) <= taken + 1 + workers


def test_the_next_one_is_made_while_this_one_is_used() -> None:
    begun = [threading.Event() for _ in range(3)]
    for n in ahead(lambda n: (begun[n].set(), n)[1], range(3), 1):
        assert n == 2 or begun[n + 1].wait(timeout=10)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_comes_at_its_items_turn(workers: int) -> None:
    seen = []
    with pytest.raises(ZeroDivisionError):
        for made in ahead(lambda n: 1 // (2 - n), range(6), workers):
            seen.append(made)
    assert seen == [0, 1]
