"""Finds job files: by path, or by the name of one that comes with FedKeeper."""

from pathlib import Path
from typing import Final

from broker.messages import job
from broker.messages.job import Job
from fedkeeper.errors import Missing

FABRICS: Final = "fabric-"
"""What the names of fabric files begin with, among the files that come with FedKeeper."""


def read_job(file: str, overrides: tuple[str, ...] = ()) -> Job:
    """A job from a file.

    Args:
        file: a path, or the name of a job that comes with FedKeeper (`quickstart`).
        overrides: `section.key=value`.

    Raises:
        Missing: there is no such file, or it is no text.
        JobError: it is no job.
    """
    path = find(file)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise Missing(f"{path} can't be read: {exc}") from exc
    return job.from_toml(text, overrides)


def find(file: str) -> Path:
    """Where the job file is.

    Raises:
        Missing: nowhere.
    """
    path = Path(file)
    if path.is_file():
        return path
    shipped = [folder / f"{file.removesuffix('.toml')}.toml" for folder in _folders()]
    found = next((candidate for candidate in shipped if candidate.is_file()), None)
    if found is None:
        known = sorted({known.stem for folder in _folders() for known in folder.glob("*.toml")})
        jobs = [name for name in known if not name.startswith(FABRICS)]
        raise Missing(f"no job file {file!r}; give a path, or one of {', '.join(jobs)}")
    return found


def _folders() -> list[Path]:
    """In an installed package beside this file, in a checkout beside the packages."""
    here = Path(__file__).parent
    return [here / "configs", here.parent / "configs"]
