"""The caption, topic by topic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evals.report.caption import ERROR_LENGTH, caption
from evals.report.provenance import facts
from hidrop.plan import Schedule

Make = Callable[..., dict[str, Any]]


def told(document: Any) -> dict[str, str]:
    return dict(caption(document))


def test_an_empty_document_has_protocol_and_machine_alone(document_of: Make) -> None:
    topics = [topic for topic, _ in caption(document_of())]
    assert topics == ["Protocol", "Hardware", "Versions", "Date"]


def test_the_protocol_is_said_in_full(document_of: Make) -> None:
    assert told(document_of())["Protocol"] == "llava, dtype float32, attention sdpa, batch size 8"
    limited = told(document_of(limit=20))["Protocol"]
    assert limited.endswith("batch size 8, only the first 20 samples of each task")


def test_weights_are_named_by_their_digest(cell: Make, document_of: Make) -> None:
    cells = [cell(model, "vanilla", Schedule(), "gqa", 80.0, weights=weights * 64) for model, weights in ("ma", "nb")]
    words = "sha256 of weights, configs, tokenizer and processors"
    assert told(document_of(cells=cells))["Weights"] == f"m {'a' * 12}, n {'b' * 12} ({words})"
    assert "Weights" not in told(document_of(cells=[cell("m", "vanilla", Schedule(), "gqa", 80.0)]))


def test_stated_limits_of_pixels_are_said(cell: Make, document_of: Make) -> None:
    limits = {"min_pixels": 3136, "max_pixels": 602112}
    cells = [cell("m", "vanilla", Schedule(), "gqa", 80.0, pixels=limits), cell("n", "vanilla", Schedule(), "gqa", 8.0)]
    assert told(document_of(cells=cells))["Pixels of an image"] == "m: min_pixels 3136, max_pixels 602112"
    assert "Pixels of an image" not in told(document_of(cells=cells[1:]))


def test_decoding_is_said_in_words(cell: Make, document_of: Make) -> None:
    greedy = {"do_sample": False, "num_beams": 1, "temperature": 0.0, "max_new_tokens": 16, "until": []}
    cells = [cell("m", "vanilla", Schedule(), "gqa", 80.0, decoding=greedy, ends=[2])]
    assert told(document_of(cells=cells))["Decoding"] == "greedy, at most 16 new tokens; an answer ends at token 2"
    sampled = greedy | {"do_sample": True, "temperature": 0.7, "num_beams": 3}
    cells.append(cell("n", "vanilla", Schedule(), "pope", 80.0, decoding=sampled, ends=[]))
    cells.append(cell("n", "vanilla", Schedule(), "textvqa_val", 80.0, decoding="lmms-eval 0.7.3", ends=[]))
    assert told(document_of(cells=cells))["Decoding"] == (
        "GQA: greedy, at most 16 new tokens; POPE: sampling at temperature 0.7, 3 beams, at most 16 new tokens; "
        "TextVQA: the settings of lmms-eval 0.7.3; "
        "an answer ends at token 2 (m), at the tokenizer's end token (n)"
    )


def test_the_protocol_lmms_eval_names_the_class_that_it_follows(document_of: Make) -> None:
    said = told(document_of(protocol="lmms-eval"))["Protocol"]
    assert said.startswith("lmms-eval (as its class llava_hf: the processor's chat template), dtype float32")


def test_the_protocol_lmms_eval_names_the_class_of_each_model(cell: Make, document_of: Make) -> None:
    cells = [cell("m", "vanilla", Schedule(), "gqa", 80.0), cell("q", "vanilla", Schedule(), "gqa", 80.0)]
    cells[1]["asked_as"] = "qwen2_5_vl"
    said = told(document_of(protocol="lmms-eval", cells=cells))["Protocol"]
    assert said.startswith("lmms-eval (as its classes llava_hf (m), qwen2_5_vl (q): the processor's chat template), ")


def test_the_data_that_scores_belong_to_is_named_with_its_version(cell: Make, document_of: Make) -> None:
    tasks = {"gqa": 500, "mmbench_en_dev": 4377, "pope": 8910, "textvqa_val": 5000}
    cells = [cell("m", "vanilla", Schedule(), task, 80.0, n=n) for task, n in tasks.items()]
    data = {"gqa": "mini", "mmbench_en_dev": "data", "pope": "/mnt/x", "textvqa_val": "hub"}
    versions = {"mmbench_en_dev": "20230712", "pope": "llava"}
    found = told(document_of(cells=cells, data=data, data_versions=versions))
    assert found["Data"] == (
        "MMBench: dev 20230712 (lmms-lab/MMBench_EN), 4,377 rows; "
        "POPE: LLaVA's questions (POPE's repository at commit e3e3926), 8,910 rows; "
        "TextVQA: lmms-lab-encoder/textvqa, 5,000 rows"
    )
    assert "official" not in found["Scores"], "the samples are counted against those of the version"
    usual = told(document_of(cells=cells, data=data))
    assert "MMBench: lmms-lab-encoder/MMBench, officially 4,329 rows" in usual["Data"]
    assert "on 4377 (official: 4,329); POPE exact_match on 8910 (official: 9,000)" in usual["Scores"]
    assert "Data" not in told(document_of(cells=cells, data=dict.fromkeys(tasks, "mini")))


def test_tasks_without_a_percentage_of_vanilla_are_named_with_the_reason(cell: Make, document_of: Make) -> None:
    """A percentage of 0 has no meaning, so such a row has no mean of percentages."""
    cells = [
        cell("m", label, Schedule(), task, value, percent_of_vanilla=percent) | {"base": f"m/vanilla/{task}"}
        for label in ("vanilla", "fastv")
        for task, value, percent in (("gqa", 0.0, None), ("pope", 80.0, 100.0))
    ]
    assert "No % of vanilla, because vanilla's score is 0: GQA;" in told(document_of(cells=cells))["Scores"]
    assert "No % of vanilla" not in told(document_of(cells=cells[1::2]))["Scores"]


def test_scores_have_their_metrics_sizes_and_seeds(cell: Make, failure: Make, document_of: Make) -> None:
    cells = [
        cell("m", "vanilla", Schedule(), "gqa", 80.0, n=500),
        cell("m", "fastv", Schedule(), "gqa", 70.0, n=120, metric="f1"),
        cell("m", "pdrop", Schedule(), "gqa", 70.0, n=300, n_failed=7),
        cell("m", "vanilla", Schedule(), "pope", 80.0, n=9, n_failed=2),
        cell("m", "vanilla", Schedule(), "textvqa_val", 80.0, n=0),
    ]
    document = document_of(cells=cells, failed=[failure("m", "x", "mmbench_en_dev", "boom")])
    found = told(document)
    scores = "GQA exact_match and f1 on 120-500; POPE exact_match on 9; TextVQA exact_match"
    assert found["Scores"] == f"{scores}. Scores are 0 to 100; the best of each section is bold"
    assert found["Samples that failed"] == "7 in m/pdrop/gqa, 2 in m/vanilla/pope"
    for count, group in ((3, "a"), (2, "b")):
        for seed in range(count):
            document["cells"].append(cell("m", f"{group}-s{seed}", Schedule(), "gqa", 1.0, group=group))
    assert told(document)["Scores"].endswith(". With 2 or 3 seeds: mean ± half of the range")


@pytest.mark.parametrize(
    ("n", "limit", "data", "said"),
    [
        (12_578, None, "data", "on 12578"),
        (12_578, 99_999, "data", "on 12578"),
        (12_577, None, "data", "on 12577 (official: 12,578)"),
        (12_579, None, "hub", "on 12579 (official: 12,578)"),
        (20, 20, "data", "on 20"),
        (19, 20, "data", "on 19 (official: 12,578)"),
        (500, None, "mini", "on 500"),
    ],
)
def test_another_number_of_samples_than_the_official_one_is_said(
    n: int, limit: int | None, data: str, said: str, cell: Make, document_of: Make
) -> None:
    cells = [cell("m", "vanilla", Schedule(), "gqa", 80.0, n=n)]
    document = document_of(cells=cells, limit=limit, data={"gqa": data})
    assert told(document)["Scores"].startswith(f"GQA exact_match {said}. ")


@pytest.mark.parametrize(
    ("rows", "limit", "said"),
    [
        (4, 4, "GQA: 4 rows (lmms-lab-encoder/GQA has 12,578)"),
        (4, None, "GQA: 4 rows (lmms-lab-encoder/GQA has 12,578)"),
        (12_579, 4, "GQA: 12,579 rows (lmms-lab-encoder/GQA has 12,578)"),
        (12_578, 4, "GQA: lmms-lab-encoder/GQA, 12,578 rows"),
    ],
)
def test_the_number_of_rows_of_the_file_is_told_with_a_limit_too(
    rows: int, limit: int | None, said: str, cell: Make, document_of: Make
) -> None:
    cells = [cell("m", "vanilla", Schedule(), "gqa", 80.0, n=limit or rows)]
    document = document_of(cells=cells, limit=limit, data={"gqa": "data"}, data_rows={"gqa": rows})
    assert told(document)["Data"] == said


def test_a_limit_that_is_rounded_to_whole_groups_is_no_difference(cell: Make, document_of: Make) -> None:
    cells = [cell("m", "vanilla", Schedule(), "mmbench_en_dev", 80.0, n=18)]
    assert "official" not in told(document_of(cells=cells, limit=20, data={"mmbench_en_dev": "data"}))["Scores"]
    assert "(official: 4,329)" in told(document_of(cells=cells, data={"mmbench_en_dev": "data"}))["Scores"]


def test_a_machine_is_said_in_words() -> None:
    assert facts({"cpu": "X", "cores": 1, "threads": 2, "memory_bytes": 8 * 1024**3, "gpu": "Y", "cuda": "12.8"}) == (
        "X, 1 core, 2 threads, 8 GiB memory, Y, cuda 12.8"
    )
    assert facts({"device": "cpu", "memory_bytes": None, "gpu_memory_bytes": 80 * 1024**3}) == (
        "device cpu, 80 GiB gpu memory"
    )


def test_versions_end_with_the_commit(document_of: Make) -> None:
    assert told(document_of())["Versions"] == "python 3.11.7, torch 2.13.0"
    assert told(document_of(commit="abc+"))["Versions"].endswith("torch 2.13.0, commit abc+")


MACHINE = {"device": "cuda", "cpu": "X", "cores": 2, "threads": 1, "memory_bytes": None, "gpu": "Y"}


def session(**changes: Any) -> dict[str, Any]:
    made = {
        "hardware": MACHINE,
        "versions": {"python": "3.12", "torch": "2.13.0"},
        "commit": "abc",
        "date": "2026-01-01",
    }
    return {**made, **changes}


def test_cells_of_one_session_are_said_to_be_of_its_machine_and_versions(cell: Make, document_of: Make) -> None:
    """Not of the machine that wrote the table."""
    cells = [cell("m", "vanilla", Schedule(), task, 80.0, provenance=[session()]) for task in ("gqa", "pope")]
    found = told(document_of(cells=cells, commit="writer", profiles=[]))
    assert found["Hardware"] == "device cuda, X, 2 cores, 1 thread, Y"
    assert found["Versions"] == "python 3.12, torch 2.13.0, commit abc"
    assert found["Date"] == "cells answered 2026-01-01, table written 2026-01-02T03:04:05+00:00"
    assert "Timed on" not in found and "Unknown origin" not in found


def test_a_mixture_of_sessions_is_named(cell: Make, document_of: Make, document: dict[str, Any]) -> None:
    later = session(versions={"python": "3.12", "torch": "2.14.0"}, commit="def+", date="2026-02-01")
    moved = session(hardware={**MACHINE, "gpu": "Z"}, date="2026-01-20")
    parts = [session(hardware={**MACHINE, "device": f"cuda:{index}"}) for index in (0, 1)]
    sessions: list[Any] = [[session(), later], [moved], parts, [], [session()]]
    cells = [cell("m", f"row-{i}", Schedule(), "gqa", 80.0, provenance=made) for i, made in enumerate(sessions)]
    found = told(document_of(cells=cells, profiles=document["profiles"]))
    assert found["Versions"] == (
        "cells of 2 commits, torch 2.13.0 and 2.14.0. All: python 3.12, torch 2.13.0 and 2.14.0, commits abc and def+"
    )
    one = "device cuda, X, 2 cores, 1 thread, "
    assert found["Hardware"] == f"cells of 2 machines: {one}Y; {one}Z"
    assert found["Timed on"] == "device cpu, Some CPU, 2 cores, 1 thread, 8 GiB memory"
    assert found["Date"].startswith("cells answered 2026-01-01 to 2026-02-01, table written ")
    assert found["Unknown origin"] == "the journals of 1 cells do not say where they were answered"


def test_a_cell_from_before_sessions_were_written_counts_as_the_documents(cell: Make, document_of: Make) -> None:
    cells = [
        cell("m", "vanilla", Schedule(), "gqa", 80.0),
        cell("m", "a", Schedule(), "gqa", 1.0, provenance=[session()]),
    ]
    found = told(document_of(cells=cells, commit="old"))
    assert found["Versions"].startswith("cells of 2 commits, python 3.12 and 3.11.7. All: ")
    assert "cells of 2 machines: device cuda, X" in found["Hardware"]


def test_statistics_are_explained_where_rows_are_compared(document: dict[str, Any]) -> None:
    assert "Statistics" not in told(document)
    document["cells"][0]["stats"] = {"interval": [1.0, 2.0]}
    assert "Statistics" not in told(document), "an interval alone compares nothing"
    against = {
        "difference": 1.0, "interval": [0.0, 2.0], "p": 0.1, "p_holm": 0.2, "gained": 1, "lost": 0, "loyalty": 99.0
    }  # fmt: skip
    for cell in document["cells"][2:4]:
        cell["stats"] = {"interval": [1.0, 2.0], "against": against}
    text = told(document)["Statistics"]
    assert text.startswith(
        "differences from vanilla compare the same samples; their 95 % intervals are from a bootstrap"
    )
    assert "*: exact McNemar test, p < 0.05 after Holm's correction for 2 comparisons. Flips: " in text
    assert text.endswith("from right to wrong, and the share of samples with the same parsed answer as vanilla")


def test_warnings_name_their_cells(document: dict[str, Any]) -> None:
    document["cells"][2]["warnings"] = ["a", "b"]
    document["cells"][3]["warnings"] = ["c"]
    assert told(document)["Warnings (!)"] == "mini/fastv-7/gqa: a, b; mini/fastv-7/pope: c"


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("  first\nsecond", "first"),
        ("", "no message"),
        ("\n \n", "no message"),
        ("x" * 500, "x" * 200),
    ],
)
def test_a_failure_is_its_place_and_the_start_of_its_message(
    error: str, shown: str, failure: Make, document_of: Make
) -> None:
    failed = [failure("m", "fastv", "gqa", error), failure("m", "fastv", None, error)]
    found = told(document_of(failed=failed))["Cells that failed"]
    assert found == f"m/fastv/gqa: {shown}; m/fastv/timing: {shown}"
    assert ERROR_LENGTH == 200


def test_sources_follow_how_to_read_them(paper: dict[str, Any]) -> None:
    topics = [topic for topic, _ in caption(paper)]
    first = topics.index("Published numbers")
    assert topics[first + 1].startswith("Source ")
    text = told(paper)["Published numbers"]
    assert text.startswith("share and tokens are averages over the layers (~: inferred from printed FLOPs or scores; ")
    assert text.endswith("Metrics in the papers: GQA accuracy on testdev_balanced")  # of the file with numbers
