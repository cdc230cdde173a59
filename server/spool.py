"""The counted updates of a round in a temporary file, for strategies that must see all of them at once.

Each update is written when it is counted. When the round is closed, all are reduced element by element, block by block:
memory does not grow with the number of clients. After a crash, or a pause because the disk was full, the file is
written anew from the log.
"""

import contextlib
import itertools
import math
import os
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Self

import numpy as np

from broker.messages.tensors import DTYPES, Array, Tensors
from server import values
from server.aggregator import Plan
from server.errors import NoRoomForUpdates
from server.strategies.base import Reduction
from server.values import Values

BLOCK_VALUES: Final = 1 << 19
"""Values of all updates per block, 4 MB as float64: memory is the same for 10 and 1,000 updates."""


_WIDE: Final = np.dtype(np.float32)
"""An integer of 8 bits times 2^e is exact in it, for every e that bounds and `LEAST_EXPONENT` leave."""

_ON_DISK: Final = "/var/tmp"  # noqa: S108 (an unnamed file)
"""Where temporary files lie on a disk (hier(7)): `/tmp` may be memory."""


class Reduced(NamedTuple):
    """A counted update, when all are reduced.

    Attributes:
        client: the client's id.
        factors: what its tensors are multiplied by, by name; tensors with 1 are left out.
    """

    client: str
    factors: Mapping[str, float]


class Spool:
    """The weights of a round's counted updates. Use it as `with Spool(...) as spool`: then the file is gone.

    Args:
        plan: the tensors of an update.
        names: the float tensors that are reduced.
        most: the largest number of updates.
        scaled: those of the names that come as integers with scales. Of a 16-bit model they are kept in 32 bits: F16
            would round them again, and their smallest multiples to 0.

    Raises:
        NoRoomForUpdates: no file can be made.
    """

    def __init__(self, plan: Plan, names: Sequence[str], most: int, scaled: Collection[str] = ()) -> None:
        self._plan = plan
        self._scaled = frozenset(scaled)
        self._names = tuple(names)
        self._most = most
        self._rows: dict[str, int] = {}
        self._lock = threading.Lock()  # a thread that writes must not meet a closed file, whose number may be another's
        with self._told():
            # Without a buffer: what could not be written must not be tried again when the file is closed.
            self._file = tempfile.TemporaryFile(dir=folder(), prefix="fedkeeper-updates-", buffering=0)  # noqa: SIM115
        sizes = [most * self._size(name) * self._dtype(name).itemsize for name in self._names]
        self._places = dict(zip(self._names, itertools.accumulate(sizes, initial=0), strict=False))
        with self._told():
            self._file.truncate(sum(sizes))  # takes no room yet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._file.close()

    def add(self, client: str, tensors: Mapping[str, Values]) -> None:
        """Keep an update.

        Args:
            client: the client's id.
            tensors: the update's tensors, checked.

        Raises:
            NoRoomForUpdates: it can't be written.
        """
        row = self._rows.setdefault(client, len(self._rows))
        for name in self._names:
            content = values.dense(tensors[name], self._dtype(name)).view(np.uint8).data
            with self._lock, self._told():
                self._file.seek(self._places[name] + row * len(content))
                while content:
                    content = content[self._file.write(content) :]

    def reduce(self, updates: Sequence[Reduced], reduction: Reduction) -> Tensors:
        """Return the reduced tensors, float64, in the updates' form.

        Args:
            updates: which updates, and in which order.
            reduction: reduces each block.
        """
        if reduction.needs_look:
            for name in self._names:
                for _, block in self._blocks(name, updates, 1.0):
                    reduction.look(block)
        return {name: self._reduced(name, updates, reduction) for name in self._names}

    def _reduced(self, name: str, updates: Sequence[Reduced], reduction: Reduction) -> Array:
        """Reduce one tensor in fixed point: the order of numbers that differ only by rounding must not matter."""
        scale = 2.0 ** self._plan.shifts[name]
        reduced = np.empty(self._size(name), np.float64)
        for where, block in self._blocks(name, updates, scale):
            fixed = np.rint(block, out=block).astype(np.int64)
            reduced[where] = reduction.reduce(fixed) / scale
        return reduced.reshape(self._plan.layout[name][1])

    def _blocks(self, name: str, updates: Sequence[Reduced], scale: float) -> Iterator[tuple[slice, Array]]:
        """Yield parts of all updates as float64, each multiplied by its factor and the scale, and where they are."""
        shape = (self._most, self._size(name))
        rows = np.memmap(self._file, self._dtype(name), "r", self._places[name], shape) if shape[1] else np.empty(shape)
        order = [self._rows[update.client] for update in updates]
        factors = np.array([update.factors.get(name, 1.0) * scale for update in updates])[:, None]
        length = max(1, BLOCK_VALUES // len(updates))
        for start in range(0, shape[1], length):
            where = slice(start, start + length)
            block = rows[order, where].astype(np.float64)
            block *= factors
            yield where, block

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise NoRoomForUpdates(folder(), str(exc)) from exc

    def _size(self, name: str) -> int:
        return math.prod(self._plan.layout[name][1])

    def _dtype(self, name: str) -> np.dtype[np.generic]:
        dtype = DTYPES[self._plan.layout[name][0]]
        return _WIDE if name in self._scaled and dtype.itemsize < _WIDE.itemsize else dtype


def folder() -> str:
    """Return the folder of the file: TMPDIR, or else one that lies on a disk."""
    return os.environ.get("TMPDIR") or (_ON_DISK if os.access(_ON_DISK, os.W_OK) else tempfile.gettempdir())
