"""Before a run, tasks are tried on two documents: what lmms-eval's functions lack or do is told then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evals.tasks import TaskSpec
from evals.tasks.asked import Asked
from evals.tasks.registry import add
from evals.tasks.rehearsal import _in_child, problem_of, rehearsed
from tests.evals.tasks.official.row import Row
from tests.evals.tasks.official.tables import ROWS
from tests.evals.tasks.official.unscored import TO_JUDGE

YAML = """
dataset_path: json
dataset_kwargs: {data_files: {test: d.json}}
test_split: test
output_type: generate_until
doc_to_text: "question"
doc_to_target: "answer"
process_results: !function utils.process_results
metric_list:
  - {metric: right, aggregation: mean, higher_is_better: true}
task: any_name
"""
GOOD = "def process_results(doc, results):\n    return {'right': 1.0}\n"
PACKAGE = "def process_results(doc, results):\n    import no_such_package\n"
NETWORK = "import socket\n\ndef process_results(doc, results):\n    socket.create_connection(('example.org', 80))\n"


@pytest.fixture(autouse=True)
def no_tasks_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evals.tasks.registry._own", {})


def own(folder: Path, name: str, utils: str) -> Path:
    """A user's task; it is known in this process."""
    folder = folder / name
    Row("d.json", [{"question": "Which?", "answer": "red"}], (), None, ()).put(folder)
    (folder / "utils.py").write_text(utils)
    (folder / "mine.yaml").write_text(YAML)
    add(name, folder / "mine.yaml")
    return folder / "mine.yaml"


@pytest.mark.parametrize("name", ROWS)
def test_the_tables_tasks_pass(name: str, spec_of: Any) -> None:
    assert problem_of(spec_of(name)) is None


@pytest.mark.parametrize("name", TO_JUDGE)
def test_a_judge_is_not_asked(name: str, spec_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Asked, "_processed", None)  # would fail if it were called
    assert problem_of(spec_of(name)) is None


def test_a_package_that_a_function_imports_when_it_runs_is_told(tmp_path: Path) -> None:
    own(tmp_path, "mine", PACKAGE)
    assert problem_of(TaskSpec("mine", "hub", "lmms-eval")) == (
        "mine: document 0 cannot be scored: lmms-eval's process_results failed: ModuleNotFoundError: No module named "
        "'no_such_package' (utils.py, line 2)"
    )


def test_in_a_process_of_its_own_the_network_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evals.tasks.rehearsal._in_child", _in_child)
    files = {name: str(own(tmp_path, name, utils)) for name, utils in (("mine", GOOD), ("online", NETWORK))}
    [problem] = rehearsed([TaskSpec(name, "hub", "lmms-eval") for name in files], files)
    assert problem.startswith("online: document 0 cannot be scored: ") and "no network while a task is tried" in problem
    assert rehearsed([], {}) == []
