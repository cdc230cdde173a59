"""A function on a FaaS platform keeps its client's personal layers in a bucket, where the next instance finds them."""

import asyncio
from pathlib import Path
from typing import Any

import fsspec
import pytest

import broker
from broker.base import Broker
from broker.messages.invocation import InvocationRequest, Report
from broker.messages.job_sections import Model
from broker.messages.round import PersonalRef
from broker.nats.server import NatsServer
from client_fn.data import datasets, shards
from client_fn.runtime.instance import Instance
from client_fn.runtime.settings import Settings
from client_fn.site import SCHEMES
from client_fn.site import Site as ClientSite
from client_fn.training import models, tensors
from client_fn.training.learner import Learner
from client_fn.training.model_tensors import ModelTensors
from client_fn.training.personal import PersonalLayers
from tests.support.function_site import Site, model_ref, read_update, task_for

pytestmark = [pytest.mark.torch, pytest.mark.slow]

MODEL = Model(args={"input_size": 64, "hidden": 8, "classes": 10}, personal=("out.*",))


async def site_with_shard(bus: Broker, folder: Path) -> Site:
    digits = datasets.load("digits")
    data_loc = f"{folder}/shard.safetensors"
    await asyncio.to_thread(shards.write, data_loc, digits.train_x[:40], digits.train_y[:40])
    return Site(bus, data_loc)


async def request(site: Site, round_: int, attempt: int = 1, **changes: Any) -> InvocationRequest:
    layers = PersonalLayers(ModelTensors(Learner(), models.build(MODEL, seed=1)), MODEL.personal)
    blob = tensors.to_bytes(layers.shared.all())
    ref = model_ref(blob)
    await site.bus.put(ref.topic, blob)
    task = await task_for(site, round=round_, model_configuration=MODEL, model=ref, model_seed=1, **changes)
    return InvocationRequest(task, attempt)


async def run_once(server: NatsServer, what: InvocationRequest) -> Report:
    """Execute a request in a new instance, which then ends: a cold start for each."""
    settings = Settings(server.url, "c1", site=ClientSite(data_schemes=(*SCHEMES, "memory")))
    instance = Instance(settings)
    try:
        return await asyncio.to_thread(instance.run, what, activation="act-1")
    finally:
        await asyncio.to_thread(instance.close)


async def test_the_next_instance_continues_from_the_bucket(nats_server: NatsServer, tmp_path: Path) -> None:
    bucket = f"memory://{tmp_path.name}/layers"
    async with broker.connect(nats_server.url) as bus:
        site = await site_with_shard(bus, tmp_path)
        report = await run_once(nats_server, await request(site, 1, state_loc=bucket))
        assert (report.state, report.reason) == ("done", "")
        _, first = await read_update(site)
        own = PersonalRef(1, 1, first.personal)
        for attempt in (1, 2):
            report = await run_once(nats_server, await request(site, 2, attempt, state_loc=bucket, personal=own))
            assert (report.state, report.reason) == ("done", "")
        second = [(await read_update(site, round_=2, attempt=attempt))[1].personal for attempt in (1, 2)]
    assert second[0] == second[1] != first.personal
    system, path = fsspec.core.url_to_fs(f"{bucket}/job/c1")
    kept = sorted(Path(name).name for name in system.ls(path, detail=False))
    digests = (first.personal, *second)
    assert kept == [
        f"{name}.{digest[:12]}.safetensors" for name, digest in zip(("1.1", "2.1", "2.2"), digests, strict=True)
    ]


async def test_a_function_without_a_place_reports_a_final_failure(nats_server: NatsServer, tmp_path: Path) -> None:
    async with broker.connect(nats_server.url) as bus:
        site = await site_with_shard(bus, tmp_path)
        report = await run_once(nats_server, await request(site, 1, state_loc="https://host/layers"))
    assert (report.state, report.retryable) == ("failed", False)
    assert report.reason == (
        "PersonalNotKept: personal layers https://host/layers: its scheme can't be written: register the client with a "
        "state_loc, a folder or URL that it may write"
    )
