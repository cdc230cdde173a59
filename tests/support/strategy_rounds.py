"""Rounds of a strategy without a broker: updates in, the next global state out, by the parts that a server uses."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np

from broker.messages import job_file
from broker.messages.job import Job
from broker.messages.job_record import JobRecord, Member
from broker.messages.tensors import Array, Tensors
from broker.messages.update import UpdateHeader
from broker.messages.update_forms import form_of
from server import aggregator, strategies
from server.aggregator import Aggregate
from server.gate import Checked
from server.shares import Shares
from server.spool import Reduced, Spool
from server.strategies.base import AUXILIARY, Finished, GlobalState, ModelInfo
from server.strategies.share import Share

Form = Literal["delta", "weights"]

SAMPLES: Final = (10, 30, 5, 5, 20)
"""Samples of the clients, one after the other."""


def job_of(strategy: Mapping[str, Any], **fields: Any) -> Job:
    """Return a job with a strategy that is trained by SGD with a learning rate of 0.1.

    Args:
        strategy: its name and parameters.
        fields: other tables of the job.
    """
    training = {"optimizer": "sgd", "learning_rate": 0.1, **fields.pop("training", {})}
    return job_file.from_dict({"strategy": dict(strategy), "training": training, **fields})


def client(number: int) -> str:
    """Return a client's id."""
    return f"c-{number:02d}"


class Rounds:
    """A job's rounds.

    Args:
        job: the job.
        model: the initial model.
        samples: the clients' samples.
        holders: number of clients that hold the data; None: as many as there are samples.

    Attributes:
        strategy: the job's strategy.
        state: the global state.
        finished: the last round.
    """

    def __init__(
        self, job: Job, model: ModelInfo, samples: Sequence[int] = SAMPLES, holders: int | None = None
    ) -> None:
        self.strategy = strategies.create(job)
        self.state = self.strategy.init(model)
        self.finished: Finished | None = None
        self._model = model
        self._samples = samples
        members = tuple(Member(client(i), "fake", "", "", count) for i, count in enumerate(samples))
        count = len(samples) if holders is None else holders
        self._record = JobRecord(id="demo", job=job, phase="running", cohort=members, holders=count)

    def round(
        self,
        updates: Sequence[Tensors],
        metrics: Sequence[Mapping[str, float]] = (),
        *,
        order: Sequence[int] = (),
        parts: int = 1,
    ) -> GlobalState:
        """Return the state after a round.

        Args:
            updates: what each client sends, in the job's form.
            metrics: what each of them tells; empty: nothing.
            order: numbers of the clients in the order in which their updates come; empty: as they are.
            parts: number of partial sums that are merged.
        """
        record, model = self._record, ModelInfo(self.state.weights, self._model.frozen, self._model.buffers)
        base = {**model.trained, **self.strategy.auxiliary(model)}
        plan = aggregator.plan(base, model.buffers, len(self._samples) * self.strategy.max_weight())
        shares = Shares(self.strategy, record, plan, model.weights, self.state.server_state)
        sums, told, headers = [Aggregate(plan) for _ in range(parts)], dict[str, Share](), dict[str, UpdateHeader]()
        with Spool(plan, sorted(model.weights), len(updates)) as spool:
            for place, number in enumerate(order or range(len(updates))):
                header = self._header(number, dict(metrics[number]) if metrics else {})
                share = shares.share(Checked(header, updates[number], {}))
                sums[place % parts].add(updates[number], share.weight, shares.factors(share))
                spool.add(header.client, updates[number])
                headers[header.client], told[header.client] = header, share
            reduction = self.strategy.reduction([told[each] for each in sorted(told)])
            counted = [Reduced(each, shares.factors(told[each])) for each in sorted(told)]
            reductions = {} if reduction is None else spool.reduce(counted, reduction)
        for other in sums[1:]:
            sums[0].merge(other)
        form = form_of(record.job.training.update)
        self.finished = Finished(record, model, sums[0].mean(), form, headers, told, reductions)
        self.state = self.strategy.apply(self.state, self.finished)
        self._record = JobRecord(**{**_fields(record), "round": record.round + 1, "done": record.done + 1})
        return self.state

    def _header(self, number: int, metrics: dict[str, float]) -> UpdateHeader:
        return UpdateHeader(
            job="demo",
            round=1,
            attempt=1,
            client=client(number),
            samples=self._samples[number],
            base="",
            token="",
            metrics=metrics,
        )


def _fields(record: JobRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def changes(base: Tensors, models: Sequence[Tensors], form: Form = "delta") -> list[Tensors]:
    """Return the updates of clients that come to some models.

    Args:
        base: the round's model.
        models: the trained ones.
        form: what an update holds of a float tensor.
    """

    def sent(name: str, value: Array) -> Array:
        return np.asarray(value - base[name]) if form == "delta" and value.dtype.kind == "f" else value

    return [{name: sent(name, value) for name, value in model.items()} for model in models]


def with_auxiliary(updates: Sequence[Tensors], auxiliary: Sequence[Tensors]) -> list[Tensors]:
    """Return updates with auxiliary tensors beside the model's.

    Args:
        updates: the updates.
        auxiliary: the tensors of each, by the weight's name.
    """
    named = [{f"{AUXILIARY}{name}": value for name, value in each.items()} for each in auxiliary]
    return [{**update, **more} for update, more in zip(updates, named, strict=True)]
