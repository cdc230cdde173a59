"""What `make board` says: a line for each step, and a table of the installations."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

_MB: Final = {"kB": 1e-3, "MB": 1.0, "GB": 1e3}


@dataclass(kw_only=True)
class Installation:
    """What an installation took. Times are those of an emulated processor, and say little about a real one.

    Attributes:
        kind: the options of install.sh.
        seconds: how long install.sh ran.
        pip_mb: what pip downloaded, in MB.
        disk_mb: size of /opt/fedkeeper, in MB.
        memory_mb: the most memory of each process, in MB, by its name. The emulator's own is in it.
    """

    kind: str
    seconds: float = 0.0
    pip_mb: float = 0.0
    disk_mb: float = 0.0
    memory_mb: dict[str, float] = field(default_factory=dict)


def table(installations: Sequence[Installation]) -> list[str]:
    """Return the lines of a table, at most 80 columns wide."""
    lines = [f"{'install.sh':<34}  {'s':>5}  {'pip MB':>6}  {'disk MB':>7}  memory MB"]
    for each in installations:
        memory = ", ".join(f"{name} {size:.0f}" for name, size in each.memory_mb.items())
        lines.append(
            f"{each.kind:<34}  {each.seconds:>5.0f}  {each.pip_mb:>6.0f}  {each.disk_mb:>7.0f}  {memory}".rstrip()
        )
    return lines


def downloaded_mb(log: str) -> float:
    """Return how much pip downloaded, in MB, from what it printed."""
    sizes = re.findall(r"^\s*Downloading \S+ \(([\d.]+) (kB|MB|GB)\)", log, re.MULTILINE)
    return sum(float(number) * _MB[unit] for number, unit in sizes)


def peak_memory_mb(status: str) -> float:
    """Return a process's highest resident memory in MB.

    Args:
        status: its `/proc/PID/status` (proc(5)).
    """
    match = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(match[1]) * 1024 / 1e6 if match else 0.0
