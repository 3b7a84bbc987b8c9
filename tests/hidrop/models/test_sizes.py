"""The sizes in config.json that are remembered are those that transformers reads, and problems are told every time."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hidrop import remembered
from hidrop.backbones import BACKBONES, backbone_class
from hidrop.backbones.checkpoint_family import CheckpointFamily
from hidrop.errors import UserError
from hidrop.geometry import Geometry
from hidrop.models import peek, sizes
from hidrop.models.sources import MINI_NAMES, find
from hidrop.testing.tiny.llava import make_llava, make_llava_next

# What is changed in a config.json. The parts of one that is missing get transformers' defaults.
EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "as written": lambda c: None,
    "more positions": lambda c: c["text_config"].update(max_position_embeddings=12345),
    "no positions": lambda c: c["text_config"].pop("max_position_embeddings"),
    "more rows": lambda c: c["text_config"].update(vocab_size=c["text_config"]["vocab_size"] + 64),
    "another width": lambda c: c["text_config"].update(intermediate_size=48),
    "no heads of keys": lambda c: c["text_config"].pop("num_key_value_heads", None),
    "no size of heads": lambda c: c["text_config"].pop("head_dim", None),
    "an unknown field": lambda c: c.update(unknown=1),
}


@pytest.fixture(scope="module")
def configs(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The config.json of a tiny checkpoint of every family."""
    found = {name: _content(folder) for name, folder in folders.items()}
    for name, make in (("llava", make_llava), ("llava_next", make_llava_next)):
        folder = tmp_path_factory.mktemp(name)
        make().config.save_pretrained(folder)
        found[name] = _content(folder)
    assert found.keys() == BACKBONES.keys()
    return found


@pytest.fixture
def written(configs: dict[str, dict[str, Any]], tmp_path: Path) -> Callable[..., Path]:
    """Write a family's config.json into a folder of its own: `written("gemma3", edit)`."""

    def write(name: str, edit: Callable[[dict[str, Any]], object] = lambda c: None) -> Path:
        content = copy.deepcopy(configs[name])
        edit(content)
        folder = tmp_path / str(len([*tmp_path.iterdir()]))
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(content))
        return folder

    return write


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders whose config transformers has read."""
    found: list[Path] = []
    real = CheckpointFamily.__dict__["read_config"].__func__

    def read_config(cls: type[CheckpointFamily], path: Path) -> Any:
        found.append(path)
        return real(cls, path)

    monkeypatch.setattr(CheckpointFamily, "read_config", classmethod(read_config))
    return found


@pytest.mark.parametrize("name", BACKBONES)
def test_remembered_sizes_of_every_family_are_those_that_transformers_reads(
    name: str, written: Callable[..., Path], reads: list[Path]
) -> None:
    family, known = backbone_class(name), list[str]()
    assert family is not None
    for what, edit in EDITS.items():
        folder = written(name, edit)
        first, second = _peeked(folder), _peeked(folder)
        seen, content = len(reads), (folder / "config.json").read_text()
        try:
            wanted: Any = family.geometry_of(family.read_config(folder))
        except UserError as error:
            wanted = str(error)
        del reads[seen:]
        assert first == second == wanted, what
        problem = isinstance(wanted, str)
        assert reads == ([folder] * 2 if problem else [] if content in known else [folder]), what
        known.append(content)
        reads.clear()


def _peeked(folder: Path) -> Geometry | str:
    """The sizes in a folder, or the problem."""
    try:
        return peek(folder).geometry
    except UserError as error:
        return str(error)


def test_another_folder_with_the_same_config_needs_no_reading(written: Callable[..., Path], reads: list[Path]) -> None:
    first, other = written("gemma3"), written("gemma3")
    assert peek(first) == peek(other) and reads == [first]


def test_a_config_that_names_another_file_is_read_every_time(written: Callable[..., Path]) -> None:
    folder = written("llava", lambda c: c.update(configuration_files=["config.5.0.0.json"]))
    content = _content(folder)
    for positions in (77, 88):
        content["text_config"]["max_position_embeddings"] = positions
        (folder / "config.5.0.0.json").write_text(json.dumps(content))
        assert peek(folder).geometry.max_positions == positions


@pytest.mark.parametrize("value", ["x", {"layers": 1}, [1], {}, 0])
def test_what_somebody_wrote_into_the_store_is_not_taken_for_sizes(
    value: Any, written: Callable[..., Path], reads: list[Path]
) -> None:
    folder = written("llava")
    first = peek(folder)
    remembered.remember(sizes.KIND, {"layout": "transformers", "config": _content(folder)}, value)
    assert peek(folder) == first and len(reads) == 2


def _content(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("name", MINI_NAMES)
def test_the_embedded_models_have_the_sizes_that_transformers_reads_and_need_no_reading(
    name: str, reads: list[Path]
) -> None:
    found = peek(f"mini:{name}")
    assert reads == []
    family = backbone_class("llava")
    assert family is not None
    assert found.geometry == family.geometry_of(family.read_config(find(f"mini:{name}")))
    assert found.reducer is not None


@pytest.mark.parametrize("tower", ["inside", "apart", "lost"])
def test_sizes_of_the_original_layout_are_remembered_with_those_of_its_tower(
    tower: str, original: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hidrop.models.original import config

    monkeypatch.setattr(remembered, "SETTLED", -1.0)
    folder = original(tower="apart" if tower == "apart" else "inside")
    clip = folder.parent / "clip-tiny"
    if tower == "lost":
        clip.rename(folder.parent / "elsewhere")
    reads, real = [], config.describe
    monkeypatch.setattr(config, "describe", lambda *parts, **more: reads.append(1) or real(*parts, **more))
    first = peek(folder)
    assert first == peek(folder) and len(reads) == 1
    assert first.geometry == real(folder, _content(folder)).geometry
    time.sleep(0.02)  # more than a tick of the file system's clock
    if tower == "lost":
        file = next(folder.glob("*.bin"))
        file.write_bytes(file.read_bytes())
    else:
        content = _content(clip)
        content["unknown"] = 1
        (clip / "config.json").write_text(json.dumps(content))
    assert first == peek(folder) and len(reads) == 2
