"""Which places a site allows for a shard. Decides by the text of `data_loc` and by the file system's symbolic links."""

import os
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from client_fn.errors import BadData, DataNotAllowed
from client_fn.site import Site

HTTP: Final = ("http", "https")

SCHEMES: Final = "FEDKEEPER_DATA_SCHEMES"
PREFIXES: Final = "FEDKEEPER_DATA_PREFIXES"

_SHOWN: Final = 200
"""Longest place in a message, in characters."""

_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Place:
    """A place that the site allows.

    Attributes:
        scheme: `file` for everything on this machine.
        target: the absolute path without symbolic links, or the URL.
        shown: path or URL for messages, without user information and query.
    """

    scheme: str
    target: str
    shown: str

    def bad(self, reason: str) -> BadData:
        """Return the error that says why what lies here is no valid shard."""
        return BadData(f"shard {self.shown}: {reason}", where=self.shown, reason=reason)


def allowed(url: str, site: Site) -> Place:
    """Return the place that a client's `data_loc` names.

    Args:
        url: a path or a URL.
        site: says what is allowed.

    Raises:
        DataNotAllowed: the site does not allow the scheme or the place, or the URL combines several.
        BadData: the text is no path and no URL.
    """
    scheme, target = _parse(url)
    place = Place(scheme, target, show(url))
    # fsspec runs a chain of file systems for "a::b". Some of them run code that the URL holds.
    if "::" in url or scheme not in site.data_schemes:
        reason = "a URL with '::' is not allowed" if "::" in url else "its scheme is not allowed here"
        allows = ", ".join(site.data_schemes)
        raise DataNotAllowed(place.shown, SCHEMES, f"{reason}; {SCHEMES} allows {allows}")
    if scheme != "file" and not url.isprintable():
        raise place.bad("it has characters that no URL has")
    check_prefixes(place, site)
    return place


def check_prefixes(place: Place, site: Site) -> None:
    """Check that a place lies below one of the site's folders and URLs, if it names some.

    Args:
        place: its target has no symbolic links.
        site: names the folders and URLs.

    Raises:
        DataNotAllowed: it lies elsewhere.
    """
    prefixes = site.data_prefixes
    if prefixes and not any(_is_below(place, prefix) for prefix in prefixes):
        reason = f"it is outside of {', '.join(show(prefix) for prefix in prefixes)} ({PREFIXES})"
        raise DataNotAllowed(place.shown, PREFIXES, reason)


def without_secrets(url: str) -> str:
    """Return a path or URL without user information and query, which may hold secrets."""
    # Not only at the beginning: a chained URL holds another one.
    end = r"[?#]" if "://" in url else r"\?"
    return re.split(end, re.sub(r"//[^/?#]*@", "//", url))[0]


def show(url: str) -> str:
    """Return a path or URL for messages: shortened, and without what may be secret."""
    return "".join(letter if letter.isprintable() else "?" for letter in without_secrets(url)[:_SHOWN])


def _parse(url: str) -> tuple[str, str]:
    """Return the scheme, and the path or URL. The scheme ends where fsspec sees its end."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = ("data", url) if url.startswith("data:") else ("file", url.removeprefix("file:"))
    if scheme not in {"file", "local"}:
        return scheme, url
    try:
        # Path.expanduser raises an error for a user that does not exist.
        return "file", os.path.realpath(os.path.expanduser(rest))  # noqa: PTH111
    except ValueError as exc:
        # A null character, or one that no file name can have.
        raise BadData(f"shard {show(url)}: it is no path", where=show(url), reason="it is no path") from exc


def _is_below(place: Place, prefix: str) -> bool:
    scheme, target = _parse(prefix)
    if place.scheme != scheme:
        return False
    if scheme == "file":
        return _starts_with(place.target, target)
    # Servers and HTTP clients resolve "..", also if it is percent-encoded.
    if ".." in re.split(r"[/\\?#;]", unquote(place.target)):
        return False
    try:
        host, path = _host_and_path(scheme, place.target)
        wanted_host, wanted_path = _host_and_path(scheme, target)
    except ValueError:
        return False
    return host == wanted_host and _starts_with(path, wanted_path)


def _starts_with(path: str, folder: str) -> bool:
    bare = folder.rstrip("/")
    return path == bare or path.startswith(f"{bare}/")


def _host_and_path(scheme: str, url: str) -> tuple[str, str]:
    """Return a URL's host or bucket, and its path, in a form that can be compared.

    Raises:
        ValueError: the URL is not valid.
    """
    if scheme not in HTTP:
        bucket, _, path = url.partition("://")[2].partition("/")
        return bucket, f"/{path}"
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or _PORTS[scheme]}", parts.path or "/"
