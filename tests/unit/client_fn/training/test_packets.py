"""Packets arrive as they were sent; what is no packet is refused, and no descriptor stays open because of it."""

import mmap
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from client_fn.training import packets

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Both ends of a channel."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def descriptors() -> Iterator[list[int]]:
    """Two open files."""
    opened = [os.memfd_create("test") for _ in range(2)]
    yield opened
    for descriptor in opened:
        with suppress(OSError):
            os.close(descriptor)


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_facts_and_files_arrive(pair: Pair) -> None:
    packets.send(pair[0], {"say": "done", "order": "ab"}, {"a": b"first", "b": b""})
    assert packets.receive(pair[1]) == ({"say": "done", "order": "ab"}, {"a": b"first", "b": b""}, {})


def test_two_packets_stay_two(pair: Pair) -> None:
    packets.send(pair[0], {"say": "a"})
    packets.send(pair[0], {"say": "b"})
    assert [packets.receive(pair[1]), packets.receive(pair[1])] == [({"say": "a"}, {}, {}), ({"say": "b"}, {}, {})]


def test_the_end_of_the_channel_is_none(pair: Pair) -> None:
    pair[0].close()
    assert packets.receive(pair[1]) is None


def test_a_file_is_read_from_its_beginning_wherever_its_position_is(pair: Pair, descriptors: list[int]) -> None:
    """Several trainers get the same file, and with it the same position."""
    os.write(descriptors[0], b"shared")
    packet, beside = packets.make({}, {"weights": descriptors[0]})
    socket.send_fds(pair[0], [packet], beside)
    assert packets.receive(pair[1]) == ({}, {"weights": b"shared"}, {})
    assert os.lseek(descriptors[0], 0, os.SEEK_CUR) == len(b"shared")


def test_a_large_file_is_mapped_and_what_is_written_into_it_stays_here(pair: Pair) -> None:
    content = bytes(packets.MAP_ABOVE) + b"end"
    file = os.memfd_create("test")
    os.write(file, content)
    for _ in range(2):
        packet, beside = packets.make({}, {"shard": file})
        socket.send_fds(pair[0], [packet], beside)
        received = packets.receive(pair[1])
        assert received is not None
        mapped = received[1]["shard"]
        assert isinstance(mapped, mmap.mmap)
        assert mapped[:] == content
        mapped[0] = 1
        mapped.close()
    os.close(file)


def test_nothing_stays_open_on_either_side(pair: Pair) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    packets.send(pair[0], {}, {"a": b"x"})
    packets.receive(pair[1])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    "packet",
    [
        b"garbage",
        b"\xff\xfe",
        b"[" * 50_000,
        b"[]",
        b"7",
        b"{}",
        b'{"files": 2}',
        b'{"files": null}',
        b'{"files": ["a"]}',
        b'{"files": ["a", "b", "c"]}',
        b'{"files": ["a", 1]}',
        b'{"files": ["a", "a"]}',
        b'{"files": ["a", ["b"]]}',
        b"9" * 5000,
    ],
)
def test_what_is_no_packet_is_refused_and_its_files_are_closed(packet: bytes, descriptors: list[int]) -> None:
    with pytest.raises(ValueError, match="no packet"):
        packets.parse(packet, descriptors)
    assert not any(map(is_open, descriptors))


def test_a_file_that_is_left_open_is_not_read(pair: Pair) -> None:
    packets.send(pair[0], {}, {"weights": b"read", "shard": b"open"})
    received = packets.receive(pair[1], left_open=("shard",))
    assert received is not None
    facts, contents, opened = received
    assert (facts, contents, list(opened)) == ({}, {"weights": b"read"}, ["shard"])
    assert Path(f"/proc/self/fd/{opened['shard']}").read_bytes() == b"open"
    os.close(opened["shard"])
