"""The one error a user can act on, and what messages share: hints, values, names and other errors, each in one line."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

# Where Python prints an object's place in memory: "<_io.BytesIO object at 0x7f3a5c0b1e40>", or a bare pointer. It would
# make two runs differ.
ADDRESS = re.compile(r"\s+at 0x[0-9a-fA-F]+|\b0x[0-9a-fA-F]{9,}\b")
# Characters: of an error in records and tables, of another library's words in a message, of a name, and of a value.
LONGEST, LONGEST_REASON, LONGEST_NAME, LONGEST_VALUE = 300, 400, 200, 60


class UserError(ValueError):
    """Something the user has to change: the message names the place and the way out.

    The command line prints it without a traceback and exits with 2.
    """


class CannotWrite(UserError):
    """A file of results cannot be written: the disk is full, read-only or gone. Work after it would be lost."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" for the nearest of the known words, to append to a sentence; "" when no word is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def printable(text: str) -> str:
    """Text with "?" for each character that moves the cursor, breaks the line or cannot be encoded."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def shortened(text: str, longest: int = LONGEST_NAME) -> str:
    """A name or another text for a message: printable, and its start alone if it is longer."""
    clean = printable(text[: longest + 1])
    return clean if len(clean) <= longest else f"{clean[:longest]}... ({len(text):,} characters)"


def some_of(names: Sequence[str], most: int) -> str:
    """The first `most` names, and how many more there are: "a, b and 3 more"."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def shown(value: Any) -> str:
    """A value out of a file or a command line for a message, as Python writes it."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."


def in_a_line(error: BaseException) -> str:
    """An error as `Type: message` for records and tables: one line, at most LONGEST characters, equal in every run.

    A wrapper of retries is replaced by the error in it. Of a longer message, its first line is kept.
    """
    error = real_cause(error)
    first = shortened(ADDRESS.sub("", next(iter(str(error).splitlines()), "")), LONGEST)
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def reason(error: BaseException) -> str:
    """The words of another library's error, to quote in a message of ours: all of its lines in one.

    The type is named only where the words say little without it.
    """
    words = printable(" ".join(str(error).split()))
    if isinstance(error, KeyError | AttributeError | AssertionError | IndexError) or not words:
        words = f"{type(error).__name__}: {words}".rstrip(": ")
    return words if len(words) <= LONGEST_REASON else words[: LONGEST_REASON - 3] + "..."


def real_cause(error: BaseException) -> BaseException:
    """The last attempt's error in a wrapper of retries (tenacity's RetryError, which lmms-eval raises), or `error`."""
    exception = getattr(getattr(error, "last_attempt", None), "exception", None)
    inside = exception() if callable(exception) else None
    return real_cause(inside) if isinstance(inside, BaseException) and inside is not error else error
