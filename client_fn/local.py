"""The function as a warm process on this machine: `python -m client_fn.local`, one task at a time.

Tasks come as JSON lines on standard input, {"attempt": 1, "task": {...}}; what becomes of them goes as JSON lines to
standard output. The end of the input is the end of the process, even in the middle of a training.
"""

import asyncio
import os
import sys
from typing import Any, BinaryIO

import msgspec
import structlog

import broker
from broker import heap, logs
from broker.base import Broker
from broker.errors import BrokerError
from broker.messages import RoundTask
from client_fn.errors import ClientError
from client_fn.function import Warm, handle

log = structlog.get_logger(__name__)


class Order(msgspec.Struct, frozen=True):
    """What the bridge asks for."""

    task: RoundTask
    attempt: int


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What becomes of it.

    Attributes:
        id: the task's.
        state: `training` has begun; `trained`, so the next task may come; `done`, the update is with the broker; or
            `failed`.
        cold: whether it is the first task of this process.
        retryable: whether another attempt may have another outcome.
    """

    id: str
    state: str
    cold: bool = False
    reason: str = ""
    retryable: bool = True


async def serve(url: str, orders: asyncio.StreamReader, reports: BinaryIO) -> None:
    """Work on orders until their stream ends."""
    warm = Warm()
    async with broker.connect(url, name=f"worker-{os.getpid()}") as bus, asyncio.TaskGroup() as group:
        first = True
        while line := await orders.readline():
            order = msgspec.json.decode(line, type=Order)
            group.create_task(_work(order, bus, warm, reports, cold=first), name=order.task.id)
            first = False
        # A training in another thread can't be interrupted, and nobody waits for its update any more.
        os._exit(0)


async def _work(order: Order, bus: Broker, warm: Warm, reports: BinaryIO, *, cold: bool) -> None:
    task_id = order.task.id

    def report(state: str, **more: Any) -> None:
        reports.write(msgspec.json.encode(Report(task_id, state, **more)) + b"\n")
        reports.flush()

    try:
        await handle(
            order.task,
            bus,
            warm,
            attempt=order.attempt,
            on_training=lambda: report("training", cold=cold),
            on_trained=lambda: report("trained"),
        )
    except ClientError as exc:
        report("failed", reason=f"{type(exc).__name__}: {exc}", retryable=exc.retryable)
    except BrokerError as exc:
        report("failed", reason=f"{type(exc).__name__}: {exc}")
    except Exception as exc:
        # The outermost loop of the function: the user's model may raise anything.
        log.exception("the function failed", task=task_id)
        report("failed", reason=f"{type(exc).__name__}: {exc}")
    else:
        report("done")


async def _main() -> None:
    # A model that prints must not garble the reports.
    reports = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    orders = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    logs.configure(quiet=True)
    heap.keep_large_blocks()
    await serve(os.environ["FEDKEEPER_URL"], orders, reports)


if __name__ == "__main__":
    import torch

    # The first optimizer imports it, which takes a second: better now than in the first task's time.
    import torch._dynamo

    # More threads would round otherwise, and the same job would have another digest.
    torch.set_num_threads(1)
    asyncio.run(_main())
