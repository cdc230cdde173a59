"""The OpenFaaS emulator itself: its password, its template, its program."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from broker.support import processes
from emulators.openfaas.scripted import write_code
from tests.support.openfaas_site import PASSWORD, Site, site
from tests.support.paths import REPOSITORY


@pytest.fixture
async def faas(tmp_path: Path) -> AsyncIterator[Site]:
    """An OpenFaaS with one function, `c-1`."""
    async with site(tmp_path) as faas:
        await faas.deploy()
        yield faas


async def test_the_emulator_asks_for_the_password_on_system_alone(faas: Site) -> None:
    async with httpx.AsyncClient(base_url=faas.gateway.url) as http:
        refused = await http.get("/system/functions")
        assert (refused.status_code, refused.text) == (401, "invalid credentials")
        assert refused.headers["WWW-Authenticate"] == 'Basic realm="Restricted"'
        assert (await http.get("/system/functions", auth=("admin", PASSWORD))).status_code == 200
        answer = await http.get("/function/c-1/healthz")
        assert answer.text == "fine"
        assert "X-Call-Id" in answer.headers
        assert float(answer.headers["X-Duration-Seconds"]) > 0
        own = await http.get("/function/c-1/healthz", headers={"X-Call-Id": "mine"})
        assert "X-Call-Id" not in own.headers


async def test_the_emulators_template_spoils_bytes_in_a_dict(tmp_path: Path) -> None:
    async with site(tmp_path) as faas:
        (tmp_path / "code" / "handler.py").write_text('def handle(event, context):\n    return {"body": event.body}\n')
        await faas.deploy()
        async with httpx.AsyncClient(base_url=faas.gateway.url) as http:
            assert (await http.post("/function/c-1", content=b"\x00a")).text == "b'\\x00a'"


async def test_the_emulator_is_a_program_that_ends_with_its_functions(tmp_path: Path) -> None:
    code = write_code(tmp_path / "code", "import os\ndef handle(event, context):\n    return str(os.getpid())\n")
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "emulators.openfaas.gateway", "--image", f"x={code}"),
        stdout=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
        preexec_fn=processes.signal_on_parent_death(signal.SIGKILL),
    )
    assert program.stdout is not None
    word, url = (await asyncio.wait_for(program.stdout.readline(), 120.0)).decode().split()
    async with httpx.AsyncClient(base_url=url) as http:
        assert (await http.post("/system/functions", json={"service": "f", "image": "x"})).status_code == 202
        pid = await first_answer(http, "/function/f")
    program.terminate()
    assert (word, await asyncio.wait_for(program.wait(), 120.0)) == ("ready", 0)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


async def first_answer(http: httpx.AsyncClient, path: str) -> str:
    async with asyncio.timeout(120.0):
        while True:
            answer = await http.get(path)
            if answer.is_success:
                return answer.text
            await asyncio.sleep(0.02)
