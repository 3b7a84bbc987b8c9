"""The one error a user can act on, and what its messages share."""

import difflib
import re
from collections.abc import Iterable

# Where Python prints an object's place in memory: "<_io.BytesIO object at 0x7f3a5c0b1e40>", or a bare pointer.
ADDRESS = re.compile(r"\s+at 0x[0-9a-fA-F]+|\b0x[0-9a-fA-F]{9,}\b")


class UserError(ValueError):
    """Something the user has to change: the message names the place and the way out.

    The command line prints it without a traceback and exits with 2.
    """


class CannotWrite(UserError):
    """A file of results cannot be written: the disk is full, read-only or gone. Work after it would be lost."""


def without_addresses(text: str) -> str:
    """A message without addresses of objects, so that the same error gives the same text in every run."""
    return ADDRESS.sub("", text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" for the nearest of the known words, to append to a sentence; "" when no word is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""
