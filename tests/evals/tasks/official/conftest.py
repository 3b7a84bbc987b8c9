"""All tables' data, written once, and a ban on the network."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evals.tasks import TaskSpec
from tests.evals.tasks.official.tables import ROWS


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep converted data out of the user's caches, also that of fixtures which are made once."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(base / "datasets-cache"))
        patch.setattr("evals.tasks.tables.cache_folder", lambda: base / "converted")
        yield


@pytest.fixture(scope="session")
def official_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every row's files in the official layout, below one folder."""
    folder = tmp_path_factory.mktemp("official")
    for row in ROWS.values():
        row.put(folder)
    return folder


@pytest.fixture
def spec_of(official_data: Path) -> Any:
    """spec_of(name): the task on the official data, with the metric of its row."""
    return lambda name: TaskSpec(name, str(official_data), "lmms-eval", metric=ROWS[name].metric)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a task with local data touched the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
