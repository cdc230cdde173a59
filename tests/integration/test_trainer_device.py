"""A real trainer tries its device. torch's `meta` device, on which nothing is computed, stands for a broken GPU."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch

from client_fn.code.named import Names
from client_fn.errors import BadSettings, TrainingFailed
from client_fn.site import Site
from client_fn.trainer.shared import SharedBytes
from client_fn.trainer.trainers import Trainers, open_trainers
from client_fn.training import processor, tensors
from client_fn.training.orders import Build, Evaluate, Model

pytestmark = pytest.mark.torch

BROKEN = r"^FEDKEEPER_DEVICE: 'meta' can't be used here: "
NOBODY = Names(())
MODEL = Model("nn", {"input_size": 2, "hidden": 4, "classes": 2})


@contextlib.asynccontextmanager
async def trainers_on(device: str) -> AsyncIterator[Trainers]:
    async with open_trainers(Site(device=device)) as trainers:
        yield trainers


def on(device: str) -> Evaluate:
    return Evaluate(MODEL, device=device)


async def inputs(trainers: Trainers) -> dict[str, SharedBytes]:
    """The weights of a new model, and samples."""
    built = await trainers.do(NOBODY, Build(MODEL, 1), {})
    samples = tensors.to_bytes({"x": torch.rand(4, 2), "y": torch.arange(4) % 2})
    return {"weights": SharedBytes(built.files["weights"]), "shard": SharedBytes(samples)}


@pytest.mark.parametrize("device", ["", "cpu"])
async def test_a_site_without_a_gpu_says_what_its_cpu_is(device: str) -> None:
    async with trainers_on(device) as trainers:
        assert await trainers.check() == processor.name()


async def test_a_device_that_computes_nothing_is_the_site_s_fault() -> None:
    async with trainers_on("meta") as trainers:
        with pytest.raises(BadSettings, match=BROKEN):
            await trainers.check()


@pytest.mark.parametrize("error", ["BadSettings", "UserCodeFailed"])
async def test_whatever_an_order_fails_of_on_a_broken_device_is_the_site_s_fault(error: str) -> None:
    device = {"BadSettings": "cuda:99", "UserCodeFailed": "meta"}[error]
    async with trainers_on("meta") as trainers:
        with pytest.raises(BadSettings, match=BROKEN):
            await trainers.do(NOBODY, on(device), await inputs(trainers))


async def test_a_device_that_only_the_job_asks_for_is_the_job_s_fault() -> None:
    async with trainers_on("") as trainers:
        with pytest.raises(TrainingFailed, match=r"^training\.device 'cuda:99' can't be used here: "):
            await trainers.do(NOBODY, on("cuda:99"), await inputs(trainers))


async def test_a_model_that_does_not_fit_into_a_device_that_works_is_the_job_s_fault() -> None:
    async with trainers_on("cpu") as trainers:
        with pytest.raises(TrainingFailed, match=r"^the device 'cuda:99' can't be used here: "):
            await trainers.do(NOBODY, on("cuda:99"), await inputs(trainers))


async def test_a_driver_that_ends_the_process_is_the_site_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text("import os, torch\ntorch.eye = lambda *_: os.abort()\n")
    async with trainers_on("cpu") as trainers:
        with pytest.raises(BadSettings, match=r"'cpu' can't be used here: the process was killed by signal SIGABRT"):
            await trainers.check()
