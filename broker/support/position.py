"""How far a reader has come in a log, for those who wait until it has read enough."""

import asyncio


class Position:
    """The position up to which everything was read.

    Attributes:
        reached: the position; it only increases.
    """

    def __init__(self, reached: int = 0) -> None:
        self.reached = reached
        self._moved = asyncio.Event()

    def advance(self, to: int) -> None:
        """Move on, and wake those who wait; a lower position changes nothing."""
        if to > self.reached:
            self.reached = to
            self._moved.set()
            self._moved = asyncio.Event()

    async def wait_for(self, position: int) -> None:
        """Wait until a position is reached."""
        while self.reached < position:
            await self._moved.wait()
