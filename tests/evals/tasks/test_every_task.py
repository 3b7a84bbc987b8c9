"""What holds for every task, over the rows of table.py."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from evals import tasks
from evals.store.statistics import value_of
from evals.tasks import PROTOCOLS, TASKS, TaskSpec, data_digest, evaluate, get_task, missing
from evals.tasks.base import LLAVA, TO_SUBMIT, Answer, Task
from evals.tasks.build import build, decode, listed, official
from evals.tasks.data import locate
from hidrop.errors import UserError
from hidrop.mini.test_sets import SETS
from tests.evals.tasks.layout import put
from tests.evals.tasks.table import CASES

Write = Callable[[list[dict[str, Any]], Path], None]

every_task = pytest.mark.parametrize("name", TASKS)
every_task_of_llavas = pytest.mark.parametrize("name", [name for name in TASKS if LLAVA in get_task(name).protocols])
PAIRS = [(name, protocol) for name in TASKS for protocol in get_task(name).protocols]
every_task_and_protocol = pytest.mark.parametrize(("name", "protocol"), PAIRS)
SCORED = [name for name in TASKS if get_task(name).unscored is None]
every_scored_task = pytest.mark.parametrize("name", SCORED)
every_scored_task_and_protocol = pytest.mark.parametrize(("name", "protocol"), [p for p in PAIRS if p[0] in SCORED])
every_submitted_task_and_protocol = pytest.mark.parametrize(
    ("name", "protocol"), [p for p in PAIRS if get_task(p[0]).unscored == TO_SUBMIT]
)


def spec_of(name: str, folder: Path) -> TaskSpec:
    """A task on local data, under the first of its protocols."""
    return TaskSpec(name, str(folder), get_task(name).protocols[0])


def test_every_task_has_a_row_in_the_table_and_its_own_name_and_title() -> None:
    assert list(CASES) == list(TASKS)
    found = [get_task(name) for name in TASKS]
    assert [task.name for task in found] == list(TASKS)
    assert len({task.title for task in found}) == len(found)
    assert [LLAVA in task.protocols for task in found] == [case.asked is not None for case in CASES.values()]


def test_no_other_module_knows_a_tasks_name() -> None:
    """Only the registry and a task's own file; the command line may have one as a default."""
    root = Path(tasks.__file__).parents[2]
    known = {root / "evals/tasks/registry.py", *(Path(inspect.getfile(type(get_task(name)))) for name in TASKS)}
    paths = [path for folder in ("evals", "baselines") for path in (root / folder).rglob("*.py")]
    found = [
        f"{path.relative_to(root)}:{node.lineno}: {node.value}"
        for path in paths
        if path not in known and root / "evals/cli" not in path.parents
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in TASKS
    ]
    assert len(paths) > 100 and found == []


@every_scored_task_and_protocol
def test_an_oracle_gets_everything_right(name: str, protocol: str, data_folder: Path, oracle: Any) -> None:
    result = evaluate(oracle(), TaskSpec(name, str(data_folder), protocol))
    assert result.value is not None and 0 < result.value <= get_task(name).top
    assert result.value == pytest.approx(CASES[name].value)
    assert result.n == len(result.samples) == len(CASES[name].documents) and result.n_failed == 0


@every_submitted_task_and_protocol
def test_a_task_that_a_server_scores_has_its_file_and_no_value(
    name: str, protocol: str, data_folder: Path, oracle: Any
) -> None:
    result, case = evaluate(oracle(), TaskSpec(name, str(data_folder), protocol)), CASES[name]
    assert result.value is case.value is None and result.unscored == result.metric == TO_SUBMIT
    assert [sample["score"] for sample in result.samples] == [None] * len(case.documents)
    [content] = result.files.values()
    assert len(json.loads(content)) == result.n == len(case.documents)


@every_task_of_llavas
def test_llavas_question_is_the_one_worked_out_by_hand(name: str) -> None:
    assert get_task(name).question(CASES[name].documents[0]) == CASES[name].asked


@every_task_of_llavas
def test_each_protocol_asks_its_own_question(name: str, data_folder: Path, oracle: Any) -> None:
    asked, settings = {}, {}
    for protocol in PROTOCOLS:
        lm = oracle()
        evaluate(lm, TaskSpec(name, str(data_folder), protocol), limit=1)
        asked[protocol], settings[protocol] = lm.contexts[0], lm.settings
    assert asked["llava"] == CASES[name].asked
    assert settings["llava"] == {
        "max_new_tokens": get_task(name).max_new_tokens or 128,
        "do_sample": False,
        "num_beams": 1,
        "temperature": 0.0,
        "until": [],
    }
    assert settings["lmms-eval"] != settings["llava"] and "until" in settings["lmms-eval"]


