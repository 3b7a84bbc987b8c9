"""A run compared with a published answers file: matched by id or image, never by order, scored by LLaVA's rule."""

import json

import pytest

from evals import cli
from evals.report.answers_file import read_answers
from evals.store.journal import Journal
from evals.tasks.base import LMMS_EVAL
from evals.tasks.data import TaskSpec, data_digest
from hidrop.errors import UserError
from tests.evals.report.agreeing import compare, refused
from tests.evals.world import ANSWER


def match(answers, questions, task, docs):
    """The published texts by doc_id, and the number of published answers without a document."""
    found = read_answers(answers, questions, task, docs)
    return {doc_id: one.text for doc_id, one in found.answers.items()}, found.lost


SUFFIX = "\nAnswer the question using a single word or phrase."


def published(docs, texts, column):
    return [
        {"question_id": doc[column], "prompt": doc["question"] + SUFFIX, "text": text, "metadata": {}}
        for doc, text in zip(docs, texts, strict=True)
    ]


def table(text):
    """The metrics of the printed table, from the line after its header to the line on readings."""
    rows = text.splitlines()
    first = next(n for n, row in enumerate(rows) if row.split() == ["published", "run"]) + 1
    last = next(n for n, row in enumerate(rows) if "% have the same parsed answer" in row)
    return [row.split()[0] for row in rows[first:last]]


def test_pope_is_scored_by_the_mean_f1_of_its_splits_and_flips_are_told(journal, lines, make_rows, data_folder, capsys):
    docs = make_rows("pope")  # yes and no in each of adversarial, popular, random
    out = journal("pope", ["yes", "yes", "Yes", "No.", "no", "no"])
    theirs = published(docs, ["Yes", "No", "Yes", "No", "Yes", "No"], "question_id")
    answers = lines(reversed(theirs))
    found, text = compare(capsys, "--answers", answers, "--task", "pope", "--run", out, "--data", data_folder)
    assert found["metric"] == "f1" and found["published_value"] == 100
    # adversarial: one hit, one false alarm, F1 2/3; popular: 1; random: nothing found, 0.
    assert found["our_value"] == pytest.approx(100 * (2 / 3 + 1 + 0) / 3)
    assert (found["matched"], found["same_reading"], found["same_text"]) == (6, 4, 1)
    assert [(flip["doc_id"], flip["published"], flip["ours"]) for flip in found["flips"]] == [
        (1, "No", "yes"),
        (4, "Yes", "no"),
    ]
    assert (found["gained"], found["lost"]) == (0, 2)
    assert "66.7 % have the same parsed answer" in text and "2 differ: 0 score higher in the run, 2 lower" in text
    assert table(text) == ["f1", "accuracy", "f1_adversarial", "f1_popular", "f1_random"]


def test_prompts_that_differ_in_capital_letters_are_counted_and_shown(journal, lines, make_rows, data_folder, capsys):
    docs = make_rows("gqa")
    theirs = published(docs, ["red", "no", "2"], "id")
    theirs[1]["prompt"] = "is it BIG?" + SUFFIX
    theirs[2]["prompt"] = "<image>\nHow many?"
    run = ("--run", journal("gqa", ["red", "no", "2"]), "--data", data_folder)
    found, text = compare(capsys, "--answers", lines(theirs), *run)
    prompts = found["prompts"]
    assert (prompts["same"], prompts["capitals"], prompts["other"], prompts["unknown"]) == (1, 1, 1, None)
    assert prompts["example"] == [1, "is it BIG?" + SUFFIX, "Is it big?" + SUFFIX]
    assert "prompts: 1 equal, 1 differ in capital letters only, 1 differ" in text and "'is it BIG?\\nAnswer" in text
    assert found["matched"] == found["same_text"] == 3


