"""The verdict on a difference of scores: one case for each rule, and the whole command on data made for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.report.verdict import judged, verdict_of
from evals.tasks.registry import get_task
from tests.evals.report.agreeing import compare
from tests.evals.tasks.table import PICTURES, SHORT

Write = Callable[[list[dict[str, Any]], Path], None]


@pytest.mark.parametrize(
    ("low", "high", "images", "verdict", "words"),
    [
        (-0.5, 0.4, 500, "agrees", "contains 0 and stays within 2 points, and 97.0 % of parsed answers are equal"),
        (-2.0, 2.0, 150, "agrees", "contains 0"),
        (0.0, 0.0, 150, "agrees", "contains 0"),
        (0.0, 0.0, 149, "too few samples", "150 images are needed to exclude a difference of 2 points, and there are"),
        (-2.1, 0.4, 500, "too few samples", "contains 0, but also differences of more than 2 points"),
        (-0.4, 2.1, 500, "too few samples", "contains 0, but also differences of more than 2 points"),
        (-0.9, -0.1, 500, "differs", "does not contain 0; 97.0 % of parsed answers are equal"),
        (0.1, 0.3, 5000, "differs", "does not contain 0"),
        (-40.0, -20.0, 30, "differs", "does not contain 0"),
        (-100.0, -100.0, 29, "too few samples", "an interval needs at least 30 images, and there are 29"),
    ],
)
def test_the_verdict_follows_from_the_interval_and_the_number_of_images(
    low: float, high: float, images: int, verdict: str, words: str
) -> None:
    found = judged((low + high) / 2, low, high, images, same=97.0)
    assert found.verdict == verdict and words in found.reason
    assert verdict in found.lines()[1] and words in found.lines()[1]


def test_the_verdict_is_the_same_for_the_opposite_difference() -> None:
    for low, high, images in itertools.product((-5, -2, -1, 0), (0, 1, 2, 5), (10, 100, 1000)):
        there, back = (judged(0.0, *ends, images, 50.0) for ends in ((low, high), (-high, -low)))
        assert there.verdict == back.verdict


@pytest.mark.parametrize(
    ("low", "high", "images", "verdict", "words"),
    [
        (-40.0, 40.0, 150, "agrees", "stays within 40 points"),
        (-40.1, 10.0, 150, "too few samples", "differences of more than 40 points"),
        (0.0, 0.0, 149, "too few samples", "150 images are needed to exclude a difference of 40 points"),
        (1.0, 20.0, 150, "differs", "does not contain 0"),
    ],
)
def test_the_margin_is_two_percent_of_the_scale(low: float, high: float, images: int, verdict: str, words: str) -> None:
    found = judged((low + high) / 2, low, high, images, 97.0, get_task("mme").top)
    assert found.verdict == verdict and words in found.reason


def test_a_small_difference_in_mme_agrees() -> None:
    def side(wrong: set[int]) -> list[dict[str, Any]]:
        return [
            {"doc_id": i, "reading": "no" if i in wrong else "yes", "score": float(i not in wrong), "category": "OCR"}
            | {"group": i // 2, "image_key": i // 2}
            for i in range(2000)
        ]

    # One sub-task, 1000 images: one image that loses one of two questions costs 150 of 200 points, over 1000 images.
    one = verdict_of("mme", side({0, 2, 4, 6, 8, 10}), side({1, 3, 5, 7, 9, 12}), 99.4)
    assert one.difference == pytest.approx(0) and one.verdict == "agrees"
    # 20 images more that lose 150 of 200 points each: 3 points of 2000, with an interval that leaves out 0
    many = verdict_of("mme", side(set(range(0, 40, 2))), side(set()), 99.0)
    assert many.difference == pytest.approx(-3.0) and many.verdict == "differs"
    # 200 images that change to either side reach beyond 2 points, and not beyond 40.
    both = verdict_of("mme", side(set(range(0, 400, 2))), side(set(range(400, 800, 2))), 80.0)
    assert both.high > 2 and both.verdict == "agrees"


# ---- the command on 160 questions about 160 images, which the published run answers half right ---------------------


@pytest.fixture
def asked(tmp_path: Path, write_parquet: Write, lines: Callable[..., Path]) -> tuple[Path, Path]:
    """The folder of the data, and the published answers: right for even documents."""
    docs = [
        {"id": str(i), "imageId": f"n{i}", "question": f"Is it {i}?", "answer": "yes", "image": PICTURES[0]}
        for i in range(160)
    ]
    write_parquet(docs, tmp_path / "data/gqa/testdev.parquet")
    said = [
        {"question_id": doc["id"], "prompt": f"{doc['question']}\n{SHORT}", "text": "no" if i % 2 else "Yes"}
        for i, doc in enumerate(docs)
    ]
    return tmp_path / "data", lines(said)


@pytest.mark.parametrize(
    ("gained", "lost", "verdict", "difference"),
    [
        (0, 0, "agrees", 0.0),
        (1, 1, "agrees", 0.0),
        (5, 5, "too few samples", 0.0),
        (0, 20, "differs", -12.5),
        (20, 0, "differs", 12.5),
    ],
)
def test_a_run_is_told_from_the_published_one(
    gained: int,
    lost: int,
    verdict: str,
    difference: float,
    asked: tuple[Path, Path],
    journal: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from scipy.stats import binom

    data, answers = asked
    said = ["no" if i % 2 else "yes" for i in range(160)]
    for i in range(gained):
        said[2 * i + 1] = "yes"
    for i in range(lost):
        said[2 * i] = "no"
    run = ("--run", journal("gqa", said, data=data), "--data", data)
    found, text = compare(capsys, "--answers", answers, *run)
    told = found["verdict"]
    assert (told["verdict"], told["images"], told["difference"]) == (verdict, 160, pytest.approx(difference))
    assert found["published_value"] == 50 and (found["gained"], found["lost"]) == (gained, lost)
    equal = f"{100 * (160 - gained - lost) / 160:.1f} % of parsed answers are equal"
    assert equal in told["reason"] and told["reason"] in text
    assert f"run - published: {difference:+.2f}, 95 % interval [" in text
    assert "(paired bootstrap over 160 images)" in text
    # Exact and two-sided: all changes in one direction have 2 / 2^n, as many in both have 1.
    p = 1.0 if gained == lost else min(1.0, 2 / 2 ** (gained + lost))
    assert told["p"] == pytest.approx(p) and f"p = {p:.3g} (exact McNemar test)" in text
    word = {"too few samples": "undecided"}.get(verdict, verdict)
    assert found["word"] == word and f"\n{word}\ngqa: 160 samples in both" in text
    if gained * lost == 0:  # the number of changed images that a bootstrap draws is binomial
        counts = binom.ppf([0.025, 0.975], 160, max(gained, lost) / 160)
        ends = sorted(count * (1 if gained else -1) / 1.6 for count in counts)
        assert (told["low"], told["high"]) == (pytest.approx(ends[0], abs=0.7), pytest.approx(ends[1], abs=0.7))


def test_questions_about_one_image_are_one_unit(
    journal: Callable[..., Path],
    lines: Callable[..., Path],
    make_rows: Callable[[str], list[dict[str, Any]]],
    data_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    docs = make_rows("gqa")  # three questions about two images
    said = [{"question_id": doc["id"], "prompt": doc["question"], "text": doc["answer"]} for doc in docs]
    run = ("--run", journal("gqa", ["red", "no", "2"]), "--data", data_folder)
    found, text = compare(capsys, "--answers", lines(said), *run)
    assert found["matched"] == 3 and found["verdict"]["images"] == 2
    assert "too few samples to tell: an interval needs at least 30 images, and there are 2" in text
