"""The simulation of the benchmarks makes the models of the system, bit for bit."""

from pathlib import Path

import pytest

from benchmarks import simulation
from broker.messages import job_file
from broker.messages.job import Job
from fedkeeper.sdk import Client, connect
from fedkeeper.services import system
from fedkeeper.services.system import Settings

pytestmark = [pytest.mark.slow, pytest.mark.torch]

STRATEGIES = (
    ({"name": "fedavg"}, "delta"),
    # A state at each client, and tensors beside the model in both directions; rounded at random.
    ({"name": "scaffold"}, "int8"),
    # A replay, and states at the server.
    ({"name": "fedadam", "over": {"name": "median"}, "guard": {"name": "median"}}, "bf16"),
)


async def model_of(sdk: Client, job: Job) -> str:
    """Run a job, and return its model's digest."""
    job_id = await sdk.submit(job, timeout_s=300.0)
    async for _ in sdk.watch(job_id):
        pass
    record = await sdk.job(job_id)
    assert record.phase == "completed", record.reason
    assert record.model is not None
    return record.model.sha256


async def test_the_models_are_those_of_the_system(tmp_path: Path) -> None:
    jobs = [
        job_file.from_dict(
            {
                "training": {"optimizer": "sgd", "local_epochs": 1, "update": update},
                # Five of ten clients a round, so that some have a state of the first round in the third.
                "cohort": {"clients": 5, "deadline_s": 600.0},
                "strategy": strategy,
                "stop": {"rounds": 3},
            }
        )
        for strategy, update in STRATEGIES
    ]
    settings = Settings(tmp_path, workers=1)
    async with system.whole_system(settings, store=tmp_path / "broker") as url, connect(url) as sdk:
        models = [await model_of(sdk, job) for job in jobs]
    outcomes = [await simulation.run(job) for job in jobs]
    assert [outcome.model for outcome in outcomes] == models
    assert all(len(outcome.accuracy) == 3 and not outcome.error for outcome in outcomes)
