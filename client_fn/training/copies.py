"""The fork server's loop: a process that has imported torch makes copies of itself, each of which is a trainer.

It runs nothing of the user's, and never uses CUDA, which could not be used after a fork.
"""

import ctypes
import json
import os
import signal
import socket
from typing import NamedTuple

from client_fn.training import descendants

REQUEST_BYTES = 1 << 16
DESCRIPTORS = 4
PATIENCE_S = 5.0
"""How long a connection may take to send its request."""

MARK = "FEDKEEPER_TRAINER"
"""As `client_fn.trainer.group.MARK`, by which a trainer and its descendants are found."""


class Copy(NamedTuple):
    """What a copy is to do.

    Attributes:
        channel: descriptor of the socket to the worker.
        memory_mb: limit of its memory, in MiB; 0: none.
        folders: the user's code.
    """

    channel: int
    memory_mb: int
    folders: list[str]


def serve(listener: socket.socket, environment: str) -> Copy:
    """Make a copy of this process for each request. Returns in the copies only.

    Args:
        listener: workers connect to it. Each sends one request, with descriptors beside it: its end of the channel,
            the copy's output, a pipe for the copy's exit code, and one that stands for the worker's process.
        environment: digest of this process's environment; a request for another one is refused.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for copies: each tells its worker how it ends
    os.write(1, b"ready\n")  # for the process that has started this one
    while True:
        connection, _ = listener.accept()
        with connection:
            copy = _answer(connection, listener, environment)
            if copy is not None:
                return copy


def _answer(connection: socket.socket, listener: socket.socket, environment: str) -> "Copy | None":
    """Make the copy that a worker asks for. Returns None in this process, also for what is no request."""
    received = _received(connection, environment)
    if received is None:
        return None
    copy, mark, descriptors = received
    if os.fork() == 0:
        listener.close()
        _become(mark, connection, descriptors)
        return copy
    _close(descriptors)
    return None


def _received(connection: socket.socket, environment: str) -> "tuple[Copy, bytes, list[int]] | None":
    """Return what the copy is to do, its mark and all descriptors; None: others of this user may connect, too."""
    connection.settimeout(PATIENCE_S)
    descriptors: list[int] = []
    try:
        packet, descriptors, _, _ = socket.recv_fds(connection, REQUEST_BYTES, DESCRIPTORS)
        request = json.loads(packet)
        copy = Copy(descriptors[0], int(request["memory_mb"]), [str(folder) for folder in request["folders"]])
        mark = request["mark"].encode()
        is_known = request["environment"] == environment
        if is_known and len(descriptors) == DESCRIPTORS and len(mark) == len(os.environ[MARK]):
            return copy, mark, descriptors
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        pass
    _close(descriptors)
    return None


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _become(mark: bytes, connection: socket.socket, descriptors: list[int]) -> None:
    """Make this copy what a new process would be: a session of its own, marked, with a process above it."""
    channel, output, ended, worker = descriptors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    mark_process(mark)
    os.environ[MARK] = mark.decode()
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    # Only now can the worker find this process, by its mark.
    connection.send(json.dumps({"pid": os.getpid()}).encode())
    connection.close()
    descendants.keep_a_process_above(channel, worker=worker, ended=ended)


def mark_process(mark: bytes) -> None:
    """Replace the mark that others read in `/proc/PID/environ`, which shows the memory that this process began with.

    Args:
        mark: as long as the mark that this process has.
    """
    prefix = MARK.encode() + b"="
    variables = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
    for number in range(len(os.environ) + 1):
        address = variables[number]
        if not address:
            break
        text = ctypes.string_at(address)
        if text.startswith(prefix) and len(text) == len(prefix) + len(mark):
            ctypes.memmove(address + len(prefix), mark, len(mark))
            return
    raise ValueError("this process has no mark")
