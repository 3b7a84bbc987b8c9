"""Code that comes with a checkpoint never runs, whichever of its files names it and whatever is typed."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hidrop.errors import UserError
from hidrop.models import load, peek, save

ROOT = Path(__file__).parents[2]
LOADERS = ("from_pretrained", "from_config")
CODE = """
from pathlib import Path
Path(__file__).with_name("RAN").write_text("")
Path({marker!r}).write_text("")
from transformers import {base}

class Stranger({base}):
    pass
"""
# What a stranger's file names, and the class of transformers that its code builds on.
NAMED = {
    "config.json": ("AutoConfig", "LlavaConfig"),
    "processor_config.json": ("AutoProcessor", "LlavaProcessor"),
    "tokenizer_config.json": ("AutoTokenizer", "PreTrainedTokenizerFast"),
    "preprocessor_config.json": ("AutoImageProcessor", "CLIPImageProcessorPil"),
}


def calls_of_loaders(tree: ast.AST) -> Iterator[ast.Call]:
    """Every call of `x.from_pretrained(...)` or `x.from_config(...)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOADERS:
            yield node


def refuses_code(call: ast.Call) -> bool:
    given = {word.arg: word.value for word in call.keywords}
    value = given.get("trust_remote_code")
    return isinstance(value, ast.Constant) and value.value is False


def test_every_call_that_reads_a_checkpoint_refuses_its_code() -> None:
    found = {}
    for package in ("hidrop", "evals", "baselines", "tests"):
        for file in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            for call in calls_of_loaders(tree):
                found[f"{file.relative_to(ROOT)}:{call.lineno}"] = refuses_code(call)
            # A loader that is passed on or renamed would escape the check above.
            names = sum(isinstance(node, ast.Attribute) and node.attr in LOADERS for node in ast.walk(tree))
            assert names == len(list(calls_of_loaders(tree))), file
    assert any(place.startswith("hidrop/pretrained.py") for place in found)
    assert [place for place, safe in found.items() if not safe] == []


@pytest.fixture
def checkpoint(tiny_llava: Any, tmp_path: Path) -> Path:
    """A checkpoint that transformers reads without code of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPImageProcessorPil, PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"<unk>": 0} | {f"w{i}": i for i in range(1, 99)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return save(tiny_llava(layers=2), tokenizer, images, tmp_path / "tiny")


def add_code(folder: Path, name: str, **fields: Any) -> Path:
    """Let a file of the checkpoint name code; returns the file that the code would write."""
    kind, base = NAMED[name]
    marker = folder.parent / "the-code-ran"
    (folder / "stranger.py").write_text(CODE.format(marker=str(marker), base=base))
    file = folder / name
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**content, "auto_map": {kind: "stranger.Stranger"}, **fields}))
    return marker


@pytest.fixture
def yes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Somebody who answers every question with y; holds the questions."""
    asked: list[str] = []

    def answer(question: str = "") -> str:
        asked.append(question)
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    return asked


# With a class that transformers does not know, it would have to run the code to go on.
@pytest.mark.parametrize("fields", [{}, {"processor_class": "Stranger"}, {"processor_class": None}])
@pytest.mark.parametrize("name", NAMED)
def test_code_of_a_checkpoint_does_not_run(name: str, fields: Any, checkpoint: Path, yes: list[str]) -> None:
    marker = add_code(checkpoint, name, **fields)
    try:
        peek(checkpoint)
        load(checkpoint)
    except UserError as error:
        assert name in str(error) and "auto_map" in str(error)
    assert not marker.exists() and yes == []


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "Stranger"}),
        ("processor_config.json", {"processor_class": "Stranger"}),
    ],
)
def test_a_checkpoint_that_needs_its_code_is_refused_and_the_file_is_named(
    name: str, fields: Any, checkpoint: Path, yes: list[str]
) -> None:
    if name == "tokenizer_config.json":
        (checkpoint / "tokenizer.json").unlink()
    marker = add_code(checkpoint, name, **fields)
    with pytest.raises(UserError) as caught:
        load(checkpoint)
    assert name in str(caught.value) and "never runs" in str(caught.value)
    assert not marker.exists() and yes == []


def test_a_model_of_a_kind_of_its_own_is_refused_without_a_question(checkpoint: Path, yes: list[str]) -> None:
    marker = add_code(checkpoint, "config.json", model_type="stranger")
    for read in (peek, load):
        with pytest.raises(UserError, match=r"config\.json.*'stranger'"):
            read(checkpoint)
    assert not marker.exists() and yes == []
