"""The one error a user can act on, and what its messages share."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user has to change: the message names the place and the way out.

    The command line prints it without a traceback and exits with 2.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" for the nearest of the known words, to append to a sentence; "" when no word is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""
