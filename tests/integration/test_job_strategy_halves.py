"""SCAFFOLD and FedDyn with both halves and sampled cohorts: the model is the one that the papers' formulas give."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from broker.base import Broker
from broker.messages import tensors as payload
from broker.messages.job import Job
from broker.messages.register import ClientRecord
from broker.messages.round import RoundTask
from broker.messages.tensors import Tensors
from client_fn.function import WarmState, handle
from client_fn.training import tensors
from fedkeeper.sdk import Client
from server.learning import EvaluationResult, InitialModel
from server.service import serve
from tests.support import fakes, quadratics, strategy_clients
from tests.support.fakes import FakeLearning, Fleet, running
from tests.support.job_progress import watch_to_end
from tests.support.trainers import warm_state

pytestmark = pytest.mark.torch

TARGETS: Final = (3.0, 0.0, -1.0, 2.0)
ROUNDS: Final = 5
RATE: Final = 0.1
STEPS: Final = 2
ALPHA: Final = 0.1
Cohorts = dict[int, list[int]]


class PointLearning(FakeLearning):
    """One weight that begins at 1."""

    async def initial_model(self, job: Job) -> InitialModel:  # noqa: ARG002 (the interface's argument)
        return InitialModel({"weight": np.ones((1, 1), np.float32)})

    async def evaluate(self, job: Job, weights: bytes) -> EvaluationResult:  # noqa: ARG002
        return EvaluationResult(0.5, 0.5, 1)


def scaffold(cohorts: Cohorts) -> list[float]:
    """The models of the paper's algorithm, and the initial one (Karimireddy et al. 2020, option II)."""
    models, c, own = [1.0], 0.0, [0.0] * len(TARGETS)
    for _, cohort in sorted(cohorts.items()):
        ends, changes = [], []
        for i in cohort:
            y = models[-1]
            for _ in range(STEPS):
                y -= RATE * ((y - TARGETS[i]) - own[i] + c)
            after = own[i] - c + (models[-1] - y) / (STEPS * RATE)
            ends.append(y)
            changes.append(after - own[i])
            own[i] = after
        models.append(sum(ends) / len(ends))
        c += sum(changes) / len(TARGETS)
    return models


def feddyn(cohorts: Cohorts) -> list[float]:
    """The means of the trained models in the paper's algorithm, and the initial model (Acar et al. 2021)."""
    models, w, h, g = [1.0], 1.0, 0.0, [0.0] * len(TARGETS)
    for _, cohort in sorted(cohorts.items()):
        ends = []
        for i in cohort:
            y = w
            for _ in range(STEPS):
                y -= RATE * ((y - TARGETS[i]) - g[i] + ALPHA * (y - w))
            g[i] -= ALPHA * (y - w)
            ends.append(y)
        h -= ALPHA * sum(y - w for y in ends) / len(TARGETS)
        models.append(sum(ends) / len(ends))
        w = models[-1] - h / ALPHA
    return models


class Clients:
    """Clients that train with the function of today.

    Attributes:
        models: the weight that each round began with.
        cohorts: numbers of the clients of each round.
        controls: what the server's half sent along, by round, and the mean of the clients' own states at that time.
    """

    def __init__(self, name: str) -> None:
        self.models: dict[int, float] = {}
        self.cohorts: defaultdict[int, list[int]] = defaultdict(list)
        self.controls: dict[int, tuple[float, float]] = {}
        self._name = name
        self._own: dict[str, Tensors] = {}
        self._warm: WarmState = warm_state()

    async def train(self, bus: Broker, task: RoundTask) -> None:
        self.models[task.round] = float((await fakes.base_of(bus, task))["weight"][0, 0])
        self.cohorts[task.round].append(fakes.number(task.client_id))
        along = await strategy_clients.blob_of(bus, task.along)
        if task.round not in self.controls:
            mean = sum(float(own["weight"][0, 0]) for own in self._own.values()) / len(TARGETS)
            self.controls[task.round] = (float(along["weight"][0, 0]) if along else 0.0), mean
        states = await strategy_clients.states_of(bus, task)
        assert states.get(self._name, {}) == self._own.get(task.client_id, {}), "not the last counted state"
        published = await handle(task, bus, self._warm, attempt=1)
        self._own[task.client_id] = await strategy_clients.blob_of(bus, published.header.states[self._name])


def shards(folder: Path) -> list[ClientRecord]:
    records = []
    for number, target in enumerate(TARGETS):
        path = folder / f"{number}.safetensors"
        path.write_bytes(tensors.to_bytes(quadratics.shard(target)))
        record = ClientRecord(
            id=f"client-{number:02d}", platform="fake", data_loc=str(path), samples=1, labels={"data": "own"}
        )
        records.append(record)
    return records


@pytest.mark.parametrize(
    ("strategy", "formula"),
    [({"name": "scaffold"}, scaffold), ({"name": "feddyn", "alpha": ALPHA}, feddyn)],
    ids=["scaffold", "feddyn"],
)
async def test_sampled_cohorts_train_the_model_of_the_paper(
    sdk: Client,
    bus: Broker,
    tmp_path: Path,
    strategy: dict[str, Any],
    formula: Callable[[Cohorts], list[float]],
) -> None:
    clients = Clients(strategy["name"])
    job = fakes.job(
        strategy=strategy,
        **quadratics.sections(steps=STEPS, rate=RATE),
        data={"clients": 4},
        cohort={"clients": 2, "grace_s": 600.0},
        stop={"rounds": ROUNDS},
    )
    await sdk.register(shards(tmp_path))
    async with running(serve(bus, PointLearning()), Fleet(bus, clients.train).serve()):
        submitted = await sdk.submit(job)
        messages = await watch_to_end(sdk, submitted)
        final = payload.decode(await sdk.model(submitted))[0]["weight"].item()
    assert messages[-1].event.what == "job.completed"
    assert len({tuple(sorted(cohort)) for cohort in clients.cohorts.values()}) > 1
    got = [clients.models[round_] for round_ in range(1, ROUNDS + 1)]
    assert [*got, final] == pytest.approx(formula(clients.cohorts), abs=1e-5)
    if formula is scaffold:
        for control, mean in clients.controls.values():
            assert control == pytest.approx(mean, abs=1e-6), "c is the mean of all clients' c_i"
