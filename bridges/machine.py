"""The machine that a bridge runs on, as its presence tells it."""

import hashlib
import re
import shutil
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from broker.messages.register import Host

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
"""Random for each start of the kernel. Boards that were flashed from one image may have the same host name and the same
/etc/machine-id."""

MEMINFO: Final = Path("/proc/meminfo")

_AVAILABLE: Final = re.compile(r"^MemAvailable:\s+(\d+) kB$", re.MULTILINE)
_MB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, with what changes on it.

    Attributes:
        name: its host name.
        id: the same for all bridges of the machine since it was started, and different on every other machine.
        version: version of FedKeeper.
        memory_mb: returns the memory that is free, in MiB; None: not known.
        disk_mb: returns the space that is free in the current folder, in MiB; None: not known.
    """

    name: str
    id: str
    version: str = ""
    memory_mb: Callable[[], int | None] = lambda: None
    disk_mb: Callable[[], int | None] = lambda: None

    def host(self) -> Host:
        """Return what a presence says of the machine now."""
        memory_mb, disk_mb = self.memory_mb(), self.disk_mb()
        return Host(name=self.name, id=self.id, version=self.version, memory_mb=memory_mb, disk_mb=disk_mb)


def this_machine() -> Machine:
    """Return the machine that this process runs on."""
    name = socket.gethostname()
    return Machine(name, machine_id(name, _boot_id()), _version(), _free_memory_mb, _free_disk_mb)


def machine_id(name: str, boot: str) -> str:
    """Return a machine's id.

    Args:
        name: its host name: containers of one machine have names of their own.
        boot: what no other machine has.
    """
    return hashlib.sha256(f"{name}\n{boot}".encode()).hexdigest()[:16]


def available_mb(meminfo: str) -> int | None:
    """Return the memory that new programs could use, in MiB, from the text of /proc/meminfo (proc_meminfo(5))."""
    found = _AVAILABLE.search(meminfo)
    return None if found is None else int(found[1]) * 1024 // _MB


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:  # no Linux
        return f"{uuid.getnode():x}"


def _version() -> str:
    try:
        return metadata.version("fedkeeper")
    except metadata.PackageNotFoundError:
        return ""


def _free_memory_mb() -> int | None:
    try:
        return available_mb(MEMINFO.read_text(encoding="ascii"))
    except OSError:
        return None


def _free_disk_mb() -> int | None:
    try:
        return shutil.disk_usage(Path()).free // _MB
    except OSError:
        return None