def test_textvqas_official_spelling_is_another_prompt_than_llavas(journal, lines, make_rows, data_folder, capsys):
    docs = make_rows("textvqa_val")
    words = "\nReference OCR token: NOKIA, 12" + SUFFIX
    run = ("--run", journal("textvqa_val", ["nokia", "13"]), "--data", data_folder)
    for spelled, expected in ((str.capitalize, (2, 0)), (str, (0, 2))):
        theirs = published(docs, ["nokia", "13"], "image_id")
        rows = [{**line, "prompt": spelled(doc["question"]) + words} for line, doc in zip(theirs, docs, strict=True)]
        found, _ = compare(capsys, "--answers", lines(rows), *run)
        assert (found["prompts"]["same"], found["prompts"]["capitals"]) == expected


def test_prompts_of_another_protocol_or_version_are_not_compared(journal, lines, make_rows, data_folder, capsys):
    answers = lines(published(make_rows("textvqa_val"), ["nokia", "13"], "image_id"))
    for settings, told in (
        ({"protocol": LMMS_EVAL}, "the run's protocol is lmms-eval"),
        ({"version": "1"}, "the run has version 1 of protocol llava, and the current one is 1.1. Run the cell again"),
    ):
        out = journal("textvqa_val", ["nokia", "13"], out=told[:20], **settings)
        found, text = compare(capsys, "--answers", answers, "--run", out, "--data", data_folder)
        assert told in found["prompts"]["unknown"] and "prompts not compared" in text
        assert found["matched"] == 2


def test_a_misspelled_published_prompt_is_found_by_its_id(lines, make_rows):
    docs = dict(enumerate(make_rows("pope")))
    rows = [
        {"question_id": "0", "prompt": "Is there a cup in the imange?" + SUFFIX, "text": "Yes"},
        {"question_id": "1", "prompt": "Is there a cat in the image?" + SUFFIX, "text": "No"},  # another question
        {"question_id": "2", "prompt": "What is it?" + SUFFIX, "text": "No"},
    ]
    assert match(lines(rows), None, "pope", docs) == ({0: "Yes"}, 2)


def test_a_failed_sample_is_never_an_agreement(journal, lines, make_rows, data_folder, capsys):
    out = journal("gqa", ["red", None, "2"])
    answers = lines(published(make_rows("gqa"), ["red", "", "3"], "id"))
    found, _ = compare(capsys, "--answers", answers, "--run", out, "--data", data_folder)
    assert found["same_reading"] == found["same_text"] == 1
    assert found["our_value"] == pytest.approx(200 / 3) and found["published_value"] == pytest.approx(100 / 3)
    assert (found["gained"], found["lost"], len(found["flips"])) == (1, 0, 2)


def test_only_what_both_have_is_compared(journal, lines, make_rows, data_folder, capsys):
    out = journal("gqa", ["red", "no"])  # as after an interruption or with --limit
    theirs = published(make_rows("gqa")[1:], ["no", "2"], "id")
    theirs.append({"question_id": "77", "prompt": "Is it far?" + SUFFIX, "text": "no"})
    found, _ = compare(capsys, "--answers", lines(theirs), "--run", out, "--data", data_folder)
    assert (found["matched"], found["only_published"], found["only_ours"]) == (1, 2, 1)


@pytest.mark.parametrize("column", ["image_id", "question_id"])
def test_textvqa_is_found_by_either_id(column, journal, lines, make_rows, data_folder, capsys):
    out = journal("textvqa_val", ["nokia", "13"])
    answers = lines(published(make_rows("textvqa_val"), ["Nokia.", "12"], column))
    found, _ = compare(capsys, "--answers", answers, "--run", out, "--data", data_folder)
    assert found["metric"] == "vqa_accuracy" and found["matched"] == 2 and found["same_reading"] == 1
    assert found["flips"][0]["target"] == "13"


