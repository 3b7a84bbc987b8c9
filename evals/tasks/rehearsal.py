"""Try tasks without a class of their own on their first documents, in a process without network: before a run.

What lmms-eval's functions import, download or read is only seen when they run. They run here on two documents, with
"A" as the answer (the model's rating of choices, for log-likelihoods). The functions of a user's own task score more
documents. A task that fails is told with the last line of its traceback, before a model is loaded.

    python -m evals.tasks.rehearsal    reads a JSON list of specs on stdin, and prints one of problems
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.tasks.base import TO_JUDGE
from evals.tasks.data import TaskSpec, locate
from hidrop.errors import UserError, did_you_mean, in_a_line

if TYPE_CHECKING:
    from evals.tasks.asked import Asked

DOCUMENTS = 2
MORE_DOCUMENTS = 1000  # of a user's own task, whose functions nobody has tried: to score, without images
SECONDS = 300  # for all tasks together
ANSWER = "A"


def rehearsed(specs: Sequence[TaskSpec], yaml_files: dict[str, str]) -> list[str]:
    """One line for each task that cannot be asked or scored. yaml_files: those of a user's own tasks, by name."""
    if not specs:
        return []
    given = {"specs": [dataclasses.asdict(spec) for spec in specs], "yaml": yaml_files}
    return list(_in_child(json.dumps(given)))


@functools.lru_cache(maxsize=32)  # `validate` and `run` ask for the same tasks
def _in_child(given: str) -> tuple[str, ...]:
    # -P: a folder called evals in the current folder is not ours. This code may be in use without being installed.
    command = [sys.executable, "-P", "-m", "evals.tasks.rehearsal"]
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=SECONDS, check=False, env=own
        )
    except subprocess.TimeoutExpired:
        return (f"trying the tasks on {DOCUMENTS} documents took more than {SECONDS} s. Try them one by one",)
    try:
        return tuple(json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return (f"trying the tasks on {DOCUMENTS} documents ended the process: {last}",)


def problem_of(spec: TaskSpec) -> str | None:
    """Why a task cannot be asked or scored on this machine; None if it can. Runs lmms-eval's functions."""
    from evals.tasks.build import build, quiet

    try:
        with quiet():
            task = build(spec)
            task.set_config("num_fewshot", 0)
            asked = _answered(spec, task, DOCUMENTS)
            for instance in task.instances:
                _show(task, instance)
            if spec.task.unscored != TO_JUDGE:
                _score(spec, asked)
                if spec.source.own:
                    _ = _answered(spec, task, MORE_DOCUMENTS).items
    except UserError as error:
        text = str(error).removesuffix(". The answers are kept")  # of a run; here is none
        text = text if text.startswith(f"{spec.name}: ") else f"{spec.name}: {text}"
        return f"{text}{_where(error.__cause__, spec)}"
    except (Exception, SystemExit) as error:
        return f"{spec.name}: lmms-eval's task fails on its first documents: {in_a_line(error)}{_where(error, spec)}"
    return None


def _answered(spec: TaskSpec, task: Any, limit: int) -> Asked:
    """The first documents of a task, each with the same answer."""
    from evals.tasks.asked import Asked

    task.build_all_requests(limit=limit)
    for instance in task.instances:
        instance.resps = [ANSWER if instance.request_type == "generate_until" else (1.0 + instance.idx, False)]
    return Asked(spec.name, task, task.instances, {}, spec.metric)


def _where(error: BaseException | None, spec: TaskSpec) -> str:
    """Where a task's function failed, and what there is instead of a name that is not there; "" if unknown."""
    import pyarrow.parquet as parquet
    from lmms_eval.api.registry import METRIC_REGISTRY

    from evals.tasks.generic import OfficialTask

    if error is None:
        return ""
    folder = str(spec.task.yaml_file.parent) if spec.task.yaml_file else ""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if folder and frame.filename.startswith(folder)
    ]
    found = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    if not isinstance(error, KeyError) and type(error).__name__ != "UndefinedError":
        return found
    name = str(next(iter(error.args), ""))
    if not frames and isinstance(spec.task, OfficialTask) and name in spec.task.entry.metrics:
        return f". metric_list: lmms-eval has no metric '{name}'.{did_you_mean(name, METRIC_REGISTRY)}"
    columns = parquet.read_schema(locate(spec).questions[0]).names
    return f"{found}. The data has the columns {', '.join(columns)}"


def _show(task: Any, instance: Any) -> None:
    """Let the task show a document, as the model would ask for it."""
    place = {"generate_until": 3, "loglikelihood": 3}[instance.request_type]
    show = next(one for one in instance.args if callable(one))
    show(task.dataset[instance.args[-1]][instance.args[place]])


def _score(spec: TaskSpec, asked: Asked) -> None:
    """Score the documents. Two documents may be too few for an aggregation, so only what it lacks is an error."""
    _ = asked.items
    try:
        spec.task.scores(asked, spec.protocol)
    except UserError as error:
        if isinstance(error.__cause__, ImportError | OSError):
            raise


def without_network() -> None:
    """Let every connection to another machine fail at once, in this process."""
    import socket

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("no network while a task is tried: give its data as a folder")

    socket.socket.connect = refuse  # type: ignore[method-assign]
    socket.create_connection = refuse
    socket.getaddrinfo = refuse


def problems_of(given: str) -> tuple[str, ...]:
    """The problems of the specs in a JSON document of `rehearsed`, in this process."""
    from evals.tasks.registry import add

    asked = json.loads(given)
    for name, path in asked["yaml"].items():
        add(name, Path(path))
    found = (problem_of(TaskSpec(**spec)) for spec in asked["specs"])
    return tuple(problem for problem in found if problem)


def main() -> None:
    without_network()
    print(json.dumps(problems_of(sys.stdin.read())))


if __name__ == "__main__":
    main()
