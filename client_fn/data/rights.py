"""Looks at the owner and the rights of files and folders of this machine, as the present user meets them."""

import contextlib
import grp
import os
import pwd
import stat
from pathlib import Path
from typing import Final, NamedTuple

HIDDEN: Final = ("/home", "/root", "/run/user")
"""What a systemd service with ProtectHome= does not see (systemd.exec(5))."""

FILES: Final = 100_000
"""How many files of a folder are looked at."""


class Rights(NamedTuple):
    """The rights of a file or folder.

    Attributes:
        owner: names of its user and group; numbers where they have none.
        mode: as `ls -l` shows it.
    """

    owner: str
    mode: str


class Blocked(NamedTuple):
    """What keeps the present user from a file or folder.

    Attributes:
        problem: the obstacle.
        remedy: what to do.
    """

    problem: str
    remedy: str


def of(path: Path) -> Rights | None:
    """Return the rights of a file or folder; None: it does not exist, or can't be reached."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Rights(f"{_user(found.st_uid)}:{_group(found.st_gid)}", stat.filemode(found.st_mode))


def service_user() -> str:
    """Return the name of the user that this process runs as; its number if it has no name."""
    return _user(os.geteuid())


def blocked(path: Path) -> Blocked | None:
    """Return what keeps the present user from reading a file or folder; None: it may, or nothing lies there."""
    # Not the methods of Path, which raise an error for a name that is too long.
    user = service_user()
    for folder in reversed(path.parents):
        if os.path.isdir(folder) and not os.access(folder, os.X_OK):  # noqa: PTH112
            return _denied(f"{user} can't enter the folder {folder}", f"chmod o+x {folder}", path)
    is_folder = os.path.isdir(path)  # noqa: PTH112
    if os.path.exists(path) and not os.access(path, os.R_OK | (os.X_OK if is_folder else 0)):  # noqa: PTH110
        rights = "o+rx" if is_folder else "o+r"
        return _denied(f"{user} can't read {path}", f"chmod {rights} {path}", path)
    return _file_in(path, user) if is_folder else None


def remedy_if_hidden(path: Path | str) -> str:
    """Return what to do with a path that no service with ProtectHome= sees; empty: it is another one.

    Args:
        path: a path, or a URL.
    """
    bare = Path(str(path).removeprefix("file://"))
    folder = next((folder for folder in HIDDEN if bare.is_relative_to(folder)), "")
    return folder and f"put it elsewhere, such as below /srv: a service with ProtectHome= sees nothing below {folder}"


def nearest(path: Path) -> Path:
    """Return a path, or the nearest one above it that exists and can be reached."""
    return next((each for each in (path, *path.parents) if of(each) is not None), Path("/"))


def _denied(problem: str, remedy: str, path: Path) -> Blocked:
    return Blocked(problem, remedy_if_hidden(path) or f"{remedy}, or give it to a group of the service")


def _file_in(folder: Path, user: str) -> Blocked | None:
    """Return how many files below a folder can't be read. Their names are not told."""
    count = seen = 0
    for parent, folders, names in os.walk(folder):
        seen += len(folders) + len(names)
        if seen > FILES:
            break
        entries = [*((name, os.R_OK | os.X_OK) for name in folders), *((name, os.R_OK) for name in names)]
        count += sum(not os.access(os.path.join(parent, name), wanted) for name, wanted in entries)  # noqa: PTH118
    if not count:
        return None
    return _denied(f"{user} can't read {count} of the files and folders in {folder}", f"chmod -R o+rX {folder}", folder)


def _user(number: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return str(number)


def _group(number: int) -> str:
    with contextlib.suppress(KeyError):
        return grp.getgrgid(number).gr_name
    return str(number)
