"""Bytes that are still free: of a CUDA device, and of main memory within the limits of a container or a job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# Where the kernel says how much memory there is, and where it lists the groups of processes with limits.
MEMINFO, OWN_GROUPS, GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# For each version of control groups: the files of limit and use, and the cached files that may be dropped.
VERSIONS = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_on_cuda(device: int | str) -> int:
    """Bytes that torch can still give on a CUDA device: what the driver has, and what torch keeps without using it."""
    import torch

    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def free_in_main_memory(meminfo: Path = MEMINFO, own: Path = OWN_GROUPS, groups: Path = GROUPS) -> int | None:
    """Bytes of main memory that this process can still take. None where the system does not say."""
    found = [*_available(meminfo), *_below_limits(own, groups)]
    return max(0, min(found)) if found else None


def _available(meminfo: Path) -> Iterator[int]:
    """What the kernel calls available: free memory, and caches that it can drop."""
    for line in _lines(meminfo):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            yield int(value.split()[0]) * 1024


def _below_limits(own: Path, groups: Path) -> Iterator[int]:
    """What is left of each limit that holds for this process: of its group, and of those around it."""
    for line in _lines(own):
        _, kinds, name = line.split(":", 2)
        version = 0 if not kinds else 1
        if version and "memory" not in kinds.split(","):
            continue
        folder, limit, used, cached = VERSIONS[version]
        place = groups / folder
        inner = [place, *(place / part for part in _ways(name))]
        for group in inner:
            most, now = _number(group / limit), _number(group / used)
            if most is not None and now is not None:
                yield most - now + _stat(group / "memory.stat", cached)


def _ways(name: str) -> Iterator[str]:
    """ "/a/b" -> "a", "a/b"."""
    parts = [part for part in name.split("/") if part not in ("", "..")]
    for count in range(1, len(parts) + 1):
        yield "/".join(parts[:count])


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def _number(file: Path) -> int | None:
    """The number in a file; None if the file is missing or says `max`, which means no limit."""
    text = "".join(_lines(file)).strip()
    return int(text) if text.isdigit() else None


def _stat(file: Path, name: str) -> int:
    return next((int(line.split()[1]) for line in _lines(file) if line.split()[:1] == [name]), 0)
