"""Trains several clients of one job and round in one program: the parameters are stacked, one row for each client.

Each client keeps its own order of samples, optimizer state, metrics and update. A batch that is smaller than the others
is padded, and what is padded counts nothing; a client that has made its last step is no longer computed.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from client_fn import strategies
from client_fn.errors import OF_MEMORY, BadData, LeaseOver, TrainingFailed, UserCodeFailed
from client_fn.training import (
    batches,
    fit,
    graphs,
    holdout,
    judge,
    learner,
    memory,
    orders,
    processor,
    stackable,
    stacked_loop,
    tensors,
    tracebacks,
    updates,
    work,
)
from client_fn.training.batches import TensorSamples
from client_fn.training.context import Context
from client_fn.training.judge import Judged
from client_fn.training.learner import Learner
from client_fn.training.orders import Together, Train
from client_fn.training.packets import Content
from client_fn.training.randomness import seeded
from client_fn.training.stacked import NotStackable
from client_fn.training.stacked_loop import Member, Trained
from client_fn.training.work import Answer, Say

METRIC: Final = "together"
"""The metric that is the number of clients that trained in one program with this one, itself among them. A client that
was alone there has none."""

_IGNORED: Final = -100
"""The label that torch's cross-entropy leaves out."""

_TIME: Final = "the time was over"


def do(order: Together, inputs: Mapping[str, Content], say: Say) -> Answer:
    """Train several clients, or say which of them must be trained alone.

    Args:
        order: the order.
        inputs: files by name, as `Together` says.
        say: tells the worker what happens.

    Returns:
        The fact `clients`, a list: the facts of each client's answer, or `alone` with the reason; and the fact `fewer`,
        if time or memory was not enough for all: why fewer clients should be trained together. On a GPU the fact
        `replayed`, how many steps were made from a record, and `unrecorded`, if that failed: why. The files of an
        answer have the client's number in front.

    Raises:
        UserCodeFailed: the model can't be built, or the training fails.
        BadSettings: the device can't be used.
    """
    group = _Group(order, inputs, say)
    say("training")
    try:
        for part in group.parts():
            group.train(part)
    except NotStackable as exc:
        group.reason = str(exc)
    except LeaseOver:
        group.reason = group.fewer = _TIME
    except (RuntimeError, MemoryError) as exc:
        # The clients that have their answer keep it.
        if (found := tracebacks.explain(exc)).cause not in OF_MEMORY:
            raise
        group.reason = group.fewer = f"the memory was too small: {found.text}"
    answers = group.answers
    alone = {number: {"alone": group.alone.get(number, group.reason)} for number in range(len(order.members))}
    facts = [answers[number][0] if number in answers else alone[number] for number in alone]
    files = {orders.of_member(number, name): file for number in answers for name, file in answers[number][1].items()}
    told = {"fewer": group.fewer, "replayed": group.replayed, "unrecorded": group.unrecorded}
    return {"clients": facts, **{name: value for name, value in told.items() if value}}, files


class _Client(NamedTuple):
    """A client that is trained with others.

    Attributes:
        order: its order.
        samples: what it trains on.
        judged: what it found on its hold-out.
        measured: metrics from before the training.
        context: draws its batches, and makes its optimizer.
        optimizer: its own, with the state of an earlier round.
    """

    order: Train
    samples: TensorSamples
    judged: Judged
    measured: dict[str, float]
    context: Context
    optimizer: Optimizer


