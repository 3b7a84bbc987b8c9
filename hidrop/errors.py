"""The one error a user can act on, what its messages share, and any other error in one line."""

import difflib
import re
from collections.abc import Iterable

# Where Python prints an object's place in memory: "<_io.BytesIO object at 0x7f3a5c0b1e40>", or a bare pointer. It would
# make two runs differ.
ADDRESS = re.compile(r"\s+at 0x[0-9a-fA-F]+|\b0x[0-9a-fA-F]{9,}\b")
LONGEST = 300  # characters of a message in records and tables


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


def in_a_line(error: BaseException) -> str:
    """An error as `Type: message` for records and tables: one line, at most LONGEST characters, equal in every run.

    A wrapper of retries is replaced by the error in it. Of a longer message, its first line is kept.
    """
    error = real_cause(error)
    first = next(iter(str(error).splitlines()), "")
    clean = "".join(letter if letter.isprintable() else "?" for letter in ADDRESS.sub("", first))
    if len(clean) > LONGEST:
        clean = f"{clean[:LONGEST]}... ({len(first):,} characters)"
    return f"{type(error).__name__}: {clean}" if clean else type(error).__name__


def real_cause(error: BaseException) -> BaseException:
    """The last attempt's error in a wrapper of retries (tenacity's RetryError, which lmms-eval raises), or `error`."""
    exception = getattr(getattr(error, "last_attempt", None), "exception", None)
    inside = exception() if callable(exception) else None
    return real_cause(inside) if isinstance(inside, BaseException) and inside is not error else error
