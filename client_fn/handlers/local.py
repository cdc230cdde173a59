"""The function as a warm process on this machine: `python -m client_fn.handlers.local`, one training at a time.

Requests arrive on standard input, reports leave on standard output, one per line; `broker.messages.invocation` defines
both. A `DataCheck` among the requests is answered by a `DataAnswer` (`broker.messages.data_report`). The first line
says that the process is ready; it comes again and again while the process lives. The process ends when its input ends,
even during a training, which runs in a child of this process.

`python -m client_fn.handlers.local fork-server DESCRIPTOR` makes such processes, without new imports, for the bridge at
the other end of the socket DESCRIPTOR (`broker.support.forks`).
"""

import asyncio
import contextlib
import gc
import importlib
import os
import sys
from typing import BinaryIO, Final, Literal

import broker
from broker.base import Broker
from broker.errors import BrokerError
from broker.messages import codec
from broker.messages.data_report import DataAnswer, DataCheck, DataReport
from broker.messages.errors import DecodeError, MessageError
from broker.messages.invocation import BEAT_S, InvocationRequest, Report, RequestName, WorkerFault, WorkerReady
from broker.support import forks, loggers
from client_fn import gathering, looking, site
from client_fn.data.shard_cache import ShardCache
from client_fn.errors import ClientError, LimitExceeded
from client_fn.function import WarmState, handle
from client_fn.runtime import start
from client_fn.runtime.failure import failure_report, unreadable_report
from client_fn.site import Site
from client_fn.trainer.trainers import Trainers, open_trainers

log = loggers.get_logger(__name__)

_NEEDED: Final = ("broker.messages.tensors", "client_fn.trainer.forked", "concurrent.futures.thread")
"""What tasks import where they need it, and a fork server imports for all workers."""


async def main() -> None:
    """Serve standard input and output."""
    # Whatever prints must not corrupt the reports, so only this copy of the descriptor leads to standard output.
    reports = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
    await serve(os.environ["FEDKEEPER_URL"], site.read(os.environ), requests, reports)


async def serve(url: str, site: Site, requests: asyncio.StreamReader, reports: BinaryIO) -> None:
    """Execute requests until their stream ends, then end the process.

    Args:
        url: the broker's address.
        site: what this machine allows and sets.
        requests: one JSON request per line.
        reports: receives one JSON report per line, after a first line that says that this process is ready. If the
            site's settings let no task run, the only line says why.

    Raises:
        DecodeError: a line can't be decoded and names no task.
        ClientError: the trainer can't start now.
        BrokerError: the broker can't be reached.
    """
    async with contextlib.AsyncExitStack() as stack:
        trainers = await stack.enter_async_context(open_trainers(site))
        first = await _check(trainers, site)
        if isinstance(first, WorkerFault):
            _write(first, reports)
            return
        bus = await stack.enter_async_context(broker.connect(url, name=f"worker-{os.getpid()}", provision=False))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        warm = WarmState(trainers, site, ShardCache(site), gathering=gathering.make(trainers, site))
        _write(first, reports)
        beating = group.create_task(_beat(reports), name="signs of life")
        # What is here now stays as long as the process, so no garbage collection need look at it again.
        gc.freeze()
        cold = True
        while line := await requests.readline():
            if (check := codec.decode_partial(DataCheck, line)) is not None:
                group.create_task(_look(check, warm, reports), name=f"look {check.id}")
                continue
            try:
                request = codec.decode(InvocationRequest, line)
            except DecodeError as exc:
                name = codec.decode_partial(RequestName, line)
                if name is None:
                    raise
                _write(unreadable_report(name, exc), reports)
                continue
            group.create_task(_execute(request, bus, warm, reports, cold=cold), name=request.task.id)
            cold = False
        beating.cancel()
        await trainers.end()
        # Ends the process at once: nobody needs the updates of running tasks any more.
        os._exit(0)


async def _check(trainers: Trainers, site: Site) -> WorkerReady | WorkerFault:
    """Return the first line: what no task could do without is here, or is not."""
    try:
        processor = await trainers.check()
    except ClientError as exc:
        # A trainer that a signal has ended, or that was slow, may start the next time.
        if exc.retryable or isinstance(exc, LimitExceeded):
            raise
        return WorkerFault(reason=exc.message(reveal=False))
    return WorkerReady(processor=processor, device=site.device)


async def _beat(reports: BinaryIO) -> None:
    """Say again and again that this process lives, until cancelled. The bridge replaces a worker that is silent."""
    while True:
        await asyncio.sleep(BEAT_S)
        _write(WorkerReady(), reports)


async def _execute(request: InvocationRequest, bus: Broker, warm: WarmState, reports: BinaryIO, *, cold: bool) -> None:
    def report(state: Literal["training", "trained", "done"], *, cold: bool = False) -> None:
        _write(Report(request.task.id, state, cold=cold, attempt=request.attempt), reports)

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
        log.warning("the task failed", task=request.task.id, error=str(exc))
        _write(failure_report(request, exc, reveal=warm.site.reveal == "text"), reports)
    except Exception as exc:
        # The outermost loop of a task: an error of ours must not stop the other tasks.
        log.exception("the task failed because of an error of ours", task=request.task.id)
        _write(failure_report(request, exc, reveal=False), reports)
    else:
        report("done")


async def _look(check: DataCheck, warm: WarmState, reports: BinaryIO) -> None:
    try:
        report = await looking.look(check, warm)
    except Exception as exc:
        # The outermost loop of a look: an error of ours must not stop the tasks.
        log.exception("a look at data failed because of an error of ours", client=check.client)
        report = DataReport(
            client=check.client, error=type(exc).__name__, problem="an error of ours: see the log there"
        )
    _write(DataAnswer(id=check.id, report=report), reports)


def _write(report: Report | WorkerReady | WorkerFault | DataAnswer, reports: BinaryIO) -> None:
    reports.write(codec.encode(report) + b"\n")
    # Soon, so that reports which follow each other at once are one write.
    asyncio.get_running_loop().call_soon(reports.flush)


def _become_a_copy(channel: int) -> None:
    """Import what workers need, and make them. Returns in the workers.

    Args:
        channel: descriptor of the socket to the bridge.
    """
    with contextlib.suppress(BrokerError):  # each worker says so
        broker.connect(os.environ["FEDKEEPER_URL"])  # imports the client, and connects nothing
    for module in _NEEDED:
        importlib.import_module(module)
    forks.serve(channel)


if __name__ == "__main__":
    start.prepare(quiet=True)
    if sys.argv[1:2] == [forks.ARGUMENT]:
        _become_a_copy(int(sys.argv[2]))
    try:
        asyncio.run(main())
    except (BrokerError, ClientError) as exc:
        sys.exit(str(exc))
