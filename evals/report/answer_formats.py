"""Reads the forms in which other people publish a benchmark's answers. The content decides which form a file has:

- LLaVA's answers file: one JSON object per line with `question_id`, `prompt` and `text`; of MMBench also `round_id`,
  `options` and `option_char`.
- The samples of lmms-eval (--log_samples): one JSON object per line with `doc_id`, `input` and `filtered_resps`. The
  fields of some metrics are objects with the question's id.
- What LLaVA's script writes for ScienceQA. Its output is {"correct", "incorrect"} with lists of {question_id,
  parsed_ans, ground_truth, question, pred, is_multimodal}. Its result is {"acc", "correct", "count", "results",
  "outputs"} without questions: by question id, results has the place of the option that was read (-1: none), and
  outputs the text.
- A table of MMBench as .xlsx with the columns index, question, A to D and prediction: the upload, of which LLaVA's
  script has dropped the hint, and what VLMEvalKit and lmms-eval write. Some have the circular passes of a question,
  each with an index of its own, and some (VLMEvalKit's ..._result.xlsx) the first passes alone.

A benchmark's question file (`read_prompts`, `read_questions`) says what the ids of an answers file mean.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from evals.tasks.mmbench import options
from hidrop.errors import UserError, reason, shortened, shown
from hidrop.prompts import PLACEHOLDER
from hidrop.regular_files import Unreadable, read_bytes

FIELDS = ("question_id", "prompt", "text")
OUTPUT_FIELDS = ("question_id", "question", "pred")
TABLE_FIELDS = ("index", "question", "prediction")
SAMPLE_FIELDS = ("doc_id", "filtered_resps")
# What lmms-eval's metrics call the id of a question.
SAMPLE_IDS = ("index", "question_id", "id")
# How ScienceQA's output writes a question that the model was not asked.
UNASKED = "Unknown"
# How it writes that no answer was found in the text.
FAILED = "FAILED"


@dataclass(frozen=True)
class Line:
    """One published answer. `place`: where it is in the file, for messages.

    prompt: what was asked; None if the file does not say. whole: whether that is the whole prompt, and not the question
    with its options alone. For what the file does not say, the others are None. right: the right answer. parsed: the
    answer that the publisher's script has read in the text, "" for none. pictured: whether the question has an image.
    doc_id: its place in lmms-eval's data. further: a further round of the same question, with other options first.
    """

    place: str
    id: str
    text: str
    prompt: str | None = None
    whole: bool = True
    right: str | None = None
    parsed: str | None = None
    pictured: bool | None = None
    doc_id: int | None = None
    further: bool = False


def read_lines(path: Path) -> list[Line]:
    """The answers of a file, in its order. Raises UserError for a file of another form, with its first bad line."""
    content = _content(path)
    if content.startswith(b"PK"):
        return list(_table(path, content))
    text = _decoded(path, content)
    document = _document(text)
    if isinstance(document, dict) and {"results", "outputs"} <= document.keys():
        return list(_result(path, document))
    if isinstance(document, dict) and {"correct", "incorrect"} <= document.keys():
        return list(_output(path, document))
    rows = _rows(path, text)
    return [
        (_sample if all(map(row.__contains__, SAMPLE_FIELDS)) else _answer)(path, number, row) for number, row in rows
    ]


def with_prompts(lines: Sequence[Line], answers: Path, questions: Path | None) -> list[Line]:
    """`lines` with the prompts of a question file, for a file that has none. Raises UserError if there is none."""
    if all(line.prompt is not None for line in lines):
        return list(lines)
    if questions is None:
        raise UserError(
            f"{answers}: it has no questions, only their ids. Give the benchmark's question file with --questions, or "
            "an answers file (question_id, prompt, text) of the same benchmark"
        )
    known = read_prompts(questions)
    if unknown := [line for line in lines if line.id not in known]:
        told = f"question {unknown[0].id} is not in {questions}, given as --questions"
        raise UserError(f"{answers}: {told} ({len(unknown)} of {len(lines)} are not)")
    return [replace(line, prompt=(prompt := known[line.id]), pictured=PLACEHOLDER in prompt) for line in lines]


def read_prompts(path: Path) -> dict[str, str]:
    """The prompts by question id: of LLaVA's list of conversations (llava_test_CQM-A.json), or of an answers file."""
    text = _decoded(path, _content(path))
    document = _document(text)
    if not isinstance(document, list):
        return {line.id: line.prompt for line in read_lines(path) if line.prompt is not None}
    found = {}
    for number, row in enumerate(document):
        turns = row.get("conversations") if isinstance(row, dict) else None
        first = turns[0] if isinstance(turns, list) and turns else None
        if not isinstance(first, dict) or not isinstance(first.get("value"), str) or "id" not in row:
            raise UserError(f"{path}: entry {number} (from 0) has no 'id' and 'conversations' as in LLaVA's data")
        found[str(row["id"])] = first["value"]
    return found


def read_questions(path: Path) -> dict[str, dict[str, Any]]:
    """The lines of a benchmark's question file by question id: {question_id, image, text, maybe category}.

    Raises UserError if one id has two images.
    """
    found: dict[str, dict[str, Any]] = {}
    for _, row in _rows(path, _decoded(path, _content(path))):
        known = found.setdefault(str(_fields(row, path, ("question_id", "image", "text"))["question_id"]), row)
        if any(known.get(name) != row.get(name) for name in ("image", "category")):
            raise UserError(f"{path}: question {row['question_id']} appears twice with different images")
    return found


# ---- the forms -----------------------------------------------------------------------------------------------------


