"""The emulator's containers keep the contract of OpenWhisk's action runtimes, and end with the emulator."""

import asyncio
import base64
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from emulators.openwhisk.controller import AUTH
from emulators.openwhisk.pool import Container
from tests.support.fakes import soon
from tests.support.openwhisk_site import package
from tests.support.paths import REPOSITORY

WITHIN_S = 120.0

CODE = package("""
import os

count = 0

def main(args):
    global count
    count += 1
    print("run", count)
    return {"count": count, "deadline": os.environ["__OW_DEADLINE"], "mode": os.environ["MODE"], **args}
""")

CONTEXT = {"activation_id": "a", "deadline": "1000"}


@pytest.fixture
async def container() -> AsyncIterator[Container]:
    async with aiohttp.ClientSession() as session:
        container = Container(session)
        await container.start()
        try:
            async with asyncio.timeout(WITHIN_S):
                yield container
        finally:
            await container.end()


def init(code: bytes | str = CODE, **env: Any) -> dict[str, Any]:
    text = base64.b64encode(code).decode() if isinstance(code, bytes) else code
    value = {"name": "action", "main": "main", "binary": isinstance(code, bytes), "code": text, "env": env}
    return {"value": value}


async def test_globals_survive_and_each_activation_has_its_own_logs(container: Container) -> None:
    assert await container.post("/init", init(MODE="test")) == (200, {"ok": True})
    for count in (1, 2):
        status, answer = await container.post("/run", {"value": {"a": count}, **CONTEXT})
        assert (status, answer) == (200, {"count": count, "deadline": "1000", "mode": "test", "a": count})
        assert [line.partition("Z ")[2] for line in await container.logs()] == [f"stdout: run {count}"]


async def test_source_is_code_too(container: Container) -> None:
    assert (await container.post("/init", init("def main(args): return args")))[0] == 200
    assert await container.post("/run", {"value": {"a": 1}}) == (200, {"a": 1})


async def test_a_second_init_is_refused(container: Container) -> None:
    await container.post("/init", init(MODE="test"))
    assert (await container.post("/init", init(MODE="test")))[0] == 403


async def test_empty_code_is_refused(container: Container) -> None:
    assert (await container.post("/init", init("")))[0] == 403


async def test_a_run_before_the_init_is_refused(container: Container) -> None:
    assert await container.post("/run", {"value": {}}) == (500, {"error": "no action defined yet"})


@pytest.mark.parametrize("code", [b"no archive", "def main(:", package("raise RuntimeError")])
async def test_code_that_does_not_load_is_refused(container: Container, code: bytes | str) -> None:
    assert (await container.post("/init", init(code)))[0] == 502


async def test_an_exception_is_an_answer(container: Container) -> None:
    await container.post("/init", init("def main(args): raise ValueError('no data')"))
    assert await container.post("/run", {"value": {}}) == (200, {"error": "no data"})
    assert any("Traceback" in line for line in await container.logs())


@pytest.mark.parametrize("answer", ["float('nan')", "{'loss': float('inf')}", "'text'", "None"])
async def test_what_is_no_json_object_is_refused(container: Container, answer: str) -> None:
    await container.post("/init", init(f"def main(args): return {answer}"))
    assert (await container.post("/run", {"value": {}}))[0] == 502


async def test_a_context_that_is_no_text_ends_the_process(container: Container) -> None:
    await container.post("/init", init(MODE="test"))
    assert await container.post("/run", {"value": {}, "deadline": 1000}) == (400, {"error": "command exited"})
    assert await container.post("/run", {"value": {}, **CONTEXT}) == (500, {"error": "no action defined yet"})


async def test_an_action_does_not_outlive_its_container(container: Container) -> None:
    code = "import os\ndef main(args): return {'pid': os.getpid()}"
    await container.post("/init", init(code))
    _, answer = await container.post("/run", {"value": {}})
    assert _is_alive(answer["pid"])
    await container.end()
    await soon(lambda: not _is_alive(answer["pid"]), WITHIN_S)


def _is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_the_emulator_is_a_program_too(tmp_path: Path) -> None:
    whisk = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "emulators.openwhisk.controller", "--tls", tmp_path, "--memory", "2048"),
        cwd=REPOSITORY,
        stdout=PIPE,
    )
    try:
        assert whisk.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            ready, url = (await whisk.stdout.readline()).decode().split()
        assert ready == "ready"
        async with httpx.AsyncClient(auth=httpx.BasicAuth(*AUTH.split(":")), verify=False) as client:  # noqa: S501 (loopback)
            limits = await client.get(f"{url}/api/v1/namespaces/_/limits")
        assert limits.json()["maxActionMemory"] == 2048
        whisk.send_signal(signal.SIGTERM)
        async with asyncio.timeout(WITHIN_S):
            assert await whisk.wait() == 0
    finally:
        if whisk.returncode is None:
            whisk.kill()
            await whisk.wait()
