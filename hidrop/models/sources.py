"""From what a user writes for a model ("mini:hidrop", a folder, a Hub id) to a folder on disk."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any

from hidrop.checkpoint_files import AGAIN, kind, read_object
from hidrop.errors import UserError, shortened, shown
from hidrop.models.incomplete import listed, what_instead
from hidrop.program import program
from hidrop.regular_files import local_path

MINI = Path(__file__).parents[1] / "mini" / "weights"
MINI_NAMES = ("vanilla", "pdrop", "hidrop", "vanilla-choices", "hidrop-choices")

# What a Hub repository may hold besides a checkpoint for torch; never fetched.
_OTHER_FORMATS = ["*.msgpack", "*.h5", "*.onnx", "*.gguf", "*.pth", "optimizer*", "global_step*"]
# Files of an adapter, as peft writes them.
ADAPTERS = ("adapter_config.json", "adapter_model.*")
# The small files of a checkpoint: configs, processors, chat templates, and the vocabularies of all of transformers'
# tokenizers.
_TEMPLATES = ("*.jinja", "additional_chat_templates/*.jinja")
_VOCABULARIES = ("*.model", "*.txt", "*.tiktoken", "*.vocab", "*.bpe", "*.codes", "*.spm", "*.tokenizer")
SETTINGS = ("*.json", *_TEMPLATES, *_VOCABULARIES)
LONGEST_NAME = 255  # bytes, on all common file systems
_WITHOUT_WEIGHTS = ["*.json", "*.jinja", "*.model", "*.txt"]


def find(source: str | Path, *, allow_download: bool = False, config_only: bool = False) -> Path:
    """The folder of a checkpoint.

    `source` is "mini:<name>", a local folder, or a Hub id "owner/name[/subfolder]". A Hub id is looked up in the
    local cache only, unless `allow_download`. With `config_only` the weights need not be there.

    Raises UserError, with the command that provides it, when the checkpoint or its weights are missing, and for an
    adapter next to the weights.
    """
    text = str(source)
    if text.startswith("mini:"):
        return _mini(text)
    folder = local_path(text, f"model '{text}'")
    if folder.exists():
        _check(folder, text, config_only=config_only)
        _check_adapter(folder, text)
        return folder
    repo = re.fullmatch(r"([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)", text)
    if repo is None or text[0] in ".~/" or ".." in text.split("/"):
        raise UserError(f"model '{text}': no such folder, and not a Hub id like 'llava-hf/llava-1.5-7b-hf'")
    folder = _hub(text, repo[1], repo[2].strip("/"), allow_download=allow_download, config_only=config_only)
    _check_adapter(folder, text)
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's config.json. Raises UserError when it is missing or broken."""
    try:
        return read_object(folder / "config.json")
    except FileNotFoundError:
        raise UserError(f"{folder}: no config.json here, so this is not a checkpoint's folder") from None


def read_index(index: Path) -> dict[str, str]:
    """The file of each tensor, by an index of shards. Raises UserError for an index that does not say that."""
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index}: broken index: weight_map is {kind(names)} without a tensor. {AGAIN}")
    for tensor, name in names.items():
        field = f"weight_map.{shortened(tensor)}"
        if not isinstance(name, str):
            raise UserError(f"{index}: broken index: {field} is {kind(name)} instead of a file. {AGAIN}")
        if Path(name).name != name or name in ("", "..") or "\0" in name:
            raise UserError(f"{index}: {field}: {shown(name)}, which is not a file of this folder. {AGAIN}")
        if len(os.fsencode(name)) > LONGEST_NAME:
            raise UserError(f"{index}: {field}: {shown(name)} is longer than a file's name can be. {AGAIN}")
    return names


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that hold a checkpoint's weights, safetensors before .bin; empty without weights.

    Raises UserError naming the shards that an index lists and the folder lacks.
    """
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        index, single = folder / f"{stem}.{suffix}.index.json", folder / f"{stem}.{suffix}"
        if index.is_file():
            shards = sorted(set(read_index(index).values()))
            missing = [name for name in shards if not (folder / name).is_file()]
            if missing:
                raise UserError(f"{folder}: shards missing: {listed(missing)}. {AGAIN}")
            return tuple(folder / name for name in shards)
        if single.is_file():
            return (single,)
    return ()


def _mini(text: str) -> Path:
    name = text.removeprefix("mini:")
    if name not in MINI_NAMES:
        close = difflib.get_close_matches(name, MINI_NAMES, n=1)
        hint = f" Did you mean 'mini:{close[0]}'?" if close else ""
        raise UserError(f"model '{text}': unknown.{hint} Embedded models: {', '.join(f'mini:{n}' for n in MINI_NAMES)}")
    folder = MINI / name
    if not (folder / "config.json").is_file() or not weight_files(folder):
        raise UserError(f"model '{text}': its checkpoint is missing. Train it: `{program()} train mini-{name}`")
    return folder


def _check(folder: Path, text: str, *, config_only: bool) -> None:
    if not folder.is_dir():
        raise UserError(f"model '{text}': this is a file; give the checkpoint's folder")
    read_config(folder)
    if config_only or weight_files(folder):
        return
    raise UserError(f"model '{text}': {what_instead(folder)}")


def settings_files(folder: Path) -> tuple[Path, ...]:
    """The small files of a checkpoint that answers can depend on: configs, tokenizer, processors, chat templates."""
    found = [file for pattern in SETTINGS for file in folder.glob(pattern) if file.is_file()]
    return tuple(sorted(found))


def _check_adapter(folder: Path, text: str) -> None:
    """transformers adds an adapter to the weights next to it, but only where peft is installed."""
    if found := [file for pattern in ADAPTERS for file in sorted(folder.glob(pattern))]:
        raise UserError(
            f"model '{text}': an adapter next to the weights ({', '.join(file.name for file in found)}). Whether it is "
            "used depends on the packages that are installed. Merge it into the weights, or move it away"
        )


def _hub(text: str, repo: str, subfolder: str, *, allow_download: bool, config_only: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    def local() -> Path | None:
        try:
            folder = Path(snapshot_download(repo, local_files_only=True)) / subfolder
        except LocalEntryNotFoundError:
            return None
        if not (folder / "config.json").is_file():
            return None
        try:
            complete = config_only or bool(weight_files(folder))
        except UserError:  # a download that was cut off lists shards that never came
            complete = False
        return folder if complete else None

    command = f"hf download {repo}" + (f" --include '{subfolder}/*'" if subfolder else "")
    inside = f"{subfolder}/" if subfolder else ""
    try:
        folder = local()
        if folder is None and allow_download:
            wanted = [inside + p for p in (_WITHOUT_WEIGHTS if config_only else ["*"])]
            snapshot_download(repo, allow_patterns=wanted, ignore_patterns=_OTHER_FORMATS)
            folder = local()
    except HFValidationError as error:
        raise UserError(f"model '{text}': neither a folder nor a Hub id ({error})") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"model '{text}': the download failed ({reason}). To get it by hand: {command}") from None
    if folder is None:
        raise UserError(f"model '{text}': no such folder, and not complete in the local Hub cache. Get it: {command}")
    return folder
