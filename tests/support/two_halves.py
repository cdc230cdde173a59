"""Both halves of a strategy without a broker: clients train as a trainer does, and a server makes the next model."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from torch import Tensor

from broker.messages import tensors as payload
from broker.messages.job import Job
from broker.messages.strategy import FedAvg, client_half
from client_fn.trainer import settings
from client_fn.training import tensors, work
from client_fn.training.orders import ALONG, PERSONAL, SHARD, STATE, Build, Train
from server import training
from server.strategies.base import ModelInfo
from tests.support.strategy_rounds import Rounds, client


def _silent(_: str) -> None:
    """Say nothing."""


class TwoHalves:
    """A job's rounds.

    Args:
        job: the job.
        shards: the samples of each client.
        holders: number of clients that hold the data; None: those with the shards.

    Attributes:
        rounds: the server.
        states: each client's states, by name.
        updates: the last round's updates.
        metrics: what their clients told.
    """

    def __init__(self, job: Job, shards: Sequence[Mapping[str, Tensor]], holders: int | None = None) -> None:
        self._job = job
        self._files = [tensors.to_bytes(shard) for shard in shards]
        model, learner = settings.model(job.model), settings.learner(job.learner)
        self._parts: dict[str, Any] = {"model": model, "learner": learner, "personal": job.model.personal}
        facts, files = work.do(Build(seed=1, training=settings.training(job.training), **self._parts), {}, _silent)
        weights = payload.decode(files["weights"])[0]
        info = ModelInfo(weights, frozenset(facts["frozen"]), frozenset(facts["buffers"]))
        counts = [len(next(iter(shard.values()))) for shard in shards]
        self.rounds = Rounds(job, info, counts, holders)
        self.states: list[dict[str, dict[str, Tensor]]] = [{} for _ in shards]
        self.updates: list[dict[str, Tensor]] = []
        self.metrics: list[dict[str, float]] = []
        self._kept: list[dict[str, bytes]] = [{} for _ in shards]

    def round(self, *, is_counted: bool = True) -> dict[str, Tensor]:
        """Let all clients train, and return the model after that.

        Args:
            is_counted: whether the updates count.
        """
        answers = [self.train(number) for number in range(len(self._files))]
        self.updates = [tensors.from_bytes(files["update"]) for _, files in answers]
        self.metrics = [facts["metrics"] for facts, _ in answers]
        if is_counted:
            for number, (_, files) in enumerate(answers):
                self._kept[number] = {name: file for name, file in files.items() if name != "update"}
                self.states[number] = {
                    name.removeprefix(STATE): tensors.from_bytes(file)
                    for name, file in files.items()
                    if name.startswith(STATE)
                }
            self.rounds.round([payload.decode(files["update"])[0] for _, files in answers], self.metrics)
        return self.model

    def train(self, number: int) -> work.Answer:
        """Return what a client answers in the present round.

        Args:
            number: the client's.
        """
        state, record = self.rounds.state, self.rounds._record
        along = self.rounds.strategy.along(state)
        (member,) = (each for each in record.cohort if each.id == client(number))
        half = client_half(self._job.strategy) or FedAvg()
        order = Train(
            training=settings.training(training.training_of(member, record)),
            seed=record.round * 100 + number,
            device="cpu",
            left_s=600.0,
            strategy=msgspec.to_builtins(half),
            update=self._job.training.update,
            **self._parts,
        )
        inputs = {"weights": payload.encode(state.weights), SHARD: self._files[number], **self._kept[number]}
        return work.do(order, inputs | ({ALONG: payload.encode(along)} if along else {}), _silent)

    @property
    def model(self) -> dict[str, Tensor]:
        """The global model."""
        return tensors.from_bytes(payload.encode(self.rounds.state.weights))

    @property
    def along(self) -> dict[str, float]:
        """What the next tasks bring, of weights of one number."""
        along = self.rounds.strategy.along(self.rounds.state)
        return {name: value.item() for name, value in along.items() if value.size == 1}

    def grow(self, holders: int) -> None:
        """Let more clients hold the data when the next round is opened.

        Args:
            holders: number of all clients that do.
        """
        self.rounds._record = msgspec.structs.replace(self.rounds._record, holders=holders)

    def personal(self, number: int) -> dict[str, Tensor]:
        """Return a client's personal tensors.

        Args:
            number: the client's.
        """
        return tensors.from_bytes(self._kept[number][PERSONAL])