def scored(task: Task, answers: list[Answer], protocol: str) -> list[dict[str, Any]]:
    """The samples of some answers, as `evaluate` records them; documents are their own images."""
    scores = task.score(answers, protocol)
    return [
        {
            "doc_id": place,
            "reading": reading,
            "target": task.target(answer.doc),
            "score": score,
            "image_key": str(place),
            "category": task.category(answer.doc),
            "group": task.group(answer.doc),
        }
        for place, (answer, score, reading) in enumerate(zip(answers, scores.samples, scores.readings, strict=True))
    ]


@every_scored_task_and_protocol
def test_the_statistics_value_is_the_tasks_value_whichever_sample_is_wrong(name: str, protocol: str) -> None:
    """The bootstrap sees sums over units only; they must give the same number as scoring the answers."""
    task, case = get_task(name), CASES[name]
    assert case.value is not None
    for wrong in range(-1, len(case.documents)):
        answers = [
            Answer(doc, case.wrong(doc) if place == wrong else case.right(doc))
            for place, doc in enumerate(case.documents)
        ]
        samples, value = scored(task, answers, protocol), task.score(answers, protocol).value
        lower = wrong >= 0 and case.counts(case.documents[wrong])
        assert value < case.value if lower else value == pytest.approx(case.value)
        of = task.statistic(protocol, samples)
        units: dict[Any, list[Any]] = {}
        for sample in samples:
            units.setdefault(of.unit(sample), []).append(sample)
        sums = np.sum([of.counts(rows) for rows in units.values()], axis=0)
        assert float(of.value(sums)) == pytest.approx(value), f"document {wrong} wrong"


@every_scored_task
def test_our_scores_agree_with_lmms_evals_aggregate(name: str, data_folder: Path, oracle: Any) -> None:
    case = CASES[name]
    last = {key: value for key, value in case.documents[-1].items() if key != "image"}

    def mostly_right(doc: dict[str, Any], context: str) -> str:
        return case.wrong(doc) if all(doc[key] == last[key] for key in last) else case.right(doc).upper()

    result = evaluate(oracle(mostly_right), TaskSpec(name, str(data_folder), "lmms-eval"))
    data = build(TaskSpec(name, str(data_folder), "lmms-eval")).eval_docs_no_media
    answers = [Answer(data[sample["doc_id"]], sample["answer"]) for sample in result.samples]
    ours = get_task(name).score(answers, "lmms-eval")
    assert result.value == pytest.approx(ours.value) and result.metric == ours.metric
    assert 0 < result.value < CASES[name].value
    assert 0 < sum(ours.samples) < len(ours.samples)


@every_scored_task_and_protocol
def test_a_failed_sample_is_wrong_whatever_its_document(name: str, protocol: str) -> None:
    for doc in CASES[name].documents:
        assert get_task(name).score([Answer(doc, "", failed=True)], protocol).samples == (0.0,)


@every_task
def test_a_limit_keeps_groups_whole_and_takes_at_least_one(name: str, data_folder: Path, oracle: Any) -> None:
    task, total = get_task(name), len(CASES[name].documents)
    whole = evaluate(oracle(), spec_of(name, data_folder))
    groups = [sample["group"] for sample in whole.samples]
    assert (None in groups) == (task.group_column is None)
    for limit in range(1, total + 2):
        result = evaluate(oracle(), spec_of(name, data_folder), limit=limit)
        kept, rest = groups[: result.n], groups[result.n :]
        assert [s["doc_id"] for s in result.samples] == list(range(result.n))
        if task.group_column is None:
            assert result.n == min(limit, total)
        else:
            assert result.n and not set(kept) & set(rest)
            assert result.n <= limit or len(set(kept)) == 1
            following = sum(group == rest[0] for group in rest) if rest else 0
            assert not rest or result.n + following > limit


@every_scored_task_and_protocol
def test_its_value_follows_from_the_scores_of_its_samples(
    name: str, protocol: str, data_folder: Path, oracle: Any
) -> None:
    """So that a stored value can be checked: with right, wrong and odd answers, and with failed samples."""
    case, spec = CASES[name], TaskSpec(name, str(data_folder), protocol)
    said = (case.right, case.wrong, lambda doc: "maybe", lambda doc: "", lambda doc: "A or No, yes")
    for seed in range(5):
        random = Random(seed)

        def say(doc: dict[str, Any], context: str, random: Random = random) -> str:
            return random.choice(said)(doc)

        lm = oracle(say)
        lm.failures = {(name, doc_id): "broken" for doc_id in range(1, len(case.documents)) if random.random() < 0.3}

        def generate(requests: Any, lm: Any = lm, answered: Any = lm.generate_until) -> list[str]:
            texts = zip(requests, answered(requests), strict=True)
            return ["" if request.args[4:2:-1] in lm.failures else text for request, text in texts]

        lm.generate_until = generate
        result = evaluate(lm, spec)
        assert value_of(name, protocol, result.samples) == pytest.approx(result.value, abs=1e-9)
        assert result.n_failed == len(lm.failures)


