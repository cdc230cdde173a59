"""The function as a warm process on this machine: `python -m client_fn.handlers.local`, one task at a time.

Requests come on standard input, reports of them go to standard output; `broker.messages.invocation` says what they look
like. The end of the input is the end of the process, even in the middle of a training.
"""

import asyncio
import os
import sys
from typing import BinaryIO, Literal

import structlog

import broker
from broker.base import Broker
from broker.errors import BrokerError
from broker.messages import codec
from broker.messages.errors import DecodeError, MessageError
from broker.messages.invocation import InvocationRequest, Report, RequestName
from client_fn.errors import ClientError
from client_fn.function import Warm, handle
from client_fn.runtime import start
from client_fn.runtime.failure import failed, unreadable

log = structlog.get_logger(__name__)


async def serve(url: str, orders: asyncio.StreamReader, reports: BinaryIO) -> None:
    """Work on orders until their stream ends."""
    warm = Warm()
    async with broker.connect(url, name=f"worker-{os.getpid()}", provision=False) as bus, asyncio.TaskGroup() as group:
        first = True
        while line := await orders.readline():
            request = _order(line, reports)
            if request is None:
                continue
            group.create_task(_work(request, bus, warm, reports, cold=first), name=request.task.id)
            first = False
        # A training in another thread can't be interrupted, and nobody waits for its update any more.
        os._exit(0)


def _order(line: bytes, reports: BinaryIO) -> InvocationRequest | None:
    """The request in a line; None: it can't be read, and is reported as failed."""
    try:
        return codec.decode(InvocationRequest, line)
    except DecodeError as exc:
        named = codec.decode_partial(RequestName, line)
        if named is None:
            raise
        _write(unreadable(named, exc), reports)
        return None


def _write(report: Report, reports: BinaryIO) -> None:
    reports.write(codec.encode(report) + b"\n")
    reports.flush()


async def _work(request: InvocationRequest, bus: Broker, warm: Warm, reports: BinaryIO, *, cold: bool) -> None:
    def report(state: Literal["training", "trained", "done"], *, cold: bool = False) -> None:
        _write(Report(request.task.id, state, cold=cold), reports)

    try:
        await handle(
            request.task,
            bus,
            warm,
            attempt=request.attempt,
            on_training=lambda: report("training", cold=cold),
            on_trained=lambda: report("trained"),
        )
    except (ClientError, BrokerError, MessageError) as exc:
        _write(failed(request, exc), reports)
    except Exception as exc:
        # The outermost loop of the function: the user's model may raise anything.
        log.exception("the function failed", task=request.task.id)
        _write(failed(request, exc), reports)
    else:
        report("done")


async def _main() -> None:
    # A model that prints must not garble the reports.
    reports = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    orders = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    await serve(os.environ["FEDKEEPER_URL"], orders, reports)


if __name__ == "__main__":
    start.prepare(quiet=True)
    asyncio.run(_main())
