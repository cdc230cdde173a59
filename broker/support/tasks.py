"""Task groups that raise the error of a task directly."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Open a TaskGroup that raises its first error instead of an ExceptionGroup.

    Callers of a broker handle `Conflict` or `CorruptPayload`, and need not know that a call runs tasks. The same holds
    for errors in the body of `async with broker.connect(...)`.

    Raises:
        BaseException: the first error of the tasks or of the body.
    """
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors.exceptions[0].__cause__
