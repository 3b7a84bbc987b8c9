"""Tiny random models of every family, and prompts for them: hidrop's own tests and `check_method` run on these."""
