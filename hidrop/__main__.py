"""`python -m hidrop`: the command line, as `hidrop` and `run.py` give it."""

import sys

from evals.cli import main

if __name__ == "__main__":
    sys.exit(main())
