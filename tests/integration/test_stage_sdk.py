"""A program splits its arrays among clients with one call."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from broker.messages.errors import JobError
from broker.messages.job_sections import Data
from fedkeeper.sdk import Client

X = np.arange(40, dtype=np.float64).reshape(20, 2)


async def test_arrays_are_split_written_and_registered(sdk: Client, tmp_path: Path) -> None:
    staged = await sdk.stage(X, [0.5] * 20, clients=4, name="houses", test=0.2, to=str(tmp_path))
    assert staged.data == Data(dataset="houses", partition="iid", clients=4)
    assert [client.samples for client in staged.clients] == [4] * 4
    assert staged.test_samples == 4
    registered = await sdk.clients()
    assert registered == staged.clients
    shard = safetensors.numpy.load_file(registered[0].data_loc.removeprefix("file://"))
    assert (shard["x"].shape, shard["y"].tolist()) == ((4, 2), [0.5] * 4)


async def test_labels_may_be_texts_and_samples_several_arrays(sdk: Client, tmp_path: Path) -> None:
    named = {"ids": np.zeros((20, 7), np.int64), "mask": np.ones((20, 7), bool)}
    labels = ["yes", "no"] * 10
    staged = await sdk.stage(named, labels, clients=2, partition="dirichlet", alpha=5, min_samples=3, to=str(tmp_path))
    assert staged.labels == ("no", "yes")
    assert sorted(safetensors.numpy.load_file(f"{tmp_path}/own-000/shard.safetensors")) == ["ids", "mask", "y"]
    assert min(client.samples for client in staged.clients) >= 3


async def test_a_wrong_argument_is_named_as_in_a_job_file(sdk: Client, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"data\.partition = 'random': expected one of"):
        await sdk.stage(X, clients=2, partition="random", to=str(tmp_path))
    with pytest.raises(JobError, match=r"data\.alfa.*did you mean 'alpha'"):
        await sdk.stage(X, clients=2, alfa=1, to=str(tmp_path))
