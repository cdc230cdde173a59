"""Looks at the place of a client's data before the client is registered, as far as this machine can."""

import os
from collections.abc import Mapping
from pathlib import Path

from client_fn import site as sites
from client_fn.data.shard_cache import ShardCache
from client_fn.errors import DataMissing
from fedkeeper.errors import BadOption


def absolute(place: str, *, is_here: bool) -> str:
    """Return a path as an absolute one, and a URL unchanged.

    Args:
        place: a path, which may begin with `~`, or a URL.
        is_here: whether it is a path of this machine.

    Raises:
        BadOption: a relative path lies on another machine, whose working folder nobody knows here.
    """
    local = _local_path(place)
    if not is_here and place and local is not None and not Path(local).is_absolute():
        raise BadOption(f"{place} lies on another machine: give its absolute path there")
    if not place or local is None or place.startswith("file://"):
        return place
    return os.path.abspath(Path(local).expanduser())  # noqa: PTH100 (`resolve` would follow links that may change)


def count(place: str, samples: int, environ: Mapping[str, str]) -> int:
    """Return the number of samples in a shard, as far as it is known without training.

    Args:
        place: a path or a URL; only a path of this machine is looked at.
        samples: the number that the user gave; 0: none.
        environ: says which places this site allows.

    Raises:
        BadOption: nothing lies there, or another number of samples.
        ClientError: it is no valid shard, or the site does not allow it.
    """
    path = _local_path(place)
    if not place or path is None:
        return samples
    try:
        found = ShardCache(sites.read(environ)).read(place).samples
    except DataMissing:
        raise BadOption(
            f"{path} does not exist here; if it lies on another machine, repeat this with --no-check"
        ) from None
    if samples and found is not None and found != samples:
        raise BadOption(f"--samples {samples}: {path} holds {found}; leave --samples out, it is counted")
    return samples or found or 0


def _local_path(place: str) -> str | None:
    """Return the path that a place names; None: it is a URL of elsewhere."""
    scheme, separator, rest = place.partition("://")
    if not separator:
        return place.removeprefix("file:")
    return rest if scheme == "file" else None
