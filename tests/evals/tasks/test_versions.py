"""Versions of a task's data: the sets that published numbers belong to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from evals.tasks import TaskSpec, data_digest, evaluate, missing, remarks
from evals.tasks.base import LLAVA, LMMS_EVAL
from evals.tasks.build import build
from evals.tasks.data import locate, rows_of
from hidrop.errors import UserError

MMB, POPE = "20230712", "llava"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HIDROP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def mmbench(tmp_path: Path, make_rows: Any, write_parquet: Any) -> Path:
    """A data folder with both versions of MMBench; the older has one question and its column in lower case."""
    rows = make_rows("mmbench_en_dev")
    write_parquet(rows, tmp_path / "data/mmbench/en/dev-00000-of-00001.parquet")
    old = [{k.lower() if k == "L2-category" else k: v for k, v in row.items()} for row in rows]
    old = [row for row in old if row["index"] % 1_000_000 == 7]
    write_parquet(old, tmp_path / "data/mmbench_20230712/data/dev-00000-of-00001.parquet")
    return tmp_path / "data"


def question(number: int, image: str, text: str, label: str) -> dict[str, Any]:
    return {"question_id": number, "image": f"{image}.jpg", "text": text, "label": label}


@pytest.fixture
def pope(tmp_path: Path, make_rows: Any, write_parquet: Any) -> Path:
    """A data folder with POPE's images, and POPE's own question files: two, two and one questions."""
    write_parquet(make_rows("pope"), tmp_path / "data/pope/data/test-00000-of-00001.parquet")
    cup, mat = "Is there a cup in the image?", "Is there a mat in the image?"
    both = [question(1, "COCO_0", cup, "yes"), question(2, "COCO_1", mat, "no")]
    for category, rows in {"adversarial": both, "popular": both, "random": both[:1]}.items():
        file = tmp_path / f"data/pope/coco/coco_pope_{category}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data"


@pytest.mark.parametrize("protocol", [LLAVA, LMMS_EVAL])
def test_mmbench_20230712_is_read_with_its_own_column(protocol: str, mmbench: Path, oracle: Any) -> None:
    old = TaskSpec("mmbench_en_dev", str(mmbench), protocol, MMB)
    new = TaskSpec("mmbench_en_dev", str(mmbench), protocol)
    assert missing(old) == missing(new) == []
    assert (rows_of(old), rows_of(new)) == (3, 5)
    assert data_digest(old) != data_digest(new)
    result = evaluate(oracle(), old)
    assert (result.n, result.value) == (3, 100)
    assert {sample["category"] for sample in result.samples} == {"attribute"}


def test_llavas_pope_has_its_own_questions_and_the_images_of_the_parquet_files(pope: Path, oracle: Any) -> None:
    spec = TaskSpec("pope", str(pope), LLAVA, POPE)
    assert missing(spec) == [] and rows_of(spec) == 5
    asked = [(doc["category"], doc["question"], doc["answer"]) for doc in build(spec).eval_docs_no_media]
    assert asked[:2] == [
        ("adversarial", "Is there a cup in the image?", "yes"),
        ("adversarial", "Is there a mat in the image?", "no"),
    ]
    assert [category for category, *_ in asked] == ["adversarial"] * 2 + ["popular"] * 2 + ["random"]
    lm = oracle(lambda doc, context: "Yes")
    result = evaluate(lm, spec)
    # One hit and one false alarm give F1 2/3, twice; one hit alone gives 1.
    assert result.n == 5 and result.value == pytest.approx(100 * (2 / 3 + 2 / 3 + 1) / 3)
    assert [sample["image_key"] for sample in result.samples] == ["COCO_0", "COCO_1", "COCO_0", "COCO_1", "COCO_0"]
    usual = oracle(lambda doc, context: "Yes")
    evaluate(usual, TaskSpec("pope", str(pope), LLAVA))
    assert lm.colours == [usual.colours[0], usual.colours[1]] * 2 + usual.colours[:1]


def test_the_digest_is_that_of_the_question_files_and_the_conversion_is_made_once(pope: Path, cache: Path) -> None:
    spec = TaskSpec("pope", str(pope), LLAVA, POPE)
    first, [made] = data_digest(spec), locate(spec).questions
    assert list(cache.iterdir()) == [made] and [path.suffix for path in locate(spec).originals] == [".json"] * 3
    made.unlink()
    assert data_digest(spec) == first
    file = pope / "pope/coco/coco_pope_random.json"
    file.write_text(file.read_text().replace("yes", "no"))
    assert data_digest(spec) != first and locate(spec).questions != (made,)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"{", "line 3 is not JSON"),
        (b"\xff\xfe", "line 3 is not JSON"),
        (b"[1]", "line 3: not a question of POPE, which has the fields question_id, image, text, label"),
        (b'{"question_id": 1, "image": "a.jpg", "text": "Is it?"}', "line 3: not a question of POPE"),
        (
            b'{"question_id": 1, "image": "a.jpg", "text": "Is it?", "label": "maybe"}',
            "label 'maybe' is neither yes nor",
        ),
    ],
)
def test_a_question_file_of_another_kind_is_told_with_its_line(line: bytes, told: str, pope: Path) -> None:
    file = pope / "pope/coco/coco_pope_adversarial.json"
    file.write_bytes(file.read_bytes() + line + b"\n")
    [problem] = missing(TaskSpec("pope", str(pope), LLAVA, POPE))
    assert problem.startswith(f"pope: {file}: ") and told in problem


@pytest.mark.parametrize("kind", ["absent", "other", "empty", "folder", "pipe"])
def test_question_files_are_three_regular_files_with_questions_or_refused(kind: str, pope: Path) -> None:
    folder, spec = pope / "pope/coco", TaskSpec("pope", str(pope), LLAVA, POPE)
    file = folder / "coco_pope_random.json"
    if kind == "other":
        (folder / "coco_pope_random_old.json").write_bytes(file.read_bytes())
    else:
        file.unlink()
    if kind == "empty":
        file.write_text("\n")
    elif kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    told = {
        "absent": f"{folder}: the questions are not complete. Missing: coco_pope_random.json",
        "other": f"{folder}: not one of POPE's files: coco_pope_random_old.json",
        "empty": f"{file}: no questions",
        "folder": f"{file}: cannot be read: Is a directory",
        "pipe": f"{file}: cannot be read: it is a pipe or a device, not a regular file",
    }
    [problem] = missing(spec)
    assert problem.startswith(f"pope: {told[kind]}. ") and "Get it again with: hf download" in problem
    with pytest.raises(UserError, match="coco"):
        data_digest(spec)


def test_a_cache_folder_that_cannot_be_written_is_told(pope: Path, cache: Path) -> None:
    cache.write_text("a file")
    [problem] = missing(TaskSpec("pope", str(pope), LLAVA, POPE))
    assert problem.startswith(f"pope: {cache}") and "hf download" not in problem


def test_missing_files_of_a_version_are_named_with_what_gets_them(tmp_path: Path, pope: Path) -> None:
    [problem] = missing(TaskSpec("mmbench_en_dev", str(tmp_path), LLAVA, MMB))
    assert f'lmms-lab/MMBench_EN --include "data/dev-*.parquet" --local-dir {tmp_path}/mmbench_20230712' in problem
    folder = tmp_path / "nowhere"
    [problem] = missing(TaskSpec("pope", str(folder), LLAVA, POPE))
    assert (
        f'POPE --include "data/test-*.parquet" --local-dir {folder}/pope (about 255 MB), and put the folder' in problem
    )
    assert "coco_pope_*.json" in problem and problem.endswith(
        f"e3e39262c85a6a83f26cf5094022a782cb0df58d to {folder}/pope/coco"
    )
    for file in (pope / "pope/data").iterdir():
        file.unlink()
    [problem] = missing(TaskSpec("pope", str(pope), LLAVA, POPE))
    assert "has no column 'image' and pope/data/test-*.parquet is not there" in problem


def test_the_number_of_rows_is_compared_with_that_of_the_version(mmbench: Path, pope: Path) -> None:
    assert remarks(TaskSpec("mmbench_en_dev", str(mmbench), LLAVA, MMB)) == [
        "mmbench_en_dev: 3 rows, but version 20230712 has 4,377"
    ]
    assert remarks(TaskSpec("pope", str(pope), LLAVA, POPE)) == ["pope: 5 rows, but version llava has 8,910"]
    assert remarks(TaskSpec("pope", str(pope), LLAVA)) == ["pope: 6 rows, but the official test has 9,000"]


def test_a_question_without_an_image_is_told_by_the_name_of_its_files(pope: Path) -> None:
    file = pope / "pope/coco/coco_pope_popular.json"
    file.write_text(file.read_text() + json.dumps(question(3, "COCO_9", "Is there a cup in the image?", "no")) + "\n")
    [problem] = missing(TaskSpec("pope", str(pope), LLAVA, POPE))
    place = f"pope: {pope}/pope/coco/coco_pope_*.json: row 4 (from 0), column 'image_source'"
    assert problem.startswith(f"{place}: no image 'COCO_9' in data/test-*.parquet. ")


def test_a_version_on_the_hub_is_downloaded_and_found_in_the_cache_by_agree_too(
    tmp_path: Path, mmbench: Path, oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    from evals.report.agreement_run import Run, read_documents
    from evals.tasks import hub

    def download(repository: str, *, repo_type: str, revision: str | None, allow_patterns: list[str]) -> None:
        assert revision is None
        if repository != "lmms-lab/MMBench_EN":
            raise OSError("no route to host")
        assert allow_patterns == ["data/dev-*.parquet"]
        place = tmp_path / "hub/datasets--lmms-lab--MMBench_EN/snapshots/0123"
        place.mkdir(parents=True, exist_ok=True)
        (mmbench / "mmbench_20230712/data").rename(place / "data")

    hub.fetch.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    spec = TaskSpec("mmbench_en_dev", "hub", LLAVA, MMB)
    assert missing(spec) == []
    assert evaluate(oracle(), spec).value == 100
    assert len(read_documents(Run(Path("run.jsonl"), spec.name, data_digest(spec), {}), "hub").docs) == 3
    hub.fetch.cache_clear()


def test_the_usual_file_of_a_folder_is_not_taken_for_llavas_pope(data_folder: Path) -> None:
    """data_folder has pope/test.parquet, in the embedded layout."""
    assert missing(TaskSpec("pope", str(data_folder), LLAVA)) == []
    assert "coco_pope_*.json" in missing(TaskSpec("pope", str(data_folder), LLAVA, POPE))[0]


@pytest.mark.parametrize(
    ("name", "data", "version", "told"),
    [
        ("pope", "data", "lava", "unknown version 'lava'. Did you mean 'llava'? Known: llava; without it: lmms-lab-"),
        ("gqa", "data", "llava", "There is only the usual one: lmms-lab-encoder/GQA, 12,578 rows"),
        ("mmbench_en_dev", "mini", MMB, "the embedded data has no versions"),
        ("pope", "hub", POPE, "'llava' needs files that are not on the Hub"),
    ],
)
def test_a_version_that_does_not_exist_is_refused_in_words(name: str, data: str, version: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        TaskSpec(name, data, LLAVA, version)
    assert str(caught.value).startswith(f"{name}: version: ") and told in str(caught.value)


def test_a_matrix_selects_a_version_and_refuses_an_unknown_one(tmp_path: Path) -> None:
    from evals.matrix.schema import load_matrix

    text = (
        'protocol: llava\nmodels: {a: {source: "mini:vanilla"}}\nmethods: {vanilla: {}}\n'
        "tasks:\n  mmbench_en_dev: {data: d, version: 20230712}\n  pope: {data: d, version: llava}\n  gqa: {data: d}\n"
    )
    (tmp_path / "own.yaml").write_text(text)
    specs = [cell.task_spec for cell in load_matrix(tmp_path / "own.yaml").cells()]
    assert [(spec.version, spec.source.rows) for spec in specs] == [(MMB, 4377), (POPE, 8910), (None, 12578)]
    (tmp_path / "own.yaml").write_text(text.replace("20230712", "2023"))
    with pytest.raises(UserError, match=r"own\.yaml: tasks\.mmbench_en_dev\.version: unknown version '2023'"):
        load_matrix(tmp_path / "own.yaml")


def test_versions_that_are_there_are_named_among_what_cannot_be_exported(
    tmp_path: Path, mmbench: Path, pope: Path
) -> None:
    from evals.tasks.export import export

    found = export(tmp_path / "tasks", str(mmbench))
    assert found.names == ["hidrop_data_mmbench_en_dev", "hidrop_data_pope"]
    assert found.skipped["mmbench_en_dev (version 20230712)"] == (
        "mmbench_en_dev (version 20230712): lmms-eval does not know its column 'l2-category'. Run it in a matrix"
    )
    assert found.skipped["pope (version llava)"].startswith(
        "pope (version llava): its images are in files of their own"
    )
    for file in (pope / "pope/coco").iterdir():
        file.unlink()
    assert "pope (version llava)" not in export(tmp_path / "tasks", str(pope)).skipped


def test_agree_finds_the_version_that_a_run_has_read(mmbench: Path) -> None:
    from evals.report.agreement_run import Run, read_documents

    for version, count in ((None, 5), (MMB, 3)):
        digest = data_digest(TaskSpec("mmbench_en_dev", str(mmbench), LLAVA, version))
        assert len(read_documents(Run(Path("run.jsonl"), "mmbench_en_dev", digest, {}), str(mmbench)).docs) == count
    with pytest.raises(UserError, match="the run did not read"):
        read_documents(Run(Path("run.jsonl"), "mmbench_en_dev", "other", {}), str(mmbench))
    with pytest.raises(UserError, match="no data in 'nowhere'"):
        read_documents(Run(Path("run.jsonl"), "mmbench_en_dev", "other", {}), "nowhere")
