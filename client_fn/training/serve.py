"""The trainer's loop: one order after the other, each in a process of its own where that is possible.

Every order with code of the user's runs in a forked copy of this process, which has torch and the user's module
imported and has trained nothing. So whatever one client's task leaves behind (counters, globals, threads, memory) ends
with it. CUDA can't be used after a fork if it was used before, so this process never uses it; if the user's module does
at its import, orders run in this process, and the module alone is new for each.
"""

import contextlib
import functools
import importlib
import json
import os
import platform
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any

import torch

from client_fn.errors import BadData, BadSettings, LeaseOver, UserCodeFailed
from client_fn.training import (
    context,
    descendants,
    device,
    graphs,
    learner,
    losses,
    metrics,
    models,
    orders,
    packets,
    processor,
    together,
    torchmetrics_meters,
    tracebacks,
    work,
)
from client_fn.training.orders import Build, Evaluate, Export, Look, Order, Score, Together, Train
from client_fn.training.source import path_of

ALIVE_S = 1.0
"""How often the worker hears that batches are done. Seconds."""

QUICK_BYTES = 16 << 20
"""Most bytes of an order that is done at once. The worker waits seconds until it hears that an order is taken."""


class Answers:
    """Sends what the worker hears about one order.

    Args:
        channel: to the worker.
        order: the order's name. By it the worker knows a late packet about an earlier order.

    Attributes:
        is_quick: whether the order is done at once.
    """

    def __init__(self, channel: socket.socket, order: str) -> None:
        self.is_quick = False
        self._channel = channel
        self._order = order
        self._said_s = time.monotonic()

    def say(self, what: str, **facts: Any) -> None:
        """Say something short. `alive` is not repeated within `ALIVE_S`; a quick order has its answer alone."""
        now_s = time.monotonic()
        if not self.is_quick and (what != "alive" or now_s - self._said_s > ALIVE_S):
            self._said_s = now_s
            packets.send(self._channel, {"say": what, "order": self._order, **facts})

    def done(self, facts: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Send the answer. Its facts may be longer than a packet: a model may have thousands of names."""
        self._send("done", facts, files)

    def failed(self, exc: Exception) -> None:
        """Send an error instead of an answer."""
        if isinstance(exc, UserCodeFailed):
            facts = {"sentence": exc.sentence, "cause": exc.cause, "where": exc.where, "text": exc.text}
        elif isinstance(exc, BadData):
            facts = {"sentence": exc.message(reveal=False), "cause": "", "where": exc.where, "text": exc.content}
        else:
            facts = {"sentence": str(exc), "cause": "", "where": "", "text": ""}
        self._send("failed", {"error": type(exc).__name__, **facts}, {})

    def _send(self, what: str, facts: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        said, text = {"say": what, "order": self._order}, json.dumps(facts)
        if len(text) > packets.TEXT_BYTES:
            files = {"facts": text.encode(), **files}
        else:
            said["facts"] = text
        packets.send(self._channel, said, files)


def serve(channel: socket.socket) -> None:
    """Do orders until the worker closes the channel or ends.

    Args:
        channel: to the worker.
    """
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the worker waits for nothing any more
        _serve_orders(channel)


def _serve_orders(channel: socket.socket) -> None:
    # Orphans of an order become children of this process, which ends them.
    if sys.platform == "linux":
        descendants.adopt_orphans()
    Answers(channel, "").say("ready")
    while True:
        received = packets.receive(channel, left_open=(orders.SHARD,))
        if received is None:
            return
        facts, contents, opened = received
        answers, order = Answers(channel, facts["order"]), None
        if facts["ask"] == "order":
            order = orders.decode(facts.get("text") or bytes(contents.pop("order")))
            answers.is_quick = _is_quick(order, contents)
        answers.say("taken")
        if order is not None:
            _serve_order(channel, answers, order, contents, opened)
        elif facts["ask"] == "installed":
            answers.done({"python": platform.python_version()}, {"installed": _installed()})
        elif facts["ask"] == "prepare":
            _import_compiler()
            answers.done({}, {})
        elif facts["ask"] == "try":
            # A copy, because CUDA can't be used after a fork if it was used before.
            _run_in_a_copy(channel, answers, functools.partial(_try_device, answers, facts["device"]))
        if graphs.has_harmed_the_process():
            return  # the worker starts another trainer for its next order


def _is_quick(order: Order | Look | Together, contents: Mapping[str, packets.Content]) -> bool:
    """Return whether an order is done at once: it runs nothing of the user's, trains nothing and is small."""
    if not isinstance(order, Train) or order.training is not None or orders.of_the_user(order):
        return False
    return order.device == "cpu" and sum(map(len, contents.values())) <= QUICK_BYTES


def _serve_order(
    channel: socket.socket,
    answers: Answers,
    order: Order | Look | Together,
    contents: Mapping[str, packets.Content],
    opened: Mapping[str, int],
) -> None:
    """Do an order: here, or in a copy of this process if the user's code or a look at a file may leave anything.

    Args:
        channel: to the worker.
        answers: to this order.
        order: the order.
        contents: its files.
        opened: descriptors of the files that came open.
    """
    with _shard_opened(order, opened) as placed:
        if orders.compiles(placed):
            _import_compiler()
        if isinstance(placed, Look):
            torch.set_num_threads(1)
        elif not _import_all(answers, placed):
            return
        doing = functools.partial(_do, answers, placed, contents)
        if isinstance(placed, Look) or orders.of_the_user(placed):
            _run_in_a_copy(channel, answers, doing)
        else:
            doing()


@contextlib.contextmanager
def _shard_opened(order: Order | Look | Together, opened: Mapping[str, int]) -> Iterator[Order | Look | Together]:
    """Give an order the path of the open file with the samples, and close that after the order."""
    try:
        if isinstance(order, Together):
            named = [opened.get(orders.of_member(number, orders.SHARD)) for number in range(len(order.members))]
            members = zip(order.members, named)  # noqa: B905 (equally long)
            yield order._replace(members=tuple(_at(member, file) for member, file in members))
        elif isinstance(order, Build | Train | Evaluate | Export | Look):
            yield _at(order, opened.get(orders.SHARD))
        else:
            yield order
    finally:
        for descriptor in opened.values():
            os.close(descriptor)


def _at(order: Any, shard: int | None) -> Any:
    """Return an order with the path of an open file of samples; None: it brings none."""
    return order if shard is None else order._replace(source=order.source._replace(path=path_of(shard)))


def limit_memory(megabytes: int) -> None:
    """Limit what this process and its copies may allocate. An allocation above it is an error in the user's code.

    Args:
        megabytes: MiB. The limit does not hold for memory of a GPU or mapped files; the worker watches the rest.
    """
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, most))


