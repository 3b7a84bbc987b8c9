"""Types of `ablations.json`. Percentages are 0-100; half widths are those of 95 % intervals."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict  # before Python 3.12 pydantic cannot read typing's TypedDict

from evals.store.json_files import FileKind
from evals.store.result_document import Provenance

SCHEMA = 1
Verdict = Literal["reproduced", "not reproduced", "not decidable"]


class VariantEntry(TypedDict):
    """See `evals.ablations.claims.Measured`. `by_seed`: % of the reference, by the seed of the training."""

    name: str
    average_tokens: float
    by_seed: dict[str, float]
    tasks: dict[str, float]
    half_width: float | None


class ClaimEntry(TypedDict):
    """A claim from the study's file. `paper`: the two published numbers."""

    say: str
    better: str
    worse: str
    paper: list[float] | None


class JudgedEntry(TypedDict):
    """See `evals.ablations.claims.Judged`."""

    claim: ClaimEntry
    better: float
    worse: float
    seeds: int
    difference: float
    half_width: float | None
    verdict: Verdict


class AblationsDocument(Provenance):
    """The results of a study. `training_seconds`: by trained model. `not_run`: variants without results."""

    schema: int
    study: str
    seeds: list[int]
    limit: int | None
    reference: str
    training_seconds: dict[str, float]
    variants: dict[str, VariantEntry]
    claims: list[JudgedEntry]
    not_run: list[str]


ABLATIONS = FileKind(
    "a file of the command ablate",
    AblationsDocument,
    schema=SCHEMA,
    oldest=1,
    command="ablate",
    then="run it again, trained models are skipped",
)
