"""Which tokens end an answer, as a checkpoint's files state it. Read before any weight is loaded.

This is all that generation takes from a checkpoint's settings. Everything else in generation_config.json (sampling,
penalties, forced and forbidden tokens, kinds of cache) is for other uses of the model than a benchmark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hidrop.checkpoint_files import read_object
from hidrop.errors import UserError
from hidrop.models.original import is_original
from hidrop.models.sources import read_config

KEY = "eos_token_id"


def answer_ends(folder: Path) -> tuple[int, ...]:
    """The ids of the tokens that end an answer, of the checkpoint in `folder`. Empty: the tokenizer's own end token.

    They are the `eos_token_id` of generation_config.json, else of config.json, else of the decoder's part of
    config.json. LLaVA's original layout has them in config.json: its generation_config.json is Vicuna's.
    Raises UserError for a file that cannot be read and for a value that is no token id.
    """
    for name, settings in _settings(folder):
        value = settings.get(KEY)
        if value is None:
            continue
        ends = value if isinstance(value, list) else [value]
        if not all(type(end) is int and end >= 0 for end in ends):
            raise UserError(f"{folder / name}: {KEY}: expected a token id or a list of token ids, found {value!r}")
        return tuple(ends)
    return ()


def check_ends(folder: Path, rows: int) -> None:
    """Raises UserError like `answer_ends`, and for an id that is not one of the `rows` of a model's vocabulary."""
    if outside := [end for end in answer_ends(folder) if end >= rows]:
        shown = ", ".join(map(str, outside[:3]))
        raise UserError(
            f"{folder}: {KEY} in generation_config.json or config.json: {shown[:100]}, but the model has {rows} ids. "
            "Copy the file that belongs to it"
        )


def _settings(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The settings that may state the ends, each with the name of its file. The first one that does counts."""
    config = read_config(folder)
    file = folder / "generation_config.json"
    if file.is_file() and not is_original(config):
        yield file.name, read_object(file)
    yield "config.json", config
    text = config.get("text_config")
    if isinstance(text, dict):
        yield "config.json", text
