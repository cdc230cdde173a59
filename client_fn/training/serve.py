"""The trainer's loop: one order after the other, each in a process of its own where that is possible.

Every order with a model of the user's runs in a forked copy of this process, which has torch and the user's module
imported and has trained nothing. So whatever one client's task leaves behind (counters, globals, threads, memory) ends
with it. CUDA can't be used after a fork if it was used before, so this process never uses it; if the user's module does
at its import, orders run in this process, and the module alone is new for each.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from client_fn.errors import BadSettings, LeaseOver, UserCodeFailed
from client_fn.training import models, orders, packets, tracebacks, work
from client_fn.training.orders import Order

# The numbers of prctl(2).
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

ALIVE_S = 1.0
"""How often the worker hears that batches are done. Seconds."""


def serve(channel: socket.socket) -> None:
    """Do orders until the worker closes the channel or ends.

    Args:
        channel: to the worker.
    """
    # Orphans of an order become children of this process, which ends them.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    packets.send(channel, {"say": "ready"})
    while True:
        received = packets.receive(channel)
        if received is None:
            return
        facts, contents = received
        if facts["ask"] == "installed":
            packets.send(channel, {"say": "done"}, {"installed": _installed()})
            continue
        order = orders.decode(contents.pop("order"))
        if not _import_model(channel, order):
            continue
        if _may_fork(order):
            _do_in_a_copy(channel, order, contents)
        else:
            _do(channel, order, contents)


def limit_memory(megabytes: int) -> None:
    """Limit what this process and its copies may allocate. An allocation above it is an error in the user's code.

    Args:
        megabytes: MiB. The limit does not hold for memory of a GPU or mapped files; the worker watches the rest.
    """
    size = megabytes << 20
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _may_fork(order: Order) -> bool:
    return sys.platform == "linux" and order.model.type not in models.BUILT_IN and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]


def _import_model(channel: socket.socket, order: Order) -> bool:
    """Import the model's module before any copy is made, so that it is imported once."""
    try:
        models.find(order.model.type)
    except UserCodeFailed as exc:
        packets.send(channel, _failure(exc))
        return False
    return True


def _do_in_a_copy(channel: socket.socket, order: Order, contents: Mapping[str, bytes]) -> None:
    """Do an order in a copy of this process, wait for its end and say how it ended."""
    parent = os.getpid()
    child = os.fork()
    if not child:
        # A group of its own, so that what the user's code has started ends with it.
        os.setpgid(0, 0)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        code = 1
        try:
            if os.getppid() == parent:
                _do(channel, order, contents)
                code = 0
        finally:
            os._exit(code)
    code = _wait(channel, child)
    _end_orphans()
    if code:
        packets.send(channel, {"say": "ended", "code": code})


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


def _end_orphans() -> None:
    """Kill what the user's code has started and left running."""
    with contextlib.suppress(ChildProcessError):
        while True:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
            for stat in Path("/proc").glob("[0-9]*/stat"):
                with contextlib.suppress(OSError, ValueError, IndexError):
                    # The second field is the program's name in parentheses and may hold anything (proc(5)).
                    if int(stat.read_text(errors="replace").rpartition(")")[2].split()[1]) == os.getpid():
                        os.kill(int(stat.parent.name), signal.SIGKILL)
            os.waitpid(-1, 0)


def _wait(channel: socket.socket, child: int) -> int:
    """Wait for a copy's end and return its exit code. If the worker ends first, end everything."""
    if not hasattr(os, "pidfd_open"):
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ended = os.pidfd_open(child)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(channel, select.POLLRDHUP)
    if any(file != ended for file, _ in poll.poll()):
        os.killpg(child, signal.SIGKILL)
        os._exit(1)
    os.close(ended)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _do(channel: socket.socket, order: Order, contents: Mapping[str, bytes]) -> None:
    """Do an order and send its answer."""
    said_s = time.monotonic()

    def say(what: str) -> None:
        nonlocal said_s
        now_s = time.monotonic()
        if what != "alive" or now_s - said_s > ALIVE_S:
            said_s = now_s
            packets.send(channel, {"say": what})

    try:
        facts, files = work.do(order, contents, say)
    except (UserCodeFailed, BadSettings, LeaseOver) as exc:
        packets.send(channel, _failure(exc))
    except (Exception, SystemExit) as exc:  # noqa: BLE001 (the outermost loop: user code may raise any error)
        packets.send(channel, _failure(UserCodeFailed("the model failed", **tracebacks.explain(exc)._asdict())))
    else:
        packets.send(channel, {"say": "done", "facts": facts}, files)


def _failure(exc: Exception) -> dict[str, Any]:
    if isinstance(exc, UserCodeFailed):
        facts = {"sentence": exc.sentence, "cause": exc.cause, "where": exc.where, "text": exc.text}
    else:
        facts = {"sentence": str(exc), "cause": "", "where": "", "text": ""}
    return {"say": "failed", "error": type(exc).__name__, "facts": facts}


def _installed() -> bytes:
    names = {found.metadata["Name"]: found.version for found in metadata.distributions() if found.metadata["Name"]}
    return json.dumps(names).encode()
