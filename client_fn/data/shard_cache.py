"""The shards that a worker keeps in memory. Each is read once per version, and none is used after it has changed."""

import hmac
import secrets
import threading
from dataclasses import dataclass
from typing import Final, NamedTuple

from broker.messages.errors import BadTensors
from client_fn.cache import keep
from client_fn.data import places, shard_header, sources
from client_fn.data.places import Place
from client_fn.data.sources import Source, Version
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
        memory: the safetensors file {x, y}, checked by its header.
        samples: number of samples.
        digest: HMAC-SHA256 of the file, keyed with the site's secret, 64 hexadecimal digits. It tells whether two
            rounds used the same data, and nobody without the secret can compare it with data of their own.
    """

    memory: SharedBytes
    samples: int
    digest: str


class _Kept(NamedTuple):
    version: Version
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

    def read(self, url: str) -> Shard:
        """Return the shard that lies at a URL or path now. Blocks while it is looked up and read.

        The kept one is returned if the place's version has not changed. A place that tells no version (HTTPS without
        ETag and Last-Modified) is read each time.

        Args:
            url: the client's `data_loc`.

        Raises:
            DataNotAllowed: the site does not allow the place or the size.
            DataMissing: nothing lies there.
            DataUnreadable: it can't be read now.
            BadData: it is no valid shard.
        """
        place = places.allowed(url, self._site)
        try:
            with self._locks[hash(place.target) % _LOCKS], sources.map_errors(place):
                return self._current(place)
        except DataMissing:
            # Who deletes a file wants it forgotten.
            self._kept.pop(place.target, None)
            raise

    def _current(self, place: Place) -> Shard:
        source = sources.at(place, self._site)
        kept = self._kept.get(place.target)
        if kept is None or source.look() != kept.version:
            # The old version's memory is freed before the new one is read.
            kept = None
            self._kept.pop(place.target, None)
            kept = self._read(source, place)
        if kept.version.marks:
            keep(self._kept, place.target, kept, limit=SHARDS_KEPT)
        return kept.shard

    def _read(self, source: Source, place: Place) -> _Kept:
        content, version = sources.fetch(source, place, self._site)
        try:
            samples = shard_header.samples(content)
        except BadTensors as exc:
            raise place.bad(str(exc)) from exc
        digest = hmac.new(self._secret, content, "sha256").hexdigest()
        return _Kept(version, Shard(SharedBytes(content), samples, digest))
