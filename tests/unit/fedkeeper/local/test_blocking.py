"""`fedkeeper.run` from a script and a notebook, without its system: the thread, an interrupt, what it gives on."""

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedkeeper
from client_fn.data import datasets
from client_fn.errors import DataMissing
from fedkeeper.errors import JobFailed, JobStopped
from fedkeeper.local import blocking
from fedkeeper.local import run as local_run
from fedkeeper.local.run import Prepared
from fedkeeper.runs import unfinished
from fedkeeper.runs.unfinished import Unfinished
from tests.support.command import run_here
from tests.support.fakes import soon

WITHIN_S = 60


async def value() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


def test_a_coroutine_runs_to_its_end_where_no_loop_runs() -> None:
    assert blocking.run_in_thread(value()) == "fedkeeper.run"


async def test_a_coroutine_runs_to_its_end_where_a_loop_runs_already() -> None:
    assert blocking.run_in_thread(value()) == "fedkeeper.run"


def test_an_error_reaches_the_caller() -> None:
    async def fail() -> None:
        raise ConnectionError("refused")

    with pytest.raises(ConnectionError, match="refused"):
        blocking.run_in_thread(fail())


async def wait(ended: list[str]) -> None:
    """Interrupt the program, and note where this ends."""
    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
    try:
        await asyncio.wait_for(asyncio.Event().wait(), WITHIN_S)
    finally:
        await asyncio.sleep(0.1)
        ended.append(threading.current_thread().name)


def test_an_interrupt_ends_what_runs_before_it_reaches_the_caller() -> None:
    ended: list[str] = []
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        blocking.run_in_thread(wait(ended))
    assert ended == ["fedkeeper.run"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_so_does_one_where_a_loop_runs_already() -> None:
    ended: list[str] = []

    async def block() -> None:
        blocking.run_in_thread(wait(ended))

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(block())
    assert ended == ["fedkeeper.run"]


class Trained:
    """What `run` has given on instead of training."""

    prepared: Prepared
    folder: Path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Trained:
    """Instead of training, leave a run folder, or end as the job's name says."""
    given = Trained()

    async def train(prepared: Prepared, console: Any, on_folder: Any, **_: Any) -> None:
        given.prepared, given.folder = prepared, prepared.options.out / "2026-11-27-mine-1"
        on_folder(given.folder)
        console.print("progress")
        given.folder.mkdir(parents=True)
        (given.folder / "job.toml").write_text("")
        (given.folder / "metrics.jsonl").write_text("")
        match prepared.job.name:
            case "fails":
                raise JobFailed("mine-1", "failed: too few clients")
            case "stops":
                raise JobStopped("mine-1", "cancelled after 2 rounds")

    monkeypatch.setattr(local_run, "train", train)
    monkeypatch.setattr(datasets, "ensure", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    return given


def test_the_arguments_are_those_of_the_command(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "mine.py").touch()
    (tmp_path / "job.toml").write_text("name = 'mine'\n[model]\ntype = 'mine:Net'\n")
    out = fedkeeper.run(
        tmp_path / "job.toml", out="there", workers=3, allow=["torchvision"], device="cuda", url="memory://x"
    )
    assert (out.folder, out.id) == (tmp_path / "there" / "2026-11-27-mine-1", "mine-1")
    settings, options = trained.prepared.settings, trained.prepared.options
    assert (settings.workers, settings.folder, options.url) == (3, Path(".fedkeeper"), "memory://x")
    assert (settings.site.device, settings.site.allow) == ("cuda", ("torchvision", "mine:Net"))
    assert settings.site.code == tmp_path


def test_own_arrays_are_split_among_the_clients_of_the_job(trained: Trained, tmp_path: Path) -> None:
    job = {"data": {"clients": 4, "partition": "iid"}, "cohort": {"clients": 4}}
    fedkeeper.run(job, x=np.zeros((50, 3)), y=np.arange(50) % 2, quiet=True)
    made = trained.prepared
    assert [client.id for client in made.clients] == [f"own-00{number}" for number in range(4)]
    assert (made.job.data.dataset, made.job.data.clients) == ("own", 4)
    assert made.job.evaluation.data == f"file://{tmp_path}/.fedkeeper/shards/own-test/shard.safetensors"
    np.savez(tmp_path / "houses.npz", x=np.zeros((50, 3)), y=np.arange(50) % 2)
    fedkeeper.run(job, x=tmp_path / "houses.npz", out="others", test=0.0, quiet=True)
    assert (trained.prepared.job.data.dataset, trained.prepared.job.evaluation.data) == ("houses", "")


@pytest.mark.parametrize("quiet", [False, True])
def test_a_quiet_run_shows_no_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, quiet: bool) -> None:
    asked: list[object] = []

    def ensure(name: str, **options: object) -> None:
        asked.append(options["quiet"])
        raise DataMissing(name, "here", "none is asked for")

    monkeypatch.setattr(datasets, "ensure", ensure)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataMissing):
        fedkeeper.run({"data": {"dataset": "mnist"}}, quiet=quiet)
    for command in (("run", "quickstart"), ("sweep", "quickstart", "--seeds", "2")):
        run_here(*command, *(["-q"] if quiet else []))
    assert asked == [quiet] * 3


