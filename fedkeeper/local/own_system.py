"""A system of one's own for some jobs: broker, server and workers start, and end with the block that uses them."""

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from broker.errors import ServerFailed
from fedkeeper.services import system
from fedkeeper.services.system import Settings


@contextlib.asynccontextmanager
async def open_system(settings: Settings, *, url: str = "", store: Path | None = None) -> AsyncIterator[str]:
    """Run server and workers until the end of the block; yield the broker's URL.

    Args:
        settings: the system's settings.
        url: the address of a running broker; empty: start one.
        store: the data folder of the broker that is started; None: one that is removed at the end.

    Raises:
        ConnectFailed: no broker answers at the URL.
        PlatformFailed: no worker can start.
        ServerFailed: the broker can't run; its log is kept.
    """
    async with contextlib.AsyncExitStack() as stack:
        if url:
            await stack.enter_async_context(system.services(url, settings))
        else:
            store = store or stack.enter_context(_temporary_store(settings.folder))
            url = await stack.enter_async_context(system.whole_system(settings, store=store))
        yield url


@contextlib.contextmanager
def _temporary_store(folder: Path) -> Iterator[Path]:
    """Create a broker's data folder, and remove it afterwards. The results are saved elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    store = Path(tempfile.mkdtemp(prefix="run-", dir=folder))
    try:
        yield store
    except ServerFailed:
        raise  # its message names the broker's log, which lies in the folder
    except BaseException:
        shutil.rmtree(store, ignore_errors=True)
        raise
    shutil.rmtree(store, ignore_errors=True)