def test_mmbench_copies_are_told_apart_by_their_index(journal, lines, make_rows, data_folder, capsys):
    docs = make_rows("mmbench_en_dev")
    theirs = [{**line, "text": doc["answer"]} for line, doc in zip(published(docs, docs, "index"), docs, strict=True)]
    out = journal("mmbench_en_dev", ["A", "C", "B", "A", "B"])  # rotations of a question stand together
    found, text = compare(capsys, "--answers", lines(theirs), "--run", out, "--data", data_folder)
    assert found["matched"] == 5 and found["published_value"] == 100 and found["lost"] == found["gained"] == 0
    assert table(text) == ["circular_accuracy", "l2_attribute", "l2_object", "rotation_accuracy"]


def test_ids_that_mean_several_documents_need_the_question_file(tmp_path, lines, make_rows, write_parquet, capsys):
    docs = make_rows("pope")
    twice = [
        {**doc, "question_id": str(i % 2)} for i, doc in enumerate(docs)
    ]  # the Hub's ids start again in each category
    write_parquet(twice, tmp_path / "hub/pope/test.parquet")
    identity = {"task": "pope", "data": data_digest(TaskSpec("pope", str(tmp_path / "hub")))}
    with Journal(tmp_path / "run.jsonl", identity) as log:
        for doc_id, doc in enumerate(twice):
            log.append({"kind": "answer", **ANSWER, "doc_id": doc_id, "answer": doc["answer"]})
    theirs = published([{**doc, "question_id": 100 + i} for i, doc in enumerate(docs)], ["yes"] * 6, "question_id")
    arguments = ("--answers", lines(theirs), "--run", tmp_path / "run.jsonl", "--data", tmp_path / "hub")
    assert cli.main(["agree", *map(str, arguments)]) == cli.USER
    assert "none of its 6 answers matches a question of pope" in capsys.readouterr().err
    ambiguous = lines(published(twice, ["yes"] * 6, "question_id"), "ambiguous.jsonl")
    assert cli.main(["agree", "--answers", str(ambiguous), *map(str, arguments[2:])]) == cli.USER
    assert "--questions: it names the images" in capsys.readouterr().err

    asked = [
        {"question_id": 100 + i, "image": f"{d['image_source']}.jpg", "text": d["question"], "category": d["category"]}
        for i, d in enumerate(docs)
    ]
    found, _ = compare(capsys, *arguments, "--questions", lines(asked, "questions.jsonl"))
    assert found["matched"] == 6 and found["our_value"] == 100
    assert found["published_value"] == pytest.approx(200 / 3)


def test_what_cannot_be_compared_says_why(journal, lines, make_rows, data_folder, tmp_path, capsys):
    docs = make_rows("gqa")
    out = journal("gqa", ["red"])
    journal("gqa", ["red"], cell="tiny/fastv")
    good = lines(published(docs, ["red", "no", "2"], "id"))

    def refused(*arguments):
        assert cli.main(["agree", *map(str, arguments)]) == cli.USER
        return capsys.readouterr().err

    assert "or give one as --run" in refused("--answers", good, "--run", out, "--task", "gqa")
    one = ("--run", out, "--cell", "tiny/van*")
    assert "no run matches 'tiny/hidrop'" in refused("--answers", good, "--run", out, "--cell", "tiny/hidrop")
    assert "Give the data that it read with --data" in refused("--answers", good, *one)
    assert "neither a journal nor a results folder" in refused("--answers", good, "--run", tmp_path / "nowhere")
    data = ("--data", data_folder)
    assert "cannot be read" in refused("--answers", tmp_path / "none.jsonl", *one, *data)
    assert "not a run's journal" in refused("--answers", good, "--run", good, *data)
    torn = tmp_path / "torn.jsonl"
    torn.write_text('{"question_id": 1\n')
    assert "line 1 is not JSON" in refused("--answers", torn, *one, *data)
    assert "no 'prompt'" in refused("--answers", lines([{"question_id": 0, "answer": "x"}], "b.jsonl"), *one, *data)
    double = lines(published(docs, ["red", "no", "2"], "id") * 2, "double.jsonl")
    assert "line 4: a second answer to question 0" in refused("--answers", double, *one, *data)