@pytest.mark.parametrize(("name", "error"), [("fails", JobFailed), ("stops", JobStopped)])
def test_the_error_of_a_job_has_what_the_job_has_left(
    name: str, error: type[JobFailed] | type[JobStopped], trained: Trained, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error, match=r"job mine-1 (failed: too few clients|was cancelled after 2 rounds)$") as failed:
        fedkeeper.run({"name": name})
    assert isinstance(failed.value, JobFailed | JobStopped)
    assert failed.value.run == fedkeeper.load_run(trained.folder)
    assert capfd.readouterr() == ("", "progress\n")
    with pytest.raises(error):
        fedkeeper.run({"name": name}, quiet=True, out="others")
    assert capfd.readouterr() == ("", "")


def test_a_wrong_job_is_refused_before_anything_starts(trained: Trained) -> None:
    with pytest.raises(fedkeeper.JobError, match=r"stop\.rouns"):
        fedkeeper.run({"stop": {"rouns": 1}})
    with pytest.raises(TypeError, match=r"a job is a fedkeeper\.Job"):
        fedkeeper.run(7)  # type: ignore[arg-type]
    assert not hasattr(trained, "prepared")


def test_the_first_interrupt_may_leave_a_round_its_time() -> None:
    ended: list[str] = []
    heard: list[int] = []

    async def train() -> None:
        await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(wait(ended))), WITHIN_S)

    def goes_on() -> bool:
        heard.append(len(ended))
        if len(heard) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return len(heard) == 1

    with pytest.raises(KeyboardInterrupt):
        blocking.run_in_thread(train(), goes_on)
    assert heard == [0, 0], "the second one has ended it"


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    resumed: list[Path | None] = []

    async def train(prepared: Prepared, _: Any, on_folder: Any, *, until: Any, **more: Any) -> None:
        resumed.append(more["resumed"])
        folder = more["resumed"] or prepared.options.out / "2026-11-27-mine-1"
        on_folder(folder)
        if more["resumed"] is not None:
            return
        unfinished.begin(folder, Unfinished(job="mine-1", job_folder=str(tmp_path), folder=str(tmp_path / "dir")))
        (folder / "job.toml").write_text("name = 'mine'\n")
        (folder / "metrics.jsonl").write_text("")
        until.round = 3
        until.stopped = "stopped; fedkeeper run --resume runs/2026-11-27-mine-1"
        os.kill(os.getpid(), signal.SIGINT)
        await soon(lambda: until.is_asked)

    monkeypatch.setattr(local_run, "train", train)
    monkeypatch.setattr(datasets, "ensure", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fedkeeper.run({"name": "mine"})
    said = capfd.readouterr().err
    assert "ending after round 3; Ctrl-C again ends at once" in said
    assert "fedkeeper run --resume runs/2026-11-27-mine-1" in said
    again = fedkeeper.resume("runs/2026-11-27-mine-1", quiet=True)
    assert resumed == [None, again.folder]
    assert again.job.name == "mine"
