from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from evals import report
from evals.report.published import published_sheet
from evals.report.reference import FOLDER, Published, Reference, available, load_reference
from evals.report.text import markdown
from evals.tasks.registry import TASKS, get_task
from hidrop.errors import UserError
from hidrop.geometry import PRESETS
from hidrop.methods import build, method_class
from hidrop.plan import Cut, Schedule


@pytest.fixture(scope="module")
def llava() -> Reference:
    return load_reference("llava-1.5-7b")


@pytest.fixture
def raw() -> dict[str, Any]:
    return yaml.load((FOLDER / "llava-1.5-7b.yaml").read_text(), yaml.CSafeLoader)


def entry(reference: Reference, **fields: Any) -> Published:
    found = [e for e in reference.entries if all(getattr(e, key) == value for key, value in fields.items())]
    assert len(found) == 1, found
    return found[0]


def refused(raw: dict[str, Any], folder: Path) -> str:
    path = folder / "wrong.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError) as error:
        load_reference(path)
    return str(error.value)


def test_every_reference_file_is_valid_and_every_source_is_used() -> None:
    assert available()
    for name in available():
        reference = load_reference(name)
        assert {e.source for e in reference.entries} == set(reference.sources)


# Benchmarks in published tables that are no task of ours, or not the same number.
OTHERS = {
    *("mme_sum", "mme_cognition", "seed", "mmvet", "llava_in_the_wild", "mmmu", "mathvista"),
    *("docvqa", "ocrbench", "mvbench", "longvideobench", "mlvu", "videobench", "chartqa", "ai2d", "hallusionbench"),
}


def test_a_published_score_has_the_name_and_the_scale_of_the_task_that_measures_it() -> None:
    """A measured value is printed next to the published one of the same name."""
    for name in available():
        for task, kind in load_reference(name).scores.items():
            assert task in TASKS or task in OTHERS, f"{name}: {task}"
            assert task not in TASKS or kind.max == get_task(task).top, f"{name}: {task}"


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("llava-1.5-7b", ["vqav2_test", "vizwiz_vqa_test", "mme", "mmbench_cn_dev", "seedbench", "mmstar"]),
        ("llava-1.5-13b", ["vqav2_test", "vizwiz_vqa_test", "mme", "mmbench_cn_dev"]),
        ("llava-next-7b", ["vqav2_test", "vizwiz_vqa_test", "mme", "mmbench_cn_dev", "seedbench"]),
    ],
)
def test_the_unreduced_llava_has_a_published_score_in_these_tasks(name: str, tasks: list[str]) -> None:
    vanilla = [entry for entry in load_reference(name).entries if entry.method == "vanilla"]
    assert not set(tasks) - {task for entry in vanilla for task in entry.scores}


def test_every_method_with_a_published_row_is_there(llava: Reference) -> None:
    papers = {"vanilla", "hidrop", "pdrop", "fastv", "sparsevlm", "visionzip", "divprune"}
    new = {"dart", "fastervlm", "vispruner", "prumerge", "holov", "cdpruner", "text_only"}
    assert {e.method for e in llava.entries} == papers | new
    assert {(e.method, e.label) for e in llava.entries if e.trained and e.source == "vica"} == {
        ("prumerge", 32),
        ("dart", 64),
    }


SETTINGS = {
    "fastv": (r"K=(\d), R=(\d+) %", "k{}-{}%"),
    "pdrop": (r"after 8, 16, 24, lambda (0.\d)", "lambda-{}"),
    "hidrop": (r"in 9, out 25; after [\d, ]+: (\d+), 10, 5, 1", "{}"),
}
HIDROP = {"453": "80", "215": "64", "87": "48"}  # by the first count


def test_a_row_with_a_published_setting_has_its_average(llava: Reference) -> None:
    """The averages of `published` in the methods' files are those of the entries with the same setting."""
    found = set()
    for one in llava.entries:
        pattern, name = SETTINGS.get(one.method, ("", ""))
        if pattern and one.setting and one.true_average and (parts := re.match(pattern, one.setting)):
            label = name.format(*(HIDROP.get(part, part) for part in parts.groups()))
            label = "default" if label == "lambda-0.5" else label
            average = build(one.method, {"published": label}).plan(llava.sizes).average_tokens
            assert round(average, 1) == pytest.approx(round(one.true_average, 1)), (one.method, label)
            found.add((one.method, label))
        if one.method == "sparsevlm" and one.label and one.basis == "calculated" and one.true_average:
            average = build("sparsevlm", {"published": f"{one.label:g}"}).plan(llava.sizes).average_tokens
            assert average == pytest.approx(one.true_average, abs=0.05)
            found.add(("sparsevlm", f"{one.label:g}"))
    assert found >= {("fastv", "k2-50%"), ("fastv", "k3-50%"), ("pdrop", "default"), ("pdrop", "lambda-0.4")}
    assert found >= {("pdrop", "lambda-0.6"), ("sparsevlm", "192"), ("sparsevlm", "64"), ("hidrop", "64")}


