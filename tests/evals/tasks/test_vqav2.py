"""VQAv2's soft accuracy under each protocol, worked out by hand, and compared with lmms-eval's own function."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from evals.tasks import TaskSpec, evaluate, missing, remarks
from evals.tasks.base import Answer
from evals.tasks.data import rows_of
from evals.tasks.vqav2 import VQAv2Test, VQAv2Val
from evals.tasks.vqav2_questions import ARCHIVE, PART, WHOLE
from tests.evals.tasks.layout import put
from tests.evals.tasks.table import CASES, SHORT

TASK = VQAv2Val()


def doc_of(*texts: str) -> dict[str, Any]:
    """A document in which people gave these answers."""
    said = [{"answer": text, "answer_confidence": "yes", "answer_id": place} for place, text in enumerate(texts, 1)]
    return {"question_id": 1, "question": "What is it?", "answers": said}


@pytest.mark.parametrize(
    ("text", "reference", "llava", "lmms_eval"),
    [
        ("Frisbee", "frisbee", 1, 1),
        ("the frisbee.", "frisbee", 1, 1),
        ("Two", "2", 1, 1),
        ("red,blue", "redblue", 1, 0),  # EvalAI removes every comma, the part of lmms-eval puts a space there
        ("red,blue", "red blue", 0, 1),
        ("man's", "man 's", 1, 0),
        ("table\ntop", "table top", 1, 1),
        ("no", "yes", 0, 0),
        ("", "yes", 0, 0),
    ],
)
def test_each_protocol_has_its_own_normalisation(text: str, reference: str, llava: float, lmms_eval: float) -> None:
    from lmms_eval.tasks.vqav2 import utils

    said = [Answer(doc_of(*[reference] * 10), text)]
    assert TASK.score(said, "llava").samples == (llava,)
    assert TASK.score(said, "lmms-eval").samples == TASK.score(said, "native").samples == (lmms_eval,)
    found = utils.vqav2_process_results_val(copy.deepcopy(said[0].doc), [text])
    assert found == {"exact_match": lmms_eval}


def test_the_value_is_lmms_evals_own_on_odd_answers() -> None:
    from lmms_eval.tasks.vqav2 import utils

    docs = [
        doc_of(*["yes"] * 2, *["no"] * 8),
        doc_of(*["Yes."] * 3, *["no, it isn't"] * 7),
        doc_of("2", "two", "Two ", "2.", *["3"] * 6),
        doc_of(*["10:30"] * 4, *["half past ten"] * 6),
        doc_of(*["black/white"] * 9, "black and white"),
        doc_of("1,000", "1000", *["dont know"] * 8),
    ]
    for text in ("yes", "No, it isn't", " two\n", "10:30", "black/white", "black white", "don't know", "1,000", ""):
        said = [Answer(doc, text) for doc in docs]
        official = [utils.vqav2_process_results_val(copy.deepcopy(doc), [text])["exact_match"] for doc in docs]
        result = TASK.score(said, "lmms-eval")
        assert result.samples == pytest.approx(official, abs=1e-15), text
        assert result.value == pytest.approx(100 * fmean(official), rel=1e-14, abs=1e-12)
    # Two people say yes: (2 x 1/3 + 8 x 2/3) / 10. Three do: (3 x 2/3 + 7 x 1) / 10.
    assert TASK.score([Answer(docs[0], "yes"), Answer(docs[1], "yes")], "llava").samples == pytest.approx((0.6, 0.9))


def test_scoring_leaves_the_document_as_it_is(data_folder: Path) -> None:
    doc = doc_of(*["A Frisbee."] * 10)
    before = copy.deepcopy(doc)
    assert TASK.score([Answer(doc, "frisbee")], "lmms-eval").value == 100 and doc == before


def test_questions_about_one_image_are_one_unit(data_folder: Path, oracle: Any) -> None:
    samples = evaluate(oracle(), TaskSpec("vqav2_val", str(data_folder))).samples
    assert {sample["image_key"] for sample in samples} == {"262148"}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (None, "0 of at least 4 references"),
        (doc_of("a", "b")["answers"], "2 of at least 4 references"),
        ([{"answer": None, "answer_id": 1}] * 10, "not a list of texts"),
        ([{"answer_id": 1}] * 10, "not a list of texts"),
        (["yes"] * 10, "not a list of answers, each with the field 'answer'"),
    ],
)
def test_a_row_that_cannot_be_scored_is_named(said: Any, words: str) -> None:
    found = TASK.row_problem({**doc_of(), "answers": said})
    assert found is not None and found[0] == "answers" and words in found[1]
    assert TASK.row_problem(doc_of(*["a"] * 4)) is None


def test_only_the_files_of_one_split_are_read(tmp_path: Path) -> None:
    """The repository has test-dev and test in the same folder."""
    path = put("vqav2_val", tmp_path / "vqav2", file=CASES["vqav2_val"].file)
    (path.parent / "testdev-00000-of-00001.parquet").write_bytes(b"not read")
    assert missing(TaskSpec("vqav2_val", str(tmp_path))) == []


# ---- the test split ------------------------------------------------------------------------------------------------


def test_the_servers_file_has_normalised_answers_under_llavas_protocol_and_raw_ones_otherwise() -> None:
    from lmms_eval.tasks.vqav2 import utils

    task, texts = VQAv2Test(), ["The frisbee.", "Two", "", "a, b"]
    docs = [{"question_id": 262148000 + place, "question": "What?", "answers": None} for place in range(4)]
    said = [Answer(doc, text) for doc, text in zip(docs, texts, strict=True)]
    made = task.submission(said, "llava")
    assert made.name == "vqav2_test.json" and "830" in made.server
    assert json.loads(made.content) == [
        {"question_id": 262148000, "answer": "frisbee"},
        {"question_id": 262148001, "answer": "2"},
        {"question_id": 262148002, "answer": ""},
        {"question_id": 262148003, "answer": "b"},
    ]
    official = [utils.vqav2_process_results_test(dict(answer.doc), [answer.text])["submission"] for answer in said]
    assert [entry["answer"] for entry in official] == texts
    for protocol in ("lmms-eval", "native"):
        assert json.loads(task.submission(said, protocol).content) == official


@pytest.fixture
def testdev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with VQA's question files, of which one of three questions is in test-dev, and its image."""
    monkeypatch.setenv("HIDROP_CACHE", str(tmp_path / "cache"))
    numbers = [262148000, 262148001, 393225000]
    whole = [{"image_id": n // 1000, "question": f"What is {n}?", "question_id": n} for n in numbers]
    for name, rows in ((WHOLE, whole), (PART, whole[1:2])):
        file = tmp_path / "data/vqav2" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"info": {}, "questions": rows}))
    [second] = [doc for doc in CASES["vqav2_test"].documents if doc["question_id"] == numbers[1]]
    put("vqav2_test", tmp_path / "data/vqav2", [second], file="data/testdev-00000-of-00001.parquet")
    return tmp_path / "data"


