"""Fetching a dataset's files from public mirrors, each tried in turn."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from client_fn.data import files, idx
from client_fn.data.idx import File
from client_fn.errors import BadData, DataMissing

TIMEOUT: Final = httpx.Timeout(10.0, read=30.0)
FILE_S: Final = 600.0
"""A file that takes longer is given up: 10 MB in it are 16 kB/s."""

GZIP_BYTES: Final = 1024
"""What gzip may add to a file that can't be compressed."""


def fetch(dataset: str, wanted: Sequence[File], *, to: Path, mirrors: Sequence[str], variable: str) -> None:
    """Download gzipped files, verify them, and put each whole into a folder.

    Args:
        dataset: its name, for messages.
        wanted: the files.
        to: the folder; made if it is not there.
        mirrors: URLs that a file's name and `.gz` are appended to.
        variable: of the environment, that may name a folder which has the files.

    Raises:
        DataMissing: no mirror delivered one of them.
    """
    with _bar() as bar, httpx.Client(timeout=TIMEOUT, follow_redirects=True) as client:
        for file in wanted:
            failures: list[str] = []
            raw = next(_delivered(client, bar, file, mirrors, failures), None)
            if raw is None:
                raise DataMissing(dataset, str(to), _remedy(wanted, variable, failures))
            files.write(to / f"{file.name}.gz", raw)


def _delivered(
    client: httpx.Client, bar: Progress, file: File, mirrors: Sequence[str], failures: list[str]
) -> Iterator[bytes]:
    """The file from each mirror that has it; why one has not is added to the failures."""
    for mirror in mirrors:
        url = f"{mirror}{file.name}.gz"
        try:
            raw = _read(client, bar, url, file)
            idx.verified(url, raw, file)
        except httpx.HTTPError as exc:
            failures.append(f"{url}: {exc}")
        except BadData as exc:
            failures.append(f"{url}: {exc.reason}")
        else:
            yield raw


def _read(
    client: httpx.Client, bar: Progress, url: str, file: File, clock: Callable[[], float] = time.monotonic
) -> bytes:
    until = clock() + FILE_S
    raw = bytearray()
    with client.stream("GET", url) as response:
        response.raise_for_status()
        line = bar.add_task(file.name, total=int(response.headers.get("content-length", 0)) or None)
        for part in response.iter_raw():
            raw += part
            bar.advance(line, len(part))
            _check(url, file, len(raw), clock() > until)
    return bytes(raw)


def _check(url: str, file: File, size: int, late: bool) -> None:  # noqa: FBT001 (private, one caller)
    if late:
        raise BadData(url, f"it takes longer than {FILE_S:g} s", "the mirror is too slow")
    most = file.bytes + GZIP_BYTES
    if size > most:
        raise BadData(url, f"it has more than {most} bytes", "it is another file")


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=Console(stderr=True))


def _remedy(wanted: Sequence[File], variable: str, failures: Sequence[str]) -> str:
    listed = ", ".join(f"{file.name}.gz" for file in wanted)
    tried = "; ".join(failures)
    return f"put {listed} there, or set {variable} to a folder that has all its files (tried {tried})"
