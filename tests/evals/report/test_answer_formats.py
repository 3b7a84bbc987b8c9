"""Published answers in each form, written by hand, and the documents that they are matched with."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from evals.report.answer_formats import read_lines, read_prompts
from evals.report.answers_file import Matched, bare, read_answers
from evals.tasks import get_task
from hidrop.errors import UserError
from tests.evals.report.agreeing import compare, refused
from tests.evals.tasks.table import CASES, LETTER, PICTURES

Row = dict[str, Any]
Lines = Callable[..., Path]
SQA, MMB = "scienceqa_img", "mmbench_en_dev"


def prompt_of(doc: Row) -> str:
    return f"<image>\n{get_task(SQA).question(doc)}"


# ---- ScienceQA: LLaVA's answers, output and result -----------------------------------------------------------------

# Three questions with an image, whose right answers are B, A and E, between two without one.
IDS = {"11": "B", "20": "The answer is A.", "31": "C"}
TEXT_ONLY = {"4": "Which word rhymes?\nA. hat\nB. dog", "15": "Is it a plant?\nA. yes\nB. no"}


def prompts() -> dict[str, str]:
    asked = {id: f"{text}\n{LETTER}" for id, text in TEXT_ONLY.items()}
    return asked | {id: prompt_of(doc) for id, doc in zip(IDS, CASES[SQA].documents, strict=True)}


def as_answers() -> list[Row]:
    said = IDS | dict.fromkeys(TEXT_ONLY, "A")
    return [{"question_id": id, "prompt": prompt, "text": said[id]} for id, prompt in prompts().items()]


def as_output(**parsed: str) -> Row:
    """What LLaVA's script writes about these answers. `parsed`: other parsed answers than LLaVA's."""
    right = dict(zip(IDS, "BAE", strict=True)) | {"4": "A", "15": "B"}
    found: dict[str, list[Row]] = {"correct": [], "incorrect": []}
    for row in as_answers():
        id = row["question_id"]
        letter = parsed.get(f"q{id}", "A" if id == "20" else row["text"])
        entry = {"question_id": id, "parsed_ans": letter, "ground_truth": right[id], "question": row["prompt"]}
        entry |= {"pred": row["text"], "is_multimodal": id in IDS}
        found["correct" if letter == right[id] else "incorrect"].append(entry)
    unasked = {"question_id": "40", "parsed_ans": "FAILED", "ground_truth": "A", "question": "Unknown"}
    found["incorrect"].append(unasked | {"pred": "FAILED", "is_multimodal": False})
    return found


def as_result(**places: int) -> Row:
    outputs = {row["question_id"]: row["text"] for row in as_answers()}
    results = {"11": 1, "20": 0, "31": 2, "4": 0, "15": 0} | {name[1:]: place for name, place in places.items()}
    return {"acc": 60.0, "correct": 3, "count": 5, "results": results, "outputs": outputs}


@pytest.fixture
def run(journal: Callable[..., Path], data_folder: Path) -> Sequence[Any]:
    """A run that says B, B and E: right, wrong, right."""
    return ("--run", journal(SQA, ["B", "B", "E"]), "--data", data_folder)


@pytest.fixture
def document(tmp_path: Path) -> Callable[..., Path]:
    def write(content: Any, name: str) -> Path:
        (tmp_path / name).write_text(json.dumps(content, indent=2))
        return tmp_path / name

    return write


@pytest.mark.parametrize("form", ["answers", "output", "result"])
def test_scienceqa_is_read_in_each_form_that_llava_writes(
    form: str, run: Sequence[Any], lines: Lines, document: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    answers, more = lines(as_answers()), ()
    if form == "output":  # HiDrop's repository calls it .jsonl
        answers = document(as_output(), "run_output.jsonl")
    if form == "result":
        answers, more = document(as_result(), "run_result.json"), ("--questions", answers)
    found, text = compare(capsys, "--answers", answers, *run, *more)
    assert (found["matched"], found["text_only"], found["only_published"], found["ambiguous"]) == (3, 2, 0, 0)
    # Published B, A, C and run B, B, E; right are B, A, E.
    assert found["published_value"] == found["our_value"] == pytest.approx(200 / 3)
    assert (found["same_reading"], found["same_text"], found["gained"], found["lost"]) == (1, 1, 1, 1)
    assert [(flip["doc_id"], flip["published"], flip["ours"], flip["target"]) for flip in found["flips"]] == [
        (1, "The answer is A.", "B", "A"),
        (2, "C", "E", "E"),
    ]
    assert found["scored_otherwise"] == 0 and found["prompts"]["same"] == 3
    assert "2 published answers are left out: their questions have no image" in text
    assert "scored differently" not in text


@pytest.mark.parametrize("form", ["output", "result"])
def test_a_publisher_who_scores_by_another_rule_is_told(
    form: str, run: Sequence[Any], lines: Lines, document: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Here for "The answer is A.": as if nothing was found in it."""
    content = as_output(q20="FAILED") if form == "output" else as_result(q20=-1)
    more = () if form == "output" else ("--questions", lines(as_answers()))
    found, text = compare(capsys, "--answers", document(content, "other.json"), *run, *more)
    assert found["scored_otherwise"] == 1 and found["published_value"] == pytest.approx(200 / 3)
    assert "1 published answers are scored differently in the published file itself" in text