def test_test_dev_is_asked_and_the_servers_file_has_the_rest_with_empty_answers(testdev: Path, oracle: Any) -> None:
    """As in LLaVA's file: the server refuses one that lacks a question of the test split."""
    spec = TaskSpec("vqav2_test", str(testdev), "llava", "testdev")
    assert missing(spec) == [] and rows_of(spec) == 1
    lm = oracle()
    result = evaluate(lm, spec)
    assert result.n == 1 and lm.contexts == [f"What is 262148001?\n{SHORT}"]
    assert result.samples[0]["image_key"] == "262148"
    [content] = result.files.values()
    assert json.loads(content) == [
        {"question_id": 262148001, "answer": "frisbee"},
        {"question_id": 262148000, "answer": ""},
        {"question_id": 393225000, "answer": ""},
    ]
    assert remarks(spec) == [
        "vqav2_test: 1 rows, but version testdev has 107,394",
        "vqav2_test: 2 more rows of the files are not asked: they are not in test-dev",
    ]


def test_a_limit_leaves_no_question_out_of_the_servers_file(data_folder: Path, oracle: Any) -> None:
    result = evaluate(oracle(), TaskSpec("vqav2_test", str(data_folder)), limit=1)
    [content] = result.files.values()
    assert [entry["answer"] for entry in json.loads(content)] == ["frisbee", ""]
    assert [entry["question_id"] for entry in json.loads(content)] == [262148000, 262148001]


def test_test_dev_names_the_commands_that_get_its_files(tmp_path: Path) -> None:
    [problem] = missing(TaskSpec("vqav2_test", str(tmp_path), "llava", "testdev"))
    assert '--include "data/testdev-*.parquet"' in problem
    assert f"unpack {ARCHIVE} into {tmp_path}/vqav2" in problem


def test_a_question_of_test_dev_without_its_image_is_named(testdev: Path) -> None:
    documents = [{**CASES["vqav2_test"].documents[0], "question_id": 5}]
    put("vqav2_test", testdev / "vqav2", documents, file="data/testdev-00000-of-00001.parquet")
    [problem] = missing(TaskSpec("vqav2_test", str(testdev), "llava", "testdev"))
    assert "row 1 (from 0), column 'question_id': no image '262148001' in data/testdev-*.parquet" in problem


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (WHOLE, None, f"the questions are not complete. Missing: {WHOLE}"),
        (PART, None, f"the questions are not complete. Missing: {PART}"),
        (PART, "{", "not JSON"),
        (PART, "[]", "no list of questions"),
        (PART, '{"questions": []}', "no list of questions"),
        (PART, '{"questions": [{"question_id": "5"}]}', "question 0 (from 0) does not have the fields question_id"),
        (
            PART,
            '{"questions": [{"question_id": 5, "image_id": 1, "question": "What?"}]}',
            f"question 5 of {PART} is not in {WHOLE}. Get both from {ARCHIVE}",
        ),
        (
            "v2_OpenEnded_mscoco_test-old2015_questions.json",
            "{}",
            "not one of VQA's files: v2_OpenEnded_mscoco_test-old",
        ),
    ],
)
def test_question_files_of_another_kind_are_refused_in_a_line(
    name: str, content: str | None, words: str, testdev: Path
) -> None:
    file = testdev / "vqav2" / name
    file.unlink() if content is None else file.write_text(content)
    [problem] = missing(TaskSpec("vqav2_test", str(testdev), "llava", "testdev"))
    assert problem.startswith("vqav2_test: ") and words in problem


def test_the_repository_as_a_whole_serves_all_splits(testdev: Path) -> None:
    files = {"vqav2_val": "validation", "vqav2_test": "test"}
    for name, split in files.items():
        put(name, testdev / "vqav2", file=f"data/{split}-00000-of-00001.parquet")
    specs = [*(TaskSpec(name, str(testdev)) for name in files), TaskSpec("vqav2_test", str(testdev), version="testdev")]
    assert [missing(spec) for spec in specs] == [[]] * 3
    assert [rows_of(spec) for spec in specs] == [2, 2, 1]
