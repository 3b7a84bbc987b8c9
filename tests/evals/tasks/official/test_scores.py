"""Scored tasks give lmms-eval's own numbers, which are also those worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evals.tasks import evaluate, missing
from tests.evals.tasks.official.stand_in import Answering, evaluated_by_lmms_eval
from tests.evals.tasks.official.tables import SCORED

every_scored_task = pytest.mark.parametrize("name", SCORED)


@every_scored_task
def test_values_are_those_of_lmms_evals_evaluator(name: str, spec_of: Any, tmp_path: Path) -> None:
    row, spec = SCORED[name], spec_of(name)
    assert missing(spec) == []
    lm = Answering(row.said)
    found = evaluate(lm, spec)
    official = evaluated_by_lmms_eval(spec, row.said, tmp_path)
    [filtered] = {key.partition(",")[2] for key in official if "," in key and "_stderr" not in key}
    assert found.value == official[f"{found.metric},{filtered}"] == pytest.approx(row.value)
    assert found.extra == {metric: official[f"{metric},{filtered}"] for metric in found.extra}
    assert found.extra == pytest.approx(dict(row.extra))
    assert found.n == len(row.said) and found.n_failed == 0 and found.unscored is None
    assert [len(lm.shown[doc_id]) for doc_id in range(found.n)] == list(row.shown)
