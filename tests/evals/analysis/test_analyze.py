"""`run.py analyze` from samples to a schedule: resumable, on every architecture, with clear words where it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evals import cli
from evals.analysis.document import ANALYSIS
from hidrop.models import load
from tests.conftest import PINPOINTS, make_llava_next

pytestmark = pytest.mark.usefixtures("short_answers")

FIXED = ("--inject", "2", "--exit", "4", "--filters", "2", "--budget", "35%")  # of 4 layers
QUICK = ("--batch", "3", "--held-out", "1", "--windows", "1,2")


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_llava: Callable[..., Any], tokenizer: Any, image_processor: Any) -> Path:
    from hidrop.models import save

    model = tiny_llava(layers=4, seed=3)
    model.config.text_config.max_position_embeddings = 2048
    return save(model, tokenizer, image_processor, tmp_path / "tiny")


@pytest.fixture(scope="module")
def anyres(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor

    model = make_llava_next(layers=4, seed=5)
    model.config.text_config.max_position_embeddings = 2048
    size = {"height": 32, "width": 32}
    processor = LlavaNextImageProcessorPil(size={"shortest_edge": 32}, crop_size=size, image_grid_pinpoints=PINPOINTS)
    path = tmp_path_factory.mktemp("next") / "next"
    model.save_pretrained(path)
    LlavaNextProcessor(
        image_processor=processor, tokenizer=tokenizer, patch_size=8,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    ).save_pretrained(path)  # fmt: skip
    return path


def analyze(*arguments: Any) -> int:
    return cli.main(["analyze", *map(str, arguments)])


def test_a_model_is_probed_and_what_is_found_is_written(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    asked = ("--model", checkpoint, "--data", "mini", "--samples", 9, *QUICK, *FIXED)
    code = analyze(*asked, "--out", out, "--explain", "--json")
    printed = capsys.readouterr()
    found = json.loads(printed.out.splitlines()[-1])
    assert code == 0 and found == ANALYSIS.read(out / "analysis.json")
    assert found["probed"] == 9 and found["failed"] == 0 and found["layers"] == 4
    assert found["suggestion"]["schedule"]["inject"] == 2 and "hidrop-suggested" in found["yaml"]
    assert "FLOP" in printed.err and "exit: 4. Rule: given" in printed.err
    assert {p.name for p in (out / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("similarity", "masking", "ilvas", "attention") for kind in ("svg", "pdf")
    }
    rows = (out / "curves.csv").read_text().splitlines()
    assert rows[0] == "curve,layer,mean,low,high" and len([r for r in rows if r.startswith("exit_1,")]) == 4
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 4 and "src=" not in page and 'href="http' not in page
    assert "unsafe" not in page and " style=" not in page and page.count("<style") == 1 and "style-src 'sha256-" in page
    curve = found["curves"]["exit_1"]
    assert all(low <= mean <= high for mean, low, high in zip(curve["mean"], curve["low"], curve["high"], strict=True))


def test_the_schedule_can_be_pasted_into_a_matrix(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    analyze("--model", checkpoint, "--data", "mini", "--samples", 4, "--out", out, *QUICK, *FIXED, "--no-inject-sweep")
    pasted = capsys.readouterr().out.split("methods:\n")[1].splitlines()[0]
    path = tmp_path / "m.yaml"
    path.write_text(
        f"protocol: lmms-eval\nmodels: {{a: {{source: '{checkpoint}'}}}}\n"
        f"methods:\n{pasted}\ntasks: {{gqa: {{data: mini}}}}\n"
    )
    assert cli.main(["validate", str(path)]) == 0


def test_answers_are_those_of_a_matrix(tmp_path: Path) -> None:
    """The walk's unreduced answers equal what `generate` gives, sample by sample."""
    from evals.analysis.probe_model import ProbeModel
    from evals.analysis.probe_settings import ProbeSettings
    from evals.model.lmms_model import HidropLlava
    from evals.tasks import evaluation
    from evals.tasks.data import TaskSpec

    loaded = load("mini:vanilla")
    spec, records = TaskSpec("textvqa_val", "mini", "lmms-eval"), list[Any]()
    probes = ProbeSettings(windows=(2,), shares=(1.0,), inject=False)
    probing = ProbeModel.on(loaded, probes, "lmms-eval", 4, records.extend, {}, 0)
    plain = HidropLlava.from_loaded(loaded, None, "lmms-eval", 4)
    with evaluation.quiet():
        ours = probing.generate_until(evaluation.requests(probing, spec, limit=10)[1])
        theirs = plain.generate_until(evaluation.requests(plain, spec, limit=10)[1])
    assert [one.text for one in ours] == [one.text for one in theirs]
    assert {record["answer"] for record in records} == {one.text for one in theirs}


