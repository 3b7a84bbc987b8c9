"""Half precision: the model in bfloat16, as most are run, and scores in float32 all the same."""

from __future__ import annotations

import torch

from hidrop.testing.case import Case
from hidrop.testing.properties import Property
from hidrop.testing.report import Fault


def half_model_gives_whole_scores(case: Case) -> None:
    """One batch through the whole model in bfloat16, the tower included."""
    inputs = {name: half(value) for name, value in case.batch(case.rows).items()}
    run = case.run(inputs, case.half)
    for seen in run.seen.cuts:
        if seen.score.dtype != torch.float32:
            raise Fault(
                f"score after layer {seen.view.layer} is {str(seen.score.dtype).removeprefix('torch.')} on a bfloat16 "
                "model, where many tokens then score the same"
            )
        valid_BV = seen.view.valid_BV
        if bool(seen.score[valid_BV].isnan().any()):
            raise Fault(f"score after layer {seen.view.layer} has NaN on a bfloat16 model")
    if not bool(torch.isfinite(run.logits).all()):
        raise Fault("the logits of a bfloat16 model are not finite")


def half(value: torch.Tensor) -> torch.Tensor:
    return value.bfloat16() if value.is_floating_point() else value


PROPERTIES: tuple[Property[Case], ...] = (
    Property(
        "bfloat16",
        "a model in bfloat16 runs, and its scores are float32: rounded ones are often equal",
        "score view.visual_BVD.float(), and give what you multiply it with .float() too; .float() on the score comes "
        "after the rounding",
        half_model_gives_whole_scores,
    ),
)
