"""Tasks that ask for the loss of each choice: about images, about videos, and of text only."""

from __future__ import annotations

from typing import Any

from tests.evals.tasks.official.many_images import seedbench
from tests.evals.tasks.official.row import Row
from tests.evals.tasks.official.videos import egoschema


def hellaswag() -> list[dict[str, Any]]:
    """Endings of different lengths, so that the loss per letter prefers another one."""
    return [
        {"ind": i, "activity_label": "Cooking", "ctx_a": "A man cooks.", "ctx_b": "he", "label": label}
        | {"endings": ["eats it.", "[title] sings a very long song.", "leaves.", "sleeps."]}
        for i, label in enumerate(["0", "1", "3"])
    ]


ROWS: dict[str, Row] = {
    # The smallest loss is taken, as lmms-eval's model classes return losses.
    "seedbench_ppl": Row(
        "SEED-Bench/data/test-00000-of-00001.parquet",
        seedbench("image", "video", "image", "image"),
        ((1.0, 2.0, 3.0, 4.0), (5.0, 0.5, 3.0, 4.0), (1.0, 2.0, 3.0, 4.0), (9.0, 8.0, 7.0, 6.5)),
        0.75,
        [1, 2, 1, 1],
    ),
    "egoschema_subset_mcppl": Row(
        "egoschema/Subset/test-00000-of-00001.parquet",
        egoschema(),
        ((0.1, 1.0, 1.0, 1.0, 1.0), (3.0, 2.0, 1.0, 4.0, 0.9), (0.1, 1.0, 1.0, 1.0, 1.0), (2.0, 1.5, 3.0, 4.0, 5.0)),
        0.75,
        [1] * 4,
        films=("egoschema/videos/clip0.mp4", "egoschema/videos/clip1.mp4"),
    ),
    "hellaswag": Row(
        "hellaswag/data/validation-00000-of-00001.parquet",
        hellaswag(),
        ((1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 3.0, 4.0), (4.0, 3.0, 2.0, 1.0)),
        2 / 3,
        [0] * 3,
        {"acc_norm": 1 / 3},
    ),
}
