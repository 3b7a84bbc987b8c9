"""The class of each of lmms-eval's names, told without importing one of its tasks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evals import tasks
from evals.tasks import TASKS, TaskSpec, missing
from evals.tasks.classify import classify
from evals.tasks.index import index
from evals.tasks.listing import chosen, counts, listed
from evals.tasks.registry import get_task, members
from hidrop.errors import UserError
from tests.evals.tasks.official.tables import ROWS
from tests.evals.tasks.official.unscored import TO_JUDGE, TO_SUBMIT

# Looked up by hand in lmms-eval 0.7.3: the class, the medium, and words of the reason.
CLASSES = {
    "chartqa": ("runs here", "image", ""),
    "mmmu_val": ("runs here", "image", ""),
    "ok_vqa_val2014": ("runs here", "image", ""),  # its second metric only writes a file
    "mmbench_en_dev_static": ("runs here", "image", ""),  # its evaluator can ask a judge, but does not
    "egoschema_subset": ("runs here", "video", ""),
    "mlvu_dev": ("runs here", "video", ""),
    "countix": ("runs here", "video", ""),
    "gsm8k_cot_zeroshot": ("runs here", "text", ""),
    "seedbench_ppl": ("log-likelihood", "image", ""),
    "egoschema_subset_mcppl": ("log-likelihood", "video", ""),
    "hellaswag": ("log-likelihood", "text", ""),
    "docvqa_test": ("to submit", "image", "the aggregation of submission only writes a file"),
    "mmmu_test": ("to submit", "image", "the aggregation of submission only writes a file"),
    "perceptiontest_test_mc": ("to submit", "video", "only writes a file"),
    "mmou": ("to submit", "video", "only writes a file"),  # it returns the number of answers
    "mmvet": ("to judge", "image", "its process_results asks a judge (mmvet/utils.py"),
    "llava_in_the_wild": ("to judge", "image", "its process_results asks a judge"),
    "activitynetqa": ("to judge", "video", "its process_results asks a judge"),
    "egoschema": ("to judge", "video", "the aggregation of submission asks a judge"),  # a server's answer
    "worldvqa_gen": ("to judge", "video", "its process_results asks a judge (worldqa/utils.py"),  # by another name
    "gqa_lite": ("needs data", "image", "its process_docs downloads"),
    "officeqa": ("needs data", "image", "its documents are at https://raw.githubusercontent.com"),
    "hd_epic_recipe_step_recognition": ("needs data", "video", "its documents are at /home/"),
    "nocaps_val": ("needs packages", "image", "pycocoevalcap (utils.py"),
    "mathvision_test": ("needs packages", "image", "latex2sympy2 (eval_utils.py"),  # imported in a try
    "cc_ocr_kie": ("needs packages", "image", "zss (kie_metric.py"),  # of a module in a package
    "mmmu_val_pass64": ("refused", "image", "it asks each question 64 times"),
    "mmsearch_end2end": ("refused", "image", "it asks in several rounds"),
    "librispeech_test_clean": ("refused", "audio", "it asks about audio"),
    "gsm8k": ("refused", "text", "it shows 5 examples before the question"),
    "videomme_no_visual": ("refused", "video", "its file names utils.videomme_doc_to_text, which no_visual/utils.py"),
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_task_has_the_class_that_was_looked_up_by_hand(name: str) -> None:
    found = classify(index().tasks[name])
    kind, media, reason = CLASSES[name]
    assert (found.kind, found.media) == (kind, media)
    assert reason in found.reason if reason else not found.reason


@pytest.mark.parametrize("name", ROWS)
def test_the_rows_of_the_tables_have_the_classes_that_their_tests_are_of(name: str) -> None:
    found, task = classify(index().tasks[name]), get_task(name)
    assert name not in TASKS and task.obstacle is None
    wanted = "to submit" if name in TO_SUBMIT else "to judge" if name in TO_JUDGE else None
    assert task.unscored == wanted and found.kind == (wanted or found.kind)
    if wanted is None:
        assert found.kind == ("log-likelihood" if isinstance(ROWS[name].said[0], tuple) else "runs here")


def test_every_name_has_a_class_and_no_task_is_imported() -> None:
    """In a process of its own, as this one has imported some."""
    code = """
