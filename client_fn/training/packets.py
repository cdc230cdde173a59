"""The packets between a worker and its trainer: small JSON texts on a Unix socket, and files beside them.

A packet is either whole or lost (SOCK_SEQPACKET, unix(7)), so garbage that user code writes into the socket is a packet
that can't be decoded, and nothing else is damaged. Files lie in memory (memfd_create(2)).
"""

import json
import mmap
import os
import socket
from collections.abc import Container, Mapping
from typing import Any

Content = bytes | mmap.mmap

MAP_ABOVE = 1 << 20
"""Larger files are mapped and not copied. Bytes."""

PACKET_BYTES = 1 << 16

TEXT_BYTES = 1 << 14
"""A longer text is a file beside the packet. JSON in JSON takes up to twice its length."""

FILES = 253
"""Most files beside one packet (SCM_MAX_FD, unix(7))."""


def make(facts: Mapping[str, Any], files: Mapping[str, int] | None = None) -> tuple[bytes, list[int]]:
    """Return a packet and the descriptors beside it.

    Args:
        facts: for JSON.
        files: descriptors by name.
    """
    named = dict(files or {})
    return json.dumps({**facts, "files": list(named)}).encode(), list(named.values())


def parse(packet: bytes, descriptors: list[int]) -> tuple[dict[str, Any], dict[str, int]]:
    """Return a packet's facts, and its descriptors by name.

    Args:
        packet: as received.
        descriptors: beside it.

    Raises:
        ValueError: it is no packet; the descriptors are closed.
    """
    try:
        facts = json.loads(packet)
        names = facts.pop("files")
        if all(isinstance(name, str) for name in names) and len({*names}) == len(names) == len(descriptors):
            return facts, dict(zip(names, descriptors))  # noqa: B905 (equally long)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    for descriptor in descriptors:
        os.close(descriptor)
    raise ValueError("no packet")


def send(channel: socket.socket, facts: Mapping[str, Any], files: Mapping[str, bytes] | None = None) -> None:
    """Send a packet, and files from memory beside it. Blocks.

    Args:
        channel: a blocking socket.
        facts: for JSON.
        files: contents by name.
    """
    descriptors = {name: _in_memory(content) for name, content in (files or {}).items()}
    try:
        packet, beside = make(facts, descriptors)
        socket.send_fds(channel, [packet], beside)
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def receive(
    channel: socket.socket, left_open: Container[str] = ()
) -> tuple[dict[str, Any], dict[str, Content], dict[str, int]] | None:
    """Return the next packet's facts, the contents of its files, and the descriptors of those that stay open. Blocks.

    None: the other side has closed.

    Args:
        channel: a blocking socket.
        left_open: names of files that are not read, also behind `<number>/`. The caller closes them.

    Raises:
        ValueError: it is no packet.
    """
    packet, descriptors, _, _ = socket.recv_fds(channel, PACKET_BYTES, FILES)
    if not packet:
        return None
    facts, files = parse(packet, descriptors)
    opened = {name: descriptor for name, descriptor in files.items() if name.rpartition("/")[2] in left_open}
    return facts, {name: _read(files[name]) for name in files if name not in opened}, opened


def _read(descriptor: int) -> Content:
    """Return the content of a file, and close it. The position is not used, because several trainers share it."""
    try:
        size = os.fstat(descriptor).st_size
        if size <= MAP_ABOVE:
            return os.pread(descriptor, size, 0)
        # Private: what is written here stays here, page by page. Nothing else is copied.
        return mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE)
    finally:
        os.close(descriptor)


def _in_memory(content: bytes) -> int:
    descriptor = os.memfd_create("fedkeeper", os.MFD_CLOEXEC)
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
    return descriptor
