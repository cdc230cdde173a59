"""A trainer's process as its worker sees it: what it says, and what it prints."""

import asyncio
import contextlib
import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from client_fn.trainer import group
from client_fn.trainer.running import Running
from client_fn.training import packets

OUTPUT_BYTES: Final = 4096
LINES: Final = 5

END_S: Final = 5.0
"""How long the end of a killed process may take."""

SETTLE_S: Final = 0.02
SETTLES: Final = 50

Packet = tuple[dict[str, Any], dict[str, int]]
"""Facts, and descriptors by name."""


@dataclass
class Child:
    """A child with the tasks that read what it says and prints.

    Attributes:
        running: the process.
        packets: what it has said; None: no more will come.
        printed: the end of what it has printed since the last order began.
        printed_bytes: how much it has printed.
        is_damaged: whether it has sent something that is no packet.
        look_s: when its memory is to be looked at next, by the event loop's clock.
        order: name of its last order. Nobody can guess it, so a model can forge no answer to a later one.
        is_prepared: whether it has imported torch's compiler.
    """

    running: Running
    packets: asyncio.Queue[Packet | None] = field(default_factory=asyncio.Queue)
    printed: bytearray = field(default_factory=bytearray)
    printed_bytes: int = 0
    is_damaged: bool = False
    look_s: float = 0.0
    order: str = ""
    is_prepared: bool = False
    _printing: asyncio.Task[None] | None = None

    def attach(self) -> None:
        """Begin to read what it says and prints."""
        asyncio.get_running_loop().add_reader(self.running.channel, self._receive)
        self._printing = asyncio.create_task(self._print(), name=f"output of trainer {self.running.process.pid}")

    def begin(self, look_in_s: float) -> None:
        """Begin a new order. What was printed before may hold another client's data, and is forgotten.

        Args:
            look_in_s: when the memory is to be looked at first. Seconds.
        """
        self.order = uuid.uuid4().hex
        self.printed.clear()
        self.look_s = asyncio.get_running_loop().time() + look_in_s

    async def lines(self) -> tuple[str, ...]:
        """Return the last lines that it has printed by now."""
        for _ in range(SETTLES):
            before = self.printed_bytes
            await asyncio.sleep(SETTLE_S)
            if self.printed_bytes == before:
                break
        text = self.printed.decode(errors="replace")
        return tuple(line.strip() for line in text.splitlines() if line.strip())[-LINES:]

    async def end(self) -> None:
        """Kill it and everything that it has started."""
        running = self.running
        asyncio.get_running_loop().remove_reader(running.channel)
        running.channel.close()
        while not self.packets.empty():
            _, files = self.packets.get_nowait() or ({}, {})
            close(files)
        await asyncio.to_thread(group.end, running.process.pid, running.mark)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await running.process.wait()
        running.process.close()
        if self._printing is not None:
            self._printing.cancel()
            await asyncio.wait({self._printing})

    def _receive(self) -> None:
        """Put the next packet into the queue, or None at the end of the channel or after garbage."""
        try:
            packet, descriptors, _, _ = socket.recv_fds(self.running.channel, packets.PACKET_BYTES, packets.FILES)
        except BlockingIOError:
            return
        except OSError:
            packet, descriptors = b"", []
        try:
            self.packets.put_nowait(packets.parse(packet, descriptors) if packet else None)
        except ValueError:
            self.is_damaged = True
            self.packets.put_nowait(None)
        if not packet or self.is_damaged:
            asyncio.get_running_loop().remove_reader(self.running.channel)

    async def _print(self) -> None:
        """Pass on what the child prints to this process's standard error, and keep the end of it."""
        stdout = self.running.process.stdout
        while stdout is not None and (part := await stdout.read(1 << 16)):
            self.printed = (self.printed + part)[-OUTPUT_BYTES:]
            self.printed_bytes += len(part)
            # Not through `sys.stderr`: a platform may have put an object there that takes no bytes.
            with contextlib.suppress(OSError):
                os.write(2, part)


def close(files: Mapping[str, int]) -> None:
    """Close the descriptors that came with a packet."""
    for descriptor in files.values():
        os.close(descriptor)
