"""The slow LLaVA of hidrop/testing/slow_llava.py, to which slow_rules.py has the rules of hidrop's methods."""

from __future__ import annotations

from hidrop.testing.slow_llava import SlowLlava, Token, keep_best

__all__ = ["SlowLlava", "Token", "keep_best"]
