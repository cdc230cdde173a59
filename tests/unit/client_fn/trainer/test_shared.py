"""Memory for a trainer can't be changed by it; what a trainer wrote is read whole, or refused."""

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from client_fn.trainer import shared
from client_fn.trainer.shared import SharedBytes

CONTENT = b"the global model" * 1000


@pytest.fixture
def memory() -> SharedBytes:
    return SharedBytes(CONTENT)


def in_a_child(attempt: Callable[[], object]) -> str:
    """Return the name of the error that an attempt raises in another process."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            attempt()
            os.write(writer, b"none")
        except OSError as exc:
            os.write(writer, type(exc).__name__.encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as answer:
        return answer.read().decode()


@pytest.mark.parametrize(
    "attempt",
    [
        lambda descriptor: os.pwrite(descriptor, b"mine", 0),
        lambda descriptor: os.pwrite(descriptor, b"more", len(CONTENT)),
        lambda descriptor: os.ftruncate(descriptor, 10),
        lambda descriptor: os.ftruncate(descriptor, 10**6),
        lambda descriptor: mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_WRITE | mmap.PROT_READ),
        lambda descriptor: os.write(os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR), b"mine"),
    ],
    ids=["write", "append", "shrink", "grow", "map", "reopen"],
)
def test_a_child_can_neither_write_nor_resize(memory: SharedBytes, attempt: Callable[[int], object]) -> None:
    assert in_a_child(lambda: attempt(memory.descriptor)) == "PermissionError"
    assert shared.read(memory.descriptor, memory.size) == CONTENT


def test_a_child_can_map_it_for_reading(memory: SharedBytes) -> None:
    assert mmap.mmap(memory.descriptor, 0, mmap.MAP_PRIVATE, mmap.PROT_READ)[:] == CONTENT


def test_the_descriptor_is_closed_with_the_object_and_not_inherited() -> None:
    memory = SharedBytes(b"x")
    descriptor = memory.descriptor
    assert not os.get_inheritable(descriptor)
    del memory
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize("content", [b"", bytearray(b"abc"), memoryview(b"abc")])
def test_every_kind_of_bytes_can_be_shared(content: bytes) -> None:
    memory = SharedBytes(content)
    assert shared.read(memory.descriptor, 3) == bytes(content)
    assert memory.size == len(content)


def test_only_a_little_memory_is_read_quickly(memory: SharedBytes, tmp_path: Path) -> None:
    """Whatever is no memory may block: a pipe, or a file of a file system that does not answer."""
    reader, writer = os.pipe()
    (tmp_path / "file").write_bytes(b"x")
    file = os.open(tmp_path / "file", os.O_RDONLY)
    large = os.memfd_create("answer")
    os.ftruncate(large, 17 << 20)
    plain = os.memfd_create("answer")
    assert shared.is_quick([])
    assert shared.is_quick([memory.descriptor, plain])
    assert not any(shared.is_quick([plain, slow]) for slow in (reader, file, large))
    for descriptor in (reader, writer, file, large, plain):
        os.close(descriptor)


def test_a_large_answer_is_refused_before_it_is_read() -> None:
    descriptor = os.memfd_create("answer")
    os.ftruncate(descriptor, 10**12)
    with pytest.raises(ValueError, match="1000000000000 bytes, at most 100 are accepted"):
        shared.read(descriptor, 100)
    os.close(descriptor)


def test_an_answer_that_shrinks_meanwhile_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = os.memfd_create("answer")
    os.write(descriptor, b"0123456789")
    monkeypatch.setattr(os, "pread", lambda *_: b"")
    assert shared.read(descriptor, 100) == b""
    os.close(descriptor)
