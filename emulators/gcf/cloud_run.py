"""Cloud Run below a Cloud Function: one real functions-framework process, started by the first event."""

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
"""Cloud Run's time limit of a start, in seconds."""

_PROGRAM: Final = """
import ctypes, os, runpy, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv.pop(1)):
    sys.exit("the parent process has ended")
runpy.run_module("functions_framework", run_name="__main__", alter_sys=True)
"""
"""`python -m functions_framework`, killed by the kernel when this process ends.

The program asks the kernel for that itself. A `preexec_fn` (see `broker.support.processes`) would need a real fork of
this process while gRPC's threads run, and then five of a hundred children abort before they start the program.
"""


@dataclass
class Service:
    """A function that can run.

    Attributes:
        name: full name of the function.
        folder: folder with the unpacked source.
        target: name of the Python function to call.
        env: environment variables, with the secrets.
        timeout_s: time limit of a request, in seconds.
        starts: number of started processes.
        output: last lines that the processes wrote.
    """

    name: str
    folder: Path
    target: str
    env: dict[str, str]
    timeout_s: float
    starts: int = 0
    output: deque[str] = field(default_factory=lambda: deque(maxlen=1000))
    _process: Process | None = None
    _url: str = ""
    _slot: asyncio.Lock = field(default_factory=asyncio.Lock)
    _listening: asyncio.Task[None] | None = None
    _stops: int = 0

    @property
    def is_live(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.returncode is None

    @property
    def is_busy(self) -> bool:
        """Whether a request uses the slot."""
        return self._slot.locked()

    @property
    def slot(self) -> asyncio.Lock:
        """Lock for the one request at once that the one instance may have."""
        return self._slot

    async def start(self, group: asyncio.TaskGroup) -> None:
        """Start a process and wait until it accepts requests. It has imported the function then.

        Args:
            group: runs the task that reads the output.

        Raises:
            ChildProcessError: the process ended before that, or the service was stopped meanwhile.
            TimeoutError: the process needed more than START_S seconds.
        """
        await self.stop()
        self.starts += 1
        stops = self._stops
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", _PROGRAM, str(os.getpid()), "--target", self.target, "--signature-type", "cloudevent"),
            *("--host", "127.0.0.1", "--port", "0"),
            cwd=self.folder,
            env=self._environment(),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # gunicorn has a child process; `stop` kills both as one group
        )
        if self._stops != stops:
            # It was stopped before it had a process.
            await self.stop()
            raise ChildProcessError("it was stopped")
        address = asyncio.get_running_loop().create_future()
        self._listening = group.create_task(self._listen(self._process, address), name=f"output of {self.name}")
        async with asyncio.timeout(START_S):
            self._url = await address

    async def post(self, http: aiohttp.ClientSession, headers: Mapping[str, str], body: bytes) -> int:
        """Forward a request and return the status of the response.

        Args:
            http: client to use.
            headers: HTTP headers.
            body: content.
        """
        limit = aiohttp.ClientTimeout(total=self.timeout_s)
        try:
            async with http.post(self._url, data=body, headers=headers, timeout=limit) as response:
                return response.status
        except TimeoutError:
            # The process does not learn that, and goes on.
            return HTTPStatus.GATEWAY_TIMEOUT
        except aiohttp.ClientError as exc:
            log.warning("the instance did not answer", function=self.name, error=repr(exc))
            return HTTPStatus.SERVICE_UNAVAILABLE

    async def stop(self) -> None:
        """Kill the process."""
        self._stops += 1
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
            # The process needs its programs and libraries. It gets no other variable of ours.
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            # With this level gunicorn prints its address.
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
            raise ValueError("the process has no output pipe")
        async for line in process.stdout:
            text = line.decode(errors="replace").rstrip()
            self.output.append(text)
            if not address.done() and (match := re.search(r"Listening at: (http://\S+)", text)):
                address.set_result(match[1])
        if not address.done():
            address.set_exception(ChildProcessError("\n".join(self.output)))


@dataclass
class CloudRun:
    """Forwards requests to services, and starts their instances.

    Attributes:
        http: client that calls the instances.
        group: runs the tasks that read the instances' output.
        max_instances: limit of the instances at once, like a project's quota. A new instance replaces the one that has
            been idle for the longest time.
        pending_s: time that a request waits for an instance, in seconds.
        live: services with an instance, in the order of their last use.
    """

    http: aiohttp.ClientSession
    group: asyncio.TaskGroup
    max_instances: int = 100
    pending_s: float = 10.0
    live: dict[str, Service] = field(default_factory=dict)
    _is_closed: bool = False
    _freed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def request(self, service: Service, headers: Mapping[str, str], body: bytes) -> int:
        """Forward a request to a service and return the status for the caller.

        Args:
            service: service to call; it is started if it has no instance.
            headers: HTTP headers.
            body: content.
        """
        try:
            async with asyncio.timeout(self.pending_s):
                await service.slot.acquire()
        except TimeoutError:
            return HTTPStatus.TOO_MANY_REQUESTS
        try:
            async with asyncio.timeout(self.pending_s):
                await self._make_room(service)
            if self._is_closed:
                # A message that is delivered again must not start an instance that nobody stops.
                return HTTPStatus.SERVICE_UNAVAILABLE
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
        """Stop a service's instance if it has one."""
        self.live.pop(service.name, None)
        await service.stop()

    async def close(self) -> None:
        """Stop every instance. No request starts one after that."""
        self._is_closed = True
        for service in list(self.live.values()):
            await self.stop(service)

    async def _make_room(self, service: Service) -> None:
        """Add a service at the end of `live`. If there are too many instances, stop an idle one first."""
        async with self._freed:
            while service.name not in self.live and len(self.live) >= self.max_instances:
                idle = next((other for other in self.live.values() if not other.is_busy), None)
                if idle is None:
                    await self._freed.wait()
                else:
                    await self.stop(idle)
            self.live.pop(service.name, None)
            self.live[service.name] = service
