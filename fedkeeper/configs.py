"""Finds and reads job files: by path, or by the name of one that comes with FedKeeper."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from broker.messages import codec, job_file
from broker.messages.errors import JobError
from broker.messages.job import Job
from broker.support import tables
from fedkeeper.errors import NoSuchFile

DEPLOYMENT_FILE_PREFIX: Final = "fabric-"
"""The names of deployment files begin with this. They are in the same folder as the job files."""

# In an installed package the files lie beside this module, in a checkout beside the packages.
_FOLDERS: Final = tuple(place / "configs" for place in Path(__file__).parents[:2])

Spec = Job | Mapping[str, Any] | str | os.PathLike[str]
"""A job as programs give it: itself, its fields, the path of a file, or the name of one that comes with FedKeeper."""


def job_of(spec: Spec) -> Job:
    """Return the job that a program has given, checked.

    Args:
        spec: a `Job`, a mapping with the fields of a job file, the path of a job file, or the name of one that comes
            with FedKeeper.

    Raises:
        JobError: the job is not valid.
        NoSuchFile: the file does not exist or can't be read.
        TypeError: it is something else.
    """
    if isinstance(spec, str | os.PathLike):
        return read_job(spec)
    if not isinstance(spec, Job | Mapping):
        wanted = "a fedkeeper.Job, a mapping with the fields of a job file, or the path or name of a job file"
        raise TypeError(f"a job is {wanted}, not {type(spec).__name__}")
    fields = job_file.without_defaults(spec) if isinstance(spec, Job) else dict(spec)
    try:
        raw = msgspec.to_builtins(fields, enc_hook=_plain)
    except TypeError as exc:
        raise JobError("", None, str(exc)) from exc
    # In JSON, a number that is not finite would become a null.
    job_file.from_dict(raw)
    # Through JSON, because what the server makes of it is compared with it.
    return job_file.from_json(codec.encode(raw))


def _plain(value: Any) -> Any:
    """Return a scalar of numpy as Python's. Nothing else of a foreign type can be in a job."""
    if hasattr(value, "item") and not getattr(value, "shape", ()):
        return value.item()
    raise TypeError(f"a job has numbers, texts, lists and tables, and no {type(value).__name__}: {value!r}")


def read_job(file: str | os.PathLike[str], overrides: tuple[str, ...] = ()) -> Job:
    """Read a job file.

    Args:
        file: a path, or the name of a job that comes with FedKeeper, such as `quickstart`. TOML or JSON.
        overrides: replacements of single fields, as `section.key=value`.

    Raises:
        Missing: the file does not exist or is not text.
        JobError: the file is not a valid job; it names all mistakes with their lines.
    """
    path = find(os.fspath(file))
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
    path = find(os.fspath(file))
    return job_file.table(_text_of(path), overrides, file=path.name)


def find(file: str) -> Path:
    """Return the path of a job file, given by its path or name.

    Raises:
        NoSuchFile: no such file exists; the message lists the known names.
    """
    path = Path(file)
    if path.is_file():
        return path
    for folder in _FOLDERS:
        shipped = folder / f"{file.removesuffix('.toml')}.toml"
        if shipped.is_file():
            return shipped
    jobs = shipped_jobs()
    close = difflib.get_close_matches(file, jobs, 1)
    hint = f"did you mean {close[0]!r}? Give" if close else "give"
    raise NoSuchFile(f"no job file {file!r}; {hint} a path, or one of {', '.join(jobs)}")


def shipped_jobs() -> list[str]:
    """Return the names of the job files that come with FedKeeper."""
    names = sorted({known.stem for folder in _FOLDERS for known in folder.glob("*.toml")})
    return [name for name in names if not name.startswith(DEPLOYMENT_FILE_PREFIX)]


def _text_of(path: Path) -> str:
    try:
        return tables.text_of(path.read_bytes())
    except (OSError, UnicodeDecodeError) as exc:
        raise NoSuchFile(f"{path} can't be read: {exc}") from exc
