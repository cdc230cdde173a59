"""Finds and reads job files: by path, or by the name of one that comes with FedKeeper."""

import difflib
from pathlib import Path
from typing import Any, Final

from broker.messages import job_file
from broker.messages.job import Job
from broker.support import tables
from fedkeeper.errors import Missing

DEPLOYMENT_FILE_PREFIX: Final = "fabric-"
"""The names of deployment files begin with this. They are in the same folder as the job files."""


def read_job(file: str, overrides: tuple[str, ...] = ()) -> Job:
    """Read a job file.

    Args:
        file: a path, or the name of a job that comes with FedKeeper, such as `quickstart`. TOML or JSON.
        overrides: replacements of single fields, as `section.key=value`.

    Raises:
        Missing: the file does not exist or is not text.
        JobError: the file is not a valid job; it names all mistakes with their lines.
    """
    path = find(file)
    return job_file.from_text(_text_of(path), overrides, file=path.name)


def read_table(file: str, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a job file without checking its fields: for those who change some of them first.

    Args:
        file: as for `read_job`.
        overrides: as for `read_job`.

    Raises:
        Missing: the file does not exist or is not text.
        JobError: the file is not TOML, or an override is malformed.
    """
    path = find(file)
    return job_file.table(_text_of(path), overrides, file=path.name)


def find(file: str) -> Path:
    """Return the path of a job file, given by its path or name.

    Raises:
        Missing: no such file exists; the message lists the known names.
    """
    path = Path(file)
    if path.is_file():
        return path
    here = Path(__file__).parent
    # In an installed package the files lie beside this module, in a checkout beside the packages.
    folders = (here / "configs", here.parent / "configs")
    for folder in folders:
        shipped = folder / f"{file.removesuffix('.toml')}.toml"
        if shipped.is_file():
            return shipped
    names = sorted({known.stem for folder in folders for known in folder.glob("*.toml")})
    jobs = [name for name in names if not name.startswith(DEPLOYMENT_FILE_PREFIX)]
    close = difflib.get_close_matches(file, jobs, 1)
    hint = f"did you mean {close[0]!r}? Give" if close else "give"
    raise Missing(f"no job file {file!r}; {hint} a path, or one of {', '.join(jobs)}")


def _text_of(path: Path) -> str:
    try:
        return tables.text_of(path.read_bytes())
    except (OSError, UnicodeDecodeError) as exc:
        raise Missing(f"{path} can't be read: {exc}") from exc