def test_an_interrupted_analysis_goes_on_and_ends_the_same(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evals.analysis import probe_model

    arguments = ("--model", checkpoint, "--data", "mini", "--samples", 9, *QUICK, "--no-inject-sweep")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    analyze(*arguments, "--out", whole)
    probe, calls = probe_model.ProbeModel._probe, list[int]()

    def counted(self: Any, prompts: Any, reduction: Any) -> Any:
        calls.append(len(prompts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return probe(self, prompts, reduction)

    monkeypatch.setattr(probe_model.ProbeModel, "_probe", counted)
    assert analyze(*arguments, "--out", broken) == 130
    analyze(*arguments, "--out", broken)
    assert sum(calls) - calls[1] == 9, "what was probed before is not probed again"
    first, second = (json.loads((folder / "analysis.json").read_text()) for folder in (whole, broken))
    assert json.dumps(first["curves"]) == json.dumps(second["curves"]), "in the same order, too"
    assert first["suggestion"] == second["suggestion"]


@pytest.mark.parametrize("task", ["mmbench_en_dev", "gqa,pope"])
def test_a_users_own_checkpoint_on_every_task(
    task: str, checkpoint: Path, data_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    """A random model needs no image: that is said, and the curves are there all the same. With two images only there
    is no cross-modal similarity."""
    code = analyze("--model", checkpoint, "--data", data_folder, "--task", task, "--out", tmp_path / "out", *QUICK)
    assert code == 1 and "no schedule: no exit" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert found["probed"] > 1 and len(found["curves"]["mass"]["mean"]) == 4


def test_a_model_of_the_anyres_family(anyres: Path, data_folder: Path, tmp_path: Path) -> None:
    code = analyze("--model", anyres, "--data", data_folder, "--out", tmp_path / "a", *QUICK, *FIXED)
    found = json.loads((tmp_path / "a" / "analysis.json").read_text())
    assert code == 0 and found["suggestion"]["schedule"]["keep"]


def test_a_search_tries_the_suggestion_and_its_neighbours_on_other_samples(
    checkpoint: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    more = ("--held-out", 6, "--search", 3, "--no-inject-sweep", "--batch", 6)
    assert analyze("--model", checkpoint, "--data", "mini", "--samples", 4, "--out", out, *FIXED, *more) == 0
    found = json.loads((out / "analysis.json").read_text())["search"]
    labels = [row[0] for row in found["rows"]]
    assert labels[:2] == ["vanilla", "suggested"] and len(labels) > 2 and found["samples"] == 6
    assert any(row[-1] == "*" for row in found["rows"])
    assert "on the Pareto front" in capsys.readouterr().out

    def asked(folder: Path) -> set[int]:
        lines = (line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()[1:])
        return {record["doc_id"] for record in map(json.loads, lines) if "doc_id" in record}

    assert asked(out / "samples").isdisjoint(asked(out / "search" / "samples"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "mini:vanila"), "Did you mean 'mini:vanilla'"),
        (("--model", "mini:vanilla", "--task", "gqq"), "unknown task.*'gqa'"),
        (("--model", "mini:vanilla", "--budget", "many"), "--budget: a budget is a number of visual tokens"),
        (("--model", "mini:vanilla", "--windows", "12"), "--windows must be less than the model's 12 layers .got 12"),
        (("--model", "mini:vanilla", "--top", "0"), "--top must be above 0 and at most 100 percent .got 0"),
        (("--model", "mini:vanilla", "--data", "nowhere"), "no data in 'nowhere'"),
        (("--model", "mini:vanilla", "--samples", "1"), "1 of 1 samples could be probed, at least two are needed"),
        (
            ("--model", "mini:vanilla", "--held-out", "100000"),
            "no sample is left to probe, the first 100000 are held out.*Set a lower --held-out",
        ),
        (
            ("--model", "mini:vanilla", "--exit", "3", "--inject", "5"),
            "--exit must be greater than --inject",
        ),
        (("--model", "mini:vanilla", "--exit", "13"), "--exit must be a layer of the model, which has 12 .got 13"),
        (
            ("--model", "mini:vanilla", "--exit", "6", "--filters", "3,6"),
            "--filters must be layers from 1 .* to 4 ",
        ),
    ],
)
def test_what_cannot_be_is_told_in_words(arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: Any) -> None:
    import re

    code = analyze(*QUICK, *arguments, "--out", tmp_path / "out")
    printed = capsys.readouterr()
    assert code in (1, 2) and re.search(message, printed.err + printed.out, re.DOTALL), printed


def test_samples_without_an_image_and_broken_ones_are_counted(loaded: Any, tmp_path: Path) -> None:
    from evals.analysis.probe_model import ProbeModel
    from evals.analysis.probe_settings import ProbeSettings
    from evals.analysis.task_curves import curves_of
    from evals.tasks.data import TaskSpec
    from hidrop.errors import UserError

    def pictures(doc: dict[str, Any]) -> list[Any]:
        from PIL import Image

        if doc["colour"] == "broken":
            raise OSError("broken file")
        return [] if doc["colour"] is None else [Image.new("RGB", (40, 32), doc["colour"])]

    docs = [{"colour": c, "answer": "a"} for c in ("red", None, "blue", "broken", "green")]
    settings = {"max_new_tokens": 3, "do_sample": False}
    asked = [
        SimpleNamespace(args=("What?", settings, pictures, i, "toy", "test"), metadata={}) for i in range(len(docs))
    ]
    records = list[Any]()
    lm = ProbeModel.on(loaded, ProbeSettings(windows=(1,)), "llava", 2, records.extend, {}, 0)
    lm.task_dict["toy"] = {"test": docs}
    lm.generate_until(asked)
    errors = {record["doc_id"]: record["error"] for record in records}
    assert errors[1] == "no image: the sample has no visual tokens to probe" and errors[3] == "OSError: broken file"
    assert all(errors[i] is None for i in (0, 2, 4))
    spec = TaskSpec("gqa", "mini", "llava")
    names = dict.fromkeys(range(5), "x")
    curves = curves_of(loaded.geometry, spec, records, dict(enumerate(docs)), names)
    assert curves.samples == 3
    with pytest.raises(UserError, match="0 of 2 samples could be probed.*no image"):
        curves_of(loaded.geometry, spec, [r for r in records if r["error"]], dict(enumerate(docs)), names)


def test_the_cost_counts_every_run_of_the_prompt() -> None:
    from evals.analysis.probe_settings import ProbeSettings, cost, flops_of_sample
    from hidrop.geometry import PRESETS

    seven = PRESETS["llava-1.5-7b"]
    each, prefill = flops_of_sample(seven, ProbeSettings(shares=(1.0,), inject=False), 60)
    text_only = seven.layer_flops(60) * 32 * 33 // 2
    assert each == 3 * prefill + text_only
    said = cost(seven, ProbeSettings(), 60, 200)
    assert "200 samples: about" in said and "PFLOP" in said
