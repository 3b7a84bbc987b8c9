"""The tokenizer of a loaded model, for methods that read a question as text.

`load` states it. A model that transformers' `from_pretrained` made has its folder (or Hub id) as `name_or_path`: the
tokenizer is read from there.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from hidrop.pretrained import pretrained

# Not an attribute of the models: those are saved and copied with them.
_TOKENIZERS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def state_tokenizer(model: Any, tokenizer: Any) -> None:
    """State the tokenizer of a model, for every later `tokenizer_of(model)`."""
    _TOKENIZERS[model] = tokenizer


def tokenizer_of(model: Any) -> Any:
    """The tokenizer that was stated, or that of the model's folder; nothing is downloaded.

    Raises ValueError for a model that was made in another way.
    """
    if model not in _TOKENIZERS:
        place = getattr(model, "name_or_path", "")
        try:
            if not place:
                raise ValueError("it was not loaded from a folder")
            from transformers import AutoTokenizer

            found = pretrained(AutoTokenizer, place, local_files_only=True)
            # Without its files transformers makes a tokenizer that knows a few special tokens.
            if len(found) <= model.config.image_token_id:
                raise ValueError(f"the tokenizer of {place} is missing, or lacks the image's token")
            _TOKENIZERS[model] = found
        except (OSError, ValueError) as error:
            raise ValueError(
                f"no tokenizer is known for this {type(model).__name__} ({str(error).splitlines()[0]}), and the method "
                "reads questions as text. Load the model by hidrop.load, or call state_tokenizer(model, tokenizer) of "
                "hidrop.backbones.tokenizers"
            ) from None
    return _TOKENIZERS[model]
