"""A task of a user's own: a YAML file in lmms-eval's format, with functions and data next to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.store.statistics import value_of
from evals.tasks import TaskSpec, evaluate, missing
from evals.tasks.official_files import official_digest
from evals.tasks.registry import add, get_task, members
from hidrop.errors import UserError
from tests.evals.tasks.official.row import Row, picture
from tests.evals.tasks.official.stand_in import Answering, evaluated_by_lmms_eval

YAML = """
dataset_path: {builder}
dataset_kwargs: {{data_files: {{test: {files}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: "answer"
process_results: !function utils.process_results
metric_list:
  - {{metric: right, aggregation: mean, higher_is_better: true}}
  - {{metric: letters, aggregation: !function utils.total, higher_is_better: true}}
task: any_name
"""
UTILS = """
def visual(doc):
    return [doc["photo"]] if doc.get("photo") else []


def text(doc):
    return doc["question"]


def process_results(doc, results):
    return {"right": float(results[0] == str(doc["answer"])), "letters": len(results[0])}


def total(items):
    return sum(items)
"""
DOCS = [
    {"question": "Which?", "answer": "red"},
    {"question": "Où?", "answer": "là"},
    {"question": "Who?", "answer": "x"},
]
SAID = ("red", "là", "")


@pytest.fixture(autouse=True)
def no_tasks_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evals.tasks.registry._own", {})


def own(folder: Path, files: str, builder: str = "json", yaml: str = YAML, utils: str = UTILS) -> Path:
    (folder / "utils.py").write_text(utils)
    (folder / "mine.yaml").write_text(yaml.format(builder=builder, files=files))
    return folder / "mine.yaml"


@pytest.mark.parametrize(
    ("builder", "file"),
    [("json", "d.json"), ("json", "d.jsonl"), ("csv", "d.csv"), ("csv", "d.tsv"), ("parquet", "deep/d.parquet")],
)
def test_it_runs_on_data_of_every_format_next_to_it(builder: str, file: str, tmp_path: Path) -> None:
    Row(file, DOCS, (), None, ()).put(tmp_path)
    assert add("mine", own(tmp_path, file, builder)) is get_task("mine")
    assert members("mine") == ["mine"]
    spec = TaskSpec("mine", "hub", "lmms-eval")
    assert missing(spec) == []
    found = evaluate(Answering(SAID), spec)
    assert (found.metric, found.value, found.extra) == ("right", pytest.approx(2 / 3), {"letters": 5.0})
    official = evaluated_by_lmms_eval(spec, SAID, tmp_path / "out")
    assert (found.value, found.extra["letters"]) == (official["right,none"], official["letters,none"])


def test_its_images_are_shown_and_those_of_one_file_are_one_unit(tmp_path: Path) -> None:
    documents = [{**doc, "photo": picture(place // 2)} for place, doc in enumerate(DOCS)]
    Row("d.parquet", documents, (), None, ()).put(tmp_path)
    add("mine", own(tmp_path, "d.parquet", "parquet"))
    lm = Answering(SAID)
    found = evaluate(lm, TaskSpec("mine", "hub", "lmms-eval"))
    assert [image.size for shown in lm.shown.values() for image in shown] == [(40, 32)] * 3
    first, second, third = [sample["image_key"] for sample in found.samples]
    assert first == second != third


def test_patterns_in_a_repository_are_read_together(tmp_path: Path) -> None:
    """As RoboSpatial's task has them: three sets of shards are one split."""
    yaml = YAML.replace("{{test: {files}}}", "{{test: [data/one-*.parquet, data/two-*.parquet]}}")
    add("mine", own(tmp_path, "", "some/repository", yaml))
    spec = TaskSpec("mine", str(tmp_path), "lmms-eval")
    folder = tmp_path / "repository/data"
    Row("one-00000-of-00001.parquet", DOCS[:2], (), None, ()).put(folder)
    [problem] = missing(spec)
    assert '--include "data/one-*.parquet" --include "data/two-*.parquet"' in problem and "no data in" in problem
    Row("two-00000-of-00002.parquet", DOCS[2:], (), None, ()).put(folder)
    [problem] = missing(spec)
    assert "two has 1 of 2 shards. Missing: 00001" in problem
    (folder / "two-00000-of-00002.parquet").rename(folder / "two-00000-of-00001.parquet")
    assert missing(spec) == []
    assert evaluate(Answering(SAID), spec).value == pytest.approx(2 / 3)
    assert get_task("robo_spatial_all").source.every[0] == "data/compatibility-*.parquet"


def test_a_metric_of_its_own_can_be_named(tmp_path: Path) -> None:
    Row("d.json", DOCS, (), None, ()).put(tmp_path)
    add("mine", own(tmp_path, "d.json"))
    assert evaluate(Answering(SAID), TaskSpec("mine", "hub", "lmms-eval", metric="letters")).value == 5
    with pytest.raises(UserError, match="mine: metric: the task has no 'letter'. Did you mean 'letters'"):
        TaskSpec("mine", "hub", "lmms-eval", metric="letter")


CHANGING = """
from lmms_eval.api.filter import Filter


class Shout(Filter):
    def apply(self, resps, docs):
        return [[text.upper() for text in own] for own in resps]


def visual(doc):
    return []


def text(doc):
    return doc["question"]


def process_results(doc, results):
    doc["answers"].append(results[0])
    return {"right": [float(len(doc["answers"]) == 2)]}


def total(items):
    found = 0
    while items:
        found += items.pop().pop()
    return found
"""
TWO_FILTERS = """
filter_list:
  - name: plain
    filter: [{function: take_first}]
  - name: loud
    filter: [{function: !function utils.Shout}, {function: take_first}]
"""


def test_its_functions_may_change_what_they_are_given(tmp_path: Path) -> None:
    """A document is scored under each filter anew, and what was aggregated can be aggregated again."""
    Row("d.json", [{"question": "Which?", "answers": ["red"], "answer": "x"}] * 2, (), None, ()).put(tmp_path)
    yaml = YAML.replace("metric: right, aggregation: mean", "metric: right, aggregation: !function utils.total")
    yaml = "\n".join(line for line in yaml.splitlines() if "letters" not in line)
    path = own(tmp_path, "d.json", yaml=yaml, utils=CHANGING)
    path.write_text(path.read_text() + TWO_FILTERS)
    add("mine", path)
    found = evaluate(Answering(["red", "red"]), TaskSpec("mine", "hub", "lmms-eval"))
    assert (found.metric, found.value, found.extra) == ("right,plain", 2.0, {"right,loud": 2.0})
    assert [value_of("mine", "lmms-eval", found.samples) for _ in range(2)] == [2.0, 2.0]
    assert [sample["item"] for sample in found.samples] == [[1.0], [1.0]]


def test_its_identity_covers_its_functions(tmp_path: Path) -> None:
    Row("d.json", DOCS, (), None, ()).put(tmp_path)
    digests = []
    for utils in (UTILS, UTILS + "\n# changed\n", UTILS):
        add("mine", own(tmp_path, "d.json", utils=utils))
        digests.append(official_digest("mine"))
    assert digests[0] == digests[2] != digests[1]


def test_its_identity_covers_the_files_that_it_includes(tmp_path: Path) -> None:
    """Also the functions next to an included file."""
    base, top = tmp_path / "base", tmp_path / "top"
    for folder in (base, top):
        folder.mkdir()
    own(base, "d.json")
    (top / "mine.yaml").write_text("include: ../base/mine.yaml\n")
    add("mine", top / "mine.yaml")
    before = official_digest("mine")
    (base / "utils.py").write_text(UTILS + "\n# changed\n")
    assert official_digest("mine") != before


def test_a_missing_file_of_data_is_named(tmp_path: Path) -> None:
    path = own(tmp_path, "gone.json")
    add("mine", path)
    [problem] = missing(TaskSpec("mine", "hub", "lmms-eval"))
    assert problem.startswith(
        f"mine: {path}: dataset_kwargs.data_files names no file for the split 'test' that is there"
    )
    assert "gone.json" in problem and "hf download" not in problem


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("test_split: test\ntask: x\n", "not a task of lmms-eval: it has no dataset_path"),
        (YAML.replace("doc_to_text", "doc_to_words"), "not a task of lmms-eval: it has no doc_to_text"),
        (YAML.replace("test_split: test", ""), "it names no test_split or validation_split"),
        ("a: [", "cannot be read as YAML: "),
    ],
)
def test_a_file_that_is_no_task_is_refused_with_its_path(yaml: str, words: str, tmp_path: Path) -> None:
    path = own(tmp_path, "d.json", yaml=yaml)
    with pytest.raises(UserError) as error:
        add("mine", path)
    assert str(error.value).startswith(f"{path}: ") and words in str(error.value)


def test_a_function_that_is_not_there_is_named(tmp_path: Path) -> None:
    add("mine", own(tmp_path, "d.json", yaml=YAML.replace("utils.total", "utils.totals")))
    with pytest.raises(UserError, match="mine: refused: its file names utils.totals, which .*/utils.py does not have"):
        TaskSpec("mine", "hub", "lmms-eval")


@pytest.mark.parametrize("name", ["gqa", "chartqa", "docvqa"])
def test_a_name_of_lmms_evals_is_taken(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"lmms-eval has a task called {name}. Give yours another name"):
        add(name, own(tmp_path, "d.json"))


def test_a_later_matrix_may_give_the_name_to_another_file(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        add("mine", path := own(tmp_path / folder, "d.json"))
        assert get_task("mine").yaml_file == path.absolute()


def test_a_package_that_its_functions_need_is_named(tmp_path: Path) -> None:
    add("mine", own(tmp_path, "d.json", utils=f"import no_such_package\n{UTILS}"))
    with pytest.raises(UserError, match="mine: needs packages: no_such_package .* Install no_such_package"):
        TaskSpec("mine", "hub", "lmms-eval")
