"""The file `profiles/<model>.json`, which stores the timings of one model between runs."""

from __future__ import annotations

from typing_extensions import TypedDict

from evals.store.json_files import FileKind
from evals.store.result_document import ProfileEntry

# Raise it if something changes that timings depend on, such as the allocation of memory, or if they get a new part.
SCHEMA = 3


class StoredTiming(TypedDict):
    """One method's timings. `id`: the hash of everything that they depend on."""

    id: str
    rows: list[ProfileEntry]


class TimingsDocument(TypedDict):
    """The methods of one model, by label."""

    schema: int
    methods: dict[str, StoredTiming]


TIMINGS = FileKind(
    "a file of timings",
    TimingsDocument,
    schema=SCHEMA,
    oldest=SCHEMA,
    command=None,
    then="it times the methods again",
)
