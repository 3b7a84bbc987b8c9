import os
import shutil

import pytest

from evals.matrix import packages, validate
from evals.matrix.schema import load_matrix
from hidrop.atomic_file import unwritable_out
from hidrop.errors import UserError
from hidrop.geometry import Geometry
from hidrop.models.sources import MINI

GEOMETRY = Geometry(layers=4, hidden=32, intermediate=64, heads=4, kv_heads=4, head_dim=8, vocab=99, visual_tokens=16)


@pytest.fixture
def check(tmp_path, data_folder):
    def run(
        *,
        source="mini:vanilla",
        data=data_folder,
        device="cpu",
        out=tmp_path / "out",
        more="",
        peek=None,
        asked="llava",
        methods="{fastv: {layer: 9, keep: 1}}",
    ):
        path = tmp_path / "own.yaml"
        path.write_text(
            f"protocol: {asked}\nmodels: {{a: {{source: '{source}'{more}}}}}\n"
            f"methods: {methods}\ntasks: {{gqa: {{data: {data}}}}}\n"
        )
        matrix = load_matrix(path)
        return validate.check(matrix, matrix.cells(), device=device, out=out, peek=peek or (lambda s: (GEOMETRY, None)))

    return run


def test_every_kind_of_problem_is_listed_in_one_go(check, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(packages, "lacking", lambda names: [n for n in names if n == "lmms_eval"])
    (tmp_path / "file").write_text("")
    _, problems = check(source="./nowhere", data="/nowhere", device="cuda", out=tmp_path / "file" / "out")
    for part in (
        "own.yaml: methods.fastv on a: cut after layer 9",
        "own.yaml: package lmms_eval is not installed. Get it: pip install --no-deps lmms-eval==0.7.3",
        "own.yaml: models.a.source: model './nowhere': no such folder",
        "own.yaml: device: 'cuda' was asked for",
        "own.yaml: tasks.gqa: no data in '/nowhere'",
        "is a file, not a folder",
    ):
        assert any(part in line for line in problems), part
    assert len(problems) == 6


def test_a_missing_checkpoint_is_answered_with_the_matrix_own_command(check):
    _, problems = check(source="./nowhere", more=", get: 'hf download someone/model'")
    assert any(p.endswith("./nowhere does not exist. Get it: hf download someone/model") for p in problems)


def test_a_missing_or_wrong_checkpoint_of_a_methods_own_is_found_before_anything_is_loaded(check, tmp_path):
    for folder, words in (
        (tmp_path / "nowhere", "nowhere': no such folder"),
        (MINI / "vanilla", "has no text tower of CLIP (model_type 'llava', not 'clip')"),
    ):
        _, problems = check(methods=f"{{cdpruner: {{keep: 4, relevance: clip, text_tower: {folder}}}}}")
        (line,) = [line for line in problems if words in line]
        assert "own.yaml: methods.cdpruner on a: text_tower: " in line


def test_a_missing_checkpoint_is_told_once(check):
    def peek(source):
        from hidrop.models import peek as real

        found = real(source)
        return found.geometry, found.reducer

    _, problems = check(source="./nowhere", peek=peek)
    assert len([p for p in problems if "models.a.source" in p]) == 1


def test_an_architecture_that_is_not_supported_is_told(check):
    def peek(source):
        raise UserError("config.json: architecture 'qwen9' is not supported")

    _, problems = check(peek=peek, more=", geometry: llava-1.5-7b")
    assert "own.yaml: models.a.source: config.json: architecture 'qwen9' is not supported" in problems


def test_a_results_folder_is_not_made_by_the_check(tmp_path):
    assert unwritable_out(tmp_path / "a" / "b") == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_results_folder_that_is_read_only_is_told(tmp_path):
    tmp_path.chmod(0o500)
    assert "cannot be written" in unwritable_out(tmp_path / "out")[0]


def test_a_folder_on_which_writing_fails_is_told(tmp_path, monkeypatch):
    def refuse(**settings):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert unwritable_out(tmp_path) == [
        f"--out {tmp_path}: {tmp_path} cannot be written: Permission denied. Use another --out"
    ]


def test_a_checkpoint_that_would_not_load_is_told_without_loading_it(check, tmp_path):
    import shutil

    from hidrop.models.sources import MINI

    folder = tmp_path / "checkpoint"
    shutil.copytree(MINI / "vanilla", folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    _, problems = check(source=str(folder))
    place = f"own.yaml: models.a.source: {file}: cannot be read ("
    assert [line for line in problems if "models.a.source" in line and line.startswith(place)]
    shutil.copy(MINI / "vanilla" / "model.safetensors", file)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    _, problems = check(source=str(folder))
    assert any("tokenizer or image processor cannot be loaded" in line for line in problems)


@pytest.mark.parametrize(
    "template",
    [
        "x",
        "<image> probe",
        "<image> {{ messages[0]['content'][1]['text'][:5] }}",
        "{{ 1 / 0 }}",
        "{{ nothing.there }}",
        "{% for",
        "{{ raise_exception('no') }}",
    ],
)
def test_a_chat_template_that_loses_questions_or_images_is_told(check, tmp_path, template):
    folder = tmp_path / "copy"
    shutil.copytree(MINI / "vanilla", folder)
    (folder / "chat_template.jinja").write_text(template)
    _, problems = check(source=folder, asked="lmms-eval")
    [line] = [line for line in problems if "models.a.source" in line]
    assert "the tokenizer's chat template does not" in line and "use protocol llava" in line
    assert not any("models.a.source" in line for line in check(source=folder, asked="llava")[1])
