"""Looks at a folder of this machine: which files it holds, how large they are and when they changed."""

import hashlib
import os
from collections.abc import Iterator
from typing import Final, NamedTuple

from client_fn.data.places import Place
from client_fn.data.sources import MAX_MB, Version
from client_fn.errors import DataNotAllowed
from client_fn.site import Site

MAX_FILES: Final = 1_000_000
"""Most files and folders in a folder: a look at so many takes some seconds, and each task looks once."""


class Listing(NamedTuple):
    """What lies in a folder.

    Attributes:
        version: the size of all files together, and a digest of their names, sizes and times.
        content: SHA-256 digest of names, sizes and modification times alone, which a copy of the folder can have too.
    """

    version: Version
    content: bytes


def look(place: Place, site: Site) -> Listing:
    """Return what lies in a folder now. No file is opened.

    Args:
        place: the folder, from `places.allowed`.
        site: limits the size.

    Raises:
        DataNotAllowed: the files are too large together.
        BadData: there are too many files, none, a symbolic link, or something that is no file.
        OSError: the folder can't be read.
    """
    times, content = hashlib.sha256(), hashlib.sha256()
    total = count = 0
    for entry in _walk(place):
        count += 1
        if count > MAX_FILES:
            raise place.bad(f"the folder holds more than {MAX_FILES:,} files")
        if entry.is_dir(follow_symlinks=False):
            continue
        found = entry.stat(follow_symlinks=False)
        total += found.st_size
        if total > site.data_max_mb << 20:
            raise DataNotAllowed(place.shown, MAX_MB, f"its files have more than {site.data_max_mb} MiB ({MAX_MB})")
        name = os.fsencode(os.path.relpath(entry.path, place.target))
        content.update(b"%s\0%d\0%d\0" % (name, found.st_size, found.st_mtime_ns))
        # The time of the last change of the inode tells of a write whose author has set the modification time back.
        times.update(b"%d\0%d\0" % (found.st_ino, found.st_ctime_ns))
    if not total:
        raise place.bad("the folder is empty")
    return Listing(Version(total, (content.hexdigest(), times.hexdigest())), content.digest())


def _walk(place: Place) -> Iterator[os.DirEntry[str]]:
    """Yield everything below a folder, in the order of the names in each folder."""
    folders = [place.target]
    while folders:
        with os.scandir(folders.pop()) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            if entry.is_symlink():
                # It may lead out of what the site allows, and change its target without changing itself.
                raise place.bad("the folder holds a symbolic link; put the file itself there")
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif not entry.is_file(follow_symlinks=False):
                raise place.bad("the folder holds something that is no regular file")
            yield entry
