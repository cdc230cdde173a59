"""Reads a shard's bytes from a place that the site allows: a regular file, or an object that fsspec reaches."""

import contextlib
import hmac
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from broker.messages import tensor_header
from client_fn.data import places
from client_fn.data.places import HTTP, Place
from client_fn.errors import BadData, ClientError, DataMissing, DataNotAllowed, DataUnreadable
from client_fn.site import Site
from client_fn.trainer.shared import SharedBytes

MAX_MB: Final = "FEDKEEPER_DATA_MAX_MB"

TRIES: Final = 3
"""How often a shard is read that changes meanwhile."""

MAP_ABOVE: Final = 64 << 20
"""A larger file of this machine is not copied into memory: the trainer gets the open file. Bytes."""

BEGINNING: Final = 8 + tensor_header.HEADER_CAP
"""How many bytes of a file are kept for a look at its format and its header."""

_PART: Final = 16 << 20
"""Bytes per read."""

PACKAGES: Final = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs", "http": "aiohttp", "https": "aiohttp"}
"""What fsspec needs for a scheme."""

_VERSION_FIELDS: Final = {
    "etag", "generation", "versionid", "contentmd5", "md5hash", "digest", "lastmodified", "updated", "modified", "mtime"
}  # fmt: skip
"""What the backends of fsspec tell about an object's version, without case and punctuation."""


class Version(NamedTuple):
    """What a place tells about its content without reading it.

    Attributes:
        size: in bytes. None: the place does not say.
        marks: they change with the content. Empty: the place has none.
    """

    size: int | None
    marks: tuple[object, ...]


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes | None: ...

    def fileno(self) -> int: ...


class Source(Protocol):
    """A place where one shard lies: a file or an object."""

    def look(self) -> Version:
        """Return the version that lies there now."""

    def open(self, size: int | None) -> AbstractContextManager[_Reader]:
        """Open what lies there now, whose size is known or not."""


def at(place: Place, site: Site) -> Source:
    """Return the source at a place.

    Args:
        place: from `places.allowed`.
        site: the site that allows it.
    """
    return _File(place, site) if place.scheme == "file" else _Object(place, site)


class Fetched(NamedTuple):
    """One version of a shard's bytes.

    Attributes:
        memory: the bytes, or the open file.
        beginning: the first `BEGINNING` bytes.
        digest: HMAC-SHA256 of all bytes, 64 hexadecimal digits.
        version: what the place said of them.
    """

    memory: SharedBytes
    beginning: bytes
    digest: str
    version: Version


def fetch(source: Source, place: Place, site: Site, key: bytes) -> Fetched:
    """Return the bytes of a shard and their version. What changes while it is read is read again.

    Args:
        source: from `at`.
        place: its place, for messages.
        site: limits the size.
        key: key of the digest.

    Raises:
        DataNotAllowed: it is too large.
        DataUnreadable: it changes again and again.
        BadData: it is empty.
    """
    limit = site.data_max_mb << 20
    for _ in range(TRIES):
        version = source.look()
        _check_size(version.size or 0, place, site)
        # One byte more, because the size may be wrong, and nobody has to read the rest then.
        at_most = 1 + (limit if version.size is None else version.size)
        is_copied = place.scheme != "file" or (version.size or 0) <= MAP_ABOVE
        digest = hmac.new(key, digestmod="sha256")
        with source.open(version.size) as reader:
            content, size = _read(reader, at_most, digest, all_=is_copied)
            _check_size(size, place, site)
            if source.look() != version or version.size not in {None, size}:
                continue
            if not size:
                raise place.bad("it is empty")
            memory = SharedBytes(content) if is_copied else SharedBytes.of_file(os.dup(reader.fileno()))
            return Fetched(memory, bytes(content[:BEGINNING]), digest.hexdigest(), version)
    raise DataUnreadable(place.shown, f"it changed, or had another size than announced, in {TRIES} reads")


@contextlib.contextmanager
def map_errors(place: Place) -> Iterator[None]:
    """Turn the errors of a file system, of fsspec and its backends into ours, which never hold what a peer says.

    Raises:
        DataMissing: nothing lies there.
        BadData: this Python can't read from there.
        DataUnreadable: reading failed.
    """
    try:
        yield
    except ClientError:
        raise
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise _missing(place, exc) from exc
    except ImportError as exc:
        package = PACKAGES.get(place.scheme, "the package that fsspec needs for it")
        raise place.bad(f"this Python can't read from there: install {package}") from exc
    except Exception as exc:
        # Backends raise what their libraries raise (ftplib, botocore, aiohttp ...), often without a common class.
        raise DataUnreadable(place.shown, f"reading it failed with {type(exc).__name__}") from exc


