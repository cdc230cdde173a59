"""The fork server's loop: a process that has imported torch makes copies of itself, each of which is a trainer.

It runs nothing of the user's, and never uses CUDA, which could not be used after a fork.
"""

import ctypes
import json
import os
import select
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import NamedTuple

from client_fn.training import descendants

REQUEST_BYTES = 1 << 16
PATIENCE_S = 1.0
"""How long a connection may take to send its request, which a worker does at once."""

MARK = "FEDKEEPER_TRAINER"
"""As `client_fn.trainer.group.MARK`, by which a trainer and its descendants are found."""

_CREDENTIALS = struct.Struct("3i")
"""`struct ucred` of unix(7): process, user and group."""


class Descriptors(NamedTuple):
    """What lies beside a request, in this order.

    Attributes:
        channel: the copy's end of the socket to the worker.
        output: the copy's standard output and error.
        ended: a pipe for the copy's exit code.
    """

    channel: int
    output: int
    ended: int


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


class _Request(NamedTuple):
    copy: Copy
    mark: bytes
    descriptors: Descriptors


def serve(listener: socket.socket, environment: str) -> Copy:
    """Make a copy of this process for each request. Returns in the copies only. Ends with the end of standard input.

    Args:
        listener: workers connect to it, and each sends one request with `Descriptors`.
        environment: digest of this process's environment; a request for another one is refused.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for copies: each tells its worker how it ends
    os.write(1, b"ready\n")  # for the process that has started this one
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(0, select.POLLIN)  # a program between this one and its starter does not pass on that it has ended
    while True:
        if any(descriptor == 0 for descriptor, _ in poll.poll()):
            sys.exit(0)
        connection, _ = listener.accept()
        with connection:
            copy = _answer(connection, listener, environment)
            if copy is not None:
                return copy


def _answer(connection: socket.socket, listener: socket.socket, environment: str) -> "Copy | None":
    """Make the copy that a worker asks for. Returns None in this process, also if there is none."""
    request, worker = _received(connection, environment), _worker_of(connection)
    if request is not None and worker is not None and _fork() == 0:
        listener.close()
        _become(request, connection, worker)
        return request.copy
    _close([*([] if request is None else request.descriptors), *([] if worker is None else [worker])])
    return None


def _received(connection: socket.socket, environment: str) -> "_Request | None":
    """Return a worker's request; None: it is none, as others of this user may connect, too."""
    connection.settimeout(PATIENCE_S)
    descriptors: list[int] = []
    try:
        packet, descriptors, _, _ = socket.recv_fds(connection, REQUEST_BYTES, len(Descriptors._fields))
        request, beside = json.loads(packet), Descriptors(*descriptors)
        copy = Copy(beside.channel, int(request["memory_mb"]), [str(folder) for folder in request["folders"]])
        mark = request["mark"].encode()
        if request["environment"] == environment and len(mark) == len(os.environ[MARK]):
            return _Request(copy, mark, beside)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        pass
    _close(descriptors)
    return None


def _worker_of(connection: socket.socket) -> "int | None":
    """Return a descriptor of the process at the other end; None: it is below this one, or has ended.

    A trainer that asked for a copy would get one that ends with somebody else, and has another limit of memory.
    """
    try:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        process = _CREDENTIALS.unpack(credentials)[0]
        worker = os.pidfd_open(process)
    except OSError:
        return None
    if not _is_below(process):
        return worker
    os.close(worker)
    return None


def _is_below(process: int) -> bool:
    """Return whether a process is a descendant of this one."""
    try:
        while process > 1 and process != os.getpid():
            # The second field is the program's name in parentheses and may hold anything (proc(5)).
            process = int(Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return True
    return process == os.getpid()


def _fork() -> int:
    """Fork; -1 if there is no room for another process."""
    try:
        return os.fork()
    except OSError:
        return -1


def _close(descriptors: "list[int]") -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _become(request: _Request, connection: socket.socket, worker: int) -> None:
    """Make this copy what a new process would be: a session of its own, marked, with a process above it."""
    channel, output, ended = request.descriptors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    mark_process(request.mark)
    os.environ[MARK] = request.mark.decode()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, number in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, number)
    _close([nothing, output])
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
