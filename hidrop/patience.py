"""How long the processes of one run wait for each other before they call one of them hung."""

from __future__ import annotations

import datetime
import os

from hidrop.errors import UserError

VARIABLE = "HIDROP_PATIENCE"
MOST_MINUTES = 7 * 24 * 60


def patience(default: float) -> datetime.timedelta:
    """The time in the environment variable HIDROP_PATIENCE (minutes), or else `default` minutes.

    Raises UserError for anything but a number of minutes above 0 and up to a week.
    """
    text = os.environ.get(VARIABLE, "").strip()
    try:
        minutes = float(text) if text else default
    except ValueError:
        minutes = 0.0
    if not 0 < minutes <= MOST_MINUTES:
        raise UserError(f"{VARIABLE} is '{text}': give minutes, more than 0 and up to {MOST_MINUTES}")
    return datetime.timedelta(minutes=minutes)
