"""Orders that are cancelled, given together or interrupted by the trainer's end: nothing is left, nobody waits long."""

import asyncio
import contextlib
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from client_fn.code.named import Names
from client_fn.errors import LeaseOver, TrainerDied
from client_fn.site import Site
from client_fn.trainer.process import Trainer
from client_fn.trainer.trainers import KEPT, Trainers, open_trainers
from client_fn.training.orders import Build, Model
from tests.support import bad_models
from tests.support.fakes import soon
from tests.support.paths import REPOSITORY
from tests.support.trainer_bench import Bench, open_bench

pytestmark = [pytest.mark.torch, pytest.mark.asyncio(loop_scope="module")]

CHATTY = """
import gc, json, os, socket
from torch import nn

def is_socket(descriptor):
    try: return os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket")
    except OSError: return False

class Chatty(nn.Module):
    def __init__(self):
        super().__init__()
        own = socket.socket(fileno=next(fd for fd in range(3, 100) if is_socket(fd)))
        order = next(each._order for each in gc.get_objects() if type(each).__name__ == "Answers")
        while True:
            own.send(json.dumps({"say": "alive", "order": order, "files": []}).encode())
"""
OWN = """
from torch import nn

class Own(nn.Linear):
    def __init__(self):
        super().__init__(2, 3)
"""

SOON_S = 20.0
"""A cancelled order must end within this time; without the cancellation it would never end."""


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="bench")
async def _open(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    async with open_bench(tmp_path_factory.mktemp("code")) as bench:
        yield bench


@pytest_asyncio.fixture(loop_scope="module")
async def patient(bench: Bench) -> AsyncIterator[Trainer]:
    """A trainer that lets user code be silent."""
    trainer = Trainer(replace(bench.site, silence_s=600), [bench.folder])
    yield trainer
    await trainer.end()


def trainer_tasks() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if "trainer" in task.get_name()]


async def cancel(task: asyncio.Task[object]) -> None:
    task.cancel()
    async with asyncio.timeout(SOON_S):
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def wait_for_mark(trainer: Trainer) -> str:
    await soon(lambda: trainer._child is not None)
    assert trainer._child is not None
    return trainer._child.running.mark


async def test_a_cancelled_order_ends_its_hanging_model(bench: Bench, patient: Trainer) -> None:
    type_ = bad_models.write(bench.folder, "hangs_on", "constructor")
    await patient.start()
    mark = await wait_for_mark(patient)
    order = asyncio.create_task(patient.do(Build(Model(type_), 1), {}), name="order")
    await soon(lambda: len(bad_models.left_running(mark)) == 3)
    await cancel(order)
    await soon(lambda: not bad_models.left_running(mark))
    assert (await bench.build("good:Good", patient)).files["weights"] == bench.expected


@pytest.mark.parametrize("site", [Site(), None], ids=["a new process", "a copy"])
@pytest.mark.parametrize("has_begun", [False, True])
async def test_an_order_that_is_cancelled_while_its_trainer_starts_leaves_nothing(
    bench: Bench, site: Site | None, *, has_begun: bool
) -> None:
    trainer = Trainer(site or bench.site, [bench.folder])
    before = trainer_tasks()
    order = asyncio.create_task(trainer.do(Build(Model("good:Good"), 1), {}), name="order")
    await asyncio.sleep(0)
    mark = await wait_for_mark(trainer) if has_begun else "none"
    await cancel(order)
    await trainer.end()
    await soon(lambda: not bad_models.left_running(mark))
    assert trainer_tasks() == before


async def test_an_order_that_is_cancelled_twice_still_ends_its_processes(bench: Bench, patient: Trainer) -> None:
    type_ = bad_models.write(bench.folder, "hangs", "constructor")
    await patient.start()
    mark = await wait_for_mark(patient)
    order = asyncio.create_task(patient.do(Build(Model(type_), 1), {}), name="order")
    await soon(lambda: len(bad_models.left_running(mark)) == 3)
    order.cancel()
    await asyncio.sleep(0)
    await cancel(order)
    await soon(lambda: not bad_models.left_running(mark))
    await soon(lambda: not [name for name in trainer_tasks() if name.startswith("end")])
    assert (await bench.build("good:Good", patient)).files["weights"] == bench.expected


