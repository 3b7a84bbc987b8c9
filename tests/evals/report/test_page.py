"""The HTML page as a file: what is in it, and that it needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.cli import main
from evals.report import embedded, page, page_data
from evals.report.page_samples import chosen, kind_of
from evals.store.folders import read_document, samples_of
from evals.store.kept_tokens import pack, unpack
from evals.store.result_document import cell_key
from hidrop.errors import UserError
from hidrop.visible import UNSEEN

# An answer without kept tokens.
PLAIN: dict[str, Any] = {"score": 0, "error": None, "view": None, "panels": [], "on": None, "span": 1, "kept": None}


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    data = json.loads(found[1])
    return {**data, "tasks": page_data.unpack(data)}


def test_the_report_of_a_run_has_a_page_that_needs_nothing_else(little: Path) -> None:
    assert main(["report", str(little)]) == 0
    text = (little / "report.html").read_text()
    assert len(text) < 1_000_000
    markup = re.sub(r"<(script|style|svg).*?</\1>", "", text, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)[^"']*""", markup)
    assert "@import" not in text and "url(http" not in text
    assert page.html(read_document(little), little) == text, "the same folder gives the same page"
    ids = re.findall(r'<[^>]*\sid="([^"]*)"', text)
    assert len(ids) == len(set(ids)) > 50, "drawings share no ids"
    named = {name for name in re.findall(r"url\(#([^)]*)\)", text)}
    assert named and named <= set(ids)


def test_the_page_shows_each_rows_answers_and_what_it_kept(little: Path) -> None:
    document = read_document(little)
    data = data_of(page.html(document, little, samples=5))
    assert data["notes"] == []
    for task, samples in data["tasks"].items():
        assert len(samples) == 5
        for cell in (cell for cell in document["cells"] if cell["task"] == task):
            key = f"{cell['model']}/{cell['label']}/{task}"
            journal = {sample["doc_id"]: sample for sample in samples_of(little, cell) or ()}
            for sample in samples:
                answer = sample["answers"][key]
                assert answer["text"] == journal[sample["doc"]]["answer"]
                [[image, label]] = sample["views"][answer["view"]]["pictures"]
                assert (
                    sample["question"] and data["images"][image].startswith("data:image/webp;base64,") and label == ""
                )
                assert (answer["panels"], answer["on"], answer["span"]) == ([[1, 10, 10, 0]], [[0]], 1)
                kept = answer["kept"] and [(after, len(unpack(mask, 100))) for after, mask in answer["kept"]]
                wanted = {"vanilla": [], "fastv": [(2, 4)], "random": [(2, 9)], "downsample": None}
                if cell["method"] in wanted:
                    assert kept == wanted[cell["method"]]
                else:  # HiDrop's last cut is what enters the layer after it
                    assert [count for _, count in kept] == [cell["entering"][after] for after, _ in kept]
            assert data["identities"][key]["id"] == cell["id"]


def test_samples_that_went_another_way_come_first() -> None:
    kinds = {
        "a": {0: "same", 1: "changed", 2: "lost", 3: "gained", 4: "same"},
        "b": {0: "same", 1: "same", 2: "lost", 3: "same", 4: "lost"},
    }
    assert chosen(kinds, 2) == [2, 3], "one sample that both rows lost, then one that a row gained"
    assert chosen(kinds, 99) == [2, 3, 1, 4, 0], "then a changed one, and a second that row b lost"
    assert chosen(kinds, 0) == []
    right, wrong = {"score": 1.0, "reading": "yes"}, {"score": 0.0, "reading": "no"}
    assert [kind_of(*pair) for pair in ((wrong, right), (right, wrong), (wrong, {**wrong, "reading": "x"}))] == [
        "lost",
        "gained",
        "changed",
    ]
    assert kind_of(right, right) == "same"
    assert kind_of(wrong, {**right, "reading": "x"}, lower=True) == "changed"
    assert kind_of(wrong, {**right, "reading": wrong["reading"]}, lower=True) == "same"