def test_a_result_without_questions_needs_a_file_that_has_them(
    run: Sequence[Any], lines: Lines, document: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    result = document(as_result(), "result.json")
    assert "it has no questions, only their ids" in refused(capsys, "--answers", result, *run)
    few = lines([row for row in as_answers() if row["question_id"] != "31"], "few.jsonl")
    told = refused(capsys, "--answers", result, *run, "--questions", few)
    assert "question 31 is not in" in told and "(1 of 5 are not)" in told
    talks = [
        {"id": id, "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "The answer is A."}]}
        for id, text in prompts().items()
    ]
    asked = document(talks, "llava_test_CQM-A.json")
    assert read_prompts(asked) == prompts()
    assert compare(capsys, "--answers", result, *run, "--questions", asked)[0]["matched"] == 3
    asked = document([{"id": "4"}], "wrong.json")
    assert "entry 0 (from 0) has no 'id' and 'conversations'" in refused(
        capsys, "--answers", result, *run, "--questions", asked
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"correct": 3, "incorrect": []}, "'correct' is not a list"),
        ({"correct": [], "incorrect": [{"question_id": "4"}]}, "'incorrect', entry 0 (from 0) has no texts"),
        ({"results": {}, "outputs": {"4": None}}, "'outputs' is not a table of texts"),
    ],
)
def test_a_document_of_another_form_is_refused(content: Row, words: str, document: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=words.replace("(", r"\(").replace(")", r"\)")):
        read_lines(document(content, "a.json"))


# ---- ScienceQA: questions that differ in their image only ----------------------------------------------------------


