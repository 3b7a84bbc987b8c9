from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evals.cli import main
from evals.store.doctor import examine
from evals.store.journal import Journal
from hidrop.errors import UserError
from tests.evals.world import ANSWER, SAMPLES, World, samples_of


def damaged(go: Any, tmp_path: Path, line: int, text: bytes = b"{broken\n") -> Path:
    """A finished run in out/ whose first journal has another line in the place of one of its own (from 1)."""
    go(World())
    path = sorted((tmp_path / "out/samples").glob("*.jsonl"))[0]
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = text
    path.write_bytes(b"".join(lines))
    return path


def test_a_sound_folder_and_a_torn_line_are_no_damage(go: Any, tmp_path: Path) -> None:
    go(World())
    path = next((tmp_path / "out/samples").glob("*.jsonl"))
    path.write_bytes(path.read_bytes()[:-5])
    assert examine(tmp_path / "out") == []


def test_a_damaged_answer_is_dropped_with_the_scores_and_asked_again(go: Any, tmp_path: Path) -> None:
    go(World(), out="whole")
    path = damaged(go, tmp_path, line=4)
    (finding,) = examine(tmp_path / "out")
    assert finding.path == path and "line 4 is damaged" in finding.problem
    assert finding.drops == f"1 damaged records, {SAMPLES} scores and the result, which are made again"
    finding.repair()
    assert path.with_name(path.name + ".damaged").exists()
    assert examine(tmp_path / "out") == []
    world = World()
    assert go(world)["failed"] == []
    assert [doc_id for _, doc_id in world.asked] == [1]
    assert samples_of(tmp_path / "out") == samples_of(tmp_path / "whole")


def test_a_damaged_score_loses_no_answer(go: Any, tmp_path: Path) -> None:
    damaged(go, tmp_path, line=3 + SAMPLES)
    (finding,) = examine(tmp_path / "out")
    finding.repair()
    world = World()
    go(world)
    assert world.asked == []


@pytest.mark.parametrize("text", [b"{}\n", b'{"kind":"cell","schema":1,"id":"x","identity":{}}\n', b"garbage\n"])
def test_a_journal_without_its_header_is_put_away_whole(go: Any, tmp_path: Path, text: bytes) -> None:
    path = damaged(go, tmp_path, line=1, text=text)
    (finding,) = examine(tmp_path / "out")
    assert finding.drops == "all of it"
    finding.repair()
    assert not path.exists() and path.with_name(path.name + ".damaged").exists()


def test_a_part_of_another_process_and_a_broken_table_are_looked_at(go: Any, tmp_path: Path) -> None:
    go(World())
    path = sorted((tmp_path / "out/samples").glob("*.jsonl"))[0]
    identity = json.loads(path.read_text().splitlines()[0])["identity"]
    with Journal(path, identity, part="0-of-2") as log:
        log.append({"kind": "answer", **ANSWER, "doc_id": 9})
    part = next((tmp_path / "out/samples/parts").iterdir())
    part.write_bytes(part.read_bytes() + b"\x00\x00\n")
    (tmp_path / "out/leaderboard.json").write_text('{"cells": [')
    assert {finding.path.name for finding in examine(tmp_path / "out")} == {part.name, "leaderboard.json"}


def test_a_folder_that_holds_no_results_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        examine(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not a results folder"):
        examine(tmp_path)


def test_the_command_says_what_it_would_do_before_it_does_it(
    go: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = damaged(go, tmp_path, line=4)
    before = path.read_bytes()
    out = str(tmp_path / "out")
    assert main(["doctor", out]) == 1
    said = "line 4 is damaged (its checksum is wrong); a repair drops 1 damaged records, 5 scores and the result"
    assert said in capsys.readouterr().out
    assert path.read_bytes() == before
    assert main(["doctor", out, "--repair"]) == 0
    assert main(["doctor", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"damaged": []}
