"""`fedkeeper.run`: trains a job from a script or a notebook, without `async` and without a running system.

The system runs in a thread with an event loop of its own, so it also works where a loop runs already, as in a notebook.
Broker and workers are processes of our own programs: none of them imports the caller's main module.
"""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from broker.messages.job import Job
from broker.messages.register import ClientRecord
from fedkeeper import configs, own_data
from fedkeeper.configs import Spec
from fedkeeper.display import screen
from fedkeeper.errors import JobFailed, JobStopped, Missing
from fedkeeper.local import run as local_run
from fedkeeper.local.run import Options, Prepared
from fedkeeper.options import FOLDER
from fedkeeper.runs.interrupt import Interruption
from fedkeeper.runs.run import Run, load_run

T = TypeVar("T")

StrPath = str | os.PathLike[str]


def run(
    job: Spec = "quickstart",
    *,
    out: StrPath = "runs",
    url: str = "",
    folder: StrPath = FOLDER,
    workers: int = 0,
    code: StrPath | None = None,
    allow: Sequence[str] | None = None,
    device: str = "",
    data: StrPath | None = None,
    x: Any = None,
    y: Any = None,
    test: float = 0.2,
    quiet: bool = False,
) -> Run:
    """Train a job on this machine, as the command `fedkeeper run` does, and return what it has left.

    Starts a broker, the server and workers, shows the progress on standard error or in the notebook, and stops
    everything again, also on Ctrl-C.

    Unlike the command, this does not hide your process from the others of your user, because debuggers and profilers
    need it: a job's own code that wants to can read a password of `url` from its memory, and your files. Allow only
    code that you trust; `?password_file=FILE` at least keeps a password out of the script or notebook.

    Args:
        job: a `Job`, a mapping with the fields of a job file, the path of a job file, or the name of one that comes
            with FedKeeper. Classes that it names, such as `mine:Net`, may be in a file beside the job file or in the
            current folder.
        out: the folder of all runs.
        url: the address of a running broker; empty: start one.
        folder: the broker's store, credentials, copies of your code, and the clients' shards.
        workers: number of worker processes; 0: one per core.
        code: your own code: a folder of modules and packages, or one module.
        allow: libraries that jobs may name classes of, such as `torchvision.models`, or single classes.
        device: the torch device to train on; empty: FEDKEEPER_DEVICE, else the CPU.
        data: folder of the built-in datasets' files; None: the default.
        x: your own samples (N, ...), split among the job's clients: whatever numpy makes an array of, several such by
            name, or the path of a file or a folder of images. None: the job's dataset.
        y: labels or targets (N, ...); labels may be texts. None: there are none, or `x` has them.
        test: share of your own samples for a test set, unless the job names one.
        quiet: show nothing.

    Raises:
        JobError: the job is not valid; nothing was started.
        JobFailed: the job has failed; the error's `run` has what there is.
        JobStopped: somebody has cancelled the job; as above.
        JobRefused: the server refused the job.
        NotAnswered: the server did not accept the job in time.
        BadOption: a folder can't be written, or the run folder has results already.
        NotSaved: a file of the results can't be written.
        Missing: a file or a library is not there.
        ClientError: the code, the data or a setting can't be used.
        BrokerError: the broker can't run or be reached.
        BridgeError: no worker can start.
        KeyboardInterrupt: Ctrl-C. The open round was completed, or by a second Ctrl-C given up, and everything that was
            started has ended. The model and the metrics so far are in the run's folder, and `resume` goes on.
    """
    spec = configs.job_of(job)
    job_folder = Path() if not isinstance(job, str | os.PathLike) else configs.find(os.fspath(job)).parent
    options = Options(Path(out), url, Path(folder), workers, _path(code), allow, device, _path(data), quiet)
    clients: list[ClientRecord] = []
    if x is not None:
        spec, clients = _split(spec, x, y, options.folder / "shards", test)
    prepared = local_run.prepare(spec, options, job_folder=job_folder, environ=os.environ, clients=clients)
    return _train(prepared, Console(quiet=True) if quiet else screen.console())


