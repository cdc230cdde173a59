"""Links that tests break for real: a site is a network namespace, and a veth pair is its only way out.

Names contain the test's process id, so the next test can remove what a killed one has left.
"""

import asyncio
import contextlib
import ctypes
import functools
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from broker.support import processes

_CLONE_NEWNET: Final = 0x40000000
_NOBODY: Final = "02:00:00:00:00:01"
"""An Ethernet address that no interface has."""

_NETWORKS: Final = range(1, 255)
_NAME: Final = re.compile(r"\bfk(\d+)(-\d+)?\b")
_numbers = itertools.count()


class NoLink(RuntimeError):
    """Raised when the system can't make a link, or breaks it another way than it should."""


class Traffic(NamedTuple):
    """Bytes that have crossed a site's link, headers included: from the site, and to it."""

    up: int
    down: int


@functools.cache
def netem() -> bool:
    """Whether the kernel can delay and lose packets itself; else `tests/support/edge/slow_link.py` does."""
    tried = ["unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
    programs = all(map(shutil.which, ("unshare", "tc")))
    return programs and not subprocess.run(tried, check=False, capture_output=True).returncode


@dataclass
class Backbone:
    """An address of this host that sites reach over their links, and that stays whatever becomes of the links.

    Attributes:
        network: three bytes that the addresses of this test begin with.
    """

    network: str
    _sites: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def address(self) -> str:
        """The address at which servers for the sites listen."""
        return f"{self.network}.254"

    @contextlib.asynccontextmanager
    async def site(self) -> AsyncIterator["Site"]:
        """A site that is joined to this until the end of the block."""
        site = Site(f"fk{os.getpid()}-{next(_numbers)}", self, 4 * next(self._sites))
        try:
            await site.power_on()
            yield site
        finally:
            await site.clear_away()


@contextlib.asynccontextmanager
async def backbone() -> AsyncIterator[Backbone]:
    """Create a backbone with its own network; remove it at the end of the block."""
    await sweep()
    network = Backbone(await _claimed_network())
    try:
        yield network
    finally:
        await _ip("address", "del", f"{network.address}/32", "dev", "lo")


async def _claimed_network() -> str:
    """Claim a network that no other test uses. The kernel accepts each address only once."""
    first = os.getpid() % len(_NETWORKS)
    for number in (*_NETWORKS[first:], *_NETWORKS[:first]):
        with contextlib.suppress(FileExistsError):
            label = f"lo:fk{os.getpid()}"
            await _ip("address", "add", f"10.231.{number}.254/32", "dev", "lo", "label", label)
            return f"10.231.{number}"
    raise NoLink("every network is taken")


async def sweep() -> None:
    """Remove the namespaces and addresses of dead test processes.

    Several tests may do so at the same time. It is no error if another test has removed an item already.
    """
    orphans = set(filter(_is_orphan, await names()))
    for name in orphans:
        with contextlib.suppress(NoLink):
            await _ip("netns", "del", name)
    lines = set(filter(_is_orphan, (await _addresses()).splitlines()))
    for line in lines:
        with contextlib.suppress(NoLink):
            await _ip("address", "del", re.findall(r"inet (\S+)", line)[0], "dev", "lo")
    left = orphans & set(await names()) | lines & set((await _addresses()).splitlines())
    if left:
        raise NoLink(f"can't remove what dead tests have left: {', '.join(sorted(left))}")


async def _addresses() -> str:
    return await _ip("-oneline", "address", "show", "dev", "lo")


async def names() -> list[str]:
    """Return the names of all namespaces of this machine."""
    return re.findall(r"^\S+", await _ip("netns", "list"), re.MULTILINE)


def _is_orphan(text: str) -> bool:
    match = _NAME.search(text)
    return match is not None and not Path(f"/proc/{match[1]}").exists()


class Site:
    """A machine behind a link. Its programs see its own loopback interface, and `backbone.address`.

    Attributes:
        name: of its namespace, and of the host's end of its link.
    """

    def __init__(self, name: str, backbone: Backbone, number: int) -> None:
        self.name = name
        self._backbone = backbone
        self._gateway = f"{backbone.network}.{number + 1}"
        self._address = f"{backbone.network}.{number + 2}"
        self._silent = False
        self._wire = ""

    async def power_on(self) -> None:
        """Create the site with its link up and without programs."""
        self._silent = False
        await _ip("netns", "add", self.name)
        await _ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        await _ip("address", "add", f"{self._gateway}/30", "dev", self.name)
        await _ip("link", "set", self.name, "up")
        await self._inside("link", "set", "lo", "up")
        await self._inside("address", "add", f"{self._address}/30", "dev", "eth0")
        await self._link_up()

    async def power_cut(self) -> None:
        """End everything at once: nobody gets to say goodbye, neither programs nor their connections."""
        await self.cut(silent=True)
        await self.clear_away()

    async def clear_away(self) -> None:
        """Kill all programs and delete the namespace, with the data that its connections have not sent."""
        if self.name in await names():
            for pid in (await _ip("netns", "pids", self.name)).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            # The kernel deletes a namespace later, and the link of the next one has the same name.
            await self._inside("link", "del", "eth0")
            await _ip("netns", "del", self.name)

    async def cut(self, *, silent: bool) -> None:
        """Break the link.

        Args:
            silent: packets are lost and neither side gets an error, as behind a dead router; otherwise the site's
                interface goes down.
        """
        if self._wire:
            raise NoLink("a degraded link can't be cut: its packets take another way")
        self._silent = silent
        if silent:
            # A frame that is addressed to nobody is dropped on arrival. Every kernel can do that.
            await _ip(*self._neighbour("replace"), "lladdr", _NOBODY, "nud", "permanent")
            await self._inside(*self._router("replace"), "lladdr", _NOBODY, "nud", "permanent")
        else:
            await self._inside("link", "set", "eth0", "down")

    async def restore(self) -> None:
        """Mend what `cut` broke."""
        if self._silent:
            await _ip(*self._neighbour("del"))
            await self._inside(*self._router("del"))
            self._silent = False
        else:
            await self._link_up()

    @contextlib.asynccontextmanager
    async def degraded(self, *, delay_ms: float = 200, loss: float = 0.02) -> AsyncIterator[None]:
        """A link that is slow and unreliable, in both directions, until the end of the block."""
        async with self._netem(delay_ms, loss) if netem() else self._detour(delay_ms, loss):
            yield

    @contextlib.asynccontextmanager
    async def running(self, *program: str | Path, log: Path, **environment: str) -> AsyncIterator[Process]:
        """A program at the site until the end of the block, or of this process, or of the site's power."""
        with log.open("ab") as output:
            process = await _start(
                "ip", "netns", "exec", self.name, *program, stdout=output.fileno(), env={**os.environ, **environment}
            )
        try:
            yield process
        finally:
            await _kill(process)

    def traffic(self) -> Traffic:
        """Return the bytes that crossed the link since power-on, or since the link was degraded."""
        counters = Path("/sys/class/net", self._wire or self.name, "statistics")
        received, sent = (int((counters / f"{way}_bytes").read_text()) for way in ("rx", "tx"))
        return Traffic(up=received, down=sent)

    def socket(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """Open a socket inside the site, for use by the test."""
        sockets: list[socket.socket] = []
        # A thread can enter a namespace alone. A socket belongs to the namespace in which it is opened.
        thread = threading.Thread(target=lambda: sockets.append(_opened_in(Path("/run/netns", self.name), kind)))
        thread.start()
        thread.join()
        return sockets[0]

    def _neighbour(self, what: str) -> tuple[str, ...]:
        return "neighbour", what, self._address, "dev", self.name

    def _router(self, what: str) -> tuple[str, ...]:
        return "neighbour", what, self._gateway, "dev", "eth0"

    async def _link_up(self) -> None:
        await self._inside("link", "set", "eth0", "up")
        await self._inside("route", "replace", "default", "via", self._gateway)

    @contextlib.asynccontextmanager
    async def _netem(self, delay_ms: float, loss: float) -> AsyncIterator[None]:
        ends = (("-netns", self.name, "qdisc"), "eth0"), (("qdisc",), self.name)
        for command, device in ends:
            await _run("tc", *command, "add", "dev", device, "root", *_emulated(delay_ms, loss))
        yield
        for command, device in ends:
            await _run("tc", *command, "del", "dev", device, "root")

    @contextlib.asynccontextmanager
    async def _detour(self, delay_ms: float, loss: float) -> AsyncIterator[None]:
        """Route the same addresses over a slow link, so that connections stay open."""
        near, far = f"{self.name}a", f"{self.name}b"
        script = Path(__file__).with_name("slow_link.py")
        wire = await _start(sys.executable, script, near, far, str(delay_ms / 1000), str(loss), stdout=PIPE)
        try:
            await _says_ready(wire)
            await _ip("link", "set", far, "netns", self.name)
            await self._inside("link", "set", far, "up")
            await _ip("link", "set", near, "up")
            await self._inside("route", "replace", "default", "dev", far, "src", self._address)
            await _ip("route", "replace", f"{self._address}/32", "dev", near)
            self._wire = near
            yield
        finally:
            # Its interfaces go with it, and the routes with them.
            self._wire = ""
            await _kill(wire)
            await self._link_up()

    async def _inside(self, *words: str) -> str:
        return await _ip("-netns", self.name, *words)


def _emulated(delay_ms: float, loss: float) -> tuple[str, ...]:
    return "netem", "delay", f"{delay_ms}ms", "loss", f"{100 * loss}%"


async def _says_ready(process: Process) -> None:
    if process.stdout is None or b"ready" not in await process.stdout.readline():
        raise NoLink("no detour: this kernel has neither netem nor /dev/net/tun")


async def _start(*command: str | Path, stdout: int, stderr: int = STDOUT, env: dict[str, str] | None = None) -> Process:
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=env,
        start_new_session=True,
        # `ip netns exec` becomes the program, so this holds for it too.
        preexec_fn=processes.signal_on_parent_death(signal.SIGKILL),
    )


async def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def _ip(*words: str) -> str:
    return await _run("ip", *words)


async def _run(*command: str) -> str:
    """A program's output.

    Raises:
        FileExistsError: the object exists already.
        NoLink: it failed otherwise.
    """
    try:
        process = await _start(*command, stdout=PIPE, stderr=PIPE)
    except FileNotFoundError as exc:
        raise NoLink(f"{command[0]} is not installed: see scripts/needs") from exc
    output, complaint = (text.decode().strip() for text in await process.communicate())
    if "File exists" in complaint:
        raise FileExistsError(complaint)
    if process.returncode:
        rights = "" if os.geteuid() == 0 else " (making links needs root)"
        raise NoLink(f"{' '.join(command)}: {complaint}{rights}")
    return output


def _opened_in(namespace: Path, kind: socket.SocketKind) -> socket.socket:
    """In a thread that ends after it: Python 3.11 has no `os.setns`."""
    with namespace.open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise NoLink(os.strerror(ctypes.get_errno()))
    return socket.socket(socket.AF_INET, kind)
