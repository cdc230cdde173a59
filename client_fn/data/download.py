"""Downloads a dataset's files from public mirrors, trying one mirror after the other."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from broker.support import files
from client_fn.data import idx
from client_fn.data.idx import File
from client_fn.errors import BadData, DataMissing

TIMEOUT: Final = httpx.Timeout(10.0, read=30.0)
FILE_S: Final = 600.0
"""Time limit per file. 10 MB in this time are 16 kB/s."""

GZIP_BYTES: Final = 1024
"""Maximum number of bytes that gzip adds to incompressible content."""


def fetch(
    dataset: str, missing: Sequence[File], *, to: Path, mirrors: Sequence[str], variable: str, quiet: bool = False
) -> None:
    """Download gzipped files, verify them, and write each atomically into a folder.

    Args:
        dataset: the dataset's name, for messages.
        missing: the files to download.
        to: the folder; created if it does not exist.
        mirrors: URL prefixes; a file's URL is the prefix, the file's name and `.gz`.
        variable: the environment variable that may name a folder with the files, for messages.
        quiet: show no progress bar.

    Raises:
        DataMissing: no mirror delivered one of the files, or the folder can't be written.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    progress = Progress(*columns, console=Console(stderr=True), disable=quiet)
    elsewhere = f"or set {variable} to a folder that has all its files"
    with progress, httpx.Client(timeout=TIMEOUT, follow_redirects=True) as client:
        for file in missing:
            failures: list[str] = []
            for mirror in mirrors:
                url = f"{mirror}{file.name}.gz"
                try:
                    files.write(to / f"{file.name}.gz", _download(client, progress, url, file))
                except httpx.HTTPError as exc:
                    failures.append(f"{url}: {exc}")
                except BadData as exc:
                    failures.append(f"{url}: {exc.reason}")
                except OSError as exc:
                    reason = f"can't write {file.name}.gz: {exc.strerror or exc}"
                    raise DataMissing(dataset, str(to), f"{reason}; make room there, {elsewhere}") from exc
                else:
                    break
            else:
                names = ", ".join(f"{file.name}.gz" for file in missing)
                raise DataMissing(dataset, str(to), f"put {names} there, {elsewhere} (tried {'; '.join(failures)})")


def _download(client: httpx.Client, progress: Progress, url: str, file: File) -> bytes:
    """Return the verified file as the mirror sent it. Stop early if the mirror is too slow or sends too much."""
    end_s = time.monotonic() + FILE_S
    max_bytes = file.bytes + GZIP_BYTES
    content = bytearray()
    with client.stream("GET", url) as response:
        response.raise_for_status()
        bar = progress.add_task(file.name, total=int(response.headers.get("content-length", 0)) or None)
        for part in response.iter_raw():
            content += part
            progress.advance(bar, len(part))
            if time.monotonic() > end_s:
                raise BadData(f"it takes longer than {FILE_S:g} s")
            if len(content) > max_bytes:
                raise BadData(f"it has more than {max_bytes} bytes")
    idx.decompress(url, bytes(content), file)
    return bytes(content)
