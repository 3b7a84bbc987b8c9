"""On what the cells of a table were answered: machines, versions, commits and dates, in words.

Each cell has its own sessions, so a table can be a mixture. Without sessions (files from before they were written) the
document's own provenance counts, which is that of the process that wrote the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from evals.store.result_document import Provenance, ResultDocument


def provenance_lines(document: ResultDocument) -> list[tuple[str, str]]:
    """(topic, sentence) pairs. A mixture is named first: "cells of 2 commits, torch 2.13.0 and 2.14.0"."""
    sessions = sessions_of(document)
    machines = _machines(sessions)
    mixed = f"cells of {len(machines)} machines: " if len(machines) > 1 else ""
    return [
        ("Hardware", mixed + "; ".join(machines)),
        ("Timed on", _timed_on(document, machines)),
        ("Versions", _versions(sessions)),
        ("Date", _dates(document, sessions)),
        ("Unknown origin", _unknown(document)),
    ]


def sessions_of(document: ResultDocument) -> list[Provenance]:
    """The sessions of all cells, the earliest first. Of a document without any: its own provenance."""
    own = cast(Provenance, document)
    found: list[Provenance] = []
    for cell in document["cells"]:
        found += [one for one in cell.get("provenance", [own]) if one not in found]
    return sorted(found, key=lambda one: one["date"]) or [own]


def _machines(sessions: list[Provenance]) -> list[str]:
    """The different machines. Processes of one run may differ in the index of their device: they are one machine."""
    whole = _different(facts(one["hardware"]) for one in sessions)
    alike = _different(facts(_of_any_index(one["hardware"])) for one in sessions)
    return whole if len(whole) == 1 else alike


def _of_any_index(hardware: Mapping[str, Any]) -> dict[str, Any]:
    return {**hardware, "device": str(hardware.get("device")).split(":")[0]}


def _timed_on(document: ResultDocument, machines: list[str]) -> str:
    """The machine of the timings, if not all cells were answered there. It is the one that wrote the table."""
    own = {facts(document["hardware"]), facts(_of_any_index(document["hardware"]))}
    return facts(document["hardware"]) if document["profiles"] and not set(machines) <= own else ""


def _versions(sessions: list[Provenance]) -> str:
    """The versions of the libraries and the commits: alone, or as a mixture with the values that differ."""
    names = list(dict.fromkeys(name for one in sessions for name in one["versions"]))
    values = {name: _different(one["versions"].get(name) for one in sessions) for name in names}
    commits = _different(one["commit"] for one in sessions)
    parts = [f"{name} {_listed(found)}" for name, found in values.items() if found]
    if commits:
        parts.append(f"{'commit' if len(commits) == 1 else 'commits'} {_listed(commits)}")
    mixed = [f"{len(commits)} commits"] if len(commits) > 1 else []
    mixed += [f"{name} {_listed(found)}" for name, found in values.items() if len(found) > 1]
    return (f"cells of {', '.join(mixed)}. All: " if mixed else "") + ", ".join(parts)


def _different(values: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))


def _listed(values: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(values[:-1]), values[-1])))


def _dates(document: ResultDocument, sessions: list[Provenance]) -> str:
    """When the first and the last session began, and when the table was written."""
    dates = [one["date"] for one in sessions]
    if dates == [document["date"]]:
        return document["date"]
    answered = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return f"cells answered {answered}, table written {document['date']}"


def _unknown(document: ResultDocument) -> str:
    count = sum(cell.get("provenance") == [] for cell in document["cells"])
    return f"the journals of {count} cells do not say where they were answered" if count else ""


def facts(hardware: Mapping[str, Any]) -> str:
    """A machine as one line of text."""
    return ", ".join(_fact(key, value) for key, value in hardware.items() if value is not None)


def _fact(key: str, value: Any) -> str:
    if key.endswith("_bytes"):
        return f"{value / 1024**3:.0f} GiB {key.removesuffix('_bytes').replace('_', ' ')}"
    if key in ("cores", "threads"):
        return f"{value} {key if value != 1 else key.removesuffix('s')}"
    return str(value) if key in ("cpu", "gpu") else f"{key} {value}"
