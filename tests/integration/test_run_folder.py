"""A run's folder: what it keeps until the job has ended, and how a run goes on."""

import asyncio
import contextlib
import errno
import io
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import broker
from bridges import presence
from broker import topics
from broker.base import Broker
from broker.deliveries import Delivery
from broker.messages import cloudevents
from broker.messages.job import Job
from broker.messages.round import RoundTask
from broker.support.tasks import task_group
from fedkeeper import files
from fedkeeper.errors import BadOption, JobFailed, Missing, NotSaved
from fedkeeper.local import own_system
from fedkeeper.local import run as local_run
from fedkeeper.local.run import Options, Prepared
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs import model_file, stored, unfinished
from fedkeeper.runs.interrupt import Interruption
from fedkeeper.sdk import Client
from fedkeeper.services.system import Settings
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, running, soon


class System:
    """Takes the place of a system of one's own: fake clients on a memory broker that outlives it.

    Attributes:
        fails_in: the round in which all clients fail; 0: none.
        waits_in: the round in which they wait; 0: none.
        stores: the store of each start.
        modes: the rights on it.
        go_on: ends the wait.
    """

    def __init__(self, bus: Broker, url: str) -> None:
        self.fails_in = self.waits_in = 0
        self.stores: list[Path | None] = []
        self.modes: list[int] = []
        self.go_on = asyncio.Event()
        self._bus = bus
        self._url = url

    @contextlib.asynccontextmanager
    async def open(self, _: Settings, *, url: str = "", store: Path | None = None) -> AsyncIterator[str]:
        self.stores.append(store)
        if store is not None:
            self.modes.append(store.stat().st_mode & 0o777)  # noqa: ASYNC240 (a test)
            (store / "password").write_text("secret")
        async with running(serve(self._bus, FakeLearning()), self._serve_clients()):
            yield url or self._url

    async def _serve_clients(self) -> None:
        """Answer tasks, and acknowledge each one afterwards: a task of a run that ends comes again in the next one."""
        async with task_group() as group, self._bus.subscribe(topics.platform_tasks("fake"), durable="fake") as tasks:
            group.create_task(presence.announce(self._bus, presence.Bridge("fake")), name="presence")
            async for delivery in tasks:
                task = cloudevents.data_of(await delivery.read(), RoundTask)
                group.create_task(self._take(delivery, task), name=task.id)

    async def _take(self, delivery: Delivery, task: RoundTask) -> None:
        await self._behave(self._bus, task)
        await delivery.ack()

    async def _behave(self, bus: Broker, task: RoundTask) -> None:
        if task.round == self.waits_in:
            await self.go_on.wait()
        if task.round == self.fails_in:
            await fakes.report(bus, task, "dead", reason="it is broken")
        else:
            await fakes.answer(bus, task)


