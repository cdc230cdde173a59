"""The shards that a worker keeps in memory. Each is read once per version, and none is used after it has changed."""

import hmac
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from broker.messages.errors import BadTensors
from client_fn.cache import keep
from client_fn.data import folders, formats, places, shard_header, sources
from client_fn.data.places import Place
from client_fn.data.sources import Fetched, Version
from client_fn.errors import DataMissing
from client_fn.site import Site
from client_fn.trainer.shared import SharedBytes

SHARDS_KEPT: Final = 16
"""An instance on a FaaS platform serves one client; a worker process on one machine may serve many."""

_LOCKS: Final = 16


@dataclass(frozen=True, slots=True)
class Shard:
    """One version of a client's samples.

    Attributes:
        format: one of `client_fn.data.formats`.
        memory: the file; None: it is a folder.
        path: the folder; empty: it is a file.
        where: path or URL for messages, without secrets.
        samples: number of samples, which is known of safetensors files alone; None: the trainer will count them.
        digest: HMAC-SHA256 of the file, or of a folder's names, sizes and modification times, keyed with the site's
            secret, 64 hexadecimal digits. It tells whether two rounds used the same data, and nobody without the secret
            can compare it with data of their own.
    """

    format: str
    memory: SharedBytes | None
    path: str
    where: str
    samples: int | None
    digest: str


class _Kept(NamedTuple):
    version: Version
    wanted_format: str
    shard: Shard


class ShardCache:
    """Reads shards, and keeps the last 16. Thread-safe.

    Args:
        site: says which places are allowed; its secret is the key of the digests. Without one, this object makes one.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._secret = site.secret or secrets.token_bytes(32)
        self._kept: dict[str, _Kept] = {}
        # A lock for each place would never be deleted. A place always has the same one of these.
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def read(self, url: str, format_: str = "") -> Shard:
        """Return the shard that lies at a URL or path now. Blocks while it is looked up and read.

        The kept one is returned if the place's version has not changed. A place that tells no version (HTTPS without
        ETag and Last-Modified) is read each time.

        Args:
            url: the client's `data_loc`.
            format_: the job's `data.format`; empty: that of the ending, or of the first bytes.

        Raises:
            DataNotAllowed: the site does not allow the place or the size.
            DataMissing: nothing lies there.
            DataUnreadable: it can't be read now.
            BadData: it is no valid shard.
        """
        place = places.allowed(url, self._site)
        try:
            with self._locks[hash(place.target) % _LOCKS], sources.map_errors(place):
                return self._current(place, format_)
        except DataMissing:
            # Who deletes a file wants it forgotten.
            self._kept.pop(place.target, None)
            raise

    def _current(self, place: Place, format_: str) -> Shard:
        if place.scheme == "file" and Path(place.target).is_dir():
            return self._folder(place, format_)
        source, kept = sources.at(place, self._site), self._kept.get(place.target)
        if kept is None or kept.wanted_format != format_ or source.look() != kept.version:
            # The old version's memory is freed before the new one is read.
            kept = None
            self._kept.pop(place.target, None)
            fetched = sources.fetch(source, place, self._site, self._secret)
            kept = _Kept(fetched.version, format_, _made(fetched, place, format_))
        if kept.version.marks:
            keep(self._kept, place.target, kept, limit=SHARDS_KEPT)
        return kept.shard

    def _folder(self, place: Place, format_: str) -> Shard:
        if format_ not in {"", formats.FOLDER}:
            raise place.bad(f"it is a folder; data.format is {format_!r}, so data_loc must name one file")
        listing = folders.look(place, self._site)
        digest = hmac.new(self._secret, listing.content, "sha256").hexdigest()
        return Shard(formats.FOLDER, None, place.target, place.shown, None, digest)


def _made(fetched: Fetched, place: Place, format_: str) -> Shard:
    """Return a file's shard. A safetensors file is checked by its header."""
    format_ = format_ or formats.recognise(place.target, fetched.beginning)
    if format_ == formats.FOLDER:
        raise place.bad("it is a file; data.format is 'folder', so data_loc must name a folder")
    try:
        is_checked = format_ == formats.SAFETENSORS
        samples = shard_header.samples(fetched.beginning, fetched.memory.size) if is_checked else None
    except BadTensors as exc:
        raise place.bad(str(exc)) from exc
    return Shard(format_, fetched.memory, "", place.shown, samples, fetched.digest)
