"""All rows by the name of their task."""

from __future__ import annotations

from tests.evals.tasks.official import choices, likelihoods, many_images, short_answers, unscored, videos
from tests.evals.tasks.official.row import Row

SCORED: dict[str, Row] = {**choices.ROWS, **short_answers.ROWS, **many_images.ROWS, **videos.ROWS, **likelihoods.ROWS}
UNSCORED: dict[str, Row] = {**unscored.TO_SUBMIT, **unscored.TO_JUDGE}
ROWS: dict[str, Row] = {**SCORED, **UNSCORED}
