"""Check a method that you wrote against everything that hidrop asks of one, on tiny random models of every family.

    from hidrop.testing import check_method

    def test_my_method():
        check_method(MyMethod(keep=5))

A wheel is enough: nothing here needs hidrop's own tests, pytest, a GPU or a download. docs/own-method.md says what is
checked, and how to write a slow rule that the method is compared with.

What is imported here is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hidrop.testing.check import check_method
    from hidrop.testing.report import MethodError, Outcome, Report
    from hidrop.testing.slow_rule import SlowPrompt, SlowRule, SlowToken

__all__ = ["MethodError", "Outcome", "Report", "SlowPrompt", "SlowRule", "SlowToken", "check_method"]

_HOMES = {
    "check_method": "check",
    "MethodError": "report",
    "Outcome": "report",
    "Report": "report",
    "SlowPrompt": "slow_rule",
    "SlowRule": "slow_rule",
    "SlowToken": "slow_rule",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hidrop.testing' has no attribute '{name}'")
    return getattr(importlib.import_module(f"hidrop.testing.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