NEWER = {"dart", "fastervlm", "vispruner", "prumerge", "holov", "cdpruner", "visionzip", "divprune"}
# Methods that keep a number of tokens before the decoder: their label is the average.
BEFORE = NEWER - {"dart"}


def test_a_row_of_a_newer_method_has_the_average_of_its_published_setting(llava: Reference) -> None:
    found = set()
    for one in llava.entries:
        label = f"{one.label:g}" if one.label else ""
        if one.method in NEWER and one.basis == "calculated" and label in method_class(one.method).published:
            more = {"text_tower": "clip"} if one.method == "cdpruner" else {}
            plan = build(one.method, {"published": label, **more}).plan(llava.sizes)
            assert plan.average_tokens == one.true_average, (one.method, label)
            found.add((one.method, label))
    assert {method for method, _ in found} >= NEWER - {"prumerge"}
    assert ("dart", "64") in found and entry(llava, method="dart", label=64, source="dart").true_average == 99.75


def test_the_label_of_a_method_before_the_decoder_is_its_average(llava: Reference) -> None:
    for one in llava.entries:
        if one.method in BEFORE and one.true_average is not None:
            assert one.true_average == one.label, (one.method, one.label)


def test_the_mean_of_a_table_follows_from_its_scores(llava: Reference) -> None:
    """A wrong digit shows: means are printed with one decimal, over the ten benchmarks of the table."""
    checked = 0
    for source in ("vispruner-t1", "cdpruner-t1"):
        whole = entry(llava, method="vanilla", source=source).scores
        for one in llava.entries:
            if one.source == source and one.mean_percent is not None:
                mean = sum(100 * one.scores[task] / whole[task] for task in whole) / len(whole)
                assert one.mean_tasks == len(whole) == 10
                assert mean == pytest.approx(one.mean_percent, abs=0.07), (source, one.method, one.label)
                checked += 1
    assert checked == 20


def test_a_label_is_not_the_true_average(llava: Reference) -> None:
    """SparseVLM's "192" runs 206.5 tokens a layer; its list says so."""
    published = entry(llava, method="sparsevlm", label=192, source="sparsevlm-icml")
    cuts = (Cut(3, 300, 9), Cut(7, 200, 4), Cut(16, 110, 3))
    assert published.true_average == Schedule(cuts=cuts).plan(llava.sizes).average_tokens == 206.5


@pytest.mark.parametrize(
    ("label", "filters", "keep"),
    [
        (48, (10, 14, 16, 18), (87, 10, 5, 1)),
        (64, (10, 14, 16, 18), (215, 10, 5, 1)),
        (80, (10, 13, 16, 19), (453, 10, 5, 1)),
    ],
)
def test_averages_of_hidrop_are_those_of_its_schedules(
    llava: Reference, label: int, filters: tuple[int, ...], keep: tuple[int, ...]
) -> None:
    published = entry(llava, method="hidrop", label=label, source="hidrop")
    schedule = Schedule(9, tuple(Cut(f, k) for f, k in zip(filters, keep, strict=True)), 25)
    assert published.true_average == pytest.approx(schedule.plan(llava.sizes).average_tokens, abs=0.005)


def test_printed_flops_of_the_visual_convention_follow_from_the_average(llava: Reference) -> None:
    vanilla = Schedule().plan(llava.sizes).paper_macs() / 1e12
    assert entry(llava, method="vanilla", source="hidrop").tflops == pytest.approx(vanilla, abs=0.005)
    pdrop = Schedule(cuts=(Cut(8, 288), Cut(16, 144), Cut(24, 72))).plan(llava.sizes)
    published = entry(llava, method="pdrop", trained=True, source="pdrop-trained", true_average=270)
    assert pdrop.average_tokens == published.true_average
    assert published.tflops == pytest.approx(pdrop.paper_macs() / 1e12, abs=0.005)


