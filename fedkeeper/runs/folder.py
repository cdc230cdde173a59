"""Run folders: `runs/<date>-<job>/` has what a job has left, and `runs/latest` is the newest one."""

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

LATEST: Final = "latest"


def choose(out: Path, job: str, created_s: float) -> Path:
    """Return the folder of a job: the one that it has, else a new one. Creates nothing.

    Args:
        out: the folder of all runs, such as `runs`.
        job: the job's id.
        created_s: when the job was submitted, in seconds since the epoch.
    """
    found = sorted(out.glob(f"[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]-{job}"))
    return found[-1] if found else out / f"{datetime.fromtimestamp(created_s, UTC):%Y-%m-%d}-{job}"


def mark_latest(folder: Path) -> None:
    """Let `latest` beside a run's folder point to it. Where there are no symbolic links, there is no `latest`."""
    link, new = folder.parent / LATEST, folder.parent / f".{LATEST}-{os.getpid()}"
    with contextlib.suppress(OSError):
        new.unlink(missing_ok=True)
        new.symlink_to(folder.name, target_is_directory=True)
        if link.is_symlink() or not link.exists():
            new.replace(link)
        new.unlink(missing_ok=True)
