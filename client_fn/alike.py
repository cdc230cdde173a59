"""Which tasks can be trained in one program, as far as a worker can tell, and the order for them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from broker.messages.round import RoundTask
from client_fn.trainer.answers import Answer
from client_fn.trainer.shared import SharedBytes
from client_fn.training import orders, packets
from client_fn.training.orders import Together, Train

SHARED = frozenset({"weights", orders.FROZEN, orders.ALONG})
"""Files that are the same for all clients of a round."""


class Keys(NamedTuple):
    """What tasks must have in common.

    Attributes:
        task: equal for tasks that can be trained together.
        job: equal for all tasks of a job that are trained alike, in whichever round.
    """

    task: str
    job: str


class HasKeys(Protocol):
    """Something that waits to be trained."""

    @property
    def keys(self) -> Keys | None:
        """None: it is trained alone."""


T = TypeVar("T", bound=HasKeys)


def keys_of(task: RoundTask, order: object) -> Keys | None:
    """Return a task's keys; None: it must be done alone, because it trains nothing.

    Args:
        task: the task.
        order: the order that was made of it.
    """
    if not isinstance(order, Train) or order.training is None or not task.data_loc:
        return None
    blobs = [None if ref is None else ref.sha256 for ref in (task.model, task.frozen, task.along)]
    alike = order._replace(seed=0, left_s=0.0, source=order.source._replace(path="", where=""))
    # Not the source: the job's key is needed before a client's samples are here.
    always = alike._replace(round=0, training=order.training._replace(rate=None), source=orders.Source())
    code = task.model_configuration.code
    return Keys(repr((task.job, code, blobs, alike)), repr((task.job, code, task.data, always)))


def choose(first: T, waiting: Sequence[T], most: int) -> list[T]:
    """Return a task and those of the waiting ones that can be trained with it, in their order.

    Args:
        first: the task.
        waiting: other tasks.
        most: how many may be trained together.
    """
    fitting = [other for other in waiting if first.keys is not None and _are_alike(first.keys, other.keys)]
    return [first, *fitting[: most - 1]]


def _are_alike(first: Keys, other: Keys | None) -> bool:
    return other is not None and first.task == other.task


def size_of(inputs: Mapping[str, SharedBytes]) -> int:
    """Return the size of those of a client's files that no other client has, in bytes.

    Args:
        inputs: its files by name.
    """
    return sum(file.size for name, file in inputs.items() if name not in SHARED)


def how_many_fit(inputs: Sequence[Mapping[str, object]]) -> int:
    """Return how many of the first clients' files fit beside one packet to the trainer, with the order's file.

    Args:
        inputs: each client's files by name.
    """
    files = 1 + len(SHARED.intersection(*inputs[:1]))
    for number, own in enumerate(inputs):
        files += sum(name not in SHARED for name in own)
        if files > packets.FILES:
            return number
    return len(inputs)


def order_for(
    members: Sequence[tuple[Train, Mapping[str, SharedBytes]]], memory_mb: int, *, graph: bool = True
) -> tuple[Together, dict[str, SharedBytes]]:
    """Return the order for several clients, and its files.

    Args:
        members: each client's order and files.
        memory_mb: what the trainer may use, in MiB.
        graph: whether a step may be recorded as a CUDA graph.
    """
    files = {name: file for name, file in members[0][1].items() if name in SHARED}
    for number, (_, own) in enumerate(members):
        files |= {orders.of_member(number, name): file for name, file in own.items() if name not in SHARED}
    return Together(tuple(order for order, _ in members), memory_mb, graph), files


def answers_of(answer: Answer, count: int) -> list[Answer | str]:
    """Return each client's answer, or why it must be trained alone. Nothing that the trainer tells is believed.

    Args:
        answer: to the order for several clients.
        count: number of clients.
    """
    facts = answer.facts.get("clients")
    if not (isinstance(facts, list) and len(facts) == count and all(isinstance(each, dict) for each in facts)):
        return ["the trainer's answer is not about these clients"] * count
    found: list[Answer | str] = []
    for number, own in enumerate(facts):
        prefix = orders.of_member(number, "")
        files = {name.removeprefix(prefix): file for name, file in answer.files.items() if name.startswith(prefix)}
        found.append(str(own["alone"]) if "alone" in own else Answer(own, files))
    return found
