"""The note that `fedkeeper up` leaves for the other commands in its folder: the broker's address."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from broker.errors import BadUrl, ConnectFailed
from broker.url import BrokerUrl

FOLDER: Final = Path(".fedkeeper")
URL_FILE: Final = FOLDER / "url"
PASSWORD_FILE: Final = "url-password"  # noqa: S105 (a file's name)


@contextlib.contextmanager
def published(folder: Path, url: str) -> Iterator[str]:
    """Let commands find the broker until the end of the block; yield the address that they find.

    It means the same in every folder, and holds no password: one in the URL is put into a file beside it, which only
    this user can read.

    Args:
        folder: the folder of `fedkeeper up`.
        url: the broker's address.
    """
    address, file = BrokerUrl.parse(url).absolute(), folder / URL_FILE.name
    password_file = folder.absolute() / PASSWORD_FILE
    password_file.unlink(missing_ok=True)  # of an `up` that was killed
    if address.password is not None:
        _write(password_file, address.password)
        address = dataclasses.replace(address, password=None, password_file=password_file)
    _write(file, str(address))
    try:
        yield str(address)
    finally:
        # Another `up` of this folder may have replaced the note meanwhile.
        if _read(file) == str(address):
            file.unlink(missing_ok=True)
            password_file.unlink(missing_ok=True)


def read(folder: Path = FOLDER) -> str:
    """Return the address that `fedkeeper up` has left; empty: it does not run there.

    Args:
        folder: the folder of `fedkeeper up`.
    """
    return _read(folder / URL_FILE.name)


def hint(error: ConnectFailed) -> str:
    """Return what to add to an error if the note has its address: the note of an `up` that was killed stays."""
    if "password" in error.reason:
        return ""  # a broker that asks for one is there
    with contextlib.suppress(BadUrl):
        if (url := read()) and BrokerUrl.parse(url).leads_to(BrokerUrl.parse(error.address)):
            return f"; {URL_FILE} has this address: is `fedkeeper up` still running?"
    return ""


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as opened:
        opened.write(text)
