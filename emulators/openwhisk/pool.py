"""The invoker of the OpenWhisk emulator: containers, each a process with a Python action, for one or more runs."""

import asyncio
import base64
import binascii
import io
import json
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus as Http
from tempfile import TemporaryDirectory
from typing import Any, Final

import aiohttp

from broker.support import processes
from emulators.openwhisk.proxy import END
from emulators.paths import REPOSITORY

SUCCESS, APPLICATION_ERROR, DEVELOPER_ERROR, WHISK_ERROR = range(4)

RESULT_BYTES: Final = 1 << 20

_LINE_BYTES: Final = 1 << 24
_ENDED: Final = (aiohttp.ClientError, OSError)
"""Errors of a request to a container that has ended."""


@dataclass(frozen=True)
class Call:
    """Inputs of one activation.

    Attributes:
        action: the action.
        code: source code, or a base64 archive; empty if the image does not exist.
        value: parameters for `/run`.
        env: parameters for `/init`.
        context: facts about the run, all of them texts; `/init` gets them as `__OW_...` variables, `/run` as they are.
        api_host: address of the platform.
    """

    action: dict[str, Any]
    code: str
    value: dict[str, Any]
    env: dict[str, Any]
    context: dict[str, str]
    api_host: str


@dataclass
class Outcome:
    """Outcome of an activation.

    Attributes:
        code: SUCCESS, APPLICATION_ERROR, DEVELOPER_ERROR or WHISK_ERROR, as in OpenWhisk's ActivationResponse.
        result: result, any JSON value.
        logs: printed lines.
        init_s: time to start the container, in seconds; None if it was warm.
        timed_out: whether the run exceeded its time limit.
    """

    code: int
    result: Any
    logs: list[str] = field(default_factory=list)
    init_s: float | None = None
    timed_out: bool = False


class Container:
    """One process. Call `start` before use.

    Args:
        session: client that calls the process.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._folder = TemporaryDirectory(prefix="action-")
        self._url = ""
        self._process: Process | None = None

    async def start(self) -> None:
        """Start the runtime's proxy. It accepts requests at once."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self._url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            fd = listening.fileno()
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "emulators.openwhisk.proxy", str(fd), self._folder.name),
                cwd=REPOSITORY,
                stdout=PIPE,
                stderr=PIPE,
                limit=_LINE_BYTES,
                pass_fds=[fd],
                preexec_fn=processes.signal_on_parent_death(signal.SIGKILL),
            )

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Send a request to the runtime, and return status and JSON of the response.

        Args:
            path: `/init` or `/run`.
            body: content, sent as JSON.
        """
        # A stream: an archive may have more than the megabyte from which on aiohttp warns of bytes.
        content, headers = io.BytesIO(json.dumps(body).encode()), {"Content-Type": "application/json"}
        async with self._session.post(self._url + path, data=content, headers=headers) as response:
            return response.status, await response.json()

    async def logs(self) -> list[str]:
        """Return the printed lines up to the next marker, or up to the end."""
        lines: list[str] = []
        if self._process is not None:
            for name in ("stdout", "stderr"):
                stream: asyncio.StreamReader = getattr(self._process, name)
                while (line := (await stream.readline()).decode()) and line.strip() != END:
                    lines.append(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f000Z} {name}: {line.rstrip()}")
        return lines

    def kill(self) -> None:
        """Kill the proxy's process if it runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def end(self) -> None:
        """End the process by its own pid. The action's process ends with it."""
        self.kill()
        if self._process is not None:
            await self._process.communicate()
        self._folder.cleanup()


class Pool:
    """The containers of all actions.

    Args:
        session: client that calls the containers.

    Attributes:
        kill_next: number of further runs whose container is killed.
        kill_after_s: time that such a run gets, in seconds.
        started: number of started containers.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.kill_next = 0
        self.kill_after_s = 0.0
        self.started = 0
        self._session = session
        self._idle: defaultdict[str, list[Container]] = defaultdict(list)
        self._all: set[Container] = set()

    async def run(self, call: Call) -> Outcome:
        """Run an activation in a warm container, or in a new one."""
        key = f"{call.action['name']}@{call.action['version']}@{call.action['updated']}"
        warm = self._idle[key].pop() if self._idle[key] else None
        container = warm or Container(self._session)
        if warm is None:
            self.started += 1
            self._all.add(container)
            await container.start()
        limit_s = call.action["limits"]["timeout"] / 1000
        try:
            async with asyncio.timeout(limit_s):
                outcome = await self._run(container, call, cold=warm is None)
        except TimeoutError:
            text = f"The action exceeded its time limits of {limit_s * 1000:.0f} milliseconds."
            outcome = Outcome(DEVELOPER_ERROR, {"error": text}, timed_out=True)
        if outcome.code in {SUCCESS, APPLICATION_ERROR}:
            self._idle[key].append(container)
        else:
            await self._discard(container)
        return outcome

    async def end(self) -> None:
        """End every container."""
        for container in list(self._all):
            await self._discard(container)

    async def _discard(self, container: Container) -> None:
        self._all.discard(container)
        await container.end()

    async def _run(self, container: Container, call: Call, *, cold: bool) -> Outcome:
        init_s: float | None = None
        try:
            if cold:
                start_s = time.monotonic()
                status, answer = await container.post("/init", {"value": _init_value(call)})
                init_s = time.monotonic() - start_s
                if status != Http.OK:
                    return Outcome(DEVELOPER_ERROR, {"error": answer["error"]}, await container.logs(), init_s)
            if self.kill_next:
                self.kill_next -= 1
                if self.kill_after_s:
                    asyncio.get_running_loop().call_later(self.kill_after_s, container.kill)
                else:
                    container.kill()
            status, answer = await container.post("/run", {"value": call.value, **call.context})
        except _ENDED:
            text = "The action did not produce a valid response and exited unexpectedly."
            return Outcome(DEVELOPER_ERROR, {"error": text}, await container.logs(), init_s)
        code, result = _result(status, answer)
        return Outcome(code, result, await container.logs(), init_s)


def _init_value(call: Call) -> dict[str, Any]:
    try:
        base64.b64decode(call.code, validate=True)
        binary = True  # OpenWhisk looks at the code, and ignores the flag in the PUT
    except binascii.Error:
        binary = False
    context = {f"__OW_{name.upper()}": text for name, text in call.context.items()}
    env = {**call.env, **context, "__OW_API_HOST": call.api_host}
    main = call.action["exec"].get("main", "main")
    return {"name": call.action["name"], "main": main, "binary": binary, "code": call.code, "env": env}


def _result(status: int, answer: Any) -> tuple[int, Any]:
    """Return code and result of an activation from the runtime's response (ActivationResult.scala)."""
    size = len(json.dumps(answer))
    if size > RESULT_BYTES:
        text = f"The action produced a response that exceeded the allowed length: {size} > {RESULT_BYTES} bytes."
        return APPLICATION_ERROR, {"error": text}
    error = answer.get("error") if isinstance(answer, dict) else None
    if status != Http.OK:
        return DEVELOPER_ERROR, {"error": error or f"The action did not produce a valid JSON response: {answer}"}
    return (SUCCESS, answer) if error is None else (APPLICATION_ERROR, {"error": error})
