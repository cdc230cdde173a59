"""A container of a function, as OpenFaaS's of-watchdog (mode `http`) runs it: one real process behind a proxy.

Answers of its own carry `X-OpenFaaS-Internal`. A call that outlives `exec_timeout` is answered with 504 while the
function's process goes on with its work.
"""

import asyncio
import re
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
from multidict import CIMultiDict

from broker.support import processes

TEMPLATE: Final = Path(__file__).with_name("template.py")

HOP_BY_HOP: Final = ("connection", "content-length", "host", "keep-alive", "transfer-encoding", "date", "server")

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


@dataclass(frozen=True)
class Response:
    """What a call is answered with."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Watchdog:
    """One container.

    Attributes:
        code: folder with the handler.
        env: of the container.
        http: to call the process with.
        log: where the process's output goes.
        cold_s: how much longer than it needs the process takes to listen.
        refusals: so many more calls are refused, as with `max_inflight` exceeded.
        hangs: the answer to so many more calls is held back until they have timed out.
        starts: how often a process was started.
    """

    code: Path
    env: dict[str, str]
    http: aiohttp.ClientSession
    log: Path
    cold_s: float = 0.0
    refusals: int = 0
    hangs: int = 0
    starts: int = 0
    _process: Process | None = None
    _port: int = 0
    _inflight: int = 0
    _awake_s: float = 0.0
    _restarting: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def start(self) -> None:
        """Start the process, and another one whenever it is found to have ended."""
        with socket.socket() as bound, self.log.open("ab") as log:
            # Bound here, so that nobody else gets the port; not listening, so that calls are refused until it is up.
            bound.bind(("127.0.0.1", 0))
            self._port = bound.getsockname()[1]
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", str(TEMPLATE), str(self.code), str(bound.fileno())),
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env,
                pass_fds=(bound.fileno(),),
                preexec_fn=processes.signal_on_parent_death(signal.SIGKILL),
            )
        self.starts += 1
        self._awake_s = time.monotonic() + self.cold_s

    async def stop(self) -> None:
        """Kill the process, by its own pid."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        if self._process is not None:
            await self._process.wait()

    async def call(self, method: str, path: str, headers: CIMultiDict[str], body: AsyncIterator[bytes]) -> Response:
        """Answer a call, with what the function says if it can be had."""
        begun_s = time.monotonic()
        most = int(self.env.get("max_inflight", "0"))
        if self.refusals or (most and self._inflight >= most):
            self.refusals = max(0, self.refusals - 1)
            text = f"Concurrent request limit exceeded. Max concurrent requests: {most}\n"
            return Response(429, text.encode(), _own("faas-middleware"))
        self._inflight += 1
        try:
            answer = await self._in_time(method, path, headers, body)
        finally:
            self._inflight -= 1
        took = {"X-Duration-Seconds": f"{time.monotonic() - begun_s:.6f}"}
        return Response(answer.status, answer.body, {**answer.headers, **took})

    async def _in_time(self, method: str, path: str, headers: CIMultiDict[str], body: AsyncIterator[bytes]) -> Response:
        exec_timeout_s = seconds(self.env.get("exec_timeout", "30s"))
        try:
            async with asyncio.timeout(exec_timeout_s or None):
                return await self._forward(method, path, headers, body)
        except TimeoutError:
            return Response(504, b"", _own("of-watchdog"))
        except aiohttp.ClientError:
            return Response(500, b"", _own("of-watchdog"))

    async def _forward(self, method: str, path: str, headers: CIMultiDict[str], body: AsyncIterator[bytes]) -> Response:
        async with self._restarting:
            if self._process is None or self._process.returncode is not None:
                # Its container is restarted, and this call finds it importing.
                await self.start()
        if time.monotonic() < self._awake_s:
            raise aiohttp.ClientConnectionError
        passed = CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in HOP_BY_HOP)
        # From an iterator, so in chunks and without a Content-Length, as the real one sends it.
        async with self.http.request(
            method, f"http://127.0.0.1:{self._port}{path}", headers=passed, data=body
        ) as response:
            content = await response.read()
        if self.hangs:
            self.hangs -= 1
            await asyncio.Event().wait()
        kept = {name: value for name, value in response.headers.items() if name.lower() not in HOP_BY_HOP}
        return Response(response.status, content, kept)


def seconds(duration: str) -> float:
    """A duration as Go writes it (`1m30s`, `250ms`), or whole seconds."""
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h|)", duration))


def _own(part: str) -> dict[str, str]:
    return {"X-OpenFaaS-Internal": part, "Content-Type": "text/plain"}
