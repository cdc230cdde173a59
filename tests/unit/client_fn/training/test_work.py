"""An order is done as it says, whatever was done before it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from client_fn.errors import BadModel, BadSettings, LeaseOver, TrainingFailed, UserCodeFailed
from client_fn.training import models, tensors, work
from client_fn.training.orders import Build, Evaluate, Model, Train, Training

pytestmark = pytest.mark.torch

OWN = """
import torch
from torch import nn

class Counting(nn.Linear):
    built = 0

    def __init__(self):
        super().__init__(2, 2, bias=False)
        Counting.built += 1

class Angle(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.register_buffer("angle", torch.zeros(2).to(getattr(torch, dtype)))
"""
SMALL = Model(type="nn", args={"input_size": 2, "hidden": 2, "classes": 2})
SAMPLES = tensors.to_bytes(
    {
        "x": torch.tensor([[5.0, 0.0], [0.0, 5.0], [5.0, 0.0], [0.0, 5.0]]),
        "y": torch.tensor([0, 1, 0, 0], dtype=torch.uint8),
    }
)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of an importable module with a user's classes."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def weights(*, swapped: bool = False) -> bytes:
    """Return identity weights: the logits are the two inputs, if these are positive."""
    eye = torch.eye(2)
    return tensors.to_bytes(
        {
            "hidden.weight": eye,
            "hidden.bias": torch.zeros(2),
            "out.weight": eye.flip(0) if swapped else eye,
            "out.bias": torch.zeros(2),
        }
    )


def initial(model: Model) -> bytes:
    return work.do(Build(model, seed=1), {}, silent)[1]["weights"]


def silent(_: str) -> None:
    """Say nothing."""


def accuracy(model: Model, blob: bytes) -> float:
    facts, files = work.do(Evaluate(model, batch_size=2), {"weights": blob, "samples": SAMPLES}, silent)
    assert (facts["samples"], files) == (4, {})
    got: float = facts["accuracy"]
    return got


def train(model: Model = SMALL, blob: bytes | None = None, say: work.Say = silent, **changes: Any) -> work.Answer:
    order: dict[str, Any] = {"training": Training(batch_size=2), "seed": 7, "device": "cpu", "left_s": 60.0}
    inputs = {"weights": initial(model) if blob is None else blob, "shard": SAMPLES}
    return work.do(Train(model, **(order | changes)), inputs, say)


def test_our_module_is_kept_and_its_weights_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    build = models.build

    def counted(model: models.Spec, *, seed: int) -> torch.nn.Module:
        built.append(model.type)
        return build(model, seed=seed)

    monkeypatch.setattr(models, "build", counted)
    monkeypatch.setattr(work, "_built_in", {})
    assert accuracy(SMALL, weights()) == 0.75
    assert accuracy(SMALL, weights(swapped=True)) == 0.25
    train(SMALL, weights(swapped=True))
    assert accuracy(SMALL, weights()) == 0.75
    assert accuracy(Model(SMALL.type, dict(reversed(SMALL.args.items()))), weights()) == 0.75
    assert built == ["nn"]


def test_other_args_are_another_module_and_one_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, torch.nn.Module] = {}
    monkeypatch.setattr(work, "_built_in", kept)
    accuracy(SMALL, weights())
    with pytest.raises(BadModel, match="not this model's tensors"):
        accuracy(Model("nn", {**SMALL.args, "hidden": 3}), weights())
    for hidden in (5, 6, 5):
        model = Model("nn", {**SMALL.args, "hidden": hidden})
        assert tensors.from_bytes(train(model)[1]["update"])["hidden.weight"].shape[0] == hidden
        assert len(kept) == 1


def test_a_user_s_module_is_built_anew_for_each_order(own: str) -> None:
    model = Model(f"{own}:Counting")
    blob = initial(model)
    train(model, blob)
    accuracy(model, blob)
    accuracy(model, blob)
    assert models.find(model.type).built == 4  # type: ignore[attr-defined]


def test_the_same_order_gives_the_same_bytes() -> None:
    first = train()[1]
    torch.rand(17)
    assert train()[1] == first
    assert train(seed=8)[1]["update"] != first["update"]


def test_the_training_is_announced_once_and_each_batch() -> None:
    said: list[str] = []
    facts, _ = train(say=said.append, training=Training(batch_size=2, local_epochs=3))
    assert said == ["training", *["alive"] * 6]
    assert facts["metrics"]["steps"] == 6
    assert facts["seconds"].keys() == {"build", "train"}


def test_a_training_ends_at_its_deadline_before_the_next_batch() -> None:
    said: list[str] = []
    with pytest.raises(LeaseOver):
        train(say=said.append, left_s=0.0)
    assert said == ["training"]


@pytest.mark.parametrize("dtype", ["complex64", "float8_e4m3fn"])
def test_a_dtype_that_no_update_carries_is_named(own: str, dtype: str) -> None:
    with pytest.raises(BadModel, match=f"angle has dtype torch.{dtype}, known are torch.float64"):
        initial(Model(f"{own}:Angle", {"dtype": dtype}))


def test_a_device_that_is_not_here_is_named() -> None:
    for device in ("cuda:99", "gpu"):
        with pytest.raises(BadSettings, match=f"FEDKEEPER_DEVICE: '{device}' can't be used here") as bad:
            train(device=device)
        assert not bad.value.retryable


def test_what_does_not_fit_is_explained() -> None:
    with pytest.raises(UserCodeFailed, match="not a safetensors file"):
        accuracy(SMALL, b"garbage")
    with pytest.raises(BadModel, match="no_such_package can't be imported"):
        accuracy(Model("no_such_package:Net"), weights())
    large = Model("nn", {"input_size": 9})
    with pytest.raises(TrainingFailed, match=r"samples of shape \(2\)"):
        accuracy(large, initial(large))
