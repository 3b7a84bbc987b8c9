"""Whether a run's score agrees with a published one: the interval of their difference, and a verdict in words.

The difference is run minus published, on the samples that both sides have, under LLaVA's rule. Its 95 % interval comes
from the paired bootstrap over images that all tables use (`evals.store.statistics`). The verdict is about the score:

- "differs" if the interval leaves out 0,
- "agrees" if it contains 0 and ends within `MARGIN` percent of the scale of 0 on both sides: 2 points of a score from 0
  to 100, 40 points of MME's 0 to 2000 (`evals.tasks.base.Task.top`),
- "too few samples" if it contains 0 but reaches further, so that such a difference cannot be excluded. A bootstrap does
  not see what no sample shows: if none of n images changed, up to 3 / n of all images may (the rule of three, 95 %). An
  interval is therefore taken to reach at least 3 / n to both sides, and "agrees" needs 150 images.
- With fewer than `FEWEST` images it is "too few samples" in any case, as percentile intervals are unreliable there.

Two runs can agree in score and still answer differently: the share of equal parsed answers is printed with the verdict.

`of_score` is for a number that a paper prints without its answers: the interval is then that of the measured score.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from evals.store.statistics import Row, task_stats
from evals.tasks.base import LLAVA, Sample
from evals.tasks.registry import get_task

MARGIN = 2.0  # percent of the largest score that the task can have
FEWEST = 30  # images
RULE_OF_THREE = 3.0

Word = Literal["agrees", "differs", "too few samples"]


@dataclass(frozen=True)
class Verdict:
    """`difference` (run minus published), `low` and `high` are in points. `images`: how many images are drawn from.

    Points are those of the task's own scale (`Task.top`). p: of the exact McNemar test; None where it was not taken.
    """

    verdict: Word
    reason: str
    difference: float
    low: float
    high: float
    images: int
    p: float | None = None

    @property
    def word(self) -> str:
        """The verdict in one word: agrees, differs or undecided."""
        return "undecided" if self.verdict == "too few samples" else self.verdict

    def lines(self) -> tuple[str, str]:
        """What to print."""
        difference = f"run - published: {self.difference:+.2f}"
        interval = f"95 % interval [{self.low:+.2f}, {self.high:+.2f}]"
        word = "too few samples to tell" if self.verdict == "too few samples" else self.verdict
        test = "" if self.p is None else f", p = {self.p:.3g} (exact McNemar test)"
        boot = f"(paired bootstrap over {self.images} images)"
        return f"  {difference}, {interval} {boot}{test}", f"  {word}: {self.reason}"


def verdict_of(task: str, run: Sequence[Sample], published: Sequence[Sample], same: float) -> Verdict:
    """The verdict on the scored samples of both sides (see `evals.tasks.evaluation.TaskResult`), in the same order.

    same: percent of samples with the same parsed answer.
    """
    rows = {"published": Row(published, None), "run": Row(run, "published")}
    against = task_stats(task, LLAVA, rows)["run"]["against"]
    images: dict[Hashable, Hashable] = {}
    unit = get_task(task).statistic(LLAVA, run).unit
    for sample in run:
        images.setdefault(unit(sample), sample["image_key"])
    low, high = against["interval"]
    found = judged(against["difference"], low, high, len(set(images.values())), same, get_task(task).top)
    return replace(found, p=against["p"])


def judged(difference: float, low: float, high: float, images: int, same: float, top: float = 100.0) -> Verdict:
    """The verdict on a difference and its 95 % interval, in points of a score from 0 to `top`."""
    word, reason = _judged(low, high, images, same, top)
    return Verdict(word, reason, difference, low, high, images)


def of_score(score: float, interval: Sequence[float], published: float, samples: int, top: float = 100.0) -> Verdict:
    """The verdict on a measured score and one that is only printed, of which no answers are known.

    interval: the 95 % interval of the measured score, in points from 0 to `top`. The difference is not paired, so two
    runs that give the same answers agree here as well, and two that differ by less than the interval may still differ
    on the same samples: only published answers can tell (`evals.report.agreement`). The rule of three is for changed
    answers and does not apply. `images` of the verdict counts samples.
    """
    low, high = (end - published for end in interval)
    margin = MARGIN * top / 100
    word = _word(low, high, samples, margin)
    contains = "the 95 % interval of the measured score contains the published one"
    if word == "differs":
        reason = contains.replace("contains", "does not contain")
    elif word == "agrees":
        reason = f"{contains} and stays within {margin:g} points of it"
    elif samples < FEWEST:
        reason = f"an interval needs at least {FEWEST} samples, and there are {samples}"
    else:
        reason = f"{contains}, but reaches more than {margin:g} points from it"
    return Verdict(word, reason, score - published, low, high, samples)


def _word(low: float, high: float, images: int, margin: float) -> Word:
    """The rules that a paired difference and one of two scores have in common."""
    if images < FEWEST:
        return "too few samples"
    if low > 0 or high < 0:
        return "differs"
    return "too few samples" if max(-low, high) > margin else "agrees"


def _judged(low: float, high: float, images: int, same: float, top: float) -> tuple[Word, str]:
    margin = MARGIN * top / 100
    equal = f"{same:.1f} % of parsed answers are equal"
    if images < FEWEST:
        return "too few samples", f"an interval needs at least {FEWEST} images, and there are {images}; {equal}"
    word = _word(low, high, images, margin)
    if word == "differs":
        return word, f"the interval of the difference does not contain 0; {equal}"
    if word == "too few samples":
        reach = f"the interval of the difference contains 0, but also differences of more than {margin:g} points"
        return word, f"{reach}; {equal}"
    if top * RULE_OF_THREE / images > margin:
        need = f"{top * RULE_OF_THREE / margin:.0f} images are needed to exclude a difference of {margin:g} points"
        return "too few samples", f"{need}, and there are {images}; {equal}"
    return "agrees", f"the interval of the difference contains 0 and stays within {margin:g} points, and {equal}"