import json, sys
from evals.tasks.listing import counts, listed
found = listed()
heavy = sorted({"torch", "datasets", "PIL", "transformers"} & set(sys.modules))
theirs = sorted(name for name in sys.modules if name.startswith("lmms_eval"))
print(json.dumps([len(found), counts(found), len({one.name for one in found}), theirs, heavy]))
"""
    root = Path(tasks.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    total, number, different, theirs, heavy = json.loads(done.stdout)
    assert (total, different, theirs, heavy) == (1985, 1985, [], [])
    assert number["first-class"] == len(TASKS) and number["group"] + number["tag"] == 272
    assert sum(number.values()) == 1985
    kinds = {"runs here", "log-likelihood", "to judge", "to submit", "needs packages", "needs data", "refused"}
    assert set(number) == {"first-class", "group", "tag", *kinds}


def test_every_task_that_can_be_asked_names_the_command_that_gets_its_data(tmp_path: Path) -> None:
    asked = [name for name, entry in index().tasks.items() if name not in TASKS and classify(entry).runs]
    assert len(asked) > 1000
    for name in asked:
        [problem] = missing(TaskSpec(name, str(tmp_path), "lmms-eval"))
        repository = get_task(name).source.repository
        assert problem.startswith(f"{name}: no data in '{tmp_path}' (looked for ")
        assert f"hf download --repo-type dataset {repository} " in problem and f"--local-dir {tmp_path}/" in problem


def test_the_list_is_chosen_by_text_and_by_class() -> None:
    names = listed()
    assert [one.name for one in chosen(names, "CHARTQA", "runs here")][:2] == ["chartqa", "chartqa_lite"]
    assert set(counts(chosen(names, kind="to submit"))) == {"to submit"}
    assert chosen(names, "no such text") == [] and chosen(names) == names
    assert [one.kind for one in names[: len(TASKS)]] == ["first-class"] * len(TASKS)


def test_groups_and_tags_stand_for_their_tasks() -> None:
    assert members("docvqa") == ["docvqa_val", "docvqa_test"]
    assert members("chartqa") == ["chartqa"] and members("gqa") == ["gqa"]
    mvbench = members("mvbench")
    assert len(mvbench) == 20 and all(name.startswith("mvbench_") for name in mvbench)
    blink = members("blink_groups")  # a tag
    assert len(blink) == len(set(blink)) == 14 and "blink_counting" in blink


def test_a_group_with_a_task_that_lmms_eval_does_not_have_is_told() -> None:
    with pytest.raises(UserError, match="unknown task 'olympiadbench_testmini'"):
        members("olympiadbench")
    [broken] = [one for one in listed() if one.name == "olympiadbench"]
    assert broken.reason == "broken in lmms-eval: it has no task 'olympiadbench_testmini'"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chartqaa", "unknown task 'chartqaa'. Did you mean 'chartqa'?"),
        ("muirbenhc", "unknown task 'muirbenhc'. Did you mean 'muirbench'?"),
        ("nothing_like_it", "tasks --grep WORD` lists all names"),
    ],
)
def test_an_unknown_name_is_suggested(name: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        TaskSpec(name, "data", "lmms-eval")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nocaps_val", "needs packages: .* Install pycocoevalcap"),
        ("mmmu_val_pass64", "refused: it asks each question 64 times"),
        ("officeqa", "needs data: its documents are at .* Name a copy in a YAML file of your own"),
    ],
)
def test_a_task_that_cannot_be_asked_says_why_and_what_to_do(name: str, words: str) -> None:
    with pytest.raises(UserError, match=f"^{name}: {words}"):
        TaskSpec(name, "data", "lmms-eval")
