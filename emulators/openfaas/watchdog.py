"""A function's container, as OpenFaaS's of-watchdog (mode `http`) runs it: a proxy in front of one real process.

The watchdog marks its own responses with `X-OpenFaaS-Internal`. It answers a call that exceeds `exec_timeout` with 504,
while the function's process goes on.
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
    """The response to a call."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Watchdog:
    """One container.

    Attributes:
        code: folder with the handler.
        env: environment of the container.
        http: client that calls the process.
        log: file for the process's output.
        cold_s: additional time until the process listens, in seconds.
        refusals: number of further calls that get a 429, as if `max_inflight` were exceeded.
        hangs: number of further calls whose response comes only after they have timed out.
        frozen: whether the container is frozen, or gone without its address: calls never reach the process, and hang.
        starts: number of started processes.
    """

    code: Path
    env: dict[str, str]
    http: aiohttp.ClientSession
    log: Path
    cold_s: float = 0.0
    refusals: int = 0
    hangs: int = 0
    frozen: bool = False
    starts: int = 0
    _process: Process | None = None
    _port: int = 0
    _inflight: int = 0
    _listening_s: float = 0.0
    _restarting: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def start(self) -> None:
        """Start the process. A later call starts another one if this one has ended."""
        with socket.socket() as bound, self.log.open("ab") as log:
            # We bind the port, so that no other program gets it. We do not listen, so that the system refuses calls
            # until the process is ready.
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
        self._listening_s = time.monotonic() + self.cold_s

    async def stop(self) -> None:
        """Kill the process, by its own pid."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        if self._process is not None:
            await self._process.wait()

    async def call(self, method: str, path: str, headers: CIMultiDict[str], body: AsyncIterator[bytes]) -> Response:
        """Forward a call to the process and return the response.

        Args:
            method: HTTP method.
            path: path and query.
            headers: HTTP headers.
            body: content, in pieces.
        """
        if self.frozen:
            await asyncio.Event().wait()
        async with self._restarting:
            if self._process is None or self._process.returncode is not None:
                # The container restarts, and takes its time before the watchdog measures. The new process still
                # imports when this call reaches it.
                await self.start()
        start_s = time.monotonic()
        limit = int(self.env.get("max_inflight", "0"))
        if self.refusals or (limit and self._inflight >= limit):
            self.refusals = max(0, self.refusals - 1)
            text = f"Concurrent request limit exceeded. Max concurrent requests: {limit}\n"
            return Response(429, text.encode(), _internal("faas-middleware"))
        self._inflight += 1
        try:
            async with asyncio.timeout(seconds(self.env.get("exec_timeout", "30s")) or None):
                response = await self._forward(method, path, headers, body)
        except TimeoutError:
            response = Response(504, b"", _internal("of-watchdog"))
        except aiohttp.ClientError:
            response = Response(500, b"", _internal("of-watchdog"))
        finally:
            self._inflight -= 1
        duration = {"X-Duration-Seconds": f"{time.monotonic() - start_s:.6f}"}
        return Response(response.status, response.body, {**response.headers, **duration})

    async def _forward(self, method: str, path: str, headers: CIMultiDict[str], body: AsyncIterator[bytes]) -> Response:
        if time.monotonic() < self._listening_s:
            raise aiohttp.ClientConnectionError
        forwarded = CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in HOP_BY_HOP)
        # An iterator as body means chunks without a Content-Length, as the real watchdog sends it.
        async with self.http.request(
            method, f"http://127.0.0.1:{self._port}{path}", headers=forwarded, data=body
        ) as response:
            content = await response.read()
        if self.hangs:
            self.hangs -= 1
            await asyncio.Event().wait()
        returned = {name: value for name, value in response.headers.items() if name.lower() not in HOP_BY_HOP}
        return Response(response.status, content, returned)


def seconds(duration: str) -> float:
    """Return the seconds of a duration as Go writes it (`1m30s`, `250ms`), or as a number of seconds."""
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h|)", duration))


def _internal(part: str) -> dict[str, str]:
    return {"X-OpenFaaS-Internal": part, "Content-Type": "text/plain"}