def test_sources_that_disagree_are_kept_apart(llava: Reference) -> None:
    scores = {
        e.source: e.scores["pope"]
        for e in llava.entries
        if (e.method, e.label) == ("fastv", 128) and "pope" in e.scores
    }
    assert scores == {"sparsevlm-v1": 59.6, "sparsevlm-icml": 53.4, "restore": 68.3, "cdpruner-t1": 68.2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labell": 64}, r"entries\[0\]\.labell: unknown field. Did you mean 'label'\?"),
        ({"method": "fastvv"}, "unknown method 'fastvv'. Did you mean 'fastv'"),
        ({"source": "hearsay"}, r"entries\[0\]\.source: 'hearsay' is not in `sources`"),
        ({"scores": {"gqa": 161.9}}, r"entries\[0\]\.scores\.gqa: 161\.9 is above the maximum of 100"),
        ({"scores": {"gqqa": 61.9}}, r"entries\[0\]\.scores\.gqqa: `scores` of the file has no entry"),
        ({"basis": None}, "true_average and basis must both be given"),
        ({"true_average": 600.0}, "600 tokens are more than the model's 576"),
        ({"latency_ms": 5.0}, "latency_ms and hardware must both be given"),
        ({"scores": {}, "mean_percent": None}, "needs scores or a mean_percent"),
        ({"label": None, "true_average": None, "basis": None}, "needs a label, a true_average or a share"),
    ],
)
def test_a_mistake_is_refused_with_its_place(
    raw: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    import re

    raw["entries"][0] |= change
    assert re.search(message, refused(raw, tmp_path))


@pytest.fixture
def qwen() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "qwen2.5-vl-7b.yaml").read_text())


def test_the_four_sizes_of_images_stay_apart() -> None:
    """The same share at other pixels moves FastV's MMBench from 55.6 to 77.2."""
    reference = load_reference("qwen2.5-vl-7b")
    sizes = [entry.images for entry in reference.entries]
    assert list(dict.fromkeys(sizes)) == [
        "pixels not stated",
        "2048 tokens an image",
        "1296 tokens an image",
        "the processor's own limits of pixels",
    ]
    fastv = [e for e in reference.entries if (e.method, e.share) == ("fastv", 10)]
    assert [(e.scores["mmbench_en_dev"], e.after) for e in fastv] == [(55.58, "layer"), (77.23, "layer")]
    assert fastv[1].pixels is not None and fastv[0].pixels == "unstated"


def test_each_size_of_images_has_a_vanilla_row_of_its_own() -> None:
    reference = load_reference("qwen2.5-vl-7b")
    assert {e.images for e in reference.entries if e.method == "vanilla"} == {e.images for e in reference.entries}


