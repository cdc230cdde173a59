"""A learner gets a client's data as tensors, whatever its format; what can't be used is explained."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from client_fn.errors import BadData
from client_fn.training.source import Source
from tests.support.paths import REPOSITORY

pytestmark = pytest.mark.torch


def npz(**named: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **named)
    return file.getvalue()


def test_x_and_y_of_any_dtype_and_shape_are_a_pair() -> None:
    x, y = torch.rand(3, 2, dtype=torch.float64), torch.rand(3, 4, 4)
    samples = Source(content=safetensors.torch.save({"x": x, "y": y})).samples()
    assert isinstance(samples, tuple)
    assert torch.equal(samples[0], x)
    assert torch.equal(samples[1], y)


@pytest.mark.parametrize("names", [("x",), ("x", "y", "mask"), ("ids", "y")])
def test_other_tensors_come_by_name_in_order(names: tuple[str, ...]) -> None:
    samples = Source(content=safetensors.torch.save({name: torch.zeros(3) for name in reversed(names)})).samples()
    assert isinstance(samples, dict)
    assert list(samples) == sorted(names)


def test_samples_may_be_changed_and_the_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "shard.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(3)}, path)
    source = Source(path=str(path))
    source.tensors()["x"].add_(1)
    assert source.tensors()["x"].sum() == 0


def test_bytes_in_memory_have_a_path_and_can_be_opened() -> None:
    source = Source("file", b'{"text": "a"}')
    assert Path(source.path).read_bytes() == b'{"text": "a"}'
    for _ in range(2):
        with source.open() as file:
            assert json.load(file) == {"text": "a"}


def test_a_format_that_only_a_learner_can_read_is_named() -> None:
    with pytest.raises(BadData, match=r"shard /a\.jsonl: its format is not known: name the file .*data\(source\)"):
        Source("file", b"{}", where="/a.jsonl").samples()


def test_an_npz_file_gives_its_arrays() -> None:
    samples = Source("npz", npz(x=np.zeros((3, 2), ">f4"), mask=np.ones(3, bool))).samples()
    assert isinstance(samples, dict)
    assert {name: tensor.dtype for name, tensor in samples.items()} == {"x": torch.float32, "mask": torch.bool}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npz(x=np.array([{}], dtype=object)), "it holds Python objects, which are not read"),
        (npz(x=np.array(["a"])), "an array holds no numbers but <U1"),
        (npz(x=np.zeros(3), y=np.zeros(2)), r"different numbers of samples \(x has 3, y has 2\)"),
        (npz(x=np.zeros((0, 2))), "it is empty: its arrays hold 0 samples"),
        (npz(x=np.zeros(3), seed=np.array(1)), r"an array has shape \(\)"),
        (npz(), "it holds no arrays"),
        (b"PK\x03\x04garbage", r"it is no \.npz file"),
        (b"", r"it is no \.npz file"),
        (npz(x=np.zeros(99))[:-40], r"it is no \.npz file"),
    ],
)
def test_an_npz_file_that_can_t_be_used_is_explained(content: bytes, reason: str) -> None:
    with pytest.raises(BadData, match=reason):
        Source("npz", content).samples()


def pair(samples: Any) -> tuple[Tensor, Tensor]:
    assert isinstance(samples, tuple)
    return samples


TEXTS = {
    "npz": npz(x=np.zeros((3, 1)), y=np.array(["cat", "dog", "cat"])),
    "csv": b"x,y\n0,cat\n0,dog\n0,cat\n",
}


@pytest.mark.parametrize("format_", TEXTS)
def test_labels_that_are_texts_need_the_list_of_all_labels(format_: str) -> None:
    options = {"target": "y", "labels": ["dog", "bird", "cat"]}
    _, y = pair(Source(format_, TEXTS[format_], options).samples())
    assert (y.tolist(), y.dtype) == ([2, 0, 2], torch.int64)
    with pytest.raises(BadData, match=r"y'? holds texts: list all of them as data\.labels.*found are cat, dog") as bad:
        Source(format_, TEXTS[format_], {"target": "y"}).samples()
    assert "dog" not in bad.value.message(reveal=False)
    with pytest.raises(BadData, match=r"holds labels that are not in data\.labels"):
        Source(format_, TEXTS[format_], options | {"labels": ["cat"]}).samples()


def test_a_table_s_columns_come_by_name() -> None:
    source = Source("csv", b"id,a,y\nu,1,0.5\n", {"target": "y", "drop": ["id"]})
    assert {name: tensor.tolist() for name, tensor in source.tensors().items()} == {"a": [1], "y": [0.5]}
    assert (source.target, source.drop, source.labels) == ("y", ("id",), ())


def test_float_labels_stay_floats() -> None:
    _, y = pair(Source("csv", b"x,y\n0,1.0\n0,2.0\n", {"target": "y"}).samples())
    assert (y.tolist(), y.dtype) == ([1, 2], torch.float32)


def test_a_broken_safetensors_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "shard").write_bytes(b"0123456789")
    with pytest.raises(BadData, match="it is no safetensors file"):
        Source(path=f"{tmp_path}/shard").samples()


BATCH = """
import json, resource, sys
from client_fn.errors import BadData
from client_fn.training.source import Source
x, y = Source(path=sys.argv[1]).samples()
total = sum(float(x[i].sum()) for i in range(0, len(x), 1000))
lines = open("/proc/self/status").read().splitlines()
used = {line.split(":")[0]: int(line.split()[1]) >> 10 for line in lines if line.startswith("Rss")}
own_mb, samples = used["RssAnon"], len(y)
del x, y
resource.setrlimit(resource.RLIMIT_DATA, (512 << 20, 512 << 20))
try:
    Source(path=sys.argv[1]).samples()
except BadData as exc:
    print(json.dumps([total, own_mb, samples, str(exc)]))
"""


@pytest.mark.slow
def test_a_large_file_is_mapped_and_not_copied_up_to_the_memory_limit(tmp_path: Path) -> None:
    """Some samples of 1 GiB are read: memory of the process's own stays far below."""
    path, rows, width = tmp_path / "shard.safetensors", 1 << 18, 1 << 10
    y_end = rows * width * 4 + rows
    entries = {
        "x": {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, rows * width * 4]},
        "y": {"dtype": "U8", "shape": [rows], "data_offsets": [rows * width * 4, y_end]},
    }
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + y_end)
    run = subprocess.run(
        [sys.executable, "-c", BATCH, path],
        check=True,
        capture_output=True,
        timeout=300,
        cwd=REPOSITORY,
        env=os.environ,
    )
    total, own_mb, samples, reason = json.loads(run.stdout)
    assert (total, samples) == (0.0, rows)
    assert own_mb < 512
    assert reason.endswith("larger than the memory that the trainer may use (FEDKEEPER_TRAINER_MEMORY_MB)")