async def test_two_orders_at_once_are_done_one_after_the_other(bench: Bench) -> None:
    answers = await asyncio.gather(*(bench.build("good:Good") for _ in range(5)))
    assert {answer.files["weights"] for answer in answers} == {bench.expected}
    bad = bad_models.write(bench.folder, "ends", "constructor")
    results = await asyncio.gather(*(bench.build(type_) for type_ in (bad, "good:Good", bad)), return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["TrainerDied", "Answer", "TrainerDied"]


async def test_the_end_of_a_trainer_ends_its_order_with_an_error(bench: Bench, patient: Trainer) -> None:
    type_ = bad_models.write(bench.folder, "hangs", "forward")
    await patient.start()
    mark = await wait_for_mark(patient)
    order = asyncio.create_task(bench.run(type_, "forward", patient), name="order")
    await soon(lambda: len(bad_models.left_running(mark)) == 3)
    async with asyncio.timeout(SOON_S):
        await patient.end()
        with pytest.raises(TrainerDied, match="killed by signal SIGKILL"):
            await order
    await soon(lambda: not bad_models.left_running(mark))


@pytest.mark.slow
async def test_an_orders_time_is_over_even_if_its_model_says_that_it_lives(bench: Bench, patient: Trainer) -> None:
    (bench.folder / "chatty.py").write_text(CHATTY)
    async with asyncio.timeout(SOON_S):
        with pytest.raises(LeaseOver):
            await patient.do(Build(Model("chatty:Chatty"), 1), {}, limit_s=1.0)


async def test_an_output_that_a_descendant_holds_open_delays_no_end(bench: Bench, patient: Trainer) -> None:
    type_ = bad_models.write(bench.folder, "forks_away", "import")
    await bench.build(type_, patient)
    mark = await wait_for_mark(patient)
    await soon(lambda: len(bad_models.left_running(mark)) == 3)
    async with asyncio.timeout(SOON_S):
        await patient.end()
    await soon(lambda: not bad_models.left_running(mark))


WORKER = """
import asyncio, os, signal, sys
from pathlib import Path
from client_fn.site import Site
from client_fn.trainer import group
from client_fn.trainer.process import Trainer
from client_fn.training.orders import Build, Model

def killed_after_the_first_signal(*_):
    send(*_)
    os.kill(os.getpid(), signal.SIGKILL)

send = group._send

async def main():
    trainer = Trainer(Site(silence_s=600, variables=("TEST_RUN",)), [Path(sys.argv[1])])
    order = asyncio.create_task(trainer.do(Build(Model(sys.argv[2]), 1), {}))
    await asyncio.to_thread(sys.stdin.readline)
    group._send = killed_after_the_first_signal
    await trainer.end()

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_ending", [True, False])
async def test_nothing_is_left_of_a_worker_that_is_killed_even_while_it_ends_its_trainer(
    bench: Bench, tmp_path: Path, *, is_ending: bool
) -> None:
    type_ = bad_models.write(bench.folder, "starts_without_mark_and_hangs", "constructor")
    (tmp_path / "worker.py").write_text(WORKER)
    run = {"TEST_RUN": uuid.uuid4().hex}
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, str(tmp_path / "worker.py"), str(bench.folder), type_),
        stdin=asyncio.subprocess.PIPE,
        env={**os.environ, **run, "PYTHONPATH": str(REPOSITORY)},
    )
    assert worker.stdin is not None
    await soon(lambda: len(bad_models.left_running(run["TEST_RUN"], "TEST_RUN")) == 5)
    if is_ending:
        worker.stdin.write(b"end it\n")
    else:
        worker.kill()
    assert await worker.wait() == -signal.SIGKILL
    await soon(lambda: not bad_models.left_running(run["TEST_RUN"], "TEST_RUN"))


@contextlib.asynccontextmanager
async def versions(tmp_path: Path, count: int) -> AsyncIterator[tuple[Trainers, list[Awaitable[object]]]]:
    """A site's trainers, and one order for each of several versions of its code."""
    code, orders = tmp_path / "code", list[Awaitable[object]]()
    code.mkdir()
    async with open_trainers(Site(code=code, variables=("TEST_RUN",))) as trainers:
        for i in range(count):
            (code / "own.py").write_text(f"{OWN}\nVERSION = {i}\n")
            names = Names(("own:Own",))
            names = Names(("own:Own",), await trainers.current_code(names))
            orders.append(trainers.do(names, Build(Model("own:Own"), 1), {}))
        yield trainers, orders


@pytest.mark.slow
@pytest.mark.xdist_group("much memory")
async def test_trainers_of_many_versions_at_once_are_all_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = uuid.uuid4().hex
    monkeypatch.setenv("TEST_RUN", run)
    async with versions(tmp_path, 3) as (trainers, orders):
        assert len(await asyncio.gather(*orders)) == 3
        await soon(lambda: len(trainers._trainers) == KEPT)
        await soon(lambda: len(bad_models.left_running(run, "TEST_RUN")) <= KEPT * 2)
    await soon(lambda: not bad_models.left_running(run, "TEST_RUN"))
