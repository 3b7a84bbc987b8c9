"""ablate lists what a study still has to train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.cli import main
from evals.cli.ablations import seconds_of
from hidrop.errors import UserError


def test_a_dry_run_lists_all_models_of_the_study_and_trains_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["ablate", "suggested", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--dry-run"]
    assert main(line) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown and all(one.startswith("missing  ") for one in shown)
    assert main([*line, "--json"]) == 0
    printed = capsys.readouterr()
    models = json.loads(printed.out)["models"]
    assert [f"missing  {model['folder']}" for model in models] == shown == printed.err.splitlines()[1:]
    assert not any(model["trained"] for model in models) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[", "[]", "{}", "null", '{"seconds": "x"}', '{"seconds": null}', "[" * 9000])
def test_a_broken_record_of_a_training_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text(content)
    with pytest.raises(UserError, match=r"training\.json: not the record of a training"):
        seconds_of(tmp_path / "training.json")
