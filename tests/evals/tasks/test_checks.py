"""Data that is incomplete or cannot be scored is refused before a run, with its place and the way out."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from evals.tasks import TASKS, TaskSpec, data_digest, evaluate, get_task, missing, remarks
from evals.tasks.build import build, quiet
from evals.tasks.data import locate, rows_of
from hidrop.errors import UserError
from tests.evals.tasks.layout import put
from tests.evals.tasks.table import CASES, PICTURES

Write = Callable[[list[dict[str, Any]], Path], None]
IMAGES = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
every_task = pytest.mark.parametrize("name", TASKS)


def spec_of(name: str, folder: Path) -> TaskSpec:
    return TaskSpec(name, str(folder), get_task(name).protocols[0])


def problems(name: str, documents: list[dict[str, Any]], folder: Path, write: Write) -> list[str]:
    """The problems of a task whose file has these documents."""
    put(name, folder / get_task(name).source.folder, documents)
    return missing(spec_of(name, folder))


# ---- shards --------------------------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path: Path, write_parquet: Write) -> Callable[..., list[str]]:
    """The problems of POPE in files of these names."""

    def write(*names: str) -> list[str]:
        for name in names:
            documents = [{**doc, "question_id": f"{name} {doc['question_id']}"} for doc in CASES["pope"].documents]
            write_parquet(documents, tmp_path / "pope/data" / name)
        return missing(TaskSpec("pope", str(tmp_path)))

    return write


def test_a_missing_shard_is_named(shards: Callable[..., list[str]], tmp_path: Path, oracle: Any) -> None:
    [problem] = shards("test-00000-of-00003.parquet", "test-00002-of-00003.parquet")
    assert "test has 2 of 3 shards. Missing: 00001." in problem and "hf download" in problem
    with pytest.raises(UserError, match="Missing: 00001"):
        evaluate(oracle(), TaskSpec("pope", str(tmp_path)))
    assert shards("test-00001-of-00003.parquet") == []


def test_shards_may_carry_a_hash_and_are_counted_all_the_same(shards: Callable[..., list[str]]) -> None:
    [problem] = shards("test-00001-of-00002-0123456789abcdef.parquet")
    assert "has 1 of 2 shards. Missing: 00000." in problem
    assert shards("test-00000-of-00002-fedcba9876543210.parquet") == []


def test_a_shard_that_is_there_twice_is_named(shards: Callable[..., list[str]]) -> None:
    [problem] = shards("test-00000-of-00001-0123456789abcdef.parquet", "test-00000-of-00001.parquet")
    assert "the same shard twice: test-00000-of-00001-0123456789abcdef.parquet, test-00000-of-00001.parquet" in problem


def test_shards_of_two_downloads_are_told(shards: Callable[..., list[str]]) -> None:
    [problem] = shards("test-00000-of-00001.parquet", "test-00000-of-00002.parquet")
    assert "files of 00001 and of 00002 shards" in problem


@pytest.mark.parametrize(
    "strange",
    [
        "test-00000-of-00001 (1).parquet",  # a browser's second copy
        "test-00000-of-00001 copy.parquet",
        "test-1.parquet",
        "test-00001-of-00001.parquet",
        "test-00000-of-00000.parquet",
    ],
)
def test_a_file_that_is_no_shard_is_refused_and_not_read_as_more_data(
    strange: str, shards: Callable[..., list[str]], tmp_path: Path
) -> None:
    [alone] = shards(strange)
    [problem] = shards("test-00000-of-00001.parquet")
    for line in (alone, problem):
        assert (
            f"{tmp_path}/pope/data: not the name of a shard, such as test-00000-of-00001.parquet: {strange}. " in line
        )
        assert "Move away what does not belong here" in line and "hf download" in line


def test_shards_of_two_sets_are_told(shards: Callable[..., list[str]]) -> None:
    [problem] = shards("test-00000-of-00001.parquet", "test-old-00000-of-00001.parquet")
    assert "shards of several sets: test, test-old. Keep those of one" in problem


def test_a_file_name_with_a_huge_number_of_shards_is_told_at_once(shards: Callable[..., list[str]]) -> None:
    [problem] = shards("test-00000-of-99999999999.parquet")
    assert "has 1 of 99999999999 shards" in problem and len(problem) < 600


def test_shards_of_the_images_are_counted_too(tmp_path: Path, write_parquet: Write) -> None:
    rows = [{k: v for k, v in row.items() if k != "image"} for row in CASES["gqa"].documents]
    write_parquet(rows, tmp_path / "gqa" / CASES["gqa"].file)
    images = [{"id": f"n{i}", "image": PICTURES[i]} for i in range(2)]
    write_parquet(images, tmp_path / "gqa/testdev_balanced_images/testdev-00000-of-00002.parquet")
    [problem] = missing(TaskSpec("gqa", str(tmp_path)))
    assert "testdev_balanced_images: testdev has 1 of 2 shards" in problem


# ---- rows ----------------------------------------------------------------------------------------------------------


@every_task
def test_a_table_without_rows_has_no_rows(name: str, tmp_path: Path) -> None:
    source = get_task(name).source
    if source.convert:
        path = put(name, tmp_path / source.folder, [])
        assert f"{path}: no rows" in missing(spec_of(name, tmp_path))[0]
        return
    path = tmp_path / source.folder / source.plain
    path.parent.mkdir(parents=True)
    columns = {column: pyarrow.array([], pyarrow.string()) for column in (*source.columns, "image")}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    [problem] = missing(spec_of(name, tmp_path))
    assert f"{path}: no rows" in problem


@pytest.mark.parametrize("name", [name for name in TASKS if get_task(name).unscored is None])
def test_a_split_without_answers_cannot_be_scored(name: str, tmp_path: Path, write_parquet: Write, oracle: Any) -> None:
    for nothing in (None, "", float("nan")):
        column = "answers" if "answers" in get_task(name).source.columns else "answer"
        if column == "answers":
            nothing = None if nothing is None else []
        documents = [{**doc, column: nothing} for doc in CASES[name].documents]
        [problem] = problems(name, documents, tmp_path, write_parquet)
        assert f"column '{column}': all {len(documents)} rows: " in problem and "cannot be scored" in problem
    with pytest.raises(UserError, match="cannot be scored"):
        evaluate(oracle(), spec_of(name, tmp_path))


UNSCORABLE: list[tuple[str, dict[str, Any], str]] = [
    ("gqa", {"question": None}, "column 'question': is empty"),
    ("gqa", {"answer": " "}, "column 'answer': is empty"),
    ("pope", {"answer": "maybe"}, "column 'answer': 'maybe' is neither yes nor no"),
    ("pope", {"category": None}, "column 'category': is empty"),
    ("pope", {"category": "Random"}, "column 'category': 'Random' is not one of adversarial, popular, random"),
    ("mmbench_en_dev", {"answer": None}, "column 'answer': is empty"),
    ("mmbench_en_dev", {"answer": "AB"}, "column 'answer': 'AB' is not the letter of one of its options"),
    ("mmbench_en_dev", {"answer": "D"}, "column 'answer': 'D' is not the letter of one of its options"),
    ("mmbench_en_dev", {"index": None}, "column 'index': 'None' is not a whole number"),
    ("videomme", {"videoID": None}, "column 'videoID': is empty"),
    ("videomme", {"answer": "E"}, "column 'answer': 'E' is not one of the letters A to D"),
    ("videomme", {"duration": "tiny"}, "column 'duration': 'tiny' is not one of lmms-eval's VIDEO_TYPE"),
    ("videomme", {"domain": "Cats"}, "column 'domain': 'Cats' is not one of lmms-eval's CATEGORIES"),
    ("videomme", {"options": ["A. yes"]}, "column 'options': 1 options instead of four"),
    (
        "mvbench_moving_direction",
        {"answer": "Sideways."},
        "column 'answer': 'Sideways.' is not one of its 3 candidates",
    ),
    (
        "mvbench_moving_direction",
        {"candidates": None},
        "column 'answer': 'Up and to the left.' is not one of its 0 candidates",
    ),
    ("mvbench_moving_direction", {"video": 7}, "column 'video': is empty"),
    ("textvqa_val", {"answers": []}, "column 'answers': 0 of at least 4 references that VQA's accuracy needs"),
    ("textvqa_val", {"answers": None}, "column 'answers': 0 of at least 4"),
    ("textvqa_val", {"answers": ["nokia"]}, "column 'answers': 1 of at least 4"),
    ("textvqa_val", {"answers": ["nokia"] * 3}, "column 'answers': 3 of at least 4"),
    ("textvqa_val", {"answers": ["nokia", None, "a", "b", "c"]}, "column 'answers': not a list of texts"),
    ("textvqa_val", {"answers": ["", " "] * 5}, "column 'answers': all references are empty"),
]


@pytest.mark.parametrize(("name", "change", "words"), UNSCORABLE)
def test_a_row_that_cannot_be_scored_is_named_with_its_column(
    name: str, change: dict[str, Any], words: str, tmp_path: Path, write_parquet: Write
) -> None:
    documents = [dict(doc) for doc in CASES[name].documents]
    documents[1] |= change
    [problem] = problems(name, documents, tmp_path, write_parquet)
    assert f"row 1 (from 0), {words}" in problem and "hf download" in problem


def test_texts_of_another_type_are_told(tmp_path: Path, write_parquet: Write) -> None:
    documents = [{**doc, "answers": "['nokia', 'nokia']"} for doc in CASES["textvqa_val"].documents]
    assert "not a list of texts" in problems("textvqa_val", documents, tmp_path, write_parquet)[0]
    numbers = [{**doc, "answer": 1} for doc in CASES["gqa"].documents]
    assert "a int instead of text" in problems("gqa", numbers, tmp_path, write_parquet)[0]


def test_several_bad_rows_are_one_line_a_column(tmp_path: Path, write_parquet: Write) -> None:
    documents = [
        {**doc, "answer": "?", "question": "" if i == 5 else "Is it?"} for i, doc in enumerate(CASES["pope"].documents)
    ]
    documents[0]["answer"] = "yes"
    found = problems("pope", documents, tmp_path, write_parquet)
    assert len(found) == 2
    assert any("row 1 (from 0), column 'answer': '?' is neither yes nor no, and 3 more rows" in line for line in found)
    assert any("row 5 (from 0), column 'question': is empty. " in line for line in found)


def test_a_question_whose_image_is_not_there_is_named(tmp_path: Path, write_parquet: Write) -> None:
    rows = [{k: v for k, v in row.items() if k != "image"} for row in CASES["gqa"].documents]
    write_parquet(rows, tmp_path / "gqa" / CASES["gqa"].file)
    images = tmp_path / "gqa/testdev_balanced_images/testdev-00000-of-00001.parquet"
    write_parquet([{"id": "n0", "image": PICTURES[0]}], images)
    [problem] = missing(TaskSpec("gqa", str(tmp_path)))
    assert "row 2 (from 0), column 'imageId': no image 'n1' in testdev_balanced_images/*.parquet" in problem


@pytest.mark.parametrize("name", [name for name in TASKS if get_task(name).key_columns])
def test_a_document_that_is_there_twice_is_named(name: str, tmp_path: Path, write_parquet: Write) -> None:
    documents, keys = [dict(doc) for doc in CASES[name].documents], get_task(name).key_columns
    documents[-1] |= {key: documents[0][key] for key in keys}
    [problem] = problems(name, documents, tmp_path, write_parquet)
    last = len(documents) - 1
    assert f"row {last} (from 0), column '{keys[-1]}': '{documents[0][keys[-1]]}'" in problem
    assert "is the same as in row 0" in problem and "hf download" in problem


def test_a_document_of_two_shards_is_named_with_both(tmp_path: Path, write_parquet: Write) -> None:
    for shard in range(2):
        documents = CASES["pope"].documents[3 * shard : 3 * shard + 3]
        documents = [{**doc, "category": "random", "question_id": str(i)} for i, doc in enumerate(documents, shard * 2)]
        write_parquet(documents, tmp_path / f"pope/data/test-0000{shard}-of-00002.parquet")
    [problem] = missing(TaskSpec("pope", str(tmp_path)))
    place = f"{tmp_path}/pope/data/test-00001-of-00002.parquet: row 0 (from 0), column 'question_id': "
    assert f"{place}'2' in category 'random' is the same as in row 2 of test-00000-of-00002.parquet. " in problem


def test_pope_may_give_a_number_to_a_question_of_each_category(tmp_path: Path, write_parquet: Write) -> None:
    documents = [{**doc, "question_id": str(i % 2)} for i, doc in enumerate(CASES["pope"].documents)]
    assert problems("pope", documents, tmp_path, write_parquet) == []


@pytest.mark.parametrize(("gone", "index"), [(0, 7), (2, 1_000_007)])
def test_a_question_that_lacks_a_rotation_is_named(gone: int, index: int, tmp_path: Path, write_parquet: Write) -> None:
    documents = [doc for place, doc in enumerate(CASES["mmbench_en_dev"].documents) if place != gone]
    assert index not in [doc["index"] for doc in documents]
    [problem] = problems("mmbench_en_dev", documents, tmp_path, write_parquet)
    row = 1 if gone == 0 else 0
    assert f"row {row} (from 0), column 'index': question 7 lacks its rotation with index {index}. " in problem


def test_an_option_called_none_makes_no_question_incomplete(tmp_path: Path, write_parquet: Write) -> None:
    documents = [
        {**doc, **{letter: "None" if doc[letter] == "green" else doc[letter] for letter in "ABCD"}}
        for doc in CASES["mmbench_en_dev"].documents
    ]
    assert problems("mmbench_en_dev", documents, tmp_path, write_parquet) == []


def test_a_changed_file_is_checked_again(tmp_path: Path, write_parquet: Write) -> None:
    documents = [dict(doc) for doc in CASES["gqa"].documents]
    assert problems("gqa", documents, tmp_path, write_parquet) == []
    assert problems("gqa", [{**doc, "answer": None} for doc in documents], tmp_path, write_parquet) != []
    assert problems("gqa", documents, tmp_path, write_parquet) == []


@pytest.mark.parametrize("column", ["question", "image.bytes"])
@pytest.mark.parametrize("place", ["header", "page"])
def test_a_damaged_page_is_named_before_the_run(column: str, place: str, tmp_path: Path) -> None:
    path = tmp_path / "pope/test.parquet"
    path.parent.mkdir()
    table = pyarrow.Table.from_pylist(CASES["pope"].documents)
    # Checksums find wrong bytes in a page; a broken header of a page is found without them.
    pyarrow.parquet.write_table(
        table, path, row_group_size=2, use_dictionary=False, write_page_checksum=place == "page", compression="none"
    )
    assert missing(TaskSpec("pope", str(tmp_path))) == []
    group, content = pyarrow.parquet.read_metadata(path).row_group(1), bytearray(path.read_bytes())
    [chunk] = [c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column]
    at = chunk.data_page_offset if place == "header" else chunk.data_page_offset + chunk.total_compressed_size - 9
    content[at : at + 8] = bytes(8)
    path.write_bytes(content)
    [problem] = missing(TaskSpec("pope", str(tmp_path)))
    assert problem.startswith(f"pope: cannot read {path}: ") and "Get it again with: hf download" in problem


def test_text_that_is_no_utf8_is_named_before_the_run(tmp_path: Path, write_parquet: Write) -> None:
    assert problems("gqa", CASES["gqa"].documents, tmp_path, write_parquet) == []
    path = tmp_path / "gqa/testdev.parquet"
    table = pyarrow.parquet.read_table(path)
    broken = pyarrow.array([b"\xff\xfe"] * len(table)).view(pyarrow.string())
    pyarrow.parquet.write_table(table.set_column(table.schema.get_field_index("question"), "question", broken), path)
    [problem] = missing(TaskSpec("gqa", str(tmp_path)))
    assert f"cannot read {path}: " in problem and "UTF8" in problem


# ---- images --------------------------------------------------------------------------------------------------------


def image_problems(images: list[Any], folder: Path, kind: Any = IMAGES) -> list[str]:
    rows = [{k: v for k, v in row.items() if k != "image"} for row in CASES["pope"].documents[: len(images)]]
    table = pyarrow.Table.from_pylist(rows).append_column("image", pyarrow.array(images, kind))
    (folder / "pope").mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, folder / "pope/test.parquet")
    return missing(TaskSpec("pope", str(folder)))


def test_base64_text_in_the_column_of_the_images_is_called_that(tmp_path: Path) -> None:
    text = base64.b64encode(os.urandom(26_000)).decode()
    [problem] = image_problems([text] * 2, tmp_path, pyarrow.string())
    assert f"column 'image': all 2 rows: base64 text of {len(text):,} characters" in problem
    assert len(problem) < 600


def test_images_that_cannot_be_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "pope").mkdir()
    (tmp_path / "pope/a.png").write_bytes(PICTURES[0]["bytes"])
    os.mkfifo(tmp_path / "pope/pipe.png")
    good, inside = PICTURES[0], {"bytes": None, "path": "a.png"}
    assert image_problems([good, inside, {"bytes": b"broken", "path": None}], tmp_path) == []
    for bad, words in [
        ({"bytes": None, "path": None}, "no image"),
        (None, "no image"),
        ({"bytes": None, "path": "b.png"}, "b.png: cannot be read: No such file or directory"),
        ({"bytes": None, "path": "pipe.png"}, "pipe.png: not a regular file"),
        ({"bytes": None, "path": "/etc/hostname"}, "/etc/hostname: leads out of the folder of the images"),
        ({"bytes": None, "path": "https://a/b.png"}, "https://a/b.png: an address"),
    ]:
        [problem] = image_problems([good, inside, bad], tmp_path)
        assert f"row 2 (from 0), column 'image': {words}" in problem


def test_images_of_a_page_of_zeros_are_named(tmp_path: Path) -> None:
    """Without checksums a page of zeros is a page of empty values."""
    assert image_problems([PICTURES[0]] * 4, tmp_path) == []
    path = tmp_path / "pope/test.parquet"
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
    content, picture = bytearray(path.read_bytes()), PICTURES[0]["bytes"]
    second = content.index(picture, content.index(picture) + 1) - 4  # the length comes before the bytes
    content[second : content.rindex(picture) + len(picture)] = bytes(content.rindex(picture) + len(picture) - second)
    path.write_bytes(content)
    [problem] = missing(TaskSpec("pope", str(tmp_path)))
    assert "row 1 (from 0), column 'image': no image (0 bytes), and 2 more rows. " in problem


def test_a_column_of_another_kind_is_no_column_of_images(tmp_path: Path) -> None:
    [problem] = image_problems([[1.0]], tmp_path, pyarrow.list_(pyarrow.float32()))
    assert "column 'image' holds list<" in problem and "but no images" in problem
    assert image_problems([PICTURES[0]["bytes"]] * 2, tmp_path, pyarrow.binary()) == []
    [problem] = image_problems([None, None], tmp_path, pyarrow.null())
    assert "all 2 rows: no image" in problem


def test_images_are_found_without_the_footers_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, good = pyarrow.parquet.write_table, PICTURES[0]
    monkeypatch.setattr(pyarrow.parquet, "write_table", lambda *a, **k: write(*a, write_statistics=False, **k))
    assert image_problems([good] * 3, tmp_path) == []
    assert "row 1 (from 0), column 'image': no image" in image_problems([good, None, good], tmp_path)[0]


def test_the_digest_follows_image_files_that_the_table_names(tmp_path: Path) -> None:
    (tmp_path / "pope").mkdir()
    image, spec = tmp_path / "pope/a.png", TaskSpec("pope", str(tmp_path))
    found = []
    for colour in (0, 1, 0):
        image.write_bytes(PICTURES[colour]["bytes"])
        assert image_problems([{"bytes": None, "path": "a.png"}], tmp_path) == []
        found.append(data_digest(spec))
    assert found[0] == found[2] != found[1]


def test_a_file_of_other_content_but_equal_size_and_time_is_other_data(tmp_path: Path, write_parquet: Write) -> None:
    """datasets would go on with its converted copy of the old file."""
    path, spec, found = tmp_path / "pope/test.parquet", TaskSpec("pope", str(tmp_path)), []
    for thing in ("cup", "mug"):
        write_parquet([{**doc, "question": f"Is there a {thing}?"} for doc in CASES["pope"].documents], path)
        os.utime(path, (10**9, 10**9))
        with quiet():
            found.append((path.stat().st_size, data_digest(spec), build(spec).eval_docs_no_media[0]["question"]))
    assert found[0][0] == found[1][0] and found[0][1] != found[1][1]
    assert [question for *_, question in found] == ["Is there a cup?", "Is there a mug?"]


# ---- folders and rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["data[v2]", "a*b?", "[!x]", ".hidden", "__x__", "with space", "a'b"])
def test_a_folder_may_have_any_name(folder: str, tmp_path: Path, write_parquet: Write, oracle: Any) -> None:
    spec = TaskSpec("pope", str(tmp_path / folder))
    write_parquet(CASES["pope"].documents, tmp_path / folder / "pope/test.parquet")
    assert missing(spec) == [] and evaluate(oracle(), spec).value == 100


def test_images_in_files_of_their_own_are_found_in_a_folder_of_any_name(
    tmp_path: Path, write_parquet: Write, oracle: Any
) -> None:
    folder = tmp_path / "d[0]"
    rows = [{k: v for k, v in row.items() if k != "image"} for row in CASES["gqa"].documents]
    write_parquet(rows, folder / "gqa" / CASES["gqa"].file)
    images = folder / "gqa/testdev_balanced_images/testdev-00000-of-00001.parquet"
    write_parquet([{"id": f"n{i}", "image": PICTURES[i]} for i in range(2)], images)
    assert evaluate(oracle(), TaskSpec("gqa", str(folder))).value == 100


def test_a_pipe_in_place_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "pope").mkdir()
    os.mkfifo(tmp_path / "pope/test.parquet")
    spec = TaskSpec("pope", str(tmp_path))
    [problem] = missing(spec)
    assert "not a regular file" in problem and rows_of(spec) == 9000
    with pytest.raises(UserError, match="not a regular file"):
        data_digest(spec)


@pytest.mark.parametrize(("data", "wanted"), [("/mnt/x", "/mnt/x/gqa"), ("/mnt/my data", "'/mnt/my data/gqa'")])
def test_the_hint_names_the_users_own_folder(data: str, wanted: str) -> None:
    [problem] = missing(TaskSpec("gqa", data))
    assert f"--local-dir {wanted} (about 68 MB)" in problem


def test_the_hint_does_not_nest_the_tasks_folder(tmp_path: Path) -> None:
    for name in ("gqa", "GQA"):
        [problem] = missing(TaskSpec("gqa", str(tmp_path / name)))
        assert f"--local-dir {tmp_path / name} (" in problem


def test_a_file_in_place_of_a_folder_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "gqa.parquet").write_bytes(b"")
    [problem] = missing(TaskSpec("gqa", str(tmp_path / "gqa.parquet")))
    assert "It is a file: name its folder" in problem


@pytest.mark.parametrize("data", ["x" * 5000, "a\0b", "\ud800", "a/" * 3000, "", ".", "~nobody-here/x", "/dev/null"])
def test_a_name_that_no_folder_can_have_is_told_in_words(data: str) -> None:
    [problem] = missing(TaskSpec("gqa", data))
    assert problem.startswith("gqa: no data in '") and "hf download" in problem
    assert rows_of(TaskSpec("gqa", data)) == 12578 and remarks(TaskSpec("gqa", data)) == []
    with pytest.raises(UserError, match="no data in"):
        data_digest(TaskSpec("gqa", data))


def test_another_number_of_rows_than_the_official_one_is_remarked(data_folder: Path) -> None:
    assert remarks(TaskSpec("pope", str(data_folder))) == ["pope: 6 rows, but the official test has 9,000"]
    assert remarks(TaskSpec("pope", "mini")) == []
    assert locate(TaskSpec("pope", "mini")).questions, "the embedded sets are no copies of the official ones"
