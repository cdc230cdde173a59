"""What a run leaves in its folder until its job has ended: the broker's store and the run's options.

With both, `fedkeeper run --resume` starts the same system over the store, and the job goes on as after any crash.
"""

import contextlib
import shlex
import shutil
from pathlib import Path
from typing import Final

import msgspec

from fedkeeper import files
from fedkeeper.display.units import format_size
from fedkeeper.errors import BadOption, Missing, NoSuchFile, NotSaved
from fedkeeper.options import own_url_option
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs import model_file, run_log

STORE: Final = "store"
_PRIVATE: Final = 0o700


class Unfinished(msgspec.Struct, frozen=True, kw_only=True):
    """A run whose job has not ended.

    Attributes:
        job: the job's id.
        broker: address of the broker that has the job; empty: it is the store in the folder.
        job_folder: folder of the job's file, where the job's own code may be.
        folder: folder of credentials, copies of the code and the clients' shards.
        workers: number of worker processes; 0: one per core.
        code: file or folder of the user's code; None: as in the environment, or beside the job's file.
        allow: names of libraries and classes that the job may use; None: as in the environment.
        device: the torch device; empty: as in the environment.
        data: folder of the datasets' files; None: the default.
    """

    job: str
    broker: str = ""
    job_folder: str = ""
    folder: str = ""
    workers: int = 0
    code: str | None = None
    allow: tuple[str, ...] | None = None
    device: str = ""
    data: str | None = None


def begin(folder: Path, run: Unfinished) -> None:
    """Create a run's folder, with the options and an empty store that only its owner can read.

    Args:
        folder: the run's folder.
        run: its options.

    Raises:
        BadOption: the folder has a run already, or can't be written.
        NotSaved: it can't be written.
    """
    if not run.broker:
        _check_unused(folder)
    files.check_folder(folder, "--out")
    if not run.broker:
        try:
            (folder / STORE).mkdir(mode=_PRIVATE)
        except OSError as exc:
            raise NotSaved(folder / STORE, exc.strerror or str(exc)) from exc
    files.write(folder / run_folder.UNFINISHED, msgspec.json.encode(run) + b"\n")


def _check_unused(folder: Path) -> None:
    if (folder / run_folder.UNFINISHED).exists() or (folder / STORE).exists():
        raise BadOption(
            f"{folder} has a run of this job that has not ended: `fedkeeper run --resume {shlex.quote(str(folder))}` "
            "goes on with it; to begin anew, delete the folder"
        )
    if (folder / model_file.NAME).exists():
        raise BadOption(f"{folder} has the results of a job with this id: give the job another id, or another --out")


def read(folder: Path) -> Unfinished:
    """Return the options of a run that has not ended.

    Args:
        folder: the run's folder, or a link to it such as `runs/latest`.

    Raises:
        Missing: it has none, or its file can't be read.
    """
    if not folder.is_dir():
        raise NoSuchFile(f"there is no folder {folder}: give that of a run, such as runs/latest")
    file = folder / run_folder.UNFINISHED
    try:
        run = msgspec.json.decode(file.read_bytes(), type=Unfinished)
    except FileNotFoundError as exc:
        ended = "its job has ended" if (folder / model_file.NAME).exists() else "it is no run that has not ended"
        raise Missing(f"there is nothing to go on with in {folder}: {ended}") from exc
    except (OSError, msgspec.DecodeError) as exc:
        raise Missing(f"{file} can't be read: {exc}") from exc
    if not (folder / run_folder.JOB).exists():
        raise Missing(f"the run in {folder} ended before its job was accepted: delete the folder, and run it again")
    return run


def end(folder: Path, *, keeps_log: bool = True) -> None:
    """Delete a run's store and options; its results stay. A folder without anything goes too.

    Args:
        folder: the run's folder.
        keeps_log: whether the log of a run stays whose job was not accepted: it may say why.
    """
    shutil.rmtree(folder / STORE, ignore_errors=True)
    for part in folder.glob(".*-[0-9]*"):  # of a run that was killed while it wrote a file
        part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (folder / run_folder.UNFINISHED).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        log = folder / run_log.NAME
        if not (folder / run_folder.JOB).exists() and not (keeps_log and log.stat().st_size):
            log.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def how_to_go_on(folder: Path, url: str) -> str:
    """Return how a person goes on with a run, and what it takes until then.

    Args:
        folder: the run's folder.
        url: the address of the broker that has the job; empty: it is the store in the folder.
    """
    command = f"fedkeeper run --resume {shlex.quote(str(folder))}{own_url_option(url)}"
    text = f"to go on with it:\n\n  {command}\n"
    if url:
        return text
    size = format_size(files.size_of(folder / STORE))
    return f"{text}\nuntil then {folder / STORE} keeps the job: {size}, with its broker's password"
