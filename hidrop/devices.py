"""Which device to use, and what torch makes of the machine: where possible without importing torch, which is slow."""

from __future__ import annotations

import ast
import importlib.util
import os
import platform
import sys
from pathlib import Path

from hidrop.remembered import recall, remember

BUILDS = ("cuda", "hip")  # in torch/version.py: None for a build that cannot use such devices
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC", "MKL_DYNAMIC")


def pick_device(asked: str) -> str:
    """The device to use: for `auto`, CUDA if torch is installed and finds a GPU, else the CPU."""
    if asked != "auto":
        return asked
    return "cuda" if importlib.util.find_spec("torch") and sees_cuda() else "cpu"


def sees_cuda() -> bool:
    """`torch.cuda.is_available()`. torch is not imported if its build cannot use such a device."""
    if "torch" not in sys.modules and _without_devices():
        return False
    import torch

    return torch.cuda.is_available()


def _without_devices() -> bool:
    """Whether torch's file version.py says that it was built for the CPU only."""
    spec = importlib.util.find_spec("torch")
    try:
        tree = ast.parse((Path(str(spec and spec.origin)).parent / "version.py").read_bytes())
    except (OSError, SyntaxError):
        return False
    found: dict[str, object] = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign | ast.Assign) and isinstance(node.value, ast.Constant):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            found |= {target.id: node.value.value for target in targets if isinstance(target, ast.Name)}
    return all(name in found and found[name] is None for name in BUILDS)


def torch_threads() -> int:
    """`torch.get_num_threads()`; where torch is not imported, what was remembered of it on such a machine."""
    if "torch" not in sys.modules and type(known := recall("threads", _machine())) is int:
        return known
    import torch

    return torch.get_num_threads()


def remember_threads() -> None:
    """Remember the number for processes that do not need torch. Called by a program that never changes it."""
    if "torch" in sys.modules and recall("threads", _machine()) is None:
        remember("threads", _machine(), torch_threads())


def _machine() -> dict[str, object]:
    """What torch's default follows from."""
    variables = {name: os.environ.get(name) for name in THREADS}
    return {"cpu": cpu_name(), "cores": usable_cores(), "environment": variables}


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as the system gives it, else its architecture."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores this process may run on (fewer than the machine has inside a container or a job)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
