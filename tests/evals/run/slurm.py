"""The SLURM scripts of docs/scale.md, programs that stand in for SLURM's own, and the tables that a job writes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
# srun starts its command on each node. Here the script itself is started on each, so it only has to run the command.
SRUN = '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n'
SCONTROL = '#!/bin/bash\nprintf "%s\\n" $FAKE_NODES\n'


def documented(part: str, changes: Mapping[str, str]) -> str:
    """The script of the page that contains `part`, with each key of `changes` replaced. Each has to be there."""
    [script] = [block for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) if part in block]
    for old, new in changes.items():
        assert old in script, f"docs/scale.md: no '{old}' in the script with {part}"
        script = script.replace(old, new)
    return script


def fake_slurm(folder: Path, nodes: Sequence[str] = ()) -> dict[str, str]:
    """Environment variables of a job on these nodes, and a PATH with SLURM's programs in `folder`."""
    folder.mkdir()
    for name, content in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(content)
        (folder / name).chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    job = {"SLURM_NNODES": str(len(nodes)), "SLURM_JOB_NODELIST": ",".join(nodes), "SLURM_JOB_ID": "7"}
    return {**job, "FAKE_NODES": " ".join(nodes), "PATH": path, "PYTHONPATH": str(ROOT)}


def tables(out: Path) -> dict[str, bytes]:
    """The tables of a results folder without their dates."""
    found = {name: (out / f"leaderboard.{name}").read_bytes() for name in ("csv", "md")}
    return {name: re.sub(rb"\*\*Date\*\*.*", b"", table) for name, table in found.items()}