def colonies(answers: Sequence[int], others: int = 8) -> dict[int, Row]:
    """Questions with one wording and these right answers, with other questions before and after each of them."""
    colony = {"question": "Which colony is shown?", "choices": ["Maine", "Ohio", "Utah"], "hint": ""}
    found: list[Row] = []
    for number in range(others):
        found.append({"question": f"Is it {number}?", "choices": ["yes", "no"], "answer": 0, "hint": ""})
        if number % 3 == 1 and number // 3 < len(answers):
            found.append({**colony, "answer": answers[number // 3]})
    return dict(enumerate(found))


def said_about(docs: dict[int, Row], texts: dict[int, str], order: Sequence[int] | None = None) -> list[Row]:
    """Answers to these documents, A unless `texts` has another one. The ids rise with the place in `order`."""
    places = list(docs) if order is None else order
    return [
        {"question_id": str(7 * place), "prompt": prompt_of(docs[doc]), "text": texts.get(doc, "A")}
        for place, doc in enumerate(places)
    ]


def texts_of(found: Matched) -> dict[int, str]:
    return {doc: one.text for doc, one in found.answers.items()}


def test_equal_questions_are_matched_by_an_order_that_the_others_confirm(lines: Lines) -> None:
    docs = colonies([0, 2])  # documents 2 and 6
    rows = said_about(docs, {2: "B", 6: "C"})
    found = read_answers(lines(reversed(rows)), None, SQA, docs)  # the order of the ids counts, not the file's
    assert found.ambiguous == 0 and texts_of(found) == dict.fromkeys(docs, "A") | {2: "B", 6: "C"}


@pytest.mark.parametrize("why", ["another order", "one pair", "few others", "one more", "between others"])
def test_equal_questions_without_a_confirmed_order_are_left_out(why: str, lines: Lines) -> None:
    docs, order = colonies([0, 2], others=7 if why == "few others" else 8), None
    texts, places = {2: "B", 6: "C"}, list(docs)
    if why == "another order":
        order = places[::-1]
    elif why == "one pair":  # two of the others have changed places
        order = [1, 0, *places[2:]]
    elif why == "between others":  # both colonies come before the others in the published file
        order = [2, 6, *(place for place in places if place not in texts)]
    rows = said_about(docs, texts, order)
    if why == "one more":
        rows.append({**rows[2], "question_id": "999"})
    found = read_answers(lines(rows), None, SQA, docs)
    assert found.ambiguous == 2 + (why == "one more") and found.lost == 0
    assert set(found.answers) == set(docs) - {2, 6}


def test_equal_answers_to_equal_questions_need_no_order(lines: Lines) -> None:
    docs = colonies([0, 2])
    found = read_answers(lines(said_about(docs, {2: "B", 6: "B"}, list(docs)[::-1])), None, SQA, docs)
    assert found.ambiguous == 0 and texts_of(found)[2] == texts_of(found)[6] == "B"


@pytest.mark.parametrize(("answers", "ambiguous"), [([0, 2], 0), ([2, 2], 2)])
def test_the_right_answers_of_the_output_tell_equal_questions_apart(
    answers: list[int], ambiguous: int, document: Callable[..., Path]
) -> None:
    docs = colonies(answers)
    entries = [
        {
            "question_id": row["question_id"],
            "parsed_ans": row["text"],
            "ground_truth": "ABC"[docs[doc]["answer"]],
            "question": row["prompt"],
            "pred": row["text"],
            "is_multimodal": True,
        }
        for doc, row in zip(reversed(docs), said_about(docs, {2: "B", 6: "C"}, list(docs)[::-1]), strict=True)
    ]
    found = read_answers(document({"correct": entries, "incorrect": []}, "output.jsonl"), None, SQA, docs)
    assert found.ambiguous == ambiguous
    if not ambiguous:
        assert (texts_of(found)[2], texts_of(found)[6]) == ("B", "C")


def test_what_is_left_out_is_told_and_counted(
    tmp_path: Path,
    lines: Lines,
    journal: Callable[..., Path],
    write_parquet: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    docs = colonies([0, 2])
    rows = [{**doc, "image": PICTURES[place % 4]} for place, doc in docs.items()]
    write_parquet(rows, tmp_path / "data/scienceqa/test.parquet")
    run = ("--run", journal(SQA, ["A"] * len(docs), data=tmp_path / "data"), "--data", tmp_path / "data")
    said = said_about(docs, {2: "B", 6: "C"}, list(docs)[::-1])
    said.append({"question_id": "1000", "prompt": "<image>\nIs it far?\nA. yes\nB. no", "text": "A"})
    found, text = compare(capsys, "--answers", lines(said), *run)
    assert (found["matched"], found["ambiguous"], found["only_published"], found["only_ours"]) == (8, 2, 1, 2)
    assert "2 published answers are left out: several documents have the same question and options" in text
    only = lines([row for row in said if "colony" in row["prompt"]], "colonies.jsonl")
    told = refused(capsys, "--answers", only, *run)
    assert f"none of its 2 answers matches a question of {SQA} by question and options" in told
    assert "2 match several" in told


def test_a_second_answer_to_a_question_is_refused(lines: Lines) -> None:
    docs = colonies([])
    rows = said_about(docs, {})
    with pytest.raises(UserError, match="line 9: a second answer to question 0"):
        read_answers(lines([*rows, rows[0]]), None, SQA, docs)


def test_space_and_capital_letters_do_not_make_another_question(lines: Lines) -> None:
    docs = colonies([])
    rows = said_about(docs, {})
    rows[0]["prompt"] = "<image>\n is  IT 0? \nA. Yes\n\nB. no"
    assert set(read_answers(lines(rows), None, SQA, docs).answers) == set(docs)


# ---- MMBench -------------------------------------------------------------------------------------------------------

CHINESE = "请直接回答选项字母。"


def rotations(chinese: bool) -> list[Row]:
    """The table's two questions with three and two rotations, in the order of the run's documents."""
    found = [{**doc, "question": "哪一个"} if chinese else dict(doc) for doc in CASES[MMB].documents]
    return sorted(found, key=lambda doc: (doc["index"] % 1_000_000, doc["index"]))


# The right letters are A, C, B and A, B. The published run has one rotation of the first question wrong.
SAID = ["A", "C", "C", "A", "B"]


@pytest.fixture
def mmbench(tmp_path: Path, journal: Callable[..., Path], write_parquet: Callable[..., None]) -> Callable[..., Any]:
    def write(chinese: bool) -> Sequence[Any]:
        data = tmp_path / "data"
        write_parquet(rotations(chinese), data / "mmbench/dev.parquet")
        return ("--run", journal(MMB, ["A", "C", "B", "A", "A"], data=data), "--data", data)

    return write


def sheet(path: Path, heads: Sequence[str], rows: Sequence[Row]) -> Path:
    from openpyxl import Workbook

    book = Workbook()
    assert book.active is not None
    book.active.append(list(heads))
    for row in rows:
        book.active.append([row.get(head) for head in heads])
    book.save(path)
    return path


def told(found: Row) -> None:
    """What follows from SAID and a run whose last rotation of the second question is wrong."""
    assert found["matched"] == 5 and found["metric"] == "circular_accuracy"
    assert found["published_value"] == found["our_value"] == 50
    assert (found["same_reading"], found["gained"], found["lost"]) == (3, 1, 1)
    assert found["prompts"]["same"] == 5 and found["verdict"]["images"] == 2


@pytest.mark.parametrize("chinese", [False, True])
@pytest.mark.parametrize("last_line", [False, True])
def test_mmbenchs_answers_are_found_by_their_index(
    chinese: bool, last_line: bool, mmbench: Any, lines: Lines, capsys: pytest.CaptureFixture[str]
) -> None:
    run = mmbench(chinese)
    task, rows = get_task(MMB), []
    for doc, text in zip(rotations(chinese), SAID, strict=True):
        prompt = bare(task.question(doc)) + (f"\n{CHINESE if chinese else LETTER}" if last_line else "")
        rows.append({"question_id": doc["index"], "round_id": 0, "prompt": prompt, "text": text})
    told(compare(capsys, "--answers", lines(rows), *run)[0])


@pytest.mark.parametrize("chinese", [False, True])
def test_mmbenchs_upload_is_found_by_its_index(
    chinese: bool, mmbench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = mmbench(chinese)
    rows = [doc | {"prediction": text} for doc, text in zip(rotations(chinese), SAID, strict=True)]
    heads = ["index", "question", *"ABCD", *([] if chinese else ["answer"]), "prediction"]
    told(compare(capsys, "--answers", sheet(tmp_path / "upload.xlsx", heads, rows), *run)[0])


def test_what_other_tools_write_about_mmbench_is_read(
    mmbench: Any, tmp_path: Path, lines: Lines, capsys: pytest.CaptureFixture[str]
) -> None:
    """VLMEvalKit's tables have all columns of the data, in any capitals."""
    run, docs = mmbench(False), rotations(False)
    rows = [{**doc, "INDEX": doc["index"], "Prediction": text} for doc, text in zip(docs, SAID, strict=True)]
    heads = ["INDEX", "question", "hint", *"ABCD", "answer", "category", "l2-category", "split", "Prediction"]
    told(compare(capsys, "--answers", sheet(tmp_path / "model_MMBench_DEV_EN.xlsx", heads, rows), *run)[0])
    firsts = [row for row in rows if row["index"] < 1_000_000]
    found, text = compare(capsys, "--answers", sheet(tmp_path / "result.xlsx", heads, firsts), *run)
    assert (found["matched"], found["only_ours"], found["incomplete"]) == (2, 3, 2)
    assert "2 questions with all their rotations are incomplete: the score is of what both sides have" in text


def samples(*, named: bool, docs: Sequence[Row]) -> list[Row]:
    """What lmms-eval logs of these documents, with SAID. `named`: with the fields of MMBench's metrics."""
    found = []
    for number, (doc, text) in enumerate(zip(docs, SAID, strict=True)):
        hint = "" if named else f"{doc['hint']} "
        prompt = f"{hint}{doc['question']} There are several options:\nA. {doc['A']}\nB. {doc['B']}\n"
        metric = {"gpt_eval_score": {"index": doc["index"], "question": doc["question"], "prediction": text}}
        row = {"doc_id": number, "target": doc["answer"], "filtered_resps": text, "doc_hash": "0" * 64, "input": prompt}
        found.append({**row, "token_counts": [None]} | (metric if named else {}))
    return found


@pytest.mark.parametrize("named", [True, False])
def test_samples_of_lmms_eval_are_found_by_the_id_or_the_place(
    named: bool, mmbench: Any, lines: Lines, capsys: pytest.CaptureFixture[str]
) -> None:
    run, docs = mmbench(False), rotations(False)
    rows = samples(named=named, docs=docs)
    if named:  # another order, and a chat of messages without a prompt
        rows = [{**row, "doc_id": 4 - row["doc_id"]} for row in rows]
        rows[0]["input"] = {"until": []}
    found, text = compare(capsys, "--answers", lines(rows), *run)
    assert (found["matched"], found["only_published"], found["same_reading"]) == (5, 0, 3)
    assert found["published_value"] == found["our_value"] == 50 and found["incomplete"] == 0
    assert "prompts not compared: the published ones are lmms-eval's, and the run's protocol is llava" in text
    rows[1]["input"] = "Another question"
    assert compare(capsys, "--answers", lines(rows), *run)[0]["only_published"] == 1
    rows[1]["filtered_resps"] = [["-1.5", "True"], ["-2.5", "False"]]
    assert "Tasks that compare likelihoods have no answers" in refused(capsys, "--answers", lines(rows), *run)


def test_further_rounds_of_llavas_script_are_left_out(
    mmbench: Any, lines: Lines, capsys: pytest.CaptureFixture[str]
) -> None:
    run, task, rows = mmbench(False), get_task(MMB), []
    for doc, text in zip(rotations(False), SAID, strict=True):
        row = {"question_id": doc["index"], "prompt": bare(task.question(doc)), "text": text}
        rows += [{**row, "round_id": number, "options": [], "option_char": []} for number in (0, 1)]
    found, text = compare(capsys, "--answers", lines(rows), *run)
    told(found)
    assert found["further"] == 5 and "5 published answers are left out: further rounds" in text


def test_an_upload_of_other_options_has_other_prompts(
    mmbench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = mmbench(False)
    rows = [doc | {"prediction": "A", "B": "violet"} for doc in rotations(False)]
    found, _ = compare(
        capsys, "--answers", sheet(tmp_path / "u.xlsx", ["index", "question", *"ABCD", "prediction"], rows), *run
    )
    assert found["prompts"]["other"] == 5


def test_an_upload_that_is_not_one_is_refused(tmp_path: Path) -> None:
    heads = ["index", "question", "prediction"]
    (tmp_path / "torn.xlsx").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match="not an .xlsx table that can be read"):
        read_lines(tmp_path / "torn.xlsx")
    with pytest.raises(UserError, match="no column 'prediction'. It has: index, question"):
        read_lines(sheet(tmp_path / "a.xlsx", heads[:2], []))
    with pytest.raises(UserError, match="row 3: index 'x' is not a whole number"):
        read_lines(sheet(tmp_path / "b.xlsx", heads, [{"index": 1}, {"index": "x"}]))
    [line] = read_lines(sheet(tmp_path / "c.xlsx", heads, [{"index": 7.0, "question": "Which?"}]))
    assert (line.id, line.text, line.prompt) == ("7", "", "Which?")
