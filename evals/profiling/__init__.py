"""Latency, memory and operations of reduction methods, measured on the runtime that also gives their accuracy.

profiles = profile(loaded, {"vanilla": Vanilla(), "hidrop-64": HiDrop(...)}, [Point(batch=1), Point(batch=4)])
rows = [row for label, p in profiles.items() for row in p.rows(model="llava-1.5-7b", method=...)]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evals.profiling.point import Point
from evals.profiling.record import Measurement, Profile, Spread
from hidrop.reducer import Reducer

__all__ = ["Measurement", "Point", "Profile", "Spread", "profile"]


def profile(loaded: Any, reducers: Mapping[str, Reducer], points: Sequence[Point] = (Point(),)) -> dict[str, Profile]:
    """Measure every labelled method on one loaded model, in interleaved rounds. See `evals.profiling.measure.measure`.

    `loaded` is what `hidrop.models.load` returns (`model` and `geometry` are used). Importing this module does not
    import torch, so that a matrix can be validated and planned quickly.
    """
    from evals.profiling.measure import measure

    return measure(loaded, reducers, points)
