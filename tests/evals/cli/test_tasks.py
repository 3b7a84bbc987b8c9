"""tasks: the list of all names with their classes."""

from __future__ import annotations

import json
import re

import pytest

from evals import cli


def test_the_list_has_a_line_for_each_name_and_the_number_of_each_class(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tasks"]) == cli.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["name", "class", "shows", "metric"]
    total, names = re.match(r"([\d,]+) of ([\d,]+) names: ", lines[-1]).groups()  # type: ignore[union-attr]
    assert total == names == "1,985" and len([line for line in lines if line]) >= 1985 + 2
    [chartqa] = [line.split() for line in lines if line.startswith("chartqa ")]
    assert chartqa[1:5] == ["runs", "here", "image", "relaxed_overall"]


def test_words_and_classes_choose_lines_and_json_has_all_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tasks", "--grep", "MMVet", "--class", "to judge", "--json"]) == cli.DONE
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["total"] == 1985 and {one["kind"] for one in found["tasks"]} == {"to judge"}
    [mmvet] = [one for one in found["tasks"] if one["name"] == "mmvet"]
    assert mmvet["samples"] == 218 and "asks a judge (mmvet/utils.py, line" in mmvet["reason"]


def test_a_text_in_no_line_is_the_users_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tasks", "--grep", "chartqa", "--class", "to submitt"]) == cli.USER
    assert "no task with this text and class, of 1,985. The classes: first-class, " in capsys.readouterr().err
