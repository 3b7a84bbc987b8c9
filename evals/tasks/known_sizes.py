"""Documents and megabytes of well-known tasks of lmms-eval, for `hidrop tasks` and estimates without the data.

Sources: lmms-eval's task files, the cards of the repositories, and the sizes that the Hub lists. None: not known.
"""

from __future__ import annotations

SIZES: dict[str, tuple[int | None, int | None]] = {
    "mmvet": (218, None),
    "llava_in_the_wild": (60, None),
    "mmmu_val": (900, 341),
    "docvqa_val": (5349, 2500),
    "infovqa_val": (2801, 1900),
    "ocrbench": (1000, None),
    "nocaps_val": (4500, 1400),
    "ai2d_lite": (500, None),
    "chartqa_lite": (500, None),
    "egoschema_subset": (500, 105_700),
    "egoschema": (5031, 105_700),
}
