"""What a platform adds to a function's own time, through the bridges' own code and the emulated platforms."""

import asyncio
import contextlib
import io
import itertools
import json
import secrets
import statistics
import time
import zipfile
from pathlib import Path
from typing import Any, Final

import httpx

import broker
from benchmarks.bars.bar import Found
from benchmarks.bars.session import Session
from bridges import openfaas, openwhisk
from bridges.platform import Platform
from bridges.secrets import SecretStore
from broker.messages.function import Function
from broker.messages.job_sections import Model, Training
from broker.messages.round import BlobRef, RoundTask
from emulators.programs import running

IN_FLIGHT: Final = 16
FUNCTIONS: Final = 8
"""Functions that share the calls: a process of OpenFaaS' template runs four at once; OpenWhisk starts more of them."""

CALLS: Final = 160
RUN_S: Final = 0.2
START_S: Final = 120.0
IMAGE: Final = "docker.io/fedkeeper/client-fn:benchmark"

FUNCTION: Final = """
import json, time

def run(request):
    task, begin_s = request["task"], time.time()
    args = task["model_configuration"]["args"]
    time.sleep(args["seconds"])
    name = "{job}.{round}.{client_id}".format(**task)
    with open(args["log"], "a") as file:
        file.write(json.dumps([args["call"], begin_s, time.time()]) + chr(10))
    return {"id": name, "state": "done"}
"""
"""A function that waits for a while, and notes when it began and ended."""

HANDLER: Final = """
def handle(event, context):
    if event.path == "/healthz":
        return {"statusCode": 200, "body": "fine"}
    return {"statusCode": 200, "body": run(json.loads(event.body))}
"""

ACTION: Final = """
def main(args):
    return run(args["order"])
"""


async def measure_openfaas(session: Session) -> dict[str, Found]:
    """Measure calls through the emulated OpenFaaS."""
    folder = session.new_folder()
    code = folder / "code"
    code.mkdir()
    (code / "handler.py").write_text(FUNCTION + HANDLER)
    command = ("emulators.openfaas.gateway", "--image", f"{IMAGE}={code}")
    async with (
        running("openfaas", *command, logs=folder, ready="ready ") as url,
        broker.connect(f"memory://{folder}") as bus,
        openfaas.opened(openfaas.Settings(gateway=url), SecretStore(folder), bus) as platform,
        httpx.AsyncClient(base_url=url, trust_env=False) as http,
    ):
        for name in _functions(session):
            answer = await http.post("/system/functions", json={"service": name, "image": IMAGE})
            answer.raise_for_status()
        for name in _functions(session):
            await _until_ready(http, f"/function/{name}/healthz")
        before, after = await _measure(platform, session, folder)
    # The response is how the bridge knows of the end.
    beyond = [start + end for start, end in zip(before, after, strict=True)]
    return {"trigger-openfaas": Found(beyond, facts=_facts(before, after))}


async def measure_openwhisk(session: Session) -> dict[str, Found]:
    """Measure triggers through the emulated OpenWhisk, until the function begins."""
    folder = session.new_folder()
    key = f"{secrets.token_hex(16)}:{secrets.token_hex(32)}"
    (folder / "whisk-key").write_text(key)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("__main__.py", FUNCTION + ACTION)
    command = ("emulators.openwhisk.controller", "--auth", key, "--per-minute", "100000", "--concurrent", "100")
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(running("openwhisk", *command, logs=folder, ready="ready "))
        bus = await stack.enter_async_context(broker.connect(f"memory://{folder}"))
        settings = openwhisk.Settings(host=url, auth="whisk-key")
        platform = await stack.enter_async_context(openwhisk.opened(settings, SecretStore(folder), bus))
        for name in _functions(session):
            function = Function(
                name=name, fabric="bench", broker="nats://x@127.0.0.1:4222", memory_mb=256, timeout_s=60
            )
            await platform.functions.create(function, content.getvalue())
        before, after = await _measure(platform, session, folder)
    # Records are polled for, but the bridge knows of the end before, by the function's own report.
    return {"trigger-openwhisk": Found(before, facts=_facts(before, after))}


def _functions(session: Session) -> list[str]:
    return [f"c-{number}" for number in range(1 if session.is_small else FUNCTIONS)]


async def _until_ready(http: httpx.AsyncClient, path: str) -> None:
    async with asyncio.timeout(START_S):
        while True:
            if (await http.get(path)).status_code == httpx.codes.OK:
                return
            await asyncio.sleep(0.05)


async def _measure(platform: Platform, session: Session, folder: Path) -> tuple[list[float], list[float]]:
    """Call the functions, so many at a time.

    Returns:
        For each call, how long it took until the function began, and from the function's end until that was known, in
        milliseconds.
    """
    calls, at_once = (2, 1) if session.is_small else (CALLS, IN_FLIGHT)
    log = folder / "calls.jsonl"
    # The first calls start the containers.
    await _call_all(platform, _tasks(session, "warm", 2 * at_once, log), at_once)
    took = await _call_all(platform, _tasks(session, "call", calls, log), at_once)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    own = {call: (begin_s, end_s) for call, begin_s, end_s in lines}
    before = [1000 * (own[call][0] - begin_s) for call, (begin_s, _) in took.items()]
    after = [1000 * (end_s - own[call][1]) for call, (_, end_s) in took.items()]
    return before, after


def _facts(before: list[float], after: list[float]) -> dict[str, Any]:
    middle = {"until_begun_ms": statistics.median(before), "until_known_ms": statistics.median(after)}
    return {"in_flight": IN_FLIGHT, **{name: round(value, 2) for name, value in middle.items()}}


def _tasks(session: Session, prefix: str, count: int, log: Path) -> list[RoundTask]:
    functions = itertools.cycle(_functions(session))
    return [
        _task(next(functions), {"call": f"{prefix}-{number}", "log": str(log), "seconds": RUN_S})
        for number in range(count)
    ]


def _task(client: str, args: dict[str, Any]) -> RoundTask:
    return RoundTask(
        client_id=client,
        client_type="bench",
        url="",
        model_configuration=Model(args=args),
        data_loc="",
        training_hyperparameters=Training(),
        job="job",
        round=1,
        model=BlobRef(f"fl.models.job.{'ab' * 32}", "ab" * 32, 5),
        token=secrets.token_hex(16),
        seed=1,
        deadline_s=time.time() + 3600,
        max_attempts=3,
    )


async def _call_all(platform: Platform, tasks: list[RoundTask], at_once: int) -> dict[str, tuple[float, float]]:
    """Run tasks; return when each was begun and when its end was known, in seconds since the epoch."""
    took: dict[str, tuple[float, float]] = {}
    waiting = iter(tasks)

    async def work() -> None:
        for task in waiting:
            begin_s = time.time()
            async with contextlib.aclosing(platform.invoke(task, 1)) as activations:
                async for _ in activations:
                    pass
            took[task.model_configuration.args["call"]] = (begin_s, time.time())

    async with asyncio.TaskGroup() as group:
        for number in range(at_once):
            group.create_task(work(), name=f"caller {number}")
    return took