class _File:
    """A regular file of this machine. It is read without fsspec, whose import takes 0.1 s."""

    def __init__(self, place: Place, site: Site) -> None:
        self._place = place
        self._site = site

    def look(self) -> Version:
        return self._checked(Path(self._place.target).stat())

    @contextlib.contextmanager
    def open(self, size: int | None) -> Iterator[_Reader]:
        del size
        # Should a pipe or a device have replaced the file: do not wait for a writer, do not become its terminal.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self._place.target, flags), "rb", buffering=0) as file:
            self._checked(os.fstat(file.fileno()))
            # The path had no symbolic link when it was checked, but any folder of it may have become one since.
            opened = str(Path(f"/proc/self/fd/{file.fileno()}").readlink())
            places.check_prefixes(Place("file", opened, self._place.shown), self._site)
            yield file

    def _checked(self, found: os.stat_result) -> Version:
        if not stat.S_ISREG(found.st_mode):
            raise self._place.bad("it is no regular file")
        # The time of the last change of the inode tells of a write whose author has set the modification time back.
        return Version(found.st_size, (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns))


class _Object:
    """What fsspec finds at a URL."""

    def __init__(self, place: Place, site: Site) -> None:
        import fsspec

        self._place = place
        options = _http_options(place, site) if place.scheme in HTTP else {}
        self._system, self._path = fsspec.core.url_to_fs(place.target, **options)

    def look(self) -> Version:
        # Some backends answer from listings that they keep.
        self._system.invalidate_cache()
        info: Mapping[str, Any] = self._system.info(self._path)
        if info.get("type") == "directory":
            raise _folder(self._place)
        size = info.get("size")
        marks = {name: info[name] for name in sorted(info) if _bare(name) in _VERSION_FIELDS and info[name]}
        return Version(None if size is None else int(size), tuple((name, str(mark)) for name, mark in marks.items()))

    def open(self, size: int | None) -> AbstractContextManager[_Reader]:
        # HTTP is read as a stream: a server that ignores the range of a request may send more than memory holds.
        options: dict[str, Any] = {"block_size": 0, "size": size} if self._place.scheme in HTTP else {}
        reader: AbstractContextManager[_Reader] = self._system.open(self._path, "rb", cache_type="none", **options)
        return reader


def _missing(place: Place, exc: OSError) -> ClientError:
    """Return the error for a file that is not found. fsspec calls every failed HTTP request this."""
    cause = exc.__cause__
    if isinstance(cause, ClientError):
        # A redirection that we refused.
        return cause
    if place.scheme in HTTP and cause and getattr(cause, "status", None) not in {404, 410}:
        return DataUnreadable(place.shown, f"reading it failed with {type(cause).__name__}")
    return DataMissing("shard", place.shown, "stage the data there, or register the client's data_loc")


def _bare(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _folder(place: Place) -> BadData:
    return place.bad(
        "it is a folder of a store; name one file in it, or mount the store: folders are read on this machine only"
    )


def _check_size(size: int, place: Place, site: Site) -> None:
    if size > site.data_max_mb << 20:
        raise DataNotAllowed(place.shown, MAX_MB, f"it has more than {site.data_max_mb} MiB ({MAX_MB})")


def _read(reader: _Reader, at_most: int, digest: hmac.HMAC, *, all_: bool) -> tuple[bytearray, int]:
    """Return what a reader gives, or only its beginning, and the number of bytes; the digest gets all of them."""
    content, size = bytearray(), 0
    while size < at_most and (part := reader.read(min(_PART, at_most - size))):
        digest.update(part)
        size += len(part)
        content += part if all_ else part[: max(0, BEGINNING - len(content))]
    return content, size


def _http_options(place: Place, site: Site) -> dict[str, Any]:
    """Return the options of fsspec for HTTP: redirections only to what the site allows, and content as it is."""
    import aiohttp

    async def check_redirection(_session: object, _context: object, hop: aiohttp.TraceRequestRedirectParams) -> None:
        target = hop.response.headers.get("Location") or hop.response.headers.get("URI") or ""
        try:
            places.allowed(str(hop.url.join(type(hop.url)(target))), site)
        except (DataNotAllowed, BadData) as exc:
            settings = f"{places.SCHEMES}, {places.PREFIXES}"
            reason = f"its server redirects to a place that is not allowed ({settings})"
            # Without the place, which is the server's text.
            raise DataNotAllowed(place.shown, settings, reason) from exc

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(check_redirection)
    return {
        "client_kwargs": {"trace_configs": [trace]},
        "headers": {"Accept-Encoding": "identity"},
        # fsspec would keep one file system for each trace.
        "skip_instance_cache": True,
    }
