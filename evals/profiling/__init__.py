"""Latency, memory and operations of reduction methods, measured on the runtime that also gives their accuracy.

profiles = profile(loaded, {"vanilla": Vanilla(), "hidrop-64": HiDrop(...)}, ProfileSettings())
rows = [row for label, p in profiles.items() for row in p.rows(model="llava-1.5-7b", method=...)]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.profiling.record import Measurement, Profile, Spread
from evals.profiling.settings import ProfileSettings
from hidrop.reducer import Reducer

__all__ = ["Measurement", "Profile", "ProfileSettings", "Spread", "profile"]


def profile(
    loaded: Any, reducers: Mapping[str, Reducer], settings: ProfileSettings | None = None
) -> dict[str, Profile]:
    """Measure every labelled method on one loaded model, in interleaved rounds. See `evals.profiling.measure.measure`.

    `loaded` is what `hidrop.models.load` returns (`model` and `geometry` are used). Importing this module does not
    import torch, so that a matrix can be validated and planned quickly.
    """
    from evals.profiling.measure import measure

    return measure(loaded, reducers, settings or ProfileSettings())
