"""The entry point that registers hidrop's model in lmms-eval.

It is in this package, because `evals` may be another project's: then lmms-eval's user is told so, instead of reading
that a module of `evals` is missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def manifests() -> Iterable[Any]:
    """What `evals.model.plugin` registers. Raises UserError when another project's `evals` is in the way."""
    from hidrop.own_packages import check_own_packages

    check_own_packages()
    from evals.model.plugin import manifests as found

    return found()
