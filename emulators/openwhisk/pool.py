"""The invoker of the OpenWhisk emulator: containers, each a process with a Python action in it, that are used again."""

import asyncio
import base64
import binascii
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
"""What speaking to a container that is no more raises."""


@dataclass(frozen=True)
class Call:
    """One activation, as the invoker gets it.

    Attributes:
        action: the entity.
        code: what to run, base64 or source; empty: there is no image of that name.
        value: the action's parameters.
        env: those that are for `/init`.
        context: what goes with `/init` as `__OW_...` and with `/run` as it is; all text.
        api_host: where the platform is.
    """

    action: dict[str, Any]
    code: str
    value: dict[str, Any]
    env: dict[str, Any]
    context: dict[str, str]
    api_host: str


@dataclass
class Outcome:
    """What became of an activation.

    Attributes:
        code: one of the four of OpenWhisk's ActivationResponse.
        result: JSON.
        logs: what it printed.
        init_s: how long starting the container took; None: it was warm.
        timed_out: whether it took longer than its limit.
    """

    code: int
    result: Any
    logs: list[str] = field(default_factory=list)
    init_s: float | None = None
    timed_out: bool = False


class Container:
    """One process. `start` before use."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._folder = TemporaryDirectory(prefix="action-")
        self._url = ""
        self._process: Process | None = None

    async def start(self) -> None:
        """Start the runtime's proxy, which takes requests at once."""
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
        """Speak to the runtime: status and JSON."""
        async with self._session.post(self._url + path, json=body) as response:
            return response.status, await response.json()

    async def logs(self) -> list[str]:
        """What was printed up to the marker, or to the end."""
        found: list[str] = []
        if self._process is not None:
            for name in ("stdout", "stderr"):
                stream: asyncio.StreamReader = getattr(self._process, name)
                while (line := (await stream.readline()).decode()) and line.strip() != END:
                    found.append(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f000Z} {name}: {line.rstrip()}")
        return found

    def kill(self) -> None:
        """Kill the proxy's process, if it lives."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def end(self) -> None:
        """End the process, by its own pid, and the action's with it."""
        self.kill()
        if self._process is not None:
            await self._process.communicate()
        self._folder.cleanup()


class Pool:
    """The containers of all actions.

    Attributes:
        kill_next: so many of the next runs lose their container.
        kill_after_s: how long they have run by then.
        started: containers so far.
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
        container = warm or await self._start()
        limit_s = call.action["limits"]["timeout"] / 1000
        try:
            async with asyncio.timeout(limit_s):
                outcome = await self._answer(container, call, cold=warm is None)
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

    async def _start(self) -> Container:
        self.started += 1
        container = Container(self._session)
        self._all.add(container)
        await container.start()
        return container

    async def _discard(self, container: Container) -> None:
        self._all.discard(container)
        await container.end()

    async def _answer(self, container: Container, call: Call, *, cold: bool) -> Outcome:
        init_s: float | None = None
        try:
            if cold:
                began_s = time.monotonic()
                status, answer = await container.post("/init", {"value": _init(call)})
                init_s = time.monotonic() - began_s
                if status != Http.OK:
                    return Outcome(DEVELOPER_ERROR, {"error": answer["error"]}, await container.logs(), init_s)
            status, answer = await self._run(container, call)
        except _ENDED:
            text = "The action did not produce a valid response and exited unexpectedly."
            return Outcome(DEVELOPER_ERROR, {"error": text}, await container.logs(), init_s)
        code, result = _judged(status, answer)
        return Outcome(code, result, await container.logs(), init_s)

    async def _run(self, container: Container, call: Call) -> tuple[int, Any]:
        if self.kill_next:
            self.kill_next -= 1
            if self.kill_after_s:
                asyncio.get_running_loop().call_later(self.kill_after_s, container.kill)
            else:
                container.kill()
        return await container.post("/run", {"value": call.value, **call.context})


def _init(call: Call) -> dict[str, Any]:
    try:
        base64.b64decode(call.code, validate=True)
        binary = True  # decided by the look of the code, whatever the PUT said
    except binascii.Error:
        binary = False
    context = {f"__OW_{name.upper()}": text for name, text in call.context.items()}
    env = {**call.env, **context, "__OW_API_HOST": call.api_host}
    main = call.action["exec"].get("main", "main")
    return {"name": call.action["name"], "main": main, "binary": binary, "code": call.code, "env": env}


def _judged(status: int, answer: Any) -> tuple[int, Any]:
    """What a runtime's answer makes of an activation (ActivationResult.scala)."""
    size = len(json.dumps(answer))
    if size > RESULT_BYTES:
        text = f"The action produced a response that exceeded the allowed length: {size} > {RESULT_BYTES} bytes."
        return APPLICATION_ERROR, {"error": text}
    error = answer.get("error") if isinstance(answer, dict) else None
    if status != Http.OK:
        return DEVELOPER_ERROR, {"error": error or f"The action did not produce a valid JSON response: {answer}"}
    return (SUCCESS, answer) if error is None else (APPLICATION_ERROR, {"error": error})