def test_a_row_without_a_vanilla_is_not_said_to_agree_with_it(little: Path) -> None:
    document = read_document(little)
    for cell in document["cells"]:
        cell["base"] = None
    samples = data_of(page.html(document, little))["tasks"]["gqa"]
    assert {answer["kind"] for sample in samples for answer in sample["answers"].values()} == {"uncompared"}


def test_images_without_room_are_said_to_be_left_out(little: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "IMAGE_BYTES", 20_000)
    data = data_of(page.html(read_document(little), little))
    assert len(data["tasks"]["gqa"]) < 16
    assert any("the page has no room for more images" in note for note in data["notes"])


def test_text_of_a_model_cannot_leave_its_place(little: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evals.report import page_samples

    def evil(row: Any, kind: str, *more: Any) -> dict[str, Any]:
        return {**PLAIN, "text": "</script><script>alert(1)</script>", "kind": kind}

    monkeypatch.setattr(page_samples, "_answer", evil)
    document = read_document(little)
    document["matrix"] = "<img src=x onerror=alert(1)>"
    text = page.html(document, little)
    assert "<script>alert(1)" not in text
    assert "<img src=x" not in text
    assert any("</script>" in a["text"] for s in data_of(text)["tasks"]["gqa"] for a in s["answers"].values())


def test_without_journals_or_data_the_page_says_so(little: Path, tmp_path: Path) -> None:
    document = read_document(little)
    text = page.html(document, tmp_path)
    assert "no samples" in text and 'id="samples"' not in text
    earlier = {**document, "data": {}}  # as read from a file that does not say it
    assert "does not name the data of this task" in page.html(earlier, little)
    document["data"] = {"gqa": str(tmp_path), "pope": "mini"}
    data = data_of(page.html(document, little))
    assert len(data["notes"]) == 1 and "gqa: no questions and images" in data["notes"][0]
    assert all(sample["views"] == [] for sample in data["tasks"]["gqa"])
    assert all(len(sample["views"]) == 1 for sample in data["tasks"]["pope"])


def test_a_report_keeps_what_the_page_shows_or_refuses(little: Path, tmp_path: Path, capsys: Any) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    shutil.copytree(little, out)
    report = ["report", str(out), "--quiet"]
    assert main(report) == 0
    whole = (out / page.NAME).read_text()
    (out / "samples").rename(tmp_path / "samples")
    assert main(report) == 0 and main([*report, "--out", str(other)]) == 0
    assert data_of((out / page.NAME).read_text())["tasks"] == data_of(whole)["tasks"]
    assert data_of((other / page.NAME).read_text())["tasks"] == data_of(whole)["tasks"]
    assert {path.name for path in other.iterdir()} >= {"leaderboard.md", "leaderboard.json", "figures", page.NAME}

    (tmp_path / "samples").rename(out / "samples")
    journal = next((out / "samples").glob("plain.fastv.gqa.*"))
    journal.rename(tmp_path / journal.name)
    assert main(report) == 2
    said = capsys.readouterr().err
    assert f"{out / page.NAME}: it shows samples of 1 cells (plain/fastv/gqa)" in said and "--samples 0" in said
    assert (out / page.NAME).read_text() == whole
    assert main([*report, "--samples", "0"]) == 0
    assert data_of((out / page.NAME).read_text())["tasks"].get("gqa", []) == []


def test_a_report_refuses_to_drop_questions_and_pages_of_another_version(little: Path, tmp_path: Path) -> None:
    document = read_document(little)
    page.write(document, little, out=tmp_path)
    moved: Any = {**document, "data": {**document["data"], "gqa": str(tmp_path)}}
    with pytest.raises(UserError, match="it shows questions and images of gqa, which"):
        page.write(moved, little, out=tmp_path)
    path = tmp_path / page.NAME
    path.write_text(path.read_text().replace('"identities"', '"other"'))
    with pytest.raises(UserError, match="it shows samples that another version wrote"):
        page.write(document, tmp_path)
    page.write(document, little, out=tmp_path)


def test_a_table_that_its_journals_do_not_give_is_refused(little: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    shutil.copytree(little, out)
    table = json.loads((out / "leaderboard.json").read_text())
    table["cells"][0]["value"] += 10
    (out / "leaderboard.json").write_text(json.dumps(table))
    for line in (["report"], ["report", "--tables"], ["export"], ["compare", str(little)]):
        assert main([*line, str(out)]) == 2
        assert f"{out}/leaderboard.json: plain/vanilla/gqa: value is " in capsys.readouterr().err
    assert main(["doctor", str(out)]) == 1
    assert "plain/vanilla/gqa: value is " in capsys.readouterr().out
    shutil.copy(little / "leaderboard.json", out)
    assert main(["doctor", str(out)]) == 0
    table = json.loads((out / "leaderboard.json").read_text())
    table["cells"][2]["percent_of_vanilla"] = 99.9
    (out / "leaderboard.json").write_text(json.dumps(table))
    assert main(["report", str(out)]) == 2 and "percent_of_vanilla is 99.9, but" in capsys.readouterr().err


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_kept_tokens_come_back_from_a_journal(drawn: tuple[int, set[int]]) -> None:
    count, kept = drawn
    assert unpack(pack(sorted(kept), count), count) == sorted(kept)
    with pytest.raises(ValueError, match="bits"):
        unpack(pack(sorted(kept), count), count + 8)


def test_five_panels_are_three_and_two() -> None:
    columns = [page.PageFigure("", [""] * count, [], "").columns for count in range(1, 10)]
    assert columns == [1, 2, 3, 4, 3, 3, 4, 4, 3]


def test_figures_and_symbols_have_the_inks_of_the_page(little: Path) -> None:
    text = page.html(read_document(little), little)
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert drawings and not re.search(r'"#(000000|ffffff)"', "".join(drawings))
    assert any("var(--back)" in drawing for drawing in drawings)
    style = (embedded.ASSETS / embedded.STYLE).read_text()
    assert all(f"{name}:" in style for name in re.findall(r"var\((--\w+)\)", "".join(drawings)))


def test_the_page_says_what_hidrops_methods_do_and_imports_no_other(little: Path) -> None:
    document = read_document(little)
    for cell in document["cells"]:
        if cell["method"] == "downsample":
            cell["method"], cell["code"] = "mine.py:Mine", "mine.py:Mine 0123"
    text = page.html(document, little)
    assert 'title="fastv: One cut, after the first few layers"' in text and "mine.py:Mine:" not in text
    methods = data_of(text)["methods"]
    assert "mine.py:Mine" not in methods and "arxiv.org/abs/2403.06764" in methods["fastv"][1]


def test_the_page_says_what_a_score_counts(document: dict[str, Any]) -> None:
    for cell in document["cells"]:
        if cell["task"] == "pope":
            cell |= {"task": "mmbench_en_dev", "extra": {"questions": 125.0}}
        elif cell["label"] == "random-7":
            cell["task"] = "mme"
    data = data_of(page.html(document, Path("nowhere")))  # type: ignore[arg-type]
    assert data["counted"]["mini/fastv-7/mmbench_en_dev"] == 125 and data["counted"]["mini/random-7/mme"] == 250
    assert "mini/fastv-7/gqa" not in data["counted"]
    assert data["units"]["mmbench_en_dev"] == "questions with all their rotations" and "gqa" not in data["units"]


def policy_of(text: str) -> dict[str, list[str]]:
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert found
    return {name: values for name, *values in (part.split() for part in found[1].split(";"))}


def test_the_policy_names_the_pages_own_script_and_style_and_nothing_else(little: Path) -> None:
    text = page.html(read_document(little), little)
    policy = policy_of(text)
    assert "unsafe" not in str(policy) and policy["default-src"] == ["'none'"]
    for kind, element in (("script-src", r"<script>(.*?)</script>"), ("style-src", r"<style>(.*?)</style>")):
        own = re.findall(element, text, re.DOTALL)
        hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in own]
        assert len(own) == 1 and policy[kind] == hashes
    # Nothing that the policy would not apply: no style of an element, no other sheet, no handler.
    assert not re.search(r"<[^>]*\s(style|on\w+)=", text.replace(data_text(text), ""))
    assert text.count("<style") == 1 and text.count("<script") == 2


def data_text(text: str) -> str:
    found = page.DATA.search(text)
    assert found
    return found[1]


def test_no_text_of_a_run_acts_on_the_page(little: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evals.report import page_samples

    evil = "\x1b[31m\u202e\x00\u2028"

    def answer(row: Any, kind: str, *more: Any) -> dict[str, Any]:
        return {**PLAIN, "text": evil, "kind": kind}

    monkeypatch.setattr(page_samples, "_answer", answer)
    document = read_document(little)
    document["matrix"] = document["command"] = evil
    text = page.html(document, little)
    assert not UNSEEN.search(text) and r"\\x1b[31m\\u202e" in text


def test_an_existing_page_of_any_kind_is_replaced(little: Path, tmp_path: Path) -> None:
    document, path = read_document(little), tmp_path / page.NAME
    for content in (b"\xff", b'<script type="application/json" id="data">' + b"[" * 90_000 + b"</script>", b""):
        path.write_bytes(content)
        page.write(document, tmp_path)
        assert path.read_text().startswith("<!doctype html>")


def scored(tokens: int, **more: Any) -> Any:
    row = {"answer": "a", "score": 1.0, "error": None, "target": "a", "category": None, "visual_tokens": tokens}
    row["reading"] = "a"
    return {**row, "kept": [[2, pack([0, 1], tokens)]], **more}


def test_of_an_older_journal_only_the_square_of_the_models_own_image_is_drawn() -> None:
    from evals.report.page_samples import _answer

    old = _answer(scored(16), "same", 16)
    assert old["panels"] == [[1, 4, 4, 0]] and old["kept"]
    for tokens, own in ((12, 12), (16, 2880), (16, None)):  # 16 of 2880: perhaps 2 x 8
        assert _answer(scored(tokens), "same", own)["panels"] == []
        assert _answer(scored(tokens), "same", own)["kept"] is None


def test_samples_of_older_pages_get_todays_form() -> None:
    """The oldest state the side of a square, later ones the grids and whether they are of one image."""
    from evals.report.page_samples import convert_older

    kept = [[2, "AA=="]]
    rows = (("a", 16), ("b", 9))
    cells: Any = {"cells": [{"model": "m", "label": row, "task": "gqa", "image_tokens": n} for row, n in rows]}
    sample: Any = {"image": 5, "answers": {f"m/{row}/gqa": {"side": 4, "kept": kept} for row in ("a", "b")}}
    convert_older({"gqa": [sample]}, cells)
    shared = {"reading": None, "error": None, "view": 0, "span": 1}
    assert sample == {
        "views": [{"pictures": [[5, ""]], "more": ""}],
        "answers": {
            "m/a/gqa": {**shared, "kept": kept, "panels": [[1, 4, 4, 0]], "on": [[0]]},
            "m/b/gqa": {**shared, "kept": None, "panels": [], "on": None},
        },
    }
    tiles, film = [[1, 2, 2, 0], [1, 3, 2, 1]], [[4, 2, 2, 0], [1, 1, 0, 1]]
    shapes = [[True, True, tiles], [False, False, tiles], [True, True, film]]
    answers = [[0, 1.0, 0, 0, number, kept] for number in range(len(shapes))]
    packed = {"rows": ["a", "b", "c"], "samples": [{"image": 1, "whole": 2, "texts": ["x"], "answers": answers}]}
    tasks = page_data.unpack({"tasks": {"gqa": packed}, "shapes": shapes})
    for _ in range(2):  # what has today's form stays as it is
        convert_older(tasks, cells)
        ((sample,),) = tasks.values()
        assert [view["pictures"] for view in sample["views"]] == [[[1, ""]], [[2, ""]]]
        found = {key: (answer["view"], answer["on"], answer["panels"]) for key, answer in sample["answers"].items()}
        assert found == {"a": (1, [[0, 1]], tiles), "b": (0, None, tiles), "c": (1, None, film)}


def test_a_sample_has_the_pictures_that_its_models_see() -> None:
    """LLaVA's square, all of the image for a family that squeezes it into its grid, or both."""
    from evals.report.page_pictures import Picture, ShownSample, View
    from evals.report.page_samples import PageSamples, _listed

    views = {(whole, None): View((Picture(url),), (1,)) for whole, url in ((False, "square"), (True, "all of it"))}
    square, whole = scored(4, doc_id=1, panels=[[[1, 2, 2, 0]]], whole=False), scored(4, doc_id=1, whole=True)
    failed = scored(4, doc_id=1, error="no luck")

    def listed(rows: Any, image_room: int = 999, answer_room: int = 9999) -> tuple[list[dict[str, Any]], PageSamples]:
        found, answers = PageSamples(), {f"m/{number}/gqa": [row] for number, row in enumerate(rows)}
        kinds: Any = {key: {1: "same"} for key in answers}
        more: Any = (dict.fromkeys(answers, 4), dict.fromkeys(answers), {1: ShownSample("q", views)}, found)
        return _listed([1], answers, kinds, *more, (image_room, answer_room)), found

    for rows, images in (
        ([square], ["square"]), ([whole], ["all of it"]), ([square, whole], ["square", "all of it"]),
        ([whole, failed], ["all of it"]),
    ):  # fmt: skip
        (sample,), found = listed(rows)
        assert found.images == images
        pictures = [view["pictures"] for view in sample["views"]]
        assert pictures == [[[number, ""]] for number in range(len(images))]
        assert [answer["view"] for answer in sample["answers"].values()] == (
            [0, 1] if len(images) == 2 else [0] * len(rows)
        )
    none, found = listed([square], image_room=3)
    assert none == [] and "1 of 1 samples: the page has no room for more images" in found.notes[0]
    none, found = listed([square], answer_room=10)
    assert none == [] and "1 of 1 samples: the page has no room for more answers" in found.notes[0] and not found.images


def test_samples_come_back_from_a_page_as_they_were() -> None:
    one = {
        **PLAIN,
        "text": "a",
        "kind": "lost",
        "reading": 0,
        "view": 0,
        "panels": [[1, 2, 2, 0]],
        "on": [[0]],
        "kept": [[2, "8A=="]],
    }
    failed = {**PLAIN, "text": "", "score": None, "kind": "uncompared", "reading": 1, "error": "no luck", "view": None}
    sample: dict[str, Any] = {"doc": 3, "question": "?", "target": "b", "category": None}
    sample["views"] = [{"pictures": [[0, ""]], "more": ""}]
    tasks = {"gqa": [{**sample, "answers": {"a": one, "b": failed}}, {**sample, "answers": {"b": one}}], "pope": []}
    packed = json.loads(json.dumps(page_data.pack(tasks)))
    assert page_data.unpack(packed) == tasks
    assert len(packed["shapes"]) == 2 and packed["tasks"]["gqa"]["rows"] == ["a", "b"]


def test_answers_that_are_read_as_the_same_have_the_same_number(little: Path) -> None:
    document = read_document(little)
    for sample in data_of(page.html(document, little, samples=3))["tasks"]["pope"]:
        readings: dict[int, set[str]] = {}
        for key, answer in sample["answers"].items():
            cell = next(one for one in document["cells"] if key == cell_key(one))
            row = next(row for row in samples_of(little, cell) or () if row["doc_id"] == sample["doc"])
            readings.setdefault(answer["reading"], set()).add(row["reading"])
        assert all(len(own) == 1 for own in readings.values())
        assert len({next(iter(own)) for own in readings.values()}) == len(readings)


@pytest.mark.slow
def test_a_page_of_twelve_benchmarks_with_forty_rows_is_below_10_megabytes() -> None:
    from tests.evals.report import large_page

    text = large_page.html()
    samples = data_of(text)["tasks"]
    assert len(samples) == 12 and all(len(own) > 20 for own in samples.values())
    assert 4_000_000 < len(text.encode()) < 10_000_000
    assert 'id="figures"' in text and text.count("data-cells=") == 3 * 12 * large_page.ROWS  # in three tables