# ---- where its data is ---------------------------------------------------------------------------------------------


def colour(image: Any) -> Any:
    """The colour of one of the table's images (or of a list with one), of which each has its own."""
    [one] = listed(image)
    return decode(one).getpixel((0, 0))


def as_on_the_hub(name: str, folder: Path, write: Write) -> Path:
    """Write a task's documents as its repository has them, and return the file with the questions."""
    case, source = CASES[name], get_task(name).source
    documents = case.documents
    if source.videos:
        return put(name, folder, file=case.file)
    if source.images:
        images = {doc[source.images.key]: doc["image"] for doc in documents}
        rows = [{source.images.id: key, "image": image} for key, image in reversed(images.items())]
        write(rows, folder / source.images.files.replace("*", "testdev-00000-of-00001"))
        documents = [{key: value for key, value in doc.items() if key != "image"} for doc in documents]
    write(documents, folder / case.file)
    return folder / case.file


@every_task
def test_a_hub_snapshot_is_found_under_its_folder_or_directly(
    name: str, tmp_path: Path, write_parquet: Write, oracle: Any
) -> None:
    source = get_task(name).source
    path = as_on_the_hub(name, tmp_path / source.folder, write_parquet)
    specs = [spec_of(name, place) for place in (tmp_path, tmp_path / source.folder)]
    for spec in specs:
        files = locate(spec)
        assert missing(spec) == [] and (files.originals or files.questions) == (path,)
        assert len(locate(spec).images) == (source.images is not None)
    assert data_digest(specs[0]) == data_digest(specs[1])
    lm = oracle()
    assert evaluate(lm, specs[0]).value == pytest.approx(CASES[name].value)
    shown = [colour(doc["image"]) for doc in CASES[name].documents if "image" in doc]
    assert sorted(lm.colours) == sorted(shown) or (source.videos and len(set(lm.colours)) == len(CASES[name].films))


@every_task
def test_missing_data_names_the_command_that_gets_it(name: str, tmp_path: Path, oracle: Any) -> None:
    [problem] = missing(spec_of(name, tmp_path))
    source = get_task(name).source
    assert f"hf download --repo-type dataset {source.repository}" in problem
    assert f'--include "{source.files}"' in problem
    assert source.images is None or f'--include "{source.images.files}"' in problem
    assert f"--local-dir {tmp_path}/{source.folder}" in problem
    assert source.megabytes is not None
    size = f"{source.megabytes} MB" if source.megabytes < 1000 else f"{source.megabytes / 1000:.1f} GB"
    assert f"(about {size})" in problem
    assert source.revision is None or f"--revision {source.revision}" in problem
    with pytest.raises(UserError, match="hf download"):
        evaluate(oracle(), spec_of(name, tmp_path))


@every_task
def test_its_repository_and_split_are_those_of_lmms_eval(name: str) -> None:
    config, source = official(get_task(name)), get_task(name).source
    assert (config["dataset_path"], config["test_split"]) == (source.repository, source.split)
    if source.videos:
        assert config["dataset_kwargs"].get("revision") == source.revision
    elif source.images is None and "*" in source.files:  # the folder of a configuration, or of the only one
        assert source.files.startswith(f"{config.get('dataset_name') or 'data'}/")


@pytest.mark.parametrize("name", [name for name in TASKS if name in SETS])
def test_it_finds_its_data_in_the_embedded_benchmark(name: str) -> None:
    source = get_task(name).source
    assert SETS[name][0] == f"{source.folder}/{source.plain}"


@every_task_and_protocol
def test_the_columns_it_names_are_all_that_it_needs(name: str, protocol: str, tmp_path: Path, oracle: Any) -> None:
    source = get_task(name).source
    wanted = {*source.columns, *("image" for _ in range(source.images is not None))}
    documents = [{key: doc[key] for key in doc if key in wanted} for doc in CASES[name].documents]
    put(name, tmp_path / source.folder, documents)
    spec = TaskSpec(name, str(tmp_path), protocol)
    assert missing(spec) == [] and evaluate(oracle(), spec).value == pytest.approx(CASES[name].value)


@every_task
def test_a_missing_column_is_told(name: str, tmp_path: Path) -> None:
    source = get_task(name).source
    for column in source.columns:
        documents = [{key: doc[key] for key in doc if key != column} for doc in CASES[name].documents]
        put(name, tmp_path / column / source.folder, documents)
        [problem] = missing(spec_of(name, tmp_path / column))
        assert problem.startswith(f"{name}: ") and problem.endswith(f"has no column '{column}'")


@every_task
def test_the_columns_it_names_are_in_its_data(name: str) -> None:
    task, columns = get_task(name), set(CASES[name].documents[0])
    assert set(task.source.columns) <= columns
    assert set(task.id_columns) <= columns
    assert task.group_column is None or task.group_column in columns
