#!/usr/bin/env python3
"""`python run.py --matrix mini`: see `python run.py --help`."""

import sys

from evals.cli import main

if __name__ == "__main__":
    sys.exit(main())
