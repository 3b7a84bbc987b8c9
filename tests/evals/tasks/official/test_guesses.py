"""Where a task guesses an answer that names no letter, the guess depends on the document only."""

from __future__ import annotations

import random
from typing import Any

import pytest

from evals.tasks import TaskSpec
from evals.tasks.asked import Asked, respond
from evals.tasks.evaluation import requests
from tests.evals.tasks.official.many_images import mmmu, mmmu_pro
from tests.evals.tasks.official.row import Row
from tests.evals.tasks.official.stand_in import Answering
from tests.evals.tasks.official.tables import SCORED
from tests.evals.tasks.official.videos import egoschema, nextqa

GUESSING = {
    "mmmu_val": [doc for doc in mmmu("validation") if doc["question_type"] == "multiple-choice"],
    "mmmu_pro_standard": mmmu_pro(),
    "egoschema_subset": egoschema(),
    "nextqa_mc_test": nextqa(),
}
TIMES = 4  # each document, so that its guesses are not all the same letter by chance
NO_LETTER = "hm"


@pytest.mark.parametrize("name", GUESSING)
def test_a_guess_is_the_same_whatever_was_answered_before(name: str, tmp_path: Any) -> None:
    row, documents = SCORED[name], GUESSING[name] * TIMES
    own = Row(row.file, documents, (), None, (), films=row.films)
    own.put(tmp_path)
    spec = TaskSpec(name, str(tmp_path), "lmms-eval")
    said = [NO_LETTER] * len(documents)
    random.seed(1)
    before = random.getstate()
    guesses = readings(spec, said)
    different = len(GUESSING[name])
    assert any(len(set(guesses[at::different])) > 1 for at in range(different)), "a document's guess is always the same"
    for place in range(3):  # other documents are answered
        others = readings(spec, [NO_LETTER if at % 3 == place else "B" for at in range(len(documents))])
        assert others[place::3] == guesses[place::3]
    assert random.getstate() == before, "the user's own random numbers go on as if there were no guesses"


def readings(spec: TaskSpec, said: list[str]) -> list[str]:
    """What the task's process_results makes of each answer."""
    lm = Answering(said)
    task, instances = requests(lm, spec)
    respond(lm, instances)
    items = Asked(spec.name, task, instances, {}).items
    return [str(item) for _, item in items[next(iter(items))]]