class _Group:
    """The clients of an order.

    Attributes:
        answers: of those that are trained, by their numbers.
        alone: why one can't be trained with the others, by its number.
        reason: why those that are in neither must be trained alone.
        fewer: why fewer of them should be trained together; empty: nothing speaks against it.
        replayed: number of steps that were made from a record.
        unrecorded: why no step is recorded any more; empty: no record has failed.
    """

    def __init__(self, order: Together, inputs: Mapping[str, Content], say: Say) -> None:
        self._order, self._inputs, self._say = order, inputs, say
        first = order.members[0]
        self._begin_s = time.perf_counter()
        self._end_s = time.monotonic() + min(member.left_s for member in order.members)
        self._learner = learner.make(first)
        # Each client's own, as alone: `evaluate` may use what `data` has kept.
        self._learners: dict[int, Learner] = {}
        self.answers: dict[int, Answer] = {}
        self.alone: dict[int, str] = {}
        self.fewer = ""
        self.replayed, self.unrecorded = 0, ""
        self.reason = stackable.of_order(first, self._learner)
        self._data: dict[int, Any] = {}
        if not self.reason:
            self._read()
        if self._data:
            self._load(first)

    def parts(self) -> list[list[int]]:
        """Return the clients that can train, in parts that fit into memory."""
        numbers = [] if self.reason else list(self._data)
        if not numbers:
            return []
        values = sum(parameter.numel() * parameter.element_size() for parameter in self._model.parameters())
        room = memory.room(self._order.device, self._order.memory_mb)
        most = memory.clients(values, room)
        if most < min(2, len(numbers)):  # of several, one alone gains nothing here
            self.reason = f"the memory is too small for {'two clients' if len(numbers) > 1 else 'a client'}"
            return []
        return [numbers[start : start + most] for start in range(0, len(numbers), most)]

    def train(self, numbers: Sequence[int]) -> None:
        """Train some clients.

        Raises:
            LeaseOver: the deadline has passed, before some of them have made all steps.
        """
        self._layers.shared.load(self._base)  # the answers of other clients have used its memory
        clients = self._prepared(numbers)
        if not clients:
            return
        if reason := self._reason_of_samples(clients):
            raise NotStackable(reason)
        seconds = {"build": time.perf_counter() - self._begin_s}
        begin_s = time.perf_counter()
        with seeded(self._order.members[0].seed, clients[next(iter(clients))].context.device):
            members = [Member(each.context, each.samples, each.optimizer) for each in clients.values()]
            trained = stacked_loop.train(self._learner, self._model, members, self._order.members[0], self._recorder())
        self.replayed += trained.replayed
        self.unrecorded = self.unrecorded or trained.fault
        seconds["train"] = time.perf_counter() - begin_s
        for row, (number, client) in enumerate(clients.items()):
            if not trained.has_ended(row):
                continue
            if trained.is_finite(row):
                self._say("alive")
                self.answers[number] = self._answer(client, trained, row, seconds)
            else:
                self.alone[number] = "its loss is not finite"
        if not trained.has_ended(0):
            raise LeaseOver("", 0.0)

    def _recorder(self) -> graphs.Recorder | None:
        may_record = self._order.graph and not self.unrecorded
        return graphs.recorder(torch.device(self._order.device)) if may_record else None

    def _read(self) -> None:
        for number, member in enumerate(self._order.members):
            self._say("alive")
            own = self._files(number)
            try:
                self._learners[number] = learner.make(member)
                data = work.data_of(self._learners[number], member, own)
                self._data[number] = holdout.split(data, member.evaluation.holdout)
            except (BadData, UserCodeFailed) as exc:
                self.alone[number] = f"{type(exc).__name__}: {exc}"

    def _load(self, first: Train) -> None:
        sample = next(iter(self._data.values())).rest
        model, self._layers, self._base = work.loaded(self._learner, first, self._inputs, sample)
        self.reason = stackable.of_model(model, first)
        self._model: nn.Module = model

    def _prepared(self, numbers: Sequence[int]) -> dict[int, _Client]:
        """Return the clients that can begin, those with the most steps first."""
        clients: dict[int, _Client] = {}
        for number in numbers:
            self._say("alive")
            try:
                clients[number] = self._client(number)
            except (BadData, UserCodeFailed) as exc:
                self.alone[number] = f"{type(exc).__name__}: {exc}"
        counts = {number: client.context.steps(client.samples) or 0 for number, client in clients.items()}
        return {number: clients[number] for number in sorted(clients, key=lambda number: -counts[number])}

    def _client(self, number: int) -> _Client:
        order, ours, split, model = self._order.members[number], self._learners[number], self._data[number], self._model
        samples = batches.of(split.rest, ours.collate)
        if not isinstance(samples, TensorSamples):
            raise NotStackable("the samples are no tensors")
        if not len(samples):
            raise TrainingFailed("there are no samples")
        judging = work.evaluation_context(ours, model, order, self._say, self._end_s)
        judged = judge.judge(ours, model, split.held, judging)
        measured = {}
        if strategies.make(order.strategy).needs_loss:
            judging = work.evaluation_context(ours, model, order, self._say, self._end_s)
            measured[fit.GLOBAL_LOSS] = judge.loss(ours, model, split.rest, judging)
        own = self._files(number)
        context = work.training_context(ours, model, order, own, say=self._say, end_s=self._end_s)
        return _Client(order, samples, judged, measured, context, context.optimizer(model))

    def _reason_of_samples(self, clients: Mapping[int, _Client]) -> str:
        samples = [client.samples for client in clients.values()]
        if reason := stackable.of_samples(list(samples)):
            return reason
        is_labelled = self._order.members[0].training.loss == "cross_entropy"  # type: ignore[union-attr]
        targets = (list(each.named.values())[-1] for each in samples)
        return "a label is left out" if is_labelled and any(bool((each == _IGNORED).any()) for each in targets) else ""

    def _files(self, number: int) -> dict[str, Content]:
        """Return the files of one client: all clients' and its own."""
        own, mine = orders.of_member(number, ""), {}
        for name, content in self._inputs.items():
            if name.startswith(own):
                mine[name.removeprefix(own)] = content
            elif "/" not in name:
                mine[name] = content
        return mine

    def _answer(self, client: _Client, trained: Trained, row: int, seconds: Mapping[str, float]) -> Answer:
        order, judged, layers = client.order, client.judged, self._layers
        layers.shared.load({**self._base, **trained.parameters(row)})
        made = updates.make(layers.shared, self._base, order.update)
        update = {**work.encoded(made, layers, order), **judged.sums}
        # Now, because the next client's tensors will lie in the same memory.
        files = {"update": tensors.to_bytes(update)}
        trained.optimizer.store(row, client.optimizer)
        states, _ = client.context.optimizer_files()
        client.optimizer.state.clear()
        with_others = {METRIC: float(trained.clients)} if trained.clients > 1 else {}
        facts = {
            "metrics": {**client.measured, **trained.metrics(row), **with_others},
            "samples": len(client.samples),
            "seconds": {**seconds, **judged.seconds},
            **judged.facts,
            "processor": processor.name(order.device),
        }
        return facts, {**files, **states}
