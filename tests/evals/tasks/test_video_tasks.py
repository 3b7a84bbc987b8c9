"""Tasks of videos: where the videos are, how answers are read, and lmms-eval's own values beside ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from evals.tasks import TASKS, TaskSpec, data_digest, evaluate, get_task, missing
from evals.tasks.base import Answer
from evals.tasks.build import build
from hidrop.errors import UserError
from tests.evals.tasks.layout import put
from tests.evals.tasks.table import CASES
from tests.films import write_film

VIDEO = [name for name in TASKS if get_task(name).source.videos]
every_video_task = pytest.mark.parametrize("name", VIDEO)


def filled(name: str, folder: Path) -> tuple[TaskSpec, Path]:
    """A task's data, and its own folder in it."""
    own = folder / get_task(name).source.folder
    put(name, own)
    return TaskSpec(name, str(folder), "native"), own


# ---- its videos ------------------------------------------------------------------------------------------------------


@every_video_task
def test_videos_that_are_not_there_are_counted_with_the_way_to_get_them(name: str, tmp_path: Path) -> None:
    spec, own = filled(name, tmp_path)
    first = own / CASES[name].films[1]
    first.unlink()
    [problem] = missing(spec)
    assert f"{own}: 1 of 3 videos are not there: {CASES[name].films[1]}. Get them with: hf download" in problem
    assert f"unzip -n '{own}/" in problem
    for film in CASES[name].films:
        (own / film).unlink(missing_ok=True)
    archive = own / get_task(name).source.videos.archives.replace("*", "01")  # type: ignore[union-attr]
    archive.parent.mkdir(exist_ok=True)
    archive.touch()
    [problem] = missing(spec)
    assert f"3 of 3 videos are not there: {CASES[name].films[0]} and 2 more. 1 zip files are there. Unpack" in problem


@every_video_task
def test_a_link_that_leads_out_of_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    spec, own = filled(name, tmp_path / "data")
    place = own / CASES[name].films[0]
    place.rename(tmp_path / "elsewhere.mp4")
    os.symlink(tmp_path / "elsewhere.mp4", place)
    [problem] = missing(spec)
    assert "leads out of the folder of the videos. Put the file itself there" in problem


@every_video_task
def test_the_hubs_cache_is_refused_before_anything_is_downloaded(name: str) -> None:
    [problem] = missing(TaskSpec(name, "hub", "native"))
    assert "data: hub cannot be used, as videos have to be unpacked. Name a folder, after: hf download" in problem


@every_video_task
def test_another_video_is_other_data(name: str, tmp_path: Path) -> None:
    spec, own = filled(name, tmp_path)
    before = data_digest(spec)
    write_film(own / CASES[name].films[2], frames=9, codec="mpeg4")
    assert data_digest(spec) != before


def test_video_mme_takes_other_endings(tmp_path: Path, oracle: Any) -> None:
    spec, own = filled("videomme", tmp_path)
    (own / "data/clip2.mp4").rename(own / "data/clip2.mkv")
    assert missing(spec) == [] and evaluate(oracle(), spec).value == 100


# ---- its answers -----------------------------------------------------------------------------------------------------


def result(name: str, tmp_path: Path, oracle: Any, said: list[str]) -> Any:
    spec, _ = filled(name, tmp_path)
    texts = iter(said)
    return evaluate(oracle(lambda doc, context: next(texts)), spec)


def test_video_mme_reads_letters_as_lmms_eval_does(tmp_path: Path, oracle: Any) -> None:
    """The right ones are A, C, B and D."""
    found = result("videomme", tmp_path, oracle, ["The answer is A.", "(C)", "", "I see nothing"])
    assert [sample["reading"] for sample in found.samples] == ["A", "C", "", ""]
    assert found.value == 50 and found.extra["short"] == 100 and found.extra["long"] == 0
    assert found.extra["unread"] == 2


def test_mvbench_leaves_empty_answers_out_and_the_value_that_counts_them_is_beside_it(
    tmp_path: Path, oracle: Any
) -> None:
    """The right ones are A, B, C and A."""
    found = result("mvbench_moving_direction", tmp_path, oracle, ["(A)", "(A) Down", "", ""])
    assert found.value == 50 and found.metric == "mvbench_accuracy"
    assert found.extra == {"empty": 2, "empty_wrong": 25}


def test_mvbench_without_any_answer_is_zero() -> None:
    task, docs = get_task("mvbench_moving_direction"), CASES["mvbench_moving_direction"].documents
    scores = task.score([Answer(doc, "") for doc in docs], "native")
    assert scores.value == 0 and scores.extra["empty"] == 4


@every_video_task
def test_questions_about_one_video_are_drawn_together(name: str, tmp_path: Path, oracle: Any) -> None:
    spec, _ = filled(name, tmp_path)
    samples = evaluate(oracle(), spec).samples
    statistic = get_task(name).statistic("native", samples)
    assert len({statistic.unit(sample) for sample in samples}) == 3


def test_a_question_text_of_its_own_goes_to_the_model_class_that_has_one(tmp_path: Path) -> None:
    spec, _ = filled("videomme", tmp_path)
    doc = CASES["videomme"].documents[0]
    texts = {name: build(spec, name).doc_to_text(doc) for name in (None, "qwen2_5_vl", "qwen3_vl")}
    assert texts[None] == texts["qwen2_5_vl"] and texts[None].startswith("Select the best answer")
    assert (
        texts["qwen3_vl"].startswith("Question: What happens") and "Answer with the option letter" in texts["qwen3_vl"]
    )


def test_a_question_file_of_another_kind_is_one_line(tmp_path: Path) -> None:
    spec, own = filled("mvbench_moving_direction", tmp_path)
    file = own / "json/moving_direction.json"
    for content, words in (("{}", "not a list of questions"), ("[1]", "not a list of questions"), ("[", "not JSON")):
        file.write_text(content)
        [problem] = missing(spec)
        assert f"{file}: {words}. Get it again with: hf download" in problem
    with pytest.raises(UserError, match="not JSON"):
        build(spec)
