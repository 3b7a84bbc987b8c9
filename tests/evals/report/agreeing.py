"""Runs the command `agree`, for tests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evals import cli


def compare(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[dict[str, Any], str]:
    """The JSON document and the text that the command prints."""
    assert cli.main(["agree", *map(str, arguments), "--json"]) == cli.DONE
    printed = capsys.readouterr()
    return json.loads(printed.out), printed.err


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The error that the command prints."""
    assert cli.main(["agree", *map(str, arguments)]) == cli.USER
    return capsys.readouterr().err
