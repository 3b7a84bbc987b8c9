"""Two hosts on one machine: network namespaces with a cable between them, each with its own host name and processes.

They share the file system, as machines with a shared folder do. Needs root and iproute2.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
ENTER = 'mount --bind "$0" /etc/hosts && hostname "$1" && shift && exec "$@"'


@dataclass(frozen=True)
class Host:
    """A machine by its name, which is also that of its network namespace. interface: its end of the cable."""

    name: str
    address: str
    interface: str
    hosts: Path

    def start(self, *command: object, log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a command on this host. A kill of the returned process is a kill -9 of all that it started."""
        # --kill-child with a process namespace of its own: nothing outlives the command.
        unshared = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        entered = ["ip", "netns", "exec", self.name, *unshared, "sh", "-c", ENTER, str(self.hosts), self.name]
        with log.open("ab") as output:
            return subprocess.Popen(
                [*entered, *map(str, command)], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
            )

    def network(self, state: str) -> None:
        """Turn the host's network "up" or "down". Down, packets are lost without an answer."""
        ip("-n", self.name, "link", "set", self.interface, state)


def ip(*arguments: str) -> None:
    """Raises CalledProcessError, with what `ip` says, if it cannot be done."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def impossible() -> str | None:
    """Why this machine cannot make two hosts; None if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if missing := [tool for tool in ("ip", "unshare", "mount", "hostname") if shutil.which(tool) is None]:
        return f"not installed: {', '.join(missing)} (Debian's packages iproute2, util-linux, hostname)"
    name = f"hidrop-{os.getpid()}-try"
    try:
        ip("netns", "add", name)
        try:
            ip("-n", name, "link", "add", "name", "one", "type", "veth", "peer", "name", "two")
            unshared = ["unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "hostname", "x"]
            subprocess.run(unshared, check=True, capture_output=True, text=True)
        finally:
            ip("netns", "del", name)
    except subprocess.CalledProcessError as error:
        return f"the kernel allows no network namespaces here: {error.stderr.strip()}"
    return None


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """Two hosts with a network between them, which know each other's names. `folder`: for the file of their names."""
    names = [f"hidrop-{os.getpid()}-{which}" for which in ("one", "two")]
    addresses, interfaces, hosts = ["10.213.57.1", "10.213.57.2"], ["one", "two"], folder / "hosts"
    lines = [f"{address} {name}" for address, name in zip(addresses, names, strict=True)]
    hosts.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
    with contextlib.ExitStack() as stack:
        for name in names:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
            ip("-n", name, "link", "set", "lo", "up")
        ends = [["name", end, "netns", name] for end, name in zip(interfaces, names, strict=True)]
        ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for name, address, interface in zip(names, addresses, interfaces, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", interface)
            ip("-n", name, "link", "set", interface, "up")
        one, two = (Host(*each, hosts) for each in zip(names, addresses, interfaces, strict=True))
        yield one, two
