"""What a user types to start the command line, for hints in errors and help."""

from __future__ import annotations

import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "run.py"


def program() -> str:
    """`hidrop` for its installed command, `python -m hidrop`, or `run.py` in a checkout.

    A process that was started in another way (a script of the user's, lmms-eval) gets what works on this machine.
    """
    started = Path(sys.argv[0] if sys.argv else "")
    if started.name in ("hidrop", "hidrop.exe"):
        return "hidrop"
    if started.parts[-2:] == ("hidrop", "__main__.py"):
        return "python -m hidrop"
    return "run.py" if SCRIPT.is_file() else "hidrop"


def torchrun(processes: int | str) -> str:
    """The start of the command line that runs the program in several processes. torchrun takes a script or a module."""
    return f"torchrun --nproc_per_node={processes} {'run.py' if program() == 'run.py' else '-m hidrop'}"
