"""Trainers that are copies of a fork server: they end with their worker, and nobody depends on the fork server."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from client_fn.errors import BadSettings, TrainerDied
from client_fn.site import Site
from client_fn.trainer import environment
from client_fn.trainer.fork_server import open_fork_server, start_early
from client_fn.trainer.forked import Forked, NoForkServer, fork
from client_fn.trainer.process import Trainer
from client_fn.training.orders import Build, Model
from tests.support import bad_models
from tests.support.fakes import soon
from tests.support.trainer_bench import WITHIN_S, Bench, open_bench

pytestmark = [pytest.mark.torch, pytest.mark.asyncio(loop_scope="module")]

DUMPS: Final = """
import os
from torch import nn

def kind(descriptor):
    try: return os.readlink(f"/proc/self/fd/{descriptor}").partition(":")[0]
    except OSError: return "gone"

class Dumps(nn.Linear):
    def __init__(self, file):
        super().__init__(2, 3)
        kinds = [kind(descriptor) for descriptor in os.listdir("/proc/self/fd")]
        with open(file, "w") as out:
            print(open("/proc/self/environ").read() + " ".join(os.environ.values()), file=out)
            print(*(each for each in kinds if each not in ("gone", "/memfd")), sep="\\n", file=out)
"""

WORKER: Final = """
import asyncio, os, sys
from pathlib import Path
from client_fn import site
from client_fn.trainer.process import Trainer
from client_fn.training.orders import Build, Model

async def main():
    trainer = Trainer(site.read(os.environ), [Path(sys.argv[1])])
    await trainer.start()
    print(type(trainer._child.running.process).__name__, trainer._child.running.mark, flush=True)
    await trainer.do(Build(Model(sys.argv[2]), 1), {})

asyncio.run(main())
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="bench")
async def _open(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    async with open_bench(tmp_path_factory.mktemp("code")) as bench:
        yield bench


@contextlib.asynccontextmanager
async def trainer_of(bench: Bench, site: Site) -> AsyncIterator[Trainer]:
    trainer = Trainer(site, [bench.folder])
    try:
        yield trainer
    finally:
        await trainer.end()


def process_of(trainer: Trainer) -> object:
    assert trainer._child is not None
    return trainer._child.running.process


def server_of(bench: Bench) -> int:
    """The process id of the fork server: the parent of the process above a trainer."""
    process = process_of(bench.trainer)
    assert isinstance(process, Forked)
    return int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_a_killed_worker_takes_its_copy_along_and_what_that_has_started(bench: Bench, tmp_path: Path) -> None:
    type_ = bad_models.write(bench.folder, "starts_without_mark_and_hangs", "constructor")
    (tmp_path / "worker.py").write_text(WORKER)
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, str(tmp_path / "worker.py"), str(bench.folder), type_),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "FEDKEEPER_FORK_SERVER": str(bench.site.fork_server)},
    )
    assert worker.stdout is not None
    async with asyncio.timeout(WITHIN_S):
        kind, mark = (await worker.stdout.readline()).decode().split()
    assert kind == "Forked"
    # The trainer, the process above it, the copy that does the order, and what the model has started.
    await soon(lambda: len(bad_models.left_running(mark)) == 4)
    worker.kill()
    await worker.wait()
    await soon(lambda: not bad_models.left_running(mark))


async def test_a_copy_sees_no_credential_and_no_descriptor_but_its_own(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.folder / "dumps.py").write_text(DUMPS)
    monkeypatch.setenv("FEDKEEPER_KEY", "hidden")
    async with trainer_of(bench, bench.site) as trainer:
        await trainer.do(Build(Model("dumps:Dumps", {"file": str(tmp_path / "dump")}), 1), {})
        mark = trainer._child.running.mark if trainer._child is not None else ""
        assert isinstance(process_of(trainer), Forked)
    environ, *descriptors = (tmp_path / "dump").read_text().splitlines()
    assert f"FEDKEEPER_TRAINER={mark}" in environ
    assert "hidden" not in environ
    assert [kind for kind in descriptors if kind not in ("pipe", "/dev/null")] == ["socket"]


