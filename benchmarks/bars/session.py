"""One run of the bars: how much is measured, and where."""

import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import noop_round
from fedkeeper.sdk import Client

TURN: int = 3
"""So many of our rounds follow one another before the peer's turn: a job's first rounds do not count."""


@dataclass
class Session:
    """How much is measured, and where.

    Attributes:
        folder: for all that is written.
        stack: ends what lives as long as this session.
        rounds: rounds that count, for each number.
        is_small: whether all is tried in the least size, to see whether it works.
        with_peers: whether peers are measured.
        own: whether each of Flower's clients sends bytes of its own, which takes Flower longer.
    """

    folder: Path
    stack: contextlib.AsyncExitStack
    rounds: int = 10
    is_small: bool = False
    with_peers: bool = True
    own: bool = False
    _shared: Client | None = None
    _count: int = 0

    def new_folder(self) -> Path:
        """Return a new folder."""
        self._count += 1
        folder = self.folder / str(self._count)
        folder.mkdir(parents=True)
        return folder

    @contextlib.asynccontextmanager
    async def system(self) -> AsyncIterator[Client]:
        """Run a system until the end of the block: a new one each time, or if all is small, always the same."""
        if self.is_small:
            if self._shared is None:
                self._shared = await self.stack.enter_async_context(noop_round.open_system(self.new_folder()))
            yield self._shared
            return
        folder = self.new_folder()
        async with noop_round.open_system(folder) as sdk:
            yield sdk
        shutil.rmtree(folder)

    def turns(self, *, has_peer: bool) -> list[int]:
        """Return how many rounds are measured in each turn; then it is the peer's. Without a peer there is one turn."""
        count = self.rounds
        turns = max(1, -(-count // TURN)) if has_peer else 1
        return [count // turns + (number < count % turns) for number in range(turns)]
