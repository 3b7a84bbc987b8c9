"""Ablation studies: what a file may say, what is trained and taken up again, and when a claim holds."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from evals import cli
from evals.ablations import claims, runs, spec, table
from evals.ablations.document import ABLATIONS
from evals.ablations.spec import Claim, Study, load_study
from hidrop.errors import UserError
from tests.evals.holding import held_elsewhere

TINY: dict[str, Any] = {
    "seeds": [1, 2],
    "method": {"name": "hidrop", "inject": 4, "filters": [4], "keep": [20], "exit": 10},
    "train": {"start": "window", "lessons": [{"data": "letters", "steps": 4, "batch": 1, "lr": 0.001}]},
    "starts": {
        "window": {
            "start": "mini:vanilla",
            "method": {"name": "vanilla"},
            "lessons": [{"data": "letters", "steps": 4, "batch": 1, "lr": 0.001}],
        }
    },
    "evaluation": {"reference": "mini:vanilla", "limit": 2, "batch_size": 2, "tasks": {"gqa": {"data": "mini"}}},
    "variants": {"base": {}, "early": {"change": {"exit": 8}}},
    "untrained": {"grid": {"name": "uniform", "layer": 1, "budget": "11%"}},
    "claims": [
        {"say": "Early is better", "better": "early", "worse": "base", "paper": [99.7, 97.7]},
        {"say": "Training helps", "better": "base", "worse": "grid"},
    ],
}


def written(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    return path


def test_a_study_is_trained_scored_and_judged(tmp_path: Path, capsys: Any) -> None:
    path, work, out = written(tmp_path, notes=["Small."]), tmp_path / "work", tmp_path / "out"
    again = ("ablate", str(path), "--work", str(work), "--out", str(out), "--json")
    assert cli.main([*again, "--train", "2"]) == 1, "models are missing"
    assert "3 models are not trained yet" in capsys.readouterr().err
    assert cli.main(list(again)) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record == ABLATIONS.read(out / "ablations.json")
    assert record["not_run"] == [] and set(record["training_seconds"]) == {
        "window", "base-s1", "base-s2", "early-s1", "early-s2"
    }  # fmt: skip
    assert [one["claim"]["better"] for one in record["claims"]] == ["early", "base"]
    assert all(one["seeds"] == 2 for one in record["claims"])
    page = (out / "ablations.md").read_text()
    assert "| Early is better |" in page and "99.7 vs 97.7" in page and "- Small." in page and "not trained" in page
    weights = {p: p.stat().st_mtime_ns for p in work.rglob("*.safetensors")}
    assert cli.main(list(again)) == 0
    assert weights == {p: p.stat().st_mtime_ns for p in work.rglob("*.safetensors")}, "nothing is trained twice"


def test_each_seed_of_a_variant_goes_on_from_the_studys_start(tmp_path: Path) -> None:
    study = load_study(written(tmp_path))
    order = [run.title for run in runs.missing(study, tmp_path)]
    assert order == ["window", "base-s1", "early-s1", "base-s2", "early-s2"]
    first = next(iter(runs.missing(study, tmp_path)))
    assert runs.ready(study, runs.runs_of(study, tmp_path)[0], tmp_path) is None, "its start is not there"
    first.model.mkdir(parents=True)
    (first.model / "training.json").write_text("{}")
    recipe = runs.ready(study, runs.runs_of(study, tmp_path)[0], tmp_path)
    assert recipe is not None and recipe.start == str(first.model) and recipe.seed == 1


def test_what_another_process_trains_is_left_to_it(tmp_path: Path) -> None:
    study = load_study(written(tmp_path))
    window = runs.starts_of(study, tmp_path)[0]
    with held_elsewhere(window.folder):
        others = runs.train_missing(study, tmp_path)
    assert [run.title for run in others] == ["window", "base-s1", "early-s1", "base-s2", "early-s2"]


def test_a_study_of_an_edited_method_takes_up_nothing_of_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(written(tmp_path))
    before = study.folder_of("base", 1)
    assert study.folder_of("base", 1) == before
    monkeypatch.setattr(spec, "method_digest", lambda method: f"an edited {type(method).__name__}")
    assert study.folder_of("base", 1) != before


def test_a_folder_that_cannot_be_locked_is_not_left_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with pytest.raises(UserError, match="has no file locks"):
        runs.train_missing(load_study(written(tmp_path)), tmp_path)


def test_a_changed_study_takes_up_nothing_of_the_old_one(tmp_path: Path) -> None:
    one = load_study(written(tmp_path))
    longer = {**TINY["starts"]["window"], "lessons": [{"data": "letters", "steps": 8, "batch": 1, "lr": 0.001}]}
    other = load_study(written(tmp_path, starts={"window": longer}))
    renamed = load_study(written(tmp_path, variants={"again": {}}, claims=[]))
    assert one.folder_of("base", 1) != other.folder_of("base", 1), "it starts from another model"
    assert one.folder_of("base", 1) != one.folder_of("base", 2)
    assert one.folder_of("base", 1).split("-")[-1] == renamed.folder_of("again", 1).split("-")[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": {"base": {"change": {"exot": 8}}}, "claims": []}, "variants.base: exot: unknown field"),
        ({"variants": {"base": {"change": {"exit": 14}}}, "claims": []}, "variants.base: exit: layer 14 must be"),
        ({"variants": {"base": {"method": {"name": "vanilla"}, "change": {"exit": 8}}}}, "a `method` of its own"),
        (
            {"claims": [{"say": "x", "better": "bsae", "worse": "early"}]},
            r"claims\[0\].better: no variant or row 'bsae'.*'base'",
        ),
        ({"untrained": {"base": {"name": "vanilla"}}}, "untrained.base: also the name of a variant"),
        ({"starts": {"base": TINY["starts"]["window"]}}, "starts.base: also the name of a variant"),
        ({"seeds": []}, "seeds"),
        ({"train": {"start": "window"}}, "train.lessons: is missing"),
    ],
)
def test_a_file_that_cannot_be_is_told_in_words(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_study(written(tmp_path, **changes))


def test_the_bundled_studies_are_in_order() -> None:
    for name in ("ablations", "suggested"):
        study = load_study(name)
        assert study.claims and len(study.seeds) > 1
    with pytest.raises(UserError, match="no such file"):
        load_study("ablation-of-something")


def document(scores: dict[str, float]) -> dict[str, Any]:
    """A result document with these values of the only task, in % of the reference alike."""

    def cell(model: str, label: str, value: float) -> dict[str, Any]:
        return {
            "model": model, "label": label, "task": "gqa", "value": value, "percent_of_vanilla": value,
            "average_tokens": 11.0,
        }  # fmt: skip

    trained = [cell(model, "trained", value) for model, value in scores.items()]
    made = {"hardware": {}, "versions": {}, "date": "2026-01-02", "commit": None}
    return {**made, "cells": [*trained, cell(runs.REFERENCE, "grid", 50.0)]}


@pytest.mark.parametrize(
    ("early", "base", "verdict"),
    [
        ((80.0, 81.0), (70.0, 71.5), "reproduced"),
        ((70.0, 71.5), (80.0, 81.0), "not reproduced"),
        ((80.0, 71.0), (70.0, 80.0), "not decidable"),
        ((80.0, 80.0), (80.0, 80.0), "not decidable"),
    ],
)
def test_verdicts_follow_the_interval_of_the_paired_difference(
    early: tuple[float, ...], base: tuple[float, ...], verdict: str, tmp_path: Path
) -> None:
    study = load_study(written(tmp_path))
    scores = {f"{n}-s{s}": v for n, vs in (("early", early), ("base", base)) for s, v in zip((1, 2), vs, strict=True)}
    found = claims.judged(study, claims.measured(study, document(scores)))
    assert found[0].verdict == verdict and found[0].seeds == 2
    assert found[0].difference == pytest.approx(sum(early) / 2 - sum(base) / 2)


def test_one_seed_decides_nothing_and_what_was_not_run_is_named(tmp_path: Path) -> None:
    study = load_study(written(tmp_path))
    one = document({"early-s1": 90.0, "base-s1": 10.0, "base-s2": 20.0})
    judged = claims.judged(study, claims.measured(study, one))
    assert judged[0].verdict == "not decidable" and judged[0].seeds == 1 and judged[0].half_width is None
    assert judged[1].seeds == 2, "what is not trained is compared with each seed"
    none = table.build(study, document({"base-s1": 10.0}), {})
    assert none["not_run"] == ["early"] and len(none["claims"]) == 1
    assert "Not run: early." in table.markdown(study, document({"base-s1": 10.0}), none)


def test_the_interval_is_students() -> None:
    assert claims.half_width([1.0]) is None
    assert claims.half_width([0.0, 2.0]) == pytest.approx(12.706, abs=1e-3)  # t = 12.706 at one degree of freedom
    assert claims.half_width([1.0, 2.0, 3.0]) == pytest.approx(4.3027 / 3**0.5, abs=1e-4)
    assert Claim(say="x", better="a", worse="b").paper is None
    assert Study.model_fields["notes"].default == ()
