"""The published runs that have names: what the file says of them, and how their answers are found."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals import cli
from evals.report.published_runs import FILE, PublishedRuns, published_runs
from evals.tasks import TASKS, get_task
from hidrop import strict_yaml
from hidrop.errors import UserError
from hidrop.geometry import PRESETS
from hidrop.hidrop import HiDrop
from hidrop.methods import build, build_entry, method_class
from tests.evals.report.agreeing import compare, refused
from tests.evals.tasks.table import CASES

RUNS = published_runs()
SQA = "scienceqa_img"
COMPLETE = {name: run for name, run in RUNS.runs.items() if run.method["name"] == "hidrop" and not run.unknown}


@pytest.mark.parametrize(
    ("name", "average"),
    # Layers 9 to 24: for example 2 of 576, 4 of 215, 2 of 10, 2 of 5 and 6 of 1, over 32 layers.
    [
        ("hidrop-48", (2 * 576 + 4 * 87 + 2 * 10 + 2 * 5 + 6 * 1) / 32),
        ("hidrop-48-c1", (2 * 576 + 3 * 112 + 3 * 10 + 3 * 5 + 5 * 1) / 32),
        ("hidrop-64", (2 * 576 + 4 * 215 + 2 * 10 + 2 * 5 + 6 * 1) / 32),
        ("hidrop-80-c1", (2 * 576 + 3 * 453 + 3 * 10 + 3 * 5 + 5 * 1) / 32),
    ],
)
def test_a_known_schedule_has_the_tokens_of_its_name(name: str, average: float) -> None:
    geometry = PRESETS["llava-1.5-7b"]
    plan = build_entry(RUNS.runs[name].method).schedule(geometry).plan(geometry)
    assert plan.average_tokens == pytest.approx(average)
    assert round(average) == int(name.split("-")[1])


def test_every_complete_schedule_is_checked_above() -> None:
    assert set(COMPLETE) == {"hidrop-48", "hidrop-48-c1", "hidrop-64", "hidrop-80-c1"}


def test_a_complete_schedule_is_the_published_setting_of_its_name_and_all_settings_are_runs() -> None:
    labels = {"hidrop-48": "48", "hidrop-48-c1": "48-c1", "hidrop-64": "64", "hidrop-80-c1": "80"}
    for name, run in COMPLETE.items():
        assert build_entry(run.method) == build("hidrop", {"published": labels[name]})
    assert set(labels.values()) == set(HiDrop.published)


@pytest.mark.parametrize("name", RUNS.runs)
def test_the_fields_of_a_run_are_those_of_its_method(name: str) -> None:
    run = RUNS.runs[name]
    known = {field.name for field in dataclasses.fields(method_class(run.method["name"]))}
    assert {*run.method, *run.unknown} - {"name"} <= known
    assert run.method["name"] == ("pdrop" if name.startswith("fastv") else name.split("-")[0])
    assert run.trained == (name != "vanilla" and not name.endswith("-free"))
    assert all(unknown in run.settings for unknown in run.unknown)


def test_the_two_runs_with_64_tokens_are_told_apart() -> None:
    released, other = RUNS.runs["hidrop-64"], RUNS.runs["hidrop-64-c1"]
    assert released.file.endswith("Tok64-T10T14T16T18") and released.method["filters"] == [10, 14, 16, 18]
    assert other.file.endswith("Tok64-C1") and other.method["filters"] == [10, 13, 16, 19]
    assert "keep" in other.unknown and released.basis == other.basis == "stated"
    assert len({run.file for run in RUNS.runs.values()}) == len(RUNS.runs)


def test_the_tasks_are_known_and_have_llavas_protocol() -> None:
    assert set(RUNS.folders) <= set(TASKS)
    assert all("llava" in get_task(task).protocols for task in RUNS.folders)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"runs": {"a": {"title": "A", "file": "a", "method": {}, "basis": "stated"}}}, "runs.a.method: is empty"),
        (
            {
                "runs": {
                    "a": {"title": "A", "file": "a", "method": {"name": "x"}, "basis": "stated", "unknown": ["name"]}
                }
            },
            "name is in method and in unknown",
        ),
        ({"folders": {"pope": "x"}}, "have to name the same tasks"),
        ({"runs": {"a": {"titel": "A"}}}, "Did you mean 'title'?"),
    ],
)
def test_mistakes_in_the_file_are_named(change: dict[str, Any], words: str) -> None:
    data = strict_yaml.read(FILE, FILE.name) | change
    with pytest.raises(UserError) as error:
        strict_yaml.checked(PublishedRuns, data, FILE.name)
    assert words in str(error.value) and FILE.name in str(error.value)


# ---- finding a file ------------------------------------------------------------------------------------------------


def clone(folder: Path, task: str, *names: str) -> list[Path]:
    """Empty files in the folder of a task's answers."""
    (folder / RUNS.folders[task]).mkdir(parents=True, exist_ok=True)
    places = [folder / RUNS.folders[task] / name for name in names]
    for place in places:
        place.touch()
    return places


