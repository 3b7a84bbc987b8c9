"""On what a number was taken: the machine's parts and the versions of the libraries."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from hidrop.devices import cpu_name, sees_cuda, torch_threads, usable_cores

PACKAGES = {"torch": "torch", "transformers": "transformers", "lmms_eval": "lmms-eval", "hidrop": "hidrop"}

ROOT = Path(__file__).parents[1]
CODE = ("hidrop", "evals", "baselines", "run.py")


def describe(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, threads torch uses and memory; for a CUDA `device` also its name, memory and driver's CUDA."""
    facts: dict[str, Any] = {
        "device": device,
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": torch_threads(),
        "memory_bytes": memory_bytes(),
    }
    if device.startswith("cuda") and sees_cuda():
        import torch

        properties = torch.cuda.get_device_properties(device)
        facts |= {"gpu": properties.name, "gpu_memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
    return facts


def provenance(device: str) -> dict[str, Any]:
    """What every file of results says of itself: on what it was made, with which versions and commit, and when."""
    return {**session(device), "date": now()}


def session(device: str) -> dict[str, Any]:
    """The provenance of all that this process makes on a device: provenance without the date."""
    return {"hardware": describe(device), "versions": versions(), "commit": commit()}


def now() -> str:
    """The date and time in UTC, in seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str | None]:
    """Versions of Python and of the libraries that can change a number; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for key, package in PACKAGES.items():
        try:
            found[key] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[key] = None
    return found


def commit(folder: Path = ROOT) -> str | None:
    """The commit of our code, followed by "+" when files were changed since; None outside of git."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
        except OSError:  # git is not installed
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not (folder / ".git").exists() or not (hash := git("rev-parse", "--short=12", "HEAD")):
        return None
    return hash + ("+" if git("status", "--porcelain", "--untracked-files=no", "--", *CODE) else "")


def memory_bytes() -> int | None:
    """Bytes of main memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