def resume(folder: StrPath = "runs/latest", *, url: str = "", quiet: bool = False) -> Run:
    """Go on with a run that was interrupted, as `fedkeeper run --resume` does, and return what it has left.

    Args:
        folder: the run folder.
        url: the address of the broker, if the run used a running one.
        quiet: show nothing.

    Raises:
        Missing: there is nothing to go on with.
        FedKeeperError: as for `run`; so are the others.
    """
    path = Path(folder).resolve()
    prepared = local_run.prepare_again(path, Options(url=url, quiet=quiet), environ=os.environ)
    return _train(prepared, Console(quiet=True) if quiet else screen.console(), path)


def _train(prepared: Prepared, console: Console, resumed: Path | None = None) -> Run:
    for notice in prepared.notices:
        console.print(notice, markup=False, soft_wrap=True)
    until, folders = Interruption(), list[Path]()

    def goes_on() -> bool:
        if is_patient := until.receive(signal.SIGINT):
            console.print(until.answer, style="yellow")
        return is_patient

    try:
        run_in_thread(local_run.train(prepared, console, folders.append, until=until, resumed=resumed), goes_on)
    except (JobFailed, JobStopped) as exc:
        with contextlib.suppress(Missing):
            exc.run = load_run(folders[0])
        raise
    except KeyboardInterrupt:
        if until.stopped:
            console.print(until.stopped, markup=False, soft_wrap=True)
        raise
    return load_run(folders[0])


def run_in_thread(coroutine: Coroutine[Any, Any, T], goes_on: Callable[[], bool] = lambda: False) -> T:
    """Run a coroutine to its end in a thread with an event loop of its own, and return its result.

    Args:
        coroutine: what to run.
        goes_on: hears of each Ctrl-C; if it returns False, the coroutine is cancelled.

    Raises:
        KeyboardInterrupt: there was a Ctrl-C, and the coroutine has ended.
    """
    runner, result = asyncio.Runner(loop_factory=asyncio.new_event_loop), futures.Future[T]()
    loop = runner.get_loop()
    # Created here, so that an interrupt finds it at any time, and in the caller's context, which says in a notebook
    # which cell shows what is printed.
    task = loop.create_task(coroutine, name="fedkeeper.run")

    async def wait() -> T:
        return await task

    def main() -> None:
        try:
            with runner:
                value = runner.run(wait())
        except BaseException as exc:  # noqa: BLE001 (the caller's thread raises it)
            result.set_exception(exc)
        else:
            result.set_result(value)

    def interrupt() -> None:
        if not goes_on():
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(task.cancel)

    with _interrupts(interrupt) as was_interrupted:
        threading.Thread(target=main, name="fedkeeper.run").start()
        futures.wait([result])
        if was_interrupted():
            raise KeyboardInterrupt
    return result.result()


@contextlib.contextmanager
def _interrupts(interrupt: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C call a function during the block; yield whether that has happened.

    By itself Python raises KeyboardInterrupt between any two instructions, also where a thread was just started; and
    asyncio's own handler would wait for a task that waits for us.

    Args:
        interrupt: called in the main thread at each Ctrl-C.
    """
    numbers: list[int] = []

    def note(number: int, _: object) -> None:
        numbers.append(number)
        interrupt()

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(numbers)
    finally:
        signal.signal(signal.SIGINT, before)


def _path(path: StrPath | None) -> Path | None:
    return None if path is None else Path(path)


def _split(job: Job, x: Any, y: Any, shards: Path, test: float) -> tuple[Job, list[ClientRecord]]:
    if isinstance(x, str | os.PathLike):
        return own_data.prepare_file(job, Path(x), shards, test=test)
    return own_data.prepare_arrays(job, x, y, shards, test=test)
