"""The small files of a checkpoint (configs, tokenizers, indices), read within limits and refused in words.

transformers and tokenizers do not check what such a file says: a number in the place of an object, a size of 2**31 or a
thousand nested lists give a traceback, or fill the memory. So each file is read here first, and every call that lets
them read it is inside `in_words`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hidrop import strict_json
from hidrop.errors import UserError, reason, shortened
from hidrop.regular_files import Unreadable, read_text

AGAIN = "Copy or download the checkpoint again"
# Bytes of a file. The largest tokenizers in use have 35 MB, and indices 10 MB; everything else has some kilobytes.
MOST_BYTES, MOST_BYTES_OF_LISTS = 4 << 20, 128 << 20
LISTS = ("tokenizer.json", "vocab.json", "added_tokens.json", ".index.json", "trainer_state.json")
# Objects and lists in each other. What transformers writes has up to seven.
MOST_DEPTH = 32
# All that transformers reads of a checkpoint's folder, if it is there. Each holds one object.
OBJECTS = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "chat_template.json",
)
TEXTS = ("chat_template.jinja",)


def read_object(file: Path, way: str = AGAIN) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint. `way`: the way out that messages name.

    Raises UserError, naming the file, for anything else: another kind of file or value, a size or depth beyond all
    use, numbers and texts that are invalid (NaN, 1e999, half a surrogate pair). FileNotFoundError if there is no file.
    """
    try:
        value = strict_json.value(_text(file, way))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{file}: not JSON: {reason(error)}. {way}") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: holds {kind(value)} instead of an object of fields. {way}")
    if problem := _odd(value):
        raise UserError(f"{file}: {problem}. {way}")
    return value


def check_folder(folder: Path) -> None:
    """Read all files that transformers would read of a checkpoint's folder. Raises UserError like `read_object`."""
    for name in OBJECTS:
        with contextlib.suppress(FileNotFoundError):
            content = read_object(folder / name)
            if name == "tokenizer.json":
                _check_ids(folder / name, content)
    for name in TEXTS:
        with contextlib.suppress(FileNotFoundError):
            _text(folder / name, AGAIN)


def _check_ids(file: Path, tokenizer: dict[str, Any]) -> None:
    """Raise UserError for two tokens with one id: which of them it is would differ from one load to the next."""
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    first: dict[Any, str] = {}
    for token, number in vocabulary.items() if isinstance(vocabulary, dict) else ():
        if type(number) is int and first.setdefault(number, token) != token:
            raise UserError(
                f"{file}: model.vocab: {shortened(first[number])!r} and {shortened(token)!r} both have the id "
                f"{number}. {AGAIN}"
            )


@contextlib.contextmanager
def in_words(what: str, way: str = AGAIN) -> Iterator[None]:
    """Turn whatever the block raises into a UserError: `what` it was about, the reason, and the `way` out.

    For calls of libraries that each raise their own types for a broken file. UserErrors and interruptions pass.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        # What panics in the Rust of tokenizers and safetensors is a BaseException.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{what} ({reason(error)}). {way}") from error


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _text(file: Path, way: str) -> str:
    if not file.exists():
        raise FileNotFoundError(file)
    try:
        return read_text(file, MOST_BYTES_OF_LISTS if file.name.endswith(LISTS) else MOST_BYTES)
    except Unreadable as error:
        raise UserError(f"{file}: cannot be read: {error}. {way}") from None


def _odd(value: dict[str, Any]) -> str | None:
    """Why no library should get a value: nested too deep, or with texts that cannot be encoded."""
    level: list[Any] = [value]
    for _ in range(MOST_DEPTH):
        texts = [text for one in level for text in (*(one if isinstance(one, dict) else ()), one) if type(text) is str]
        if any("\ud800" <= letter <= "\udfff" for text in texts if not text.isascii() for letter in text):
            return "holds half of a surrogate pair, which is not text"
        nested = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [inner for values in nested for inner in values]
        if not level:
            return None
    return f"objects and lists are nested more than {MOST_DEPTH} deep"
