"""The FL server as a process of its own, with a model that needs no torch: for tests that kill it."""

import asyncio
import os

import broker
from server.service import serve
from tests.support.fakes import FakeLearning


async def main() -> None:
    async with broker.connect(os.environ["FEDKEEPER_URL"], name="server") as bus:
        await serve(bus, FakeLearning())


if __name__ == "__main__":
    asyncio.run(main())
