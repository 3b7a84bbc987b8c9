"""The result document as a file: what is read, what is refused in words, and what an early file gets."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals import report
from evals.cli import main
from evals.report import latex
from evals.report.files import csv_text
from evals.store.folders import states
from evals.store.result_document import RESULTS
from hidrop.errors import UserError
from tests.evals.world import World

MINI = json.loads(Path("results/mini/leaderboard.json").read_text(encoding="utf-8"))
SMALL = {
    **MINI,
    "cells": MINI["cells"][:8],
    "profiles": MINI["profiles"][:2],
    "correlations": [{"task": "gqa", "rows": ["a/b", "a/c"], "upper": [[0.5], []]}],
}
FAILURE = {
    **{name: MINI["cells"][0][name] for name in ("model", "method", "label", "group", "trained", "adaptive")},
    **{name: MINI["cells"][0][name] for name in ("average_tokens", "share", "kept", "budget", "entering")},
    **{"image_tokens": 100, "task": None, "error": "no time", "traceback": "failures/a.txt"},
}


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """A small valid document with another value at a place, or without it (`to` is `...`)."""
    document = copy.deepcopy({**SMALL, "failed": [FAILURE]})
    *owners, last = path
    owner: Any = document
    for key in owners:
        owner = owner[key]
    if to is ...:
        del owner[last]
    else:
        owner[last] = to
    return document


def refused(document: Any, path: Path) -> str:
    path.write_text(json.dumps(document))
    with pytest.raises(UserError) as caught:
        RESULTS.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("cells", 3, "task"), ..., "not a result document: cells[3].task is missing. "),
        (("cells", 0, "value"), "x", "cells[0].value: input should be a valid number, not 'x'. "),
        (("cells", 0, "n"), True, "cells[0].n: input should be a valid integer, not True"),
        (("cells", 0, "n"), 1.5, "cells[0].n: input should be a valid integer"),
        (("cells", 0, "entering"), [], "cells[0].entering: list should have at least 1 item"),
        (("cells", 0, "stats", "interval"), [1.0], "cells[0].stats.interval: list should have at least 2 items"),
        (
            ("cells", 4, "stats", "against", "loyalty"),
            None,
            "cells[4].stats.against.loyalty: input should be a valid number",
        ),
        (("cells",), 5, "cells: input should be a valid list, not 5"),
        (("cells",), ..., "cells is missing"),
        (("profiles", 0, "prefill_ms"), 3.0, "profiles[0].prefill_ms: input should be a valid dictionary"),
        (("failed", 0, "error"), None, "failed[0].error: input should be a valid string"),
        (("hardware", "cpu"), ..., "hardware.cpu is missing"),
        (("budget_reading",), "both", "budget_reading: input should be 'average' or 'kept'"),
        (
            ("correlations", 0, "upper", 0, 0),
            1.5,
            "correlations[0].upper[0][0]: input should be less than or equal to 1",
        ),
        (("schema",), ..., "not a result document: it has no schema number. `run.py run MATRIX --out"),
        (("schema",), "1", "it has no schema number"),
        (("schema",), True, "it has no schema number"),
        (("schema",), 2, "a result document of a newer version (schema 2, this version reads up to 1). Update hidrop"),
        (("schema",), 0, "a result document of an older version (schema 0, this version reads from 1 on). `run.py"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_the_way_out(
    place: tuple[Any, ...], value: Any, message: str, tmp_path: Path
) -> None:
    said = refused(changed(*place, to=value), tmp_path / "leaderboard.json")
    assert message in said
    assert "Update hidrop" in said or said.endswith("finished cells are not run twice")


def test_a_message_names_three_problems_and_counts_the_others(tmp_path: Path) -> None:
    document = changed("matrix", to=1)
    for cell in document["cells"]:
        del cell["metric"]
    said = refused(document, tmp_path / "a.json")
    assert said.count("is missing") == 2 and "; and 6 more problems. " in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON: "),
        ('{"schema": 1, "cells": [', "not JSON: "),
        ('{"schema": 1, "date": NaN}', "NaN is not JSON"),
        ('{"schema": 1, "date": 1e999}', "1e999 is not JSON"),
        ("[" * 100_000, "not JSON: "),
        ("[]", "it has no schema number"),
        ("null", "it has no schema number"),
    ],
)
def test_another_text_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match="a.json: ") as caught:
        RESULTS.read(path)
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read_as_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match=r"a\.json: cannot be read: not UTF-8 text"):
        RESULTS.read(tmp_path / "a.json")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        RESULTS.read(tmp_path)


def test_a_sound_document_is_read_as_it_is_with_fields_of_a_later_version(tmp_path: Path) -> None:
    document = {**SMALL, "later": {"a": 1}, "cells": [{**SMALL["cells"][0], "later": [1]}]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    assert json.dumps(RESULTS.read(path)) == json.dumps(document)  # in the same order, too


EARLY = ("budget_reading", "commit", "data", "sources", "command")
EARLY_CELL = ("adaptive", "base", "group", "id", "image_tokens", "stats", "text_tokens", "warnings")


def test_an_early_document_gets_what_it_lacks_and_can_be_reported(tmp_path: Path) -> None:
    """The first committed tables of schema 1 had no groups, statistics, warnings, sources and data."""
    early = {name: value for name, value in SMALL.items() if name not in EARLY}
    early["cells"] = [{n: v for n, v in cell.items() if n not in EARLY_CELL} for cell in SMALL["cells"]]
    early["profiles"] = [{n: v for n, v in p.items() if n != "selection_ms"} for p in SMALL["profiles"]]
    path = tmp_path / "leaderboard.json"
    path.write_text(json.dumps(early))
    document = RESULTS.read(path)
    assert (document["budget_reading"], document["commit"], document["data"]) == ("average", None, {})
    first = document["cells"][0]
    assert (first["group"], first["adaptive"], first["warnings"], first["base"]) == (first["label"], False, [], None)
    assert main(["report", str(tmp_path), "--tables"]) == 0
    assert f"| {first['model']} | vanilla | 100.0 % (100.0) |" in (tmp_path / "leaderboard.md").read_text()


def test_what_a_run_writes_is_read(go: Any, tmp_path: Path) -> None:
    broken = {"evaluate plain/fastv/gqa": RuntimeError("x"), "profile plain": RuntimeError("no clock")}
    document = go(World(broken=broken))
    assert len(document["failed"]) == 3
    report.write(document, tmp_path / "out")
    assert RESULTS.read(tmp_path / "out/leaderboard.json") == document


def test_a_command_on_a_damaged_document_says_what_to_do(
    go: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.write(go(World()), tmp_path / "out")
    path = tmp_path / "out" / "leaderboard.json"
    document = json.loads(path.read_text())
    del document["cells"][2]["metric"]
    path.write_text(json.dumps(document))
    out = str(tmp_path / "out")
    for command in (["report", out], ["compare", out, out], ["export", out]):
        assert main(command) == 2
        assert "cells[2].metric is missing" in capsys.readouterr().err
    assert main(["doctor", out]) == 1
    assert "leaderboard.json: not a result document: cells[2].metric is missing; a repair" in capsys.readouterr().out
    (state,) = states(tmp_path / "out")
    assert (state.matrix, state.done) == ("-", 6)


VALUES: Any = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.text(max_size=3),
    st.just([]),
    st.just({}),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(inner for key, one in items for inner in places(one, (*path, key)))]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_the_reader_takes_every_table_can_show(data: st.DataObject) -> None:
    """One value of a document is changed, removed or emptied: it is refused in words, or all formats can print it."""
    document: dict[str, Any] = {**SMALL, "failed": [FAILURE]}
    path = data.draw(st.sampled_from(places(document)[1:]))
    document = changed(*path, to=data.draw(st.one_of(VALUES, st.just(...))))
    try:
        read = RESULTS.parsed(json.dumps(document), "a.json")
    except UserError as error:
        assert str(error).startswith("a.json: ") and len(str(error)) < 2000
        return
    makers: list[Callable[[Any], str]] = [report.plain, report.text.markdown, csv_text, latex.latex]
    assert all(make(read) for make in makers)
