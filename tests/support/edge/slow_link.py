"""A link that delays and loses packets, for kernels without netem: two tun interfaces, and this process between them.

`python slow_link.py <first interface> <second interface> <delay per direction in s> <share of lost packets>`
"""

import contextlib
import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque
from typing import Final

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_PACKET_BYTES: Final = 65_536


def _opened(name: str) -> int:
    """A new tun interface."""
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return end


def _carry(ends: tuple[int, int], delay_s: float, loss: float) -> None:
    """Copy packets from each end to the other until the process is killed."""
    generator = random.Random(1)  # noqa: S311 (which packets are lost is no secret)
    across = dict(zip(ends, reversed(ends), strict=True))
    # All packets have the same delay, so they leave in the order of their arrival.
    packets: deque[tuple[float, int, bytes]] = deque()
    while True:
        wait_s = max(0.0, packets[0][0] - time.monotonic()) if packets else None
        for end in select.select(ends, (), (), wait_s)[0]:
            packet = os.read(end, _PACKET_BYTES)
            if generator.random() >= loss:
                packets.append((time.monotonic() + delay_s, across[end], packet))
        while packets and packets[0][0] <= time.monotonic():
            _, end, packet = packets.popleft()
            with contextlib.suppress(OSError):  # an interface that is down loses the packet
                os.write(end, packet)


if __name__ == "__main__":
    pair = _opened(sys.argv[1]), _opened(sys.argv[2])
    print("ready", flush=True)  # noqa: T201 (the parent process waits for this line)
    _carry(pair, float(sys.argv[3]), float(sys.argv[4]))
