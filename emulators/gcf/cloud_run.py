"""What Cloud Run does for a Cloud Function: one real functions-framework process, started by the first event."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp
import structlog

log = structlog.get_logger(__name__)

START_S: Final = 240.0
"""Cloud Run's own limit."""

_PROGRAM: Final = """
import ctypes, os, runpy, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv.pop(1)):
    sys.exit("whoever started this is dead")
runpy.run_module("functions_framework", run_name="__main__", alter_sys=True)
"""
"""`python -m functions_framework`, killed by the kernel when we die.

It asks for that itself. A `preexec_fn` would do it too (see `broker.support.processes`), but makes a real fork of this
process, in which gRPC's threads may be at work: five in a hundred of the children then abort before they become another
program.
"""


@dataclass
class Service:
    """One function as it runs.

    Attributes:
        name: full name of the function.
        folder: with its unpacked source.
        target: the Python function to call.
        env: its variables, secrets among them.
        timeout_s: how long one request may take.
        starts: how often a process was started for it.
        said: the last lines that its processes wrote.
    """

    name: str
    folder: Path
    target: str
    env: dict[str, str]
    timeout_s: float
    starts: int = 0
    said: deque[str] = field(default_factory=lambda: deque(maxlen=1000))
    _process: Process | None = None
    _url: str = ""
    _slot: asyncio.Lock = field(default_factory=asyncio.Lock)
    _listening: asyncio.Task[None] | None = None

    @property
    def is_live(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.returncode is None

    @property
    def is_busy(self) -> bool:
        """Whether it has a request to answer, or one waits for its start."""
        return self._slot.locked()

    @property
    def slot(self) -> asyncio.Lock:
        """Held by the one request that its one instance may have."""
        return self._slot

    async def start(self, group: asyncio.TaskGroup) -> None:
        """Start a process and wait until it takes requests; it has imported the function then.

        Raises:
            ChildProcessError: it ended before that.
            TimeoutError: it took too long.
        """
        await self.stop()
        self.starts += 1
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", _PROGRAM, str(os.getpid()), "--target", self.target, "--signature-type", "cloudevent"),
            *("--host", "127.0.0.1", "--port", "0"),
            cwd=self.folder,
            env=self._environment(),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # gunicorn has a child of its own, which is killed with it as one group
        )
        address = asyncio.get_running_loop().create_future()
        self._listening = group.create_task(self._listen(self._process, address), name=f"output of {self.name}")
        async with asyncio.timeout(START_S):
            self._url = await address

    async def post(self, http: aiohttp.ClientSession, headers: Mapping[str, str], body: bytes) -> int:
        """Pass a request on; the status of the answer."""
        limit = aiohttp.ClientTimeout(total=self.timeout_s)
        try:
            async with http.post(self._url, data=body, headers=headers, timeout=limit) as response:
                return response.status
        except TimeoutError:
            # The process is not told, and works on.
            return HTTPStatus.GATEWAY_TIMEOUT
        except aiohttp.ClientError as exc:
            log.warning("the instance did not answer", function=self.name, error=repr(exc))
            return HTTPStatus.SERVICE_UNAVAILABLE

    async def stop(self) -> None:
        """End its process, whatever it does."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if self._listening is not None:
            await self._listening

    def _environment(self) -> dict[str, str]:
        name = self.name.rpartition("/")[2]
        ours = {
            # Where the process's own programs and libraries are found; nothing else of ours is its business.
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            # So that it says where it listens.
            "GUNICORN_LOG_LEVEL": "info",
            "PYTHONUNBUFFERED": "1",
        }
        googles = {
            "FUNCTION_TARGET": self.target,
            "FUNCTION_SIGNATURE_TYPE": "cloudevent",
            "K_SERVICE": name,
            "K_REVISION": f"{name}-00001",
            "K_CONFIGURATION": name,
        }
        return {**ours, **self.env, **googles}

    async def _listen(self, process: Process, address: "asyncio.Future[str]") -> None:
        if process.stdout is None:
            raise ValueError("a process whose output is not read")
        async for line in process.stdout:
            text = line.decode(errors="replace").rstrip()
            self.said.append(text)
            if not address.done() and (found := re.search(r"Listening at: (http://\S+)", text)):
                address.set_result(found[1])
        if not address.done():
            address.set_exception(ChildProcessError("\n".join(self.said)))


@dataclass
class CloudRun:
    """Passes requests to services, and starts their instances.

    Attributes:
        http: to reach the instances with.
        group: for what the instances write.
        most: how many instances may live at once, as a project's quota is; the one that has idled for longest makes
            room.
        pending_s: how long a request waits for an instance.
        live: services with an instance, the one that was used last at the end.
    """

    http: aiohttp.ClientSession
    group: asyncio.TaskGroup
    most: int = 100
    pending_s: float = 10.0
    live: dict[str, Service] = field(default_factory=dict)
    _freed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def request(self, service: Service, headers: Mapping[str, str], body: bytes) -> int:
        """Have a service answer; the status that the caller gets."""
        try:
            async with asyncio.timeout(self.pending_s):
                await service.slot.acquire()
        except TimeoutError:
            return HTTPStatus.TOO_MANY_REQUESTS
        try:
            async with asyncio.timeout(self.pending_s):
                await self._make_room(service)
            if not service.is_live:
                await service.start(self.group)
            return await service.post(self.http, headers, body)
        except TimeoutError:
            return HTTPStatus.TOO_MANY_REQUESTS
        except ChildProcessError as exc:
            log.warning("the instance did not start", function=service.name, error=str(exc))
            return HTTPStatus.SERVICE_UNAVAILABLE
        finally:
            service.slot.release()
            async with self._freed:
                self._freed.notify_all()

    async def stop(self, service: Service) -> None:
        """End a service's instance, if it has one."""
        self.live.pop(service.name, None)
        await service.stop()

    async def close(self) -> None:
        """End every instance."""
        for service in list(self.live.values()):
            await self.stop(service)

    async def _make_room(self, service: Service) -> None:
        """Count a service among the living, and as the last that was used."""
        async with self._freed:
            while service.name not in self.live and len(self.live) >= self.most:
                idle = next((one for one in self.live.values() if not one.is_busy), None)
                if idle is None:
                    await self._freed.wait()
                else:
                    await self.stop(idle)
            self.live.pop(service.name, None)
            self.live[service.name] = service
