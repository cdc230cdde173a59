"""A package as its platform runs it: a process of its own, started from the unpacked archive, on a real broker."""

import asyncio
import base64
import contextlib
import io
import os
import signal
import sys
import time
import zipfile
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest

import broker
from broker import topics
from broker.messages import codec, signature, tensors
from broker.messages.invocation import InvocationRequest, Report
from broker.messages.round import RoundTask
from broker.messages.update import UpdateHeader
from broker.nats.server import NatsServer
from broker.support import processes
from client_fn.data import shards
from fedkeeper.deployment import archives
from tests.support.function_site import Site, task_for
from tests.support.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.torch]

WITHIN_S = 120.0
KEY = "the bridge's key"


def unpacked(platform: str, folder: Path) -> Path:
    zipfile.ZipFile(io.BytesIO(archives.build(platform))).extractall(folder)
    return folder


@contextlib.asynccontextmanager
async def placed(server: NatsServer, tmp_path: Path) -> AsyncIterator[Site]:
    data_loc = f"{tmp_path}/shard.safetensors"
    shards.write(data_loc, np.random.default_rng(1).random((10, 2, 2), dtype=np.float32), np.arange(10) % 3)
    async with broker.connect(server.url) as bus:
        yield Site(bus, data_loc)


async def check_trained(site: Site, task: RoundTask, attempt: int, report: Report) -> None:
    value = await site.bus.get(topics.update(task.job, task.round, task.client_id, attempt))
    assert value is not None
    assert UpdateHeader.from_metadata(tensors.decode(value.payload or b"")[1]).samples == 10
    retained = await site.bus.get(topics.report(task.client_type, task.client_id))
    assert retained is not None
    assert codec.decode(Report, retained.payload or b"") == report


@contextlib.asynccontextmanager
async def served(url: str, folder: Path, *command: str, **environment: str) -> AsyncIterator[str]:
    """A Python program in that folder, from when it answers over HTTP; it dies with all of its children."""
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=folder,
        env=environment,
        start_new_session=True,
        preexec_fn=processes.signal_on_parent_death(signal.SIGKILL),
    )
    try:
        async with asyncio.timeout(WITHIN_S), httpx.AsyncClient() as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await client.get(f"{url}/healthz")
                    break
                await asyncio.sleep(0.05)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        await server.wait()


async def test_openfaas_s_container_trains_what_its_bridge_signs(nats_server: NatsServer, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "key").write_text(f"{KEY}\n", encoding="utf-8")
    environment = {
        "FEDKEEPER_URL": nats_server.url,
        "FEDKEEPER_KEY_FILE": str(tmp_path / "key"),
        "upstream_url": url,
    }
    folder = unpacked("openfaas", tmp_path / "app")
    async with (
        placed(nats_server, tmp_path) as site,
        served(url, folder, "index.py", **environment),
        httpx.AsyncClient(timeout=WITHIN_S) as client,
    ):
        task = await task_for(site)
        body = msgspec.json.encode(InvocationRequest(task, 2))

        async def chunked() -> AsyncIterator[bytes]:
            # The gateway and the watchdog forward a body without its length.
            yield body[:100]
            yield body[100:]

        headers = signature.sign(KEY.encode(), body, "call-1", time.time())
        unsigned = await client.post(url, content=chunked())
        answers = [await client.post(url, content=chunked(), headers=headers) for _ in range(2)]
        report = codec.decode(Report, answers[0].content)
        assert [unsigned.status_code, *(answer.status_code for answer in answers)] == [401, 200, 401]
        assert report == Report(task.id, "done", cold=True, attempt=2, activation="call-1")
        await check_trained(site, task, 2, report)


async def test_gcf_s_function_trains_in_a_server_that_forks(nats_server: NatsServer, tmp_path: Path) -> None:
    """functions-framework imports torch in one process and serves from its child."""
    folder, port = unpacked("gcf", tmp_path / "source"), free_port()
    command = ("-m", "functions_framework", "--target", "train", "--signature-type", "cloudevent")
    address = ("--host", "127.0.0.1", "--port", str(port))
    environment = {"FEDKEEPER_URL": nats_server.url, "FEDKEEPER_CLIENT": "c1"}
    async with (
        placed(nats_server, tmp_path) as site,
        served(f"http://127.0.0.1:{port}", folder, *command, *address, **environment) as url,
        httpx.AsyncClient(timeout=WITHIN_S) as client,
    ):
        task = await task_for(site)
        data = base64.b64encode(msgspec.json.encode(InvocationRequest(task, 1))).decode()
        headers = {
            "ce-id": "message-1",
            "ce-source": "//pubsub.googleapis.com/projects/p/topics/t",
            "ce-specversion": "1.0",
            "ce-type": "google.cloud.pubsub.topic.v1.messagePublished",
        }
        answer = await client.post(url, json={"subscription": "s", "message": {"data": data}}, headers=headers)
        assert answer.status_code == 200
        await check_trained(site, task, 1, Report(task.id, "done", cold=True, attempt=1, activation="message-1"))


LAUNCHER = """
import json, os, sys
from main__ import main

for line in sys.stdin:
    given = json.loads(line)
    os.environ["__OW_ACTIVATION_ID"] = given["activation_id"]
    os.write(3, json.dumps(main(given["value"]), allow_nan=False).encode() + b"\\n")
"""
"""As the runtime's own: what it reads comes from the proxy, and answers go to the third file."""


async def test_openwhisk_s_action_trains_and_stays_warm(nats_server: NatsServer, tmp_path: Path) -> None:
    folder = unpacked("openwhisk", tmp_path / "action")
    (folder / "__main__.py").rename(folder / "main__.py")
    (folder / "exec__.py").write_text(LAUNCHER, encoding="utf-8")
    async with placed(nats_server, tmp_path) as site:
        tasks = [await task_for(site, round=round_) for round_ in (1, 2)]
        runs = [
            {
                "value": {"order": msgspec.to_builtins(InvocationRequest(task, 1))},
                "activation_id": f"activation-{task.round}",
            }
            for task in tasks
        ]
        lines = b"".join(msgspec.json.encode(run) + b"\n" for run in runs)
        action = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            f"exec {sys.executable} exec__.py 3>&1 >/dev/null",
            cwd=folder,
            env={"FEDKEEPER_URL": nats_server.url, "FEDKEEPER_CLIENT": "c1"},
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            preexec_fn=processes.signal_on_parent_death(signal.SIGKILL),
        )
        async with asyncio.timeout(WITHIN_S):
            output, _ = await action.communicate(lines)
        reports = [codec.decode(Report, line) for line in output.splitlines()]
        assert reports == [
            Report(t.id, "done", cold=t.round == 1, attempt=1, activation=f"activation-{t.round}") for t in tasks
        ]
        for task in tasks[1:]:
            await check_trained(site, task, 1, reports[-1])