@pytest.fixture
async def system(memory_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[System]:
    async with broker.connect(memory_url, ack_wait_s=1.0) as bus:
        await Client(bus).register(fakes.clients(4))
        made = System(bus, memory_url)
        monkeypatch.setattr(own_system, "open_system", made.open)
        yield made


class Runs:
    """Runs in a folder, and what was said."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.url = ""
        self.said = io.StringIO()
        self.folders: list[Path] = []

    async def train(self, job: Job, **options: Any) -> Path | None:
        prepared = Prepared(job, [], Options(out=self.out, url=self.url), Settings(self.out, 1), ())
        console = Console(file=self.said, width=1000)
        return await local_run.train(prepared, console, self.folders.append, **options)

    @property
    def folder(self) -> Path:
        return self.folders[-1]

    @property
    def left(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


RESULTS = {"model.safetensors", "metrics.jsonl", "clients.jsonl", "job.toml", "accuracy.png"}
ENDED = RESULTS | {"ended.json"}
KEPT = {"store", "unfinished.json"}


async def test_the_store_goes_when_the_job_is_complete(system: System, runs: Runs) -> None:
    model = await runs.train(fakes.job())
    assert model == runs.folder / "model.safetensors"
    assert runs.left == ENDED
    assert (system.stores, system.modes) == ([runs.folder / "store"], [0o700])


async def test_the_first_ctrl_c_ends_after_the_open_round_and_the_run_goes_on(system: System, runs: Runs) -> None:
    undisturbed = await runs.train(fakes.job("first", stop={"rounds": 4}))
    system.waits_in, until = 2, Interruption()
    train = asyncio.create_task(runs.train(fakes.job(stop={"rounds": 4}), until=until))
    await soon(lambda: until.round == 2)
    assert until.receive(signal.SIGINT)
    assert not until.receive(signal.SIGINT), "the second one does not wait"
    until.is_told = False
    system.go_on.set()
    assert await train == runs.folder / "model.safetensors"
    assert (until.is_over, until.done, until.total) == (True, 2, 4)
    assert until.stopped.startswith(
        f"stopped after 2 of 4 rounds; to go on with it:\n\n  fedkeeper run --resume {runs.out}"
    )
    assert runs.left == RESULTS | KEPT
    assert [json.loads(line)["round"] for line in (runs.folder / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    await runs.train(fakes.job(stop={"rounds": 4}), resumed=runs.folder)
    assert undisturbed is not None
    assert runs.left == ENDED
    table = model_file.verified(runs.folder / "model.safetensors")
    assert table["sha256"] == model_file.verified(undisturbed)["sha256"]
    assert len((runs.folder / "metrics.jsonl").read_text().splitlines()) == 4
    with pytest.raises(Missing, match=r"nothing to go on with in .*: its job has ended"):
        await runs.train(fakes.job(), resumed=runs.folder)


async def test_a_run_that_is_told_to_end_keeps_its_last_model(system: System, runs: Runs) -> None:
    system.waits_in, until = 3, Interruption()
    train = asyncio.create_task(runs.train(fakes.job(stop={"rounds": 4}), until=until))
    await soon(lambda: until.round == 3)
    assert not until.receive(signal.SIGTERM)
    train.cancel()
    with pytest.raises(asyncio.CancelledError):
        await train
    assert runs.left == RESULTS | KEPT
    assert model_file.verified(runs.folder / "model.safetensors")["round"] == "2"
    assert not stored.read(runs.folder).is_completed
    assert f"stopped; to go on with it:\n\n  fedkeeper run --resume {runs.folder}\n" in until.stopped
    assert "keeps the job: 6 B, with its broker's password" in until.stopped


async def test_a_run_that_ended_without_a_last_word_goes_on_by_the_link_to_it(system: System, runs: Runs) -> None:
    await runs.train(fakes.job("earlier"))
    system.waits_in, until = 2, Interruption()
    train = asyncio.create_task(runs.train(fakes.job(stop={"rounds": 3}), until=until))
    await soon(lambda: until.round == 2)
    train.cancel()
    with pytest.raises(asyncio.CancelledError):
        await train
    assert not (runs.folder / model_file.NAME).exists(), "nothing was saved, as after a kill"
    system.go_on.set()
    await runs.train(fakes.job(stop={"rounds": 3}), resumed=run_folder.behind_link(runs.out / "latest"))
    assert (runs.left, runs.folder.name.endswith("-earlier")) == (ENDED, False)


async def test_a_plot_that_cant_be_written_is_a_note(
    system: System, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert system
    write = files.write

    def fill(path: Path, content: bytes) -> None:
        if path.suffix == ".png":
            raise NotSaved(path, "No space left on device")
        write(path, content)

    monkeypatch.setattr(files, "write", fill)
    assert await runs.train(fakes.job()) == runs.folder / model_file.NAME
    assert runs.left == ENDED - {"accuracy.png"}
    assert "no plot: can't write the plot to" in runs.said.getvalue()
    assert "written to" in runs.said.getvalue()


async def test_before_the_first_round_is_complete_nothing_is_kept(system: System, runs: Runs) -> None:
    system.waits_in, until = 1, Interruption()
    train = asyncio.create_task(runs.train(fakes.job(), until=until))
    await soon(lambda: until.round == 1)
    train.cancel()
    with pytest.raises(asyncio.CancelledError):
        await train
    assert not runs.left & KEPT
    assert until.stopped == ""


async def test_a_job_on_a_running_broker_is_gone_on_with_also_before_its_first_round_is_complete(
    system: System, memory_url: str, runs: Runs
) -> None:
    runs.url, system.waits_in, until = memory_url, 1, Interruption()
    train = asyncio.create_task(runs.train(fakes.job(), until=until))
    await soon(lambda: until.round == 1)
    train.cancel()
    with pytest.raises(asyncio.CancelledError):
        await train
    assert runs.left >= {"job.toml", "unfinished.json"}
    assert until.stopped == f"stopped; to go on with it:\n\n  fedkeeper run --resume {runs.folder} --url {memory_url}\n"
    system.go_on.set()
    assert await runs.train(fakes.job(), resumed=runs.folder) == runs.folder / "model.safetensors"


async def test_a_job_that_a_running_broker_may_have_is_named(
    system: System, memory_url: str, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait(*_: Any, **__: Any) -> None:
        is_submitting.set()
        await asyncio.Event().wait()

    assert system
    runs.url, until, is_submitting = memory_url, Interruption(), asyncio.Event()
    monkeypatch.setattr(Client, "submit", wait)
    train = asyncio.create_task(runs.train(fakes.job("mine"), until=until))
    async with asyncio.timeout(60):
        await is_submitting.wait()
    train.cancel()
    with pytest.raises(asyncio.CancelledError):
        await train
    assert not runs.folder.exists()
    assert f"fedkeeper cancel mine --url {memory_url}" in until.stopped.replace(runs.folder.name[11:], "mine")


async def test_a_failed_job_leaves_its_results_and_no_store(system: System, runs: Runs) -> None:
    system.fails_in = 3
    with pytest.raises(JobFailed, match="it is broken"):
        await runs.train(fakes.job(stop={"rounds": 4}, cohort={"on_failure": "stop"}))
    assert runs.left == ENDED
    assert model_file.verified(runs.folder / "model.safetensors")["round"] == "2"
    ended = stored.read(runs.folder).ended
    assert ended is not None
    assert (ended.phase, "it is broken" in ended.reason) == ("failed", True)


async def test_a_full_disk_at_the_end_loses_nothing(
    system: System, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert system
    write = files.write

    def fill(path: Path, content: bytes) -> None:
        if path.name == model_file.NAME:
            raise NotSaved(path, "No space left on device")
        write(path, content)

    monkeypatch.setattr(files, "write", fill)
    with pytest.raises(NotSaved, match=r"can't write .*model.safetensors: No space left on device"):
        await runs.train(fakes.job())
    assert f"fedkeeper run --resume {runs.folder}" in runs.said.getvalue()
    assert runs.left >= KEPT
    monkeypatch.setattr(files, "write", write)
    await runs.train(fakes.job(), resumed=runs.folder)
    assert runs.left == ENDED


async def test_results_and_unfinished_runs_are_never_replaced(system: System, runs: Runs) -> None:
    await runs.train(fakes.job(id="mine"))
    before = (runs.folder / "model.safetensors").read_bytes()
    for job in (fakes.job(id="mine"), fakes.job(id="mine", seed=7)):
        with pytest.raises(BadOption, match="has the results of a job with this id: give the job another id"):
            await runs.train(job)
    assert (runs.folder / "model.safetensors").read_bytes() == before
    (runs.folder / "unfinished.json").write_text("{}")
    with pytest.raises(BadOption, match="goes on with it; to begin anew, delete the folder"):
        await runs.train(fakes.job(id="mine"))
    assert len(system.stores) == 1


def test_a_run_goes_on_with_the_options_that_it_had(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "mine"
    job = fakes.job(data={"dataset": "own"})
    had = Options(folder=tmp_path / "dir", workers=2, allow=("timm",), device="cpu", out=folder.parent)
    run = local_run._unfinished("mine", Prepared(job, [], had, Settings(tmp_path, 1), (), tmp_path))
    unfinished.begin(folder, run)
    with pytest.raises(Missing, match="ended before its job was accepted"):
        local_run.prepare_again(folder, Options(), environ={})
    (folder / "job.toml").write_text('[data]\ndataset = "own"\n')
    again = local_run.prepare_again(folder, Options(workers=3), environ={})
    assert again.options.folder == tmp_path / "dir"
    assert (again.settings.workers, again.options.allow, again.job_folder) == (3, ("timm",), tmp_path)
    assert "secret" not in json.dumps(json.loads((folder / "unfinished.json").read_bytes()))
    with pytest.raises(Missing, match="there is no folder"):
        unfinished.read(tmp_path / "nowhere")


def test_how_to_go_on_can_be_pasted() -> None:
    url = "tls://site@backbone:4222?ca_file=/etc/ca.pem&password_file=/etc/site password"
    text = unfinished.how_to_go_on(Path("my runs/mine"), url)
    assert f"fedkeeper run --resume 'my runs/mine' --url '{url}'\n" in text
    assert "secret" not in unfinished.how_to_go_on(Path("mine"), "nats://site:secret@backbone")


def test_a_run_on_another_broker_asks_for_its_address(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    unfinished.begin(folder, unfinished.Unfinished(job="mine", broker="nats://backbone:4222", folder=str(tmp_path)))
    (folder / "job.toml").write_text("")
    assert not (folder / "store").exists()
    with pytest.raises(BadOption, match="is on the broker nats://backbone:4222: give its --url"):
        local_run.prepare_again(folder, Options(), environ={})
    with pytest.raises(BadOption, match="is on the broker nats://backbone:4222, not on nats://other:4222"):
        local_run.prepare_again(folder, Options(url="nats://other"), environ={})
    again = local_run.prepare_again(folder, Options(url="nats://u:p@backbone", allow=("timm",)), environ={})
    assert again.options.url == "nats://u:p@backbone"


def test_a_run_on_a_broker_of_its_own_can_not_go_on_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    unfinished.begin(folder, unfinished.Unfinished(job="mine"))
    (folder / "job.toml").write_text("")
    with pytest.raises(BadOption, match="has a broker of its own: leave out --url"):
        local_run.prepare_again(folder, Options(url="nats://backbone"), environ={})


def test_nothing_half_written_stays_of_a_run_that_was_killed(tmp_path: Path) -> None:
    for name in (".model.safetensors-123", ".metrics.jsonl-45", "unfinished.json", "job.toml", ".mine"):
        (tmp_path / name).write_text("")
    unfinished.end(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"job.toml", ".mine"}


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_is_a_file_is_told_before_anything_starts(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOption, match=r"--out .*file is a file; give another folder"):
        files.check_folder(tmp_path / name, "--out")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    files.write(path, b"before")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(NotSaved, match=r"model.safetensors: No space left on device; make room there"):
        files.write(path, b"after")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("model.safetensors", b"before")]