def test_mme_is_told_apart_by_its_largest_value() -> None:
    """Perception alone has 2000 points, so 1702 of all tokens is another number than 2317."""
    reference = load_reference("qwen2.5-vl-7b")
    whole = [e.scores for e in reference.entries if e.method == "vanilla"]
    assert [scores.get("mme", scores.get("mme_sum")) for scores in whole] == [1702, 2317, 2303, 2304, 2331]
    assert not any({"mme", "mme_sum"} <= set(e.scores) for e in reference.entries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share": None}, r"entries\[0\]: an entry needs a label|entries\[0\]: .*needs a label"),
        ({"share": None, "label": 2048.0}, "have their own numbers of tokens: give share and pixels"),
        ({"pixels": None}, "have their own numbers of tokens: give share and pixels"),
        ({"pixels": {}}, "give min_pixels, max_pixels, tokens or frames"),
        ({"pixels": {"min_pixels": 2, "max_pixels": 1}}, "min_pixels 2 is above max_pixels 1"),
        ({"pixels": {"tokens": 1296}, "label": 512.0, "share": 22.2}, "a label of 512 is 39.5 % of 1296 tokens"),
        ({"share": 122.2}, "share"),
        ({"share": None, "label": 2048.0, "after": "layer"}, "after says what a share counts"),
        ({"method": "hiprunee"}, "unknown method 'hiprunee'. Did you mean 'hiprune'"),
    ],
)
def test_a_mistake_in_a_share_is_refused(
    qwen: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    import re

    qwen["entries"][0] |= change
    assert re.search(message, refused(qwen, tmp_path))


def test_a_label_is_not_compared_with_the_geometry_of_images_of_their_own_sizes(
    qwen: dict[str, Any], tmp_path: Path
) -> None:
    qwen["entries"][0] |= {"label": 16384.0}
    path = tmp_path / "large.yaml"
    path.write_text(yaml.safe_dump(qwen))
    assert load_reference(path).entries[0].label == 16384 > load_reference(path).sizes.visual_tokens


def test_a_model_whose_images_are_alike_has_no_share(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["entries"][0] |= {"share": 11.1}
    assert "all images of llava-1.5-7b have 576 tokens: no share or pixels" in refused(raw, tmp_path)


def test_published_numbers_of_several_sizes_of_images_are_listed_without_differences(
    cell: Callable[..., dict[str, Any]], document_of: Callable[..., dict[str, Any]]
) -> None:
    geometry, fastv = PRESETS["qwen2.5-vl-7b"], Schedule(cuts=(Cut(2, 130),))
    ours = cell("mine", "fastv", fastv, "pope", 80.0, geometry=geometry, budget="16.4%")
    # Images of different sizes.
    ours |= {"paper_macs": round(1.02 * ours["paper_macs"]), "share_of_total": ours["share"]}
    document = document_of(matrix="mine", cells=[ours], reference="qwen2.5-vl-7b")
    sheet = published_sheet(document)
    assert sheet is not None
    sections = {title: [[field.text for field in row] for row in rows] for title, rows in sheet.sections}
    assert list(sections) == [
        "qwen2.5-vl-7b, measured here",
        "qwen2.5-vl-7b, pixels not stated, fastv at 25.0 %, training-free",
        "qwen2.5-vl-7b, pixels not stated, fastv at 10.0 %, training-free",
        "qwen2.5-vl-7b, 2048 tokens an image, fastv at 20.0 %, training-free",
        "qwen2.5-vl-7b, 2048 tokens an image, fastv at 10.0 %, training-free",
    ]
    measured, *published = (rows[0] for rows in sections.values())
    assert measured[:4] == ["measured here", "mine, fastv", "16.5 % (213.3)", "80.0"]
    assert published[0][:4] == ["IDPruner", "kept after the method's layer", "25.0 %", "85.2"]
    ours["paper_macs"] *= 2
    assert published_sheet(document) is None


def test_a_method_of_hidrop_is_no_other_method(qwen: dict[str, Any], tmp_path: Path) -> None:
    qwen["other_methods"]["vispruner"] = "VisPruner"
    assert "other_methods.vispruner: hidrop has this method; remove it" in refused(qwen, tmp_path)


def test_the_same_line_twice_is_refused(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["entries"].append(raw["entries"][0])
    assert "a second entry" in refused(raw, tmp_path)


def test_an_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"llava-1\.5-7.*Did you mean 'llava-1\.5-7b'"):
        load_reference("llava-1.5-7")


def test_published_numbers_stand_below_the_measured_row_of_the_same_budget(paper: dict[str, Any]) -> None:
    sheet = published_sheet(paper)
    assert sheet is not None
    sections = {title: [[field.text for field in row] for row in rows] for title, rows in sheet.sections}
    trained = sections["llava-1.5-7b, hidrop at 11.1 % (64 tokens), trained"]
    assert [row[0] for row in trained] == ["measured here", "HiDrop"]
    assert [row[3] for row in trained] == ["60.0", "60.5 (-0.5)"]
    free = sections["llava-1.5-7b, fastv at 11.1 % (64 tokens), training-free"]
    assert [row[2] for row in free] == [
        "11.1 % (64.1)",
        "11.1 % (64)?",
        "11.1 % (64)?",
        "~14.1 % (81.2)",
        "11.1 % (64)?",
        "11.1 % (64)?",
    ]
    assert sections["llava-1.5-7b, vanilla"][0][0] == "measured here"
    assert not any("pdrop" in title or "sparsevlm" in title for title in sections)  # not in this matrix


def test_a_published_setting_is_compared_with_the_row_of_that_setting_and_not_with_a_budget_of_its_label(
    cell: Callable[..., dict[str, Any]], document_of: Callable[..., dict[str, Any]]
) -> None:
    """DART's "64" is 68 tokens after layer 2: 99.75 on average. A budget of 64 leaves 30."""
    geometry = PRESETS["llava-1.5-7b"]
    setting = cell("mine", "dart-label-64", Schedule(cuts=(Cut(2, 68),)), "gqa", 55.0, geometry=geometry)
    budget = cell("mine", "dart-64", Schedule(cuts=(Cut(2, 30),)), "gqa", 50.0, geometry=geometry, budget="64")
    both = document_of(matrix="baselines", cells=[setting, budget])
    title = "llava-1.5-7b, dart at 11.1 % (64 tokens), training-free"

    def shown(document: dict[str, Any]) -> list[tuple[str, str, str]]:
        sheet = published_sheet(document)
        assert sheet is not None
        return [(row[0].text, row[2].text, row[3].text) for row in dict(sheet.sections)[title]]

    ours = [("measured here", "17.3 % (99.8)", "55.0"), ("measured here", "11.1 % (64.1)", "50.0")]
    assert shown(both) == [
        *ours,
        ("DART", "17.3 % (99.75)", "55.9 (-0.9)"),
        ("CDPruner Tab. 1", "11.1 % (64)?", "54.7 (-4.7)"),
    ]
    alone = shown(document_of(matrix="baselines", cells=[budget]))
    assert [score for *_, score in alone] == ["50.0", "55.9 (-5.9)", "54.7 (-4.7)"]


def test_the_image_left_out_has_a_published_row_of_no_tokens(
    cell: Callable[..., dict[str, Any]], document_of: Callable[..., dict[str, Any]]
) -> None:
    ours = cell("mine", "text_only", Schedule(cuts=(Cut(0, 0),)), "gqa", 38.0, geometry=PRESETS["llava-1.5-7b"])
    found = lines(
        document_of(matrix="baselines", cells=[ours]), "llava-1.5-7b, text_only at 0.0 % (0 tokens), training-free"
    )
    assert found["FasterVLM EVAL.md"]["GQA"] == "37.38 (+0.6)"


HIDROP_64 = "llava-1.5-7b, hidrop at 11.1 % (64 tokens), trained"


def lines(document: dict[str, Any], title: str) -> dict[str, dict[str, str]]:
    """The rows of a section of the published numbers by source, each by column."""
    sheet = published_sheet(document)
    assert sheet is not None
    rows = dict(sheet.sections)[title]
    return {row[0].text: dict(zip(sheet.headers, (field.text for field in row), strict=True)) for row in rows}


def test_the_papers_mean_stands_next_to_the_measured_one_and_both_say_over_how_many_tasks(
    paper: dict[str, Any], paper_full: dict[str, Any]
) -> None:
    found = lines(paper_full, HIDROP_64)
    assert {source: line["% of vanilla"] for source, line in found.items()} == {
        "measured here": "98.0 of 11",
        "HiDrop": "98.3 of 11",
    }
    assert lines(paper, HIDROP_64)["measured here"]["% of vanilla"] == "75.0 of 1"
    assert lines(paper, HIDROP_64)["HiDrop"]["% of vanilla"] == "98.3 of 11"
    sheet = published_sheet(paper_full)
    assert sheet is not None
    means = {
        title: [row[-1].text for row in rows if row[0].text.startswith("HiDrop")] for title, rows in sheet.sections
    }
    assert {title.split(", ", 1)[1]: of for title, of in means.items() if of} == {
        "vanilla": ["100.0 of 11"],
        "fastv at 13.9 % (80 tokens), training-free": ["87.9 of 11"],
        "hidrop at 13.9 % (80 tokens), trained": ["98.4 of 11"],
        "fastv at 11.1 % (64 tokens), training-free": ["82.8 of 11"],
        "hidrop at 11.1 % (64 tokens), trained": ["98.3 of 11"],
        "hidrop at 8.3 % (48 tokens), trained": ["96.5 of 11", "97.1 of 11"],
    }


def test_a_source_without_a_mean_gets_none_and_one_without_its_number_of_tasks_says_so(
    paper_full: dict[str, Any],
) -> None:
    vanilla = lines(paper_full, "llava-1.5-7b, vanilla")
    assert vanilla["LLaVA MODEL_ZOO"]["GQA"].startswith("62.0") and vanilla["LLaVA MODEL_ZOO"]["% of vanilla"] == "-"
    for cell in paper_full["cells"]:
        if cell["method"] == "fastv":
            cell["method"] = "pdrop"
    free = lines(paper_full, "llava-1.5-7b, pdrop at 11.1 % (64 tokens), training-free")
    assert free["measured here"]["% of vanilla"] == "80.0 of 11"
    assert free["RESTORE Tab. 1"]["% of vanilla"] == "80.9 of ?"


def test_a_published_score_of_another_split_has_a_column_of_its_own_without_a_difference(
    paper_full: dict[str, Any],
) -> None:
    found = lines(paper_full, HIDROP_64)
    assert found["HiDrop"]["VQAv2 (test)"] == "76.5" and found["HiDrop"]["VQAv2 (val)"] == "-"
    assert found["measured here"]["VQAv2 (test)"] == "-" and found["measured here"]["VQAv2 (val)"] == "58.8"
    zoo = lines(paper_full, "llava-1.5-7b, vanilla")["LLaVA MODEL_ZOO"]
    assert (zoo["VizWiz (val)"], zoo["VizWiz (test)"]) == ("-", "50.0")
    text = markdown(paper_full)
    assert "another split than the measured one, and not compared with it: VQAv2 (test), VizWiz (test)." in text
    assert "VQAv2 (test) VQAv2 accuracy on test-dev, by the server" in text


def test_a_split_that_was_run_has_its_published_scores_in_its_own_column(paper_full: dict[str, Any]) -> None:
    for cell in [cell for cell in paper_full["cells"] if cell["task"] == "vqav2_val"]:
        more = {"task": "vqav2_test", "value": None, "percent_of_vanilla": None, "unscored": "to submit"}
        paper_full["cells"].append({**cell, **more})
    found = lines(paper_full, HIDROP_64)
    assert found["HiDrop"]["VQAv2"] == "76.5" and found["measured here"]["VQAv2"] == "to submit"
    assert "VQAv2 (test)" not in found["HiDrop"] and "VizWiz (test)" in found["HiDrop"]
    assert found["measured here"]["% of vanilla"] == "98.0 of 11"


def test_tasks_without_another_split_have_no_further_columns(paper: dict[str, Any]) -> None:
    sheet = published_sheet(paper)
    assert sheet is not None and sheet.headers[3:] == ("GQA", "% of vanilla")
    assert "another split" not in markdown(paper)


@pytest.mark.parametrize(("interval", "shown"), [([59.0, 61.0], "60.5 (-0.5)"), ([59.0, 60.4], "60.5 (-0.5 !)")])
def test_a_published_number_outside_of_the_measured_interval_is_marked(
    interval: list[float], shown: str, paper: dict[str, Any]
) -> None:
    paper["cells"][-1]["stats"] = {"interval": interval}
    sheet = published_sheet(paper)
    assert sheet is not None
    section = dict(sheet.sections)["llava-1.5-7b, hidrop at 11.1 % (64 tokens), trained"]
    assert section[1][3].text == shown
    assert "'!' if the published score is outside" in markdown(paper)


def test_each_published_number_has_its_source_in_the_caption(paper: dict[str, Any]) -> None:
    text = report.plain(paper)
    sheet = published_sheet(paper)
    assert sheet is not None
    for name in {row[0].text for _, rows in sheet.sections for row in rows} - {"measured here"}:
        assert f"Source {name}:" in text


def test_published_numbers_are_not_put_next_to_another_architecture(
    paper: dict[str, Any], document: dict[str, Any]
) -> None:
    assert published_sheet({**document, "matrix": "paper"}) is None
    for cell in paper["cells"]:
        cell["paper_macs"] //= 2  # as deep, as many tokens, but narrower
    assert published_sheet(paper) is None


def test_the_numbers_of_llava_next_are_not_put_next_to_llava_15_which_has_the_same_decoder(
    paper: dict[str, Any], cell: Callable[..., dict[str, Any]]
) -> None:
    def models() -> set[str]:
        sheet = published_sheet(paper)
        assert sheet is not None
        return {title.split(", ")[0] for title, _ in sheet.sections}

    assert models() == {"llava-1.5-7b"}
    tiles = cell("next", "vanilla", Schedule(), "gqa", 64.0, geometry=PRESETS["llava-next-7b"], nominal=True)
    paper["cells"].append(tiles)
    assert models() == {"llava-1.5-7b", "llava-next-7b"}
    assert lines(paper, "llava-next-7b, measured here")["measured here"]["Model or setting"] == "next, vanilla"


def test_a_document_can_name_its_references(paper: dict[str, Any]) -> None:
    assert published_sheet({**paper, "matrix": "mine"}) is None
    assert published_sheet({**paper, "matrix": "mine", "reference": ["llava-1.5-7b"]}) is not None
    assert published_sheet({**paper, "reference": []}) is None
