"""`run.py analyze`: the probes of hidrop.analysis on a task's samples, resumable, and what is written about them."""
