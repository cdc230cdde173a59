"""A trainer's process as its worker sees it: what it says, and what it prints."""

import asyncio
import socket
import sys
from dataclasses import dataclass, field
from typing import Any, Final

from client_fn.trainer.launch import Running
from client_fn.training import packets

OUTPUT_BYTES: Final = 4096
LINES: Final = 5


@dataclass
class Child:
    """A child with the tasks that read what it says and prints."""

    running: Running
    packets: asyncio.Queue[tuple[dict[str, Any], dict[str, int]] | None] = field(default_factory=asyncio.Queue)
    printed: bytearray = field(default_factory=bytearray)
    is_damaged: bool = False

    @property
    def lines(self) -> tuple[str, ...]:
        """The last lines that it has printed."""
        text = self.printed.decode(errors="replace")
        return tuple(line.strip() for line in text.splitlines() if line.strip())[-LINES:]

    def receive(self) -> None:
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

    async def print(self) -> None:
        """Pass on what the child prints to this process's standard error, and keep the end of it."""
        stdout = self.running.process.stdout
        while stdout is not None and (part := await stdout.read(1 << 16)):
            self.printed = (self.printed + part)[-OUTPUT_BYTES:]
            sys.stderr.buffer.write(part)
            sys.stderr.buffer.flush()
