"""Copies of a process: their pipes, their ends, and what becomes of them when others end."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from broker.support.forks import Copy, ForkServer, NoCopy, open_fork_server
from tests.support.fakes import soon

WITHIN_S: Final = 60.0
PROGRAM: Final = """
import os, sys
from broker.support import forks
forks.serve(int(sys.argv[1]))
print(os.getpid(), len(os.listdir("/proc/self/fd")), os.environ["NAME"], flush=True)
print("logged", file=sys.stderr)
for line in sys.stdin:
    if line.startswith("end"):
        sys.exit(int(line.split()[1]))
    print(line.strip(), flush=True)
"""
PARENT: Final = """
import asyncio, os, sys
from broker.support.forks import open_fork_server

async def main():
    async with open_fork_server(sys.executable, "-c", sys.argv[1], env={**os.environ, "NAME": "n"}) as fork_server:
        print((await fork_server.fork(1 << 16)).pid, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def server_of(program: str = PROGRAM) -> AsyncIterator[ForkServer]:
    environment = {**os.environ, "NAME": "the copy's"}
    async with asyncio.timeout(WITHIN_S), open_fork_server(sys.executable, "-c", program, env=environment) as server:
        yield server


@contextlib.asynccontextmanager
async def copy_of(server: ForkServer) -> AsyncIterator[Copy]:
    copy = await server.fork(1 << 16)
    try:
        yield copy
    finally:
        copy.kill()
        await copy.wait()
        copy.close()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_a_copy_has_pipes_an_environment_and_a_session_of_its_own() -> None:
    async with server_of() as server, copy_of(server) as first, copy_of(server) as second:
        for copy in (first, second):
            pid, descriptors, name = (await copy.stdout.readline()).decode().split(maxsplit=2)
            assert int(pid) == copy.pid == os.getsid(copy.pid)
            assert (int(descriptors), name) == (4, "the copy's\n")  # the fourth one lists the folder
            assert await copy.stderr.readline() == b"logged\n"
            copy.stdin.write(b"echo\n")
            assert await copy.stdout.readline() == b"echo\n"
        assert parent_of(first.pid) == parent_of(second.pid) != os.getpid()


async def test_how_a_copy_ends_is_told() -> None:
    async with server_of() as server, copy_of(server) as ends, copy_of(server) as killed, copy_of(server) as stays:
        ends.stdin.write(b"end 3\n")
        killed.kill()
        assert await ends.wait() == 3
        assert ends.returncode == 3
        assert await killed.wait() == -signal.SIGKILL
        assert stays.returncode is None
        stays.stdin.close()
        assert await stays.wait() == 0
        await soon(lambda: not is_running(ends.pid))  # nothing is left of it


async def test_copies_end_with_their_fork_server_which_then_makes_no_more() -> None:
    async with server_of() as server, copy_of(server) as copy:
        os.kill(parent_of(copy.pid), signal.SIGKILL)
        assert await copy.wait() == -signal.SIGKILL
        with pytest.raises(NoCopy):
            await server.fork(1 << 16)


async def test_copies_end_with_the_process_that_wanted_them() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, PROGRAM, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(WITHIN_S):
        copy = int(await process.stdout.readline())
        server = parent_of(copy)
        process.kill()
        await process.wait()
        await soon(lambda: not is_running(copy) and not is_running(server))


@pytest.mark.parametrize("program", ["import no_such_module", "import sys; sys.exit(0)"])
async def test_a_program_that_ends_makes_no_copies(program: str) -> None:
    async with server_of(program) as server:
        for _ in range(2):
            with pytest.raises(NoCopy):
                await server.fork(1 << 16)


async def test_a_program_that_is_not_there_makes_no_copies() -> None:
    async with open_fork_server("/nowhere", env={}) as server:
        with pytest.raises(NoCopy):
            await server.fork(1 << 16)


async def test_the_answer_to_a_request_that_was_cancelled_is_nobody_else_s() -> None:
    async with server_of() as server:
        request = asyncio.create_task(server.fork(1 << 16))
        await asyncio.sleep(0)
        request.cancel()
        await asyncio.wait({request})
        async with copy_of(server) as copy:
            assert int((await copy.stdout.readline()).split()[0]) == copy.pid