def _answer(path: Path, number: int, row: dict[str, Any]) -> Line:
    row = _fields(row, path, FIELDS)
    return Line(
        f"line {number}",
        str(row["question_id"]),
        row["text"],
        row["prompt"],
        pictured=PLACEHOLDER in row["prompt"],
        further=row.get("round_id") not in (None, 0),
    )


def _sample(path: Path, number: int, row: dict[str, Any]) -> Line:
    """A sample of lmms-eval. Its prompt is None where the model was asked by a chat of messages."""
    doc_id, said, prompt = row["doc_id"], row["filtered_resps"], row.get("input")
    while isinstance(said, list) and len(said) == 1:
        said = said[0]
    if type(doc_id) is not int or not isinstance(said, str):
        raise UserError(
            f"{path}: line {number}: a sample of lmms-eval without a whole doc_id and one text as its answer. Tasks "
            "that compare likelihoods have no answers"
        )
    metrics = [value for value in row.values() if isinstance(value, dict)]
    ids = [metric[name] for metric in metrics for name in SAMPLE_IDS if name in metric]
    return Line(
        f"line {number}",
        str(ids[0] if ids else doc_id),
        said,
        prompt if isinstance(prompt, str) else None,
        doc_id=doc_id,
    )


def _output(path: Path, document: Mapping[str, Any]) -> Iterator[Line]:
    for part in ("correct", "incorrect"):
        rows = document[part]
        if not isinstance(rows, list):
            raise UserError(f"{path}: '{part}' is not a list")
        for number, row in enumerate(rows):
            place = f"'{part}', entry {number} (from 0)"
            if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in OUTPUT_FIELDS[1:]):
                raise UserError(f"{path}: {place} has no texts {' and '.join(OUTPUT_FIELDS[1:])}")
            if row["question"] == UNASKED:
                continue
            pictured, right, parsed = (row.get(name) for name in ("is_multimodal", "ground_truth", "parsed_ans"))
            yield Line(
                place,
                str(row.get("question_id")),
                row["pred"],
                row["question"],
                right=right if isinstance(right, str) else None,
                parsed=("" if parsed == FAILED else parsed) if isinstance(parsed, str) else None,
                pictured=pictured if isinstance(pictured, bool) else PLACEHOLDER in row["question"],
            )


def _result(path: Path, document: Mapping[str, Any]) -> Iterator[Line]:
    outputs, results = document["outputs"], document["results"]
    if not isinstance(outputs, dict) or not all(isinstance(text, str) for text in outputs.values()):
        raise UserError(f"{path}: 'outputs' is not a table of texts")
    for name, text in outputs.items():
        place = results.get(name) if isinstance(results, dict) else None
        yield Line(f"question {name}", str(name), text, parsed=_letter(place) if isinstance(place, int) else None)


def _letter(place: int) -> str:
    """The letter of an option's place, "" for one that no option has."""
    return ascii_uppercase[place] if 0 <= place < len(ascii_uppercase) else ""


def _table(path: Path, content: bytes) -> Iterator[Line]:
    from openpyxl import load_workbook

    try:
        book = load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        rows = list(book.worksheets[0].iter_rows(values_only=True))
    except (OSError, ValueError, KeyError, IndexError, SyntaxError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not an .xlsx table that can be read: {reason(error)}") from None
    heads = ["" if head is None else _head(str(head).strip()) for head in (rows[0] if rows else ())]
    if lacking := [name for name in TABLE_FIELDS if name not in heads]:
        raise UserError(f"{path}: no column '{lacking[0]}'. It has: {', '.join(filter(None, heads)) or 'none'}")
    for number, values in enumerate(rows[1:], start=2):
        row = dict(zip(heads, values, strict=False))
        if all(value is None for value in values):
            continue
        index = row["index"]
        if isinstance(index, bool) or not isinstance(index, int | float) or index % 1:
            raise UserError(f"{path}: row {number}: index {shown(index)} is not a whole number")
        asked = [f"{letter}. {text}" for letter, text in options(row).items()]
        yield Line(
            f"row {number}",
            str(int(index)),
            _cell(row["prediction"]),
            "\n".join([_cell(row["question"]), *asked]),
            whole=False,
        )


def _head(name: str) -> str:
    """A column's name: VLMEvalKit takes any capitals, but for the options."""
    return name if len(name) == 1 else name.lower()


def _cell(value: Any) -> str:
    """A cell as text. An empty answer is an empty cell."""
    return "" if value is None else str(value)


# ---- files ---------------------------------------------------------------------------------------------------------


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except Unreadable as reason:
        raise UserError(f"{path}: cannot be read: {reason}") from None


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise UserError(f"{path}: cannot be read: not UTF-8 text") from None


def _document(text: str) -> Any:
    """The file as one JSON document; None if it is not one."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects of a file with one per line, and their line numbers."""
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: an answer may have other separators
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{path}: line {number} is not JSON") from None
        if not isinstance(value, dict):
            raise UserError(f"{path}: line {number} is not a JSON object")
        yield number, value


def _fields(row: dict[str, Any], path: Path, names: Sequence[str]) -> dict[str, Any]:
    quoted = shortened(str(row))
    for name in names:
        if name not in row:
            form = f"LLaVA's format is {{{', '.join(names)}}}"
            raise UserError(f"{path}: a line has no '{name}'. {form}. Line: {quoted}")
    for name in ("prompt", "text"):
        if not isinstance(row.get(name, ""), str):
            raise UserError(f"{path}: '{name}' of question {row['question_id']} is not a string. Line: {quoted}")
    return row
