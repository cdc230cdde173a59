"""Background tasks whose errors reach the caller as they are."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A TaskGroup that raises its first error itself and not an ExceptionGroup around it.

    Callers of a broker handle `Conflict` or `CorruptPayload`; that tasks are at work behind a call is no
    concern of theirs. The same goes for their own errors in the body of `async with broker.connect(...)`.
    """
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors.exceptions[0].__cause__