async def test_copies_outlive_the_fork_server_and_another_one_takes_its_place(bench: Bench) -> None:
    await bench.check_good()
    before, mark = server_of(bench), bench.mark
    os.kill(before, signal.SIGKILL)
    await bench.check_good()
    assert bench.mark == mark, "the trainer is the same one"
    async with trainer_of(bench, bench.site) as trainer:
        assert (await bench.build("good:Good", trainer)).files["weights"] == bench.expected
        assert isinstance(process_of(trainer), Forked)
    await bench.trainer.end()
    await bench.check_good()
    assert server_of(bench) != before


@pytest.mark.parametrize("request_", [b"", b"no json", b"{}", b'{"folders": 1, "memory_mb": "x"}'])
async def test_what_is_no_request_is_refused(bench: Bench, request_: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.connect(str(bench.site.fork_server))
        stranger.send(request_)
        assert await asyncio.to_thread(stranger.recv, 100) == b""
    async with trainer_of(bench, bench.site) as trainer:
        await bench.build("good:Good", trainer)
        assert isinstance(process_of(trainer), Forked)


ASKS: Final = """
import array, json, os, socket, sys
from pathlib import Path
from torch import nn

class Asks(nn.Linear):
    \"\"\"Asks the fork server for a trainer as a worker does.\"\"\"

    def __init__(self, path, environment, answer):
        super().__init__(2, 3)
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {"mark": "1" * 32, "environment": environment, "memory_mb": 0, "folders": []}
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(path)
            socket.send_fds(connection, [json.dumps(request).encode()], [pair[0].fileno(), 2, 2])
            Path(answer).write_bytes(b"answer: " + connection.recv(100))
"""


async def test_the_user_s_code_gets_no_trainer_of_its_own(bench: Bench, tmp_path: Path) -> None:
    """It would end with nobody, and have no limit of memory."""
    (bench.folder / "asks.py").write_text(ASKS)
    digest = environment.digest(bench.site, os.environ)
    arguments = {"path": str(bench.site.fork_server), "environment": digest, "answer": str(tmp_path / "answer")}
    async with trainer_of(bench, bench.site) as trainer:
        await trainer.do(Build(Model("asks:Asks", arguments), 1), {})
        assert isinstance(process_of(trainer), Forked)
    assert (tmp_path / "answer").read_bytes() == b"answer: "


async def test_a_trainer_with_another_environment_is_a_new_process(bench: Bench) -> None:
    site = replace(bench.site, variables=("OWN_SETTING",))
    os.environ["OWN_SETTING"] = "1"
    try:
        assert bench.site.fork_server is not None
        with pytest.raises(NoForkServer):
            await fork(bench.site.fork_server, site, [bench.folder])
        async with trainer_of(bench, site) as trainer:
            assert (await bench.build("good:Good", trainer)).files["weights"] == bench.expected
            assert not isinstance(process_of(trainer), Forked)
    finally:
        del os.environ["OWN_SETTING"]


async def test_a_python_that_can_t_train_is_named_as_without_a_fork_server(bench: Bench, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nprintf 'a greeting without an end'; exit 3\n")
    python.chmod(0o700)
    for path, error in ((python, TrainerDied), (tmp_path / "none", BadSettings)):
        site = Site(python=str(path))
        async with (
            open_fork_server(site, os.environ) as server,
            trainer_of(bench, replace(site, fork_server=server)) as trainer,
        ):
            with pytest.raises(error):
                await bench.build("good:Good", trainer)


async def two_of(mark: str) -> None:
    """Wait until a trainer and the process above it run."""
    await soon(lambda: len(bad_models.left_running(mark)) == 2)


async def test_a_python_without_pidfds_trains_in_new_processes(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of conda and uv."""
    (tmp_path / "sitecustomize.py").write_text("import os\ndel os.pidfd_open\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with (
        open_fork_server(bench.site, os.environ) as server,
        trainer_of(bench, replace(bench.site, fork_server=server)) as trainer,
    ):
        assert (await bench.build("good:Good", trainer)).files["weights"] == bench.expected
        assert not isinstance(process_of(trainer), Forked)


async def test_how_a_copy_ends_is_told(bench: Bench) -> None:
    assert bench.site.fork_server is not None
    for number, expected in ((signal.SIGSEGV, -signal.SIGSEGV), (signal.SIGKILL, -signal.SIGKILL)):
        running = await fork(bench.site.fork_server, bench.site, [])
        process = running.process
        await two_of(running.mark)
        [trainer] = {*bad_models.left_running(running.mark)} - {process.pid}
        os.kill(trainer, number)
        async with asyncio.timeout(WITHIN_S):
            assert await process.wait() == expected
        running.channel.close()
        process.close()
    running = await fork(bench.site.fork_server, bench.site, [])
    os.kill(running.process.pid, signal.SIGKILL)
    async with asyncio.timeout(WITHIN_S):
        assert await running.process.wait() == -signal.SIGKILL
    running.channel.close()
    running.process.close()
    await soon(lambda: not bad_models.left_running(running.mark))


async def test_without_a_fork_server_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(NoForkServer):
        await fork(tmp_path / "socket", Site(), [])


async def test_a_folder_whose_path_is_too_long_for_a_socket_costs_only_the_fork_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    async with open_fork_server(Site(), os.environ) as server:
        assert server is None


async def test_the_fork_server_ends_with_its_block() -> None:
    run = uuid.uuid4().hex
    async with open_fork_server(Site(variables=("TEST_RUN",)), {**os.environ, "TEST_RUN": run}):
        await soon(lambda: len(bad_models.left_running(run, "TEST_RUN")) == 1)
    assert bad_models.left_running(run, "TEST_RUN") == []


async def test_one_that_was_started_early_is_used_and_replaced_as_any_other() -> None:
    run = uuid.uuid4().hex
    environ = {**os.environ, "TEST_RUN": run, "FEDKEEPER_TRAINER_ENV": "TEST_RUN"}
    start_early(environ)
    (early,) = bad_models.left_running(run, "TEST_RUN")
    async with open_fork_server(Site(variables=("TEST_RUN",)), environ) as server:
        assert server is not None
        with pytest.raises(NoForkServer):
            await fork(server, Site(), [])  # refused, by one that is ready
        assert bad_models.left_running(run, "TEST_RUN") == [early]
        os.kill(early, signal.SIGKILL)
        await soon(lambda: bad_models.left_running(run, "TEST_RUN") not in ([], [early]))
    assert bad_models.left_running(run, "TEST_RUN") == []


async def test_one_that_was_started_early_for_another_environment_is_ended() -> None:
    run = uuid.uuid4().hex
    start_early({**os.environ, "TEST_RUN": run, "FEDKEEPER_TRAINER_ENV": "TEST_RUN"})
    assert bad_models.left_running(run, "TEST_RUN")
    async with open_fork_server(Site(), os.environ) as server:
        assert server is not None
        assert bad_models.left_running(run, "TEST_RUN") == []


async def test_one_that_was_started_early_ends_with_a_program_that_does_not_need_it() -> None:
    run = uuid.uuid4().hex
    environ = {**os.environ, "TEST_RUN": run, "FEDKEEPER_TRAINER_ENV": "TEST_RUN"}
    program = "import os; from client_fn.trainer.fork_server import start_early; start_early(os.environ); input()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), env=environ, stdin=asyncio.subprocess.PIPE
    )
    await soon(lambda: len(bad_models.left_running(run, "TEST_RUN")) == 2)
    await process.communicate(b"\n")
    assert process.returncode == 0
    await soon(lambda: not bad_models.left_running(run, "TEST_RUN"))