def test_a_question_of_several_lines_is_found_as_a_whole(tmp_path, lines, make_rows):
    docs = {0: {**make_rows("gqa")[0], "id": "0", "question": "Look.\nWhat is it?"}}
    rows = [{"question_id": "0", "prompt": f"<image>\nLook.\nWhat is it?{SUFFIX}", "text": "red"}]
    assert match(lines(rows), None, "gqa", docs) == ({0: "red"}, 0)
    with pytest.raises(UserError, match="'text' of question 0 is not a string"):
        match(lines([{**rows[0], "text": None}]), None, "gqa", docs)


def test_a_question_file_that_contradicts_itself_is_refused(tmp_path, lines, make_rows):
    asked = [{"question_id": 1, "image": f"{name}.jpg", "text": "Is it?"} for name in ("COCO_0", "COCO_1")]
    rows = [{"question_id": "1", "prompt": "Is there a cup in the image?", "text": "no"}]
    with pytest.raises(UserError, match="question 1 appears twice with different images"):
        match(lines(rows), lines(asked, "questions.jsonl"), "pope", dict(enumerate(make_rows("pope"))))


def test_a_task_that_a_server_scores_has_no_scores_and_no_verdict(journal, lines, make_rows, data_folder, capsys):
    docs = make_rows("vizwiz_vqa_test")
    texts = ["A lamp", "unanswerable", *["cup"] * (len(docs) - 2)]
    ours = ["a lamp", "banana", *["cup"] * (len(docs) - 2)]
    run = ("--run", journal("vizwiz_vqa_test", ours), "--data", data_folder)
    found, text = compare(capsys, "--answers", lines(published(docs, texts, "question_id")), *run)
    assert (found["matched"], found["same_reading"], found["same_text"]) == (len(docs), len(docs) - 1, len(docs) - 2)
    for name in ("published_value", "our_value", "gained", "lost", "verdict"):
        assert found[name] is None
    assert found["metric"] == "to submit" and found["published_extra"] == found["our_extra"] == {}
    [flip] = found["flips"]
    assert (flip["ours"], flip["target"], flip["our_score"], flip["published_score"]) == ("banana", None, None, None)
    assert "not scored here (to submit)" in text and f"{100 * (len(docs) - 1) / len(docs):.1f} % have the same" in text
    assert "1 differ\n" in text and not any(
        word in text for word in ("interval", "agrees", "correct", "0.00", "score h")
    )


def test_all_flips_are_written_to_a_file(journal, lines, make_rows, data_folder, tmp_path, capsys):
    docs = make_rows("gqa")
    answers = lines(published(docs, ["blue", "no", "3"], "id"))
    run = ("--run", journal("gqa", ["red", "no", "2"]), "--data", data_folder)
    found, text = compare(capsys, "--answers", answers, *run, "--flips", tmp_path / "flips.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "flips.jsonl").read_text().splitlines()]
    assert rows == found["flips"] and [row["doc_id"] for row in rows] == [0, 2]
    assert f"written: {tmp_path / 'flips.jsonl'}" in text
    compare(capsys, "--answers", answers, *run, "--flips", tmp_path / "flips.csv")
    table = (tmp_path / "flips.csv").read_text().splitlines()
    assert table[0] == "doc_id,question,target,published,ours,published_score,our_score"
    assert table[1].startswith("0,") and table[1].endswith(",red,blue,red,0.0,1.0") and len(table) == 3
    _, text = compare(capsys, "--answers", answers, *run, "--flips", "1")
    assert text.count("    doc ") == 1 and "and 1 more" in text
    for wrong, message in (("flips.txt", "a file with the ending .jsonl or .csv"), ("-1", "give a number of samples")):
        assert message in refused(capsys, "--answers", answers, *run, f"--flips={wrong}")
    assert "nowhere is not a folder" in refused(capsys, "--answers", answers, *run, "--flips", "nowhere/flips.csv")
