"""Background tasks whose errors reach the caller as they are."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A TaskGroup that raises its first error itself, without an ExceptionGroup around it.

    Callers of a broker handle `Conflict` or `CorruptPayload` and need not know that a call uses tasks. The same goes
    for errors in the body of `async with broker.connect(...)`.

    If the caller is cancelled at the same time, its next `await` raises the CancelledError.

    Raises:
        Exception: the first error of the body or of a task.
    """
    caller = asyncio.current_task()
    cancellations = caller.cancelling() if caller else 0
    aborted_in_body = False
    try:
        async with asyncio.TaskGroup() as group:
            try:
                yield group
            finally:
                aborted_in_body = _has_cancelled_caller(group)
    except BaseExceptionGroup as errors:
        if caller is not None and sys.version_info < (3, 13):
            _restore_cancellation(caller, group, cancellations, aborted_in_body=aborted_in_body)
            await _take_back_cancellation(caller, cancellations)
        raise errors.exceptions[0] from errors.exceptions[0].__cause__


def _restore_cancellation(
    caller: "asyncio.Task[object]", group: asyncio.TaskGroup, before: int, *, aborted_in_body: bool
) -> None:
    """Do what a TaskGroup of Python 3.13 does itself (https://github.com/python/cpython/issues/116720).

    Before Python 3.13 a TaskGroup has two faults. (1) If a task fails after the block, the caller stays marked as
    cancelled. (2) If the caller is cancelled while an error is raised, the cancellation is lost.
    """
    if _has_cancelled_caller(group) and not aborted_in_body:
        caller.uncancel()
    if caller.cancelling() > before:
        caller.uncancel()
        caller.cancel()


async def _take_back_cancellation(caller: "asyncio.Task[object]", before: int) -> None:
    """Remove a cancellation that this group has asked for, and that a group inside it has passed on.

    Python 3.13 does that in `uncancel`. Before, the caller's next `await` would raise the CancelledError.
    """
    if caller.cancelling() <= before and getattr(caller, "_must_cancel", False):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)


def _has_cancelled_caller(group: asyncio.TaskGroup) -> bool:
    # There is no public attribute for this.
    return bool(getattr(group, "_parent_cancel_requested", False))
