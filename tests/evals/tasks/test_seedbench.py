"""SEED-Bench's questions about images: the column of lists, the rows about videos, and how answers are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from evals.tasks import TaskSpec, evaluate, missing, remarks
from evals.tasks.base import Answer
from evals.tasks.data import counted_rows, data_digest, rows_of
from evals.tasks.image_sizes import image_sizes
from evals.tasks.seedbench import SEEDImage
from tests.evals.tasks.layout import put
from tests.evals.tasks.table import CASES, PICTURES, png

TASK = SEEDImage()
DOCS = CASES["seedbench"].documents
LETTER = "Answer with the option's letter from the given choices directly."
VIDEO = {**DOCS[0], "question_id": "900", "data_type": "video", "answer": "A", "image": PICTURES[:3]}


def spec_of(folder: Path, documents: list[dict[str, Any]], protocol: str = "llava") -> TaskSpec:
    put("seedbench", folder, documents)
    return TaskSpec("seedbench", str(folder), protocol)


@pytest.mark.parametrize(
    ("text", "llava", "lmms_eval"),
    [
        ("B", 1, 1),
        (" B\n", 1, 1),
        ("b", 0, 1),
        ("B.", 0, 1),
        ("B. 2", 0, 1),
        ("(B)", 0, 0),
        ("The answer is B", 0, 0),
        ("Bananas", 0, 1),
        ("", 0, 0),
    ],
)
def test_llava_wants_the_bare_letter_and_lmms_eval_reads_the_first_character(
    text: str, llava: float, lmms_eval: float
) -> None:
    from lmms_eval.tasks.seedbench import utils

    doc = {key: value for key, value in DOCS[0].items() if key != "image"}
    said = [Answer(doc, text)]
    assert TASK.score(said, "llava").samples == (llava,)
    result = TASK.score(said, "lmms-eval")
    item = utils.seed_process_result(doc, [text])["seed_image"]
    assert result.samples == (lmms_eval,) and result.value == 100 * utils.seed_aggregation_result([item])
    assert TASK.score(said, "native").samples == (lmms_eval,)
    assert result.metric == "seed_image" and TASK.score(said, "llava").metric == "accuracy"


@pytest.mark.parametrize("protocol", ["llava", "lmms-eval", "native"])
def test_every_protocol_asks_the_same_text_of_images_only(protocol: str, tmp_path: Path, oracle: Any) -> None:
    lm = oracle()
    result = evaluate(lm, spec_of(tmp_path, [VIDEO, *DOCS[:2], {**VIDEO, "question_id": "901"}, DOCS[2]], protocol))
    assert result.n == 3 and result.value == 100
    assert [sample["image_key"] for sample in result.samples] == ["100", "101", "102"]
    assert set(lm.contexts) == {f"What is it?\nA. red\nB. 2\nC. None\nD. a cat\n{LETTER}"}
    assert len(lm.colours) == 3  # one image for each question


def test_rows_about_videos_are_not_counted_and_remarked(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, [*DOCS, VIDEO, {**VIDEO, "question_id": "901"}])
    assert missing(spec) == [] and counted_rows(spec) == rows_of(spec) == 3
    assert remarks(spec) == [
        "seedbench: 3 rows, but the official test has 14,233",
        "seedbench: 2 more rows of the files are not asked: they are about videos",
    ]
    assert rows_of(TaskSpec("seedbench", str(tmp_path / "nothing"))) == 14233


def test_files_with_videos_only_are_refused(tmp_path: Path) -> None:
    [problem] = missing(spec_of(tmp_path, [VIDEO]))
    assert "no row to ask: they are about videos. Get the official test with: hf download" in problem


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data_type": "frames"}, "column 'data_type': 'frames' is neither image nor video"),
        ({"data_type": None}, "column 'data_type': 'None' is neither image nor video"),
        ({"answer": "E"}, "column 'answer': 'E' is not one of the letters A to D"),
        ({"choice_d": None}, "column 'choice_d': the right option is empty"),
        ({"image": []}, "column 'image': no image"),
        ({"image": [{"bytes": None, "path": None}]}, "column 'image': no image"),
        ({"image": [{"bytes": b"", "path": None}]}, "column 'image': no image (0 bytes)"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    [problem] = missing(spec_of(tmp_path, [DOCS[0], DOCS[1] | change, DOCS[2]]))
    assert f"row 1 (from 0), {words}" in problem


def test_an_option_that_is_not_the_right_one_may_be_empty(tmp_path: Path) -> None:
    assert missing(spec_of(tmp_path, [DOCS[0], DOCS[1] | {"choice_a": None}, DOCS[2]])) == []


def test_a_column_of_single_images_is_read_too(tmp_path: Path, oracle: Any) -> None:
    spec = spec_of(tmp_path, [{**doc, "image": doc["image"][0]} for doc in DOCS])
    assert missing(spec) == [] and evaluate(oracle(), spec).value == 100


def test_a_column_of_lists_is_refused_where_images_are_single(tmp_path: Path) -> None:
    put("pope", tmp_path, [{**doc, "image": [doc["image"]]} for doc in CASES["pope"].documents])
    [problem] = missing(TaskSpec("pope", str(tmp_path)))
    assert "column 'image' holds list<" in problem and "but no images" in problem


def test_sizes_are_those_of_the_images_in_the_lists(tmp_path: Path) -> None:
    documents = [VIDEO, {**DOCS[0], "image": [png((1, 2, 3), (50, 20))]}, DOCS[1]]
    assert image_sizes(spec_of(tmp_path, documents)) == [(20, 50), (32, 40)]


STRUCT = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def with_images(folder: Path, lists: list[list[Any]], kind: pyarrow.DataType = STRUCT) -> TaskSpec:
    """The table's documents with other lists of images, of another type."""
    spec, path = spec_of(folder, DOCS), folder / "test.parquet"
    table = pyarrow.parquet.read_table(path).drop_columns("image").replace_schema_metadata()
    table = table.append_column("image", pyarrow.array(lists, pyarrow.list_(kind)))
    pyarrow.parquet.write_table(table, path)
    return spec


def test_images_may_be_files_that_the_lists_name(tmp_path: Path, oracle: Any) -> None:
    found, named = [], {"bytes": None, "path": "a.png"}
    for number in (0, 1):
        (tmp_path / "a.png").write_bytes(PICTURES[number]["bytes"])
        spec = with_images(tmp_path, [[named]] * 3)
        assert missing(spec) == [] and evaluate(oracle(), spec).value == 100
        found.append(data_digest(spec))
    assert found[0] != found[1]
    [problem] = missing(with_images(tmp_path, [[named], [PICTURES[0], {**named, "path": "no.png"}], [named]]))
    assert "row 1 (from 0), column 'image': no.png: cannot be read" in problem


def test_a_list_of_plain_bytes_is_a_list_of_images(tmp_path: Path, oracle: Any) -> None:
    spec = with_images(tmp_path, [[doc["image"][0]["bytes"]] for doc in DOCS], pyarrow.binary())
    assert missing(spec) == [] and evaluate(oracle(), spec).value == 100
