"""Names of models: what is found, and what the user is told when nothing is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hidrop.errors import UserError
from hidrop.models import sources
from hidrop.models.sources import find, weight_files


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(cache: Path, repo: str, *files: str) -> Path:
    folder = cache / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / "abc"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    for file in files:
        (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / file).write_text("{}")
    return snapshot


def test_hub_id_is_found_in_the_local_cache(cache: Path) -> None:
    snapshot = cached(cache, "owner/name", "config.json", "model.safetensors")
    assert find("owner/name") == snapshot


def test_hub_id_may_name_a_folder_in_the_repository(cache: Path) -> None:
    snapshot = cached(cache, "owner/name", "a/b/config.json", "a/b/model.safetensors")
    assert find("owner/name/a/b") == snapshot / "a/b"


def test_missing_hub_id_gives_the_command_that_provides_it(cache: Path) -> None:
    with pytest.raises(UserError, match=r"Get it: hf download llava-hf/llava-1\.5-7b-hf$"):
        find("llava-hf/llava-1.5-7b-hf")
    with pytest.raises(UserError, match=r"hf download owner/name --include 'a/\*'"):
        find("owner/name/a")


def test_half_a_download_is_as_good_as_none(cache: Path) -> None:
    snapshot = cached(cache, "owner/name", "config.json", "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert find("owner/name", config_only=True) == snapshot
    with pytest.raises(UserError, match="hf download owner/name"):
        find("owner/name")


def test_download_happens_only_on_request(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    real, asked = huggingface_hub.snapshot_download, []

    def download(repo: str, **options: object) -> str:
        if options.get("local_files_only"):
            return real(repo, **options)
        asked.append(options["allow_patterns"])
        return str(cached(cache, repo, "config.json", "model.safetensors"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError):
        find("owner/name")
    assert asked == []
    assert (find("owner/name", allow_download=True) / "config.json").is_file()
    assert asked == [["*"]]
    find("owner/name", allow_download=True)
    assert asked == [["*"]]  # what is there is not asked for again


def test_failed_download_is_a_user_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="hf download owner/name"):
        find("owner/name", allow_download=True)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "nowhere", "~/nothing/here", "a b/c"])
def test_missing_folder_is_called_a_folder(name: str) -> None:
    with pytest.raises(UserError, match="no such folder"):
        find(name)


def test_file_or_empty_folder_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="give the checkpoint's folder"):
        find(tmp_path / "file")
    with pytest.raises(UserError, match=r"no config\.json"):
        find(tmp_path)


def test_lora_adapter_alone_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "non_lora_trainables.bin").write_text("")
    with pytest.raises(UserError, match="LoRA adapter"):
        find(tmp_path)


def test_missing_mini_says_how_to_train_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MINI", tmp_path)
    with pytest.raises(UserError, match=r"run\.py train mini-hidrop"):
        find("mini:hidrop")
    for file in ("config.json", "model.safetensors"):
        (tmp_path / "hidrop").mkdir(exist_ok=True)
        (tmp_path / "hidrop" / file).write_text("{}")
    assert find("mini:hidrop") == tmp_path / "hidrop"


def test_misspelt_mini_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"Did you mean 'mini:vanilla'\?"):
        find("mini:vanila")


def test_safetensors_win_over_bin_and_trainer_states_are_no_weights(tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.bin"):
        (tmp_path / name).write_text("")
    assert [file.name for file in weight_files(tmp_path)] == ["pytorch_model.bin"]
    (tmp_path / "model.safetensors").write_text("")
    assert [file.name for file in weight_files(tmp_path)] == ["model.safetensors"]


def test_broken_index_names_its_file(tmp_path: Path) -> None:
    for text, message in (
        ("[]", "holds a list instead of an object"),
        ("{}", "broken index: weight_map is null without a tensor"),
        ('{"weight_map": {}}', "broken index: weight_map is an object without a tensor"),
        ('{"weight_map": ["a"]}', "broken index: weight_map is a list"),
        ('{"weight_map": {"a": 3}}', r"broken index: weight_map\.a is a number instead of a file"),
        ('{"weight_map": {"a": null}}', r"broken index: weight_map\.a is null"),
        ('{"weight_map": {"a": ["b"]}}', r"broken index: weight_map\.a is a list"),
        ('{"weight_map": {"a": "model-1.safetensors"}}', r"shards missing: model-1\.safetensors"),
    ):
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(UserError, match=message) as caught:
            weight_files(tmp_path)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/hostname", "..", ".", "", "a/b.safetensors"])
@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_an_index_names_files_of_its_own_folder_only(name: str, index: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for place in (tmp_path / "other", folder / "a"):
        place.mkdir(parents=True)
        (place / "model.safetensors").write_text("")
        (place / "b.safetensors").write_text("")
    (folder / index).write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(UserError, match=r"index\.json: .*, which is not a file of this folder"):
        weight_files(folder)


@pytest.mark.parametrize("letter", ["a", "\u00e9"])
@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_a_name_in_an_index_that_no_file_can_have_is_named_with_index_and_field(
    index: str, letter: str, tmp_path: Path
) -> None:
    size = len(letter.encode())
    for count, message in ((255 // size, "shards missing"), (255 // size + 1, "longer than a file's name can be")):
        (tmp_path / index).write_text(json.dumps({"weight_map": {"head.weight": letter * count}}))
        with pytest.raises(UserError, match=message) as caught:
            weight_files(tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / index}: weight_map.head.weight: ") and len(said) < 400 + len(str(tmp_path))


def test_a_hub_id_stays_in_its_repository(cache: Path) -> None:
    cached(cache, "owner/name", "config.json", "model.safetensors")
    cached(cache, "owner/other", "config.json", "model.safetensors")
    with pytest.raises(UserError, match="no such folder, and not a Hub id"):
        find("owner/name/../../../models--owner--other/snapshots/abc")
