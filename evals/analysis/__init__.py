"""`run.py analyze`: run the probes of hidrop.analysis on a task's samples, resumably, and write the results."""