def test_a_runs_answers_are_found_in_the_clone_and_in_their_own_folder(tmp_path: Path) -> None:
    stem = "llava-v1.5-7b-exit-topk-Tok64-T10T14T16T18"
    [pope] = clone(tmp_path, "pope", f"{stem}.jsonl")
    result, output = clone(tmp_path, SQA, f"{stem}_result.json", f"{stem}_output.jsonl")
    assert RUNS.find("hidrop-64", tmp_path, "pope") == pope
    assert RUNS.find("hidrop-64", pope.parent, "pope") == pope
    assert RUNS.find("hidrop-64", tmp_path, SQA) == output
    [answers] = clone(tmp_path, SQA, f"{stem}.jsonl")
    assert RUNS.find("hidrop-64", tmp_path, SQA) == answers
    for name in (answers, output):
        name.unlink()
    assert RUNS.find("hidrop-64", tmp_path, SQA) == result


@pytest.mark.parametrize(
    ("name", "folder", "task", "words"),
    [
        ("hidrop64", "", "pope", "Did you mean 'hidrop-64'?"),
        ("hidrop-64", "", "gqa", "EIT-NLP/HiDrop has answers to pope, scienceqa_img, not gqa"),
        ("hidrop-64", None, "pope", "Get them with `git clone https://github.com/EIT-NLP/HiDrop`"),
        ("hidrop-64", "nowhere", "pope", "nowhere: not a folder"),
        (
            "hidrop-64",
            "",
            "pope",
            "no playground/data/eval/pope/answers/llava-v1.5-7b-exit-topk-Tok64-T10T14T16T18.jsonl",
        ),
        ("fastv-64", "", SQA, "fastv-Tok64.jsonl or llava-v1.5-7b-fastv-Tok64_output.jsonl or"),
    ],
)
def test_what_is_not_found_says_how_to_get_it(
    name: str, folder: str | None, task: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        RUNS.find(name, None if folder is None else tmp_path / folder, task)
    assert words in str(error.value)


# ---- the command ---------------------------------------------------------------------------------------------------


def test_a_run_is_compared_with_a_published_one_by_name(
    tmp_path: Path, journal: Callable[..., Path], data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = CASES[SQA].documents
    [place] = clone(tmp_path / "HiDrop", SQA, "llava-v1.5-7b-exit-topk-Tok64-C1.jsonl")
    said = [
        {"question_id": str(i), "prompt": f"<image>\n{get_task(SQA).question(doc)}", "text": text}
        for i, (doc, text) in enumerate(zip(docs, ["B", "A", "D"], strict=True))
    ]
    place.write_text("".join(json.dumps(row) + "\n" for row in said))
    run = ("--run", journal(SQA, ["B", "A", "E"]), "--data", data_folder)
    found, text = compare(capsys, "--published", "hidrop-64-c1", "--answers", tmp_path / "HiDrop", *run)
    assert found["answers"] == str(place) and found["our_value"] == 100
    assert found["published_value"] == pytest.approx(200 / 3) and found["gained"] == 1
    about = found["published_run"]
    assert about["name"] == "hidrop-64-c1" and about["method"] == {"name": "hidrop", "filters": [10, 13, 16, 19]}
    assert "hidrop-64-c1: HiDrop, 64 tokens, variant C1. hidrop, filters 10-13-16-19, inject unknown" in text
    assert "not a folder" in refused(capsys, "--published", "hidrop-64-c1", "--answers", place, *run)
    assert "Did you mean 'pdrop-64'?" in refused(capsys, "--published", "pdrop64", *run)
    assert "name the folder of EIT-NLP/HiDrop's files as --answers" in refused(capsys, "--published", "vanilla", *run)


def test_the_list_names_every_run_and_how_to_get_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["agree", "--list-published"]) == cli.DONE
    printed = capsys.readouterr().out
    assert all(f"\n{name} " in printed and run.title in printed for name, run in RUNS.runs.items())
    assert all(note in printed for note in RUNS.notes) and f"\n  {RUNS.get}\n" in printed
    assert cli.main(["agree", "--list-published", "--json"]) == cli.DONE
    document = json.loads(capsys.readouterr().out)
    assert document["runs"]["hidrop-64"]["method"]["keep"] == [215, 10, 5, 1]


def test_without_a_run_or_a_published_file_the_options_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--run: name the results folder" in refused(capsys, "--published", "hidrop-64")
    told = refused(capsys, "--run", "results/mini")
    assert "--answers: name the published file to compare with, or a published run with --published" in told
