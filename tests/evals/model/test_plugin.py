"""Our model by lmms-eval's own doors: its manifest, its arguments in strings, its command line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hidrop.errors import UserError
from hidrop.methods import build

# ---- the command line's constructor --------------------------------------------------------------------------------


def test_lmms_eval_finds_the_model_by_its_manifest() -> None:
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    from evals.model.lmms_model import HidropLlava
    from evals.model.plugin import manifests

    registry = ModelRegistryV2()
    for manifest in manifests():
        registry.register_manifest(manifest)
    assert registry.get_model_class("hidrop") is HidropLlava


def test_the_plugin_module_is_light() -> None:
    import subprocess
    import sys

    import evals.model.plugin

    code = "import sys, evals.model.plugin; print(sorted({'torch', 'lmms_eval', 'transformers'} & set(sys.modules)))"
    root = Path(evals.model.plugin.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_model_arguments_become_a_method(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import hidrop.models
    from evals.model.lmms_model import HidropLlava

    asked: dict[str, Any] = {}
    monkeypatch.setattr(hidrop.models, "load", lambda source, **options: asked.update(options, source=source) or loaded)
    arguments = "pretrained=some/folder,method=random,layer=2,keep=4,protocol=llava,dtype=float32"
    lm = HidropLlava.create_from_arg_string(arguments, {"batch_size": "3", "device": "cpu", "max_batch_size": None})
    assert lm.reducer == build("random", {"layer": 2, "keep": 4})
    assert (asked["source"], asked["dtype"], asked["device"]) == ("some/folder", "float32", "cpu")
    assert (lm.batch_size, lm.protocol.name, lm.rank, lm.world_size) == (3, "llava", 0, 1)
    assert HidropLlava.create_from_arg_string("pretrained=x").reducer.name == "vanilla"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("layer=2", "add method=NAME"),
        ("method=fastvv", "Did you mean 'fastv'"),
        ("method=random,layr=2,keep=4", "Did you mean 'layer'"),
        ("method=random,layer=9,keep=4", "layer 9"),
        ("protocol=lava", "protocol"),
    ],
)
def test_bad_model_arguments_name_the_way_out(
    arguments: str, message: str, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hidrop.models
    from evals.model.lmms_model import HidropLlava

    monkeypatch.setattr(hidrop.models, "load", lambda source, **options: loaded)
    with pytest.raises(UserError, match=message):
        HidropLlava.create_from_arg_string(arguments)


def test_a_checkpoint_runs_as_it_was_trained_unless_told_otherwise(loaded: Any) -> None:
    from evals.model.arguments import method

    trained = build("random", {"layer": 2, "keep": 4})
    own = SimpleNamespace(reducer=trained, geometry=loaded.geometry)
    assert method(own, None, None, {}) is trained
    assert method(own, "random", None, {}) is trained
    assert method(own, "vanilla", None, {}) == build("vanilla")
    assert method(own, "random", None, {"layer": "3", "keep": 4}) == build("random", {"layer": 3, "keep": 4})


# ---- through lmms-eval's own doors ---------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(loaded: Any, tmp_path: Path) -> Path:
    from hidrop.models import save

    return Path(save(loaded.model, loaded.tokenizer, loaded.image_processor, tmp_path / "tiny"))


def test_simple_evaluate_builds_the_model_from_strings(checkpoint: Path, data_folder: Path, tmp_path: Path) -> None:
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.tasks import TaskManager

    from evals.model.plugin import manifests
    from evals.tasks.export import export

    for manifest in manifests():
        MODEL_REGISTRY_V2.register_manifest(manifest, overwrite=True)
    name = export(tmp_path / "tasks", str(data_folder)).names[0]
    results = simple_evaluate(
        model="hidrop",
        model_args=f"pretrained={checkpoint},method=random,layer=2,keep=4,protocol=llava,max_new_tokens=3",
        tasks=[name],
        batch_size=2,
        task_manager=TaskManager(include_defaults=False, include_path=[str(tmp_path / "tasks")]),
        bootstrap_iters=0,
        cli_args=SimpleNamespace(output_path=str(tmp_path), process_with_media=True),
    )
    samples = results["samples"][name]
    assert [s["doc_id"] for s in samples] == [0, 1, 2]
    assert all(s["filtered_resps"][0] and s["token_counts"][0]["output_tokens"] <= 3 for s in samples)


@pytest.mark.slow
def test_the_command_line_finds_the_model_by_its_entry_point(
    checkpoint: Path, data_folder: Path, tmp_path: Path
) -> None:
    import json
    import os
    import subprocess
    import sys
    import tomllib

    import evals
    from evals.tasks.export import export

    root = Path(str(evals.__file__ or next(iter(evals.__path__)) + "/x")).parents[2]
    entry = tomllib.loads((root / "pyproject.toml").read_text())["project"]["entry-points"]["lmms_eval.models"]
    installed = tmp_path / "site" / "hidrop_as_installed-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: hidrop-as-installed\nVersion: 0\n")
    lines = [f"{name} = {target}" for name, target in entry.items()]
    (installed / "entry_points.txt").write_text("\n".join(["[lmms_eval.models]", *lines]) + "\n")
    name = export(tmp_path / "tasks", str(data_folder)).names[0]
    command = [sys.executable, "-m", "lmms_eval", "--model", "hidrop", "--tasks", name, "--batch_size", "2"]
    command += ["--model_args", f"pretrained={checkpoint},max_new_tokens=3"]
    command += ["--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path / "out"), "--log_samples"]
    path = os.pathsep.join([str(root), str(tmp_path / "site")])
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    [samples] = (tmp_path / "out").rglob("*_samples_*.jsonl")
    answers = [json.loads(line)["filtered_resps"][0] for line in samples.read_text().splitlines()]
    assert len(answers) == 3 and all(answers), done.stderr