def _lift_limit() -> None:
    """Lift the limit of memory. It would count what CUDA reserves and does not use."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _import_compiler() -> None:
    """Import torch's compiler: two seconds that no copy of this process should spend."""
    importlib.import_module("torch._dynamo")


def _import_all(answers: Answers, order: Order | Together) -> bool:
    """Import the user's modules, and libraries, before any copy is made, so that they are imported once."""
    if isinstance(order, Together):
        return _import_all(answers, order.members[0])
    try:
        models.find(order.model.type)
        if order.learner.type:
            learner.find(order.learner.type)
        if order.training is not None and ":" in order.training.loss:
            losses.find(order.training.loss)
        if isinstance(order, Evaluate | Score):
            torchmetrics_meters.prepare(order.evaluation.metrics)
        for metric in order.evaluation.metrics:
            if ":" in metric:
                metrics.find(metric)
    except UserCodeFailed as exc:
        answers.failed(exc)
        return False
    # A copy of a process that has used several threads would wait forever for those that it does not have.
    torch.set_num_threads(1)
    return True


def _run_in_a_copy(channel: socket.socket, answers: Answers, work: Callable[[], None]) -> None:
    """Do work in a copy of this process if it may be copied; wait for its end and say how it ended, after its answer.

    Args:
        channel: to the worker.
        answers: hears how the copy ended.
        work: answers the worker.
    """
    if sys.platform != "linux" or torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        work()
        return
    # What the user's module has started when it was imported belongs to every order.
    kept = descendants.children()
    parent = os.getpid()
    child = os.fork()
    if not child:
        code = 1
        try:
            # A group of its own, so that what the user's code has started ends with it.
            os.setpgid(0, 0)
            descendants.end_with_parent(parent)
            work()
            code = 0
        finally:
            os._exit(code)
    code = _wait(channel, child)
    descendants.end_orphans(kept)
    context.delete_scratch(child)
    answers.say("ended", code=code)


def _wait(channel: socket.socket, child: int) -> int:
    """Wait for a copy's end and return its exit code. If the worker ends first, end everything."""
    if not hasattr(os, "pidfd_open"):
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ended = os.pidfd_open(child)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(channel, select.POLLRDHUP)
    if any(file != ended for file, _ in poll.poll()):
        os.kill(child, signal.SIGKILL)
        os._exit(1)
    os.close(ended)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _try_device(answers: Answers, name: str) -> None:
    """Try a device, and answer what it is."""
    _lift_limit()
    try:
        answers.done({"device": device.try_device(name), "processor": processor.name(name)}, {})
    except BadSettings as exc:
        answers.failed(exc)


def _do(answers: Answers, order: Order | Look | Together, contents: Mapping[str, packets.Content]) -> None:
    """Do an order and send its answer."""
    if isinstance(order, Train | Evaluate | Together) and order.device != "cpu":
        _lift_limit()
    try:
        if isinstance(order, Together):
            facts, files = together.do(order, contents, answers.say)
        else:
            facts, files = work.do(order, contents, answers.say)
    except (UserCodeFailed, BadData, BadSettings, LeaseOver) as exc:
        answers.failed(exc)
    except (Exception, SystemExit) as exc:  # noqa: BLE001 (the outermost loop: user code may raise any error)
        answers.failed(UserCodeFailed("the model failed", **tracebacks.explain(exc)._asdict()))
    else:
        answers.done(facts, files)


def _installed() -> bytes:
    # A damaged installation may have neither a name nor a version.
    named = ((found.metadata["Name"], found.version or "") for found in metadata.distributions())
    return json.dumps({name: version for name, version in named if name}).encode()
