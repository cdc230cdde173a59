"""Modules of every awkward kind, for 8x8 images in ten classes."""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn


class BatchNormed(nn.Sequential):
    """Float buffers that are averaged, and a counter of which the largest counts."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))


class Scalar(nn.Module):
    """A parameter without dimensions beside ordinary ones."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.out = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.scale * self.out(x.flatten(1)))


class Tied(nn.Module):
    """One matrix under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64, bias=False)
        self.second = nn.Linear(64, 64, bias=False)
        self.second.weight = self.first.weight
        self.out = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.out(self.second(self.first(x.flatten(1)))))


class Frozen(nn.Module):
    """A backbone that nobody trains, and that is never sent back."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(64, 32).requires_grad_(requires_grad=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.head(self.backbone(x.flatten(1))))


class Half(nn.Sequential):
    """All in float16."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        self.half()


class Brain(nn.Sequential):
    """All in bfloat16."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        self.bfloat16()


class Single(nn.Module):
    """A model of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([0.5]))

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * x.flatten(1)[:, :10]


class Large(nn.Module):
    """An embedding of 300 MB."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7_500_000, 10)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.table(x.flatten(1).sum(1).long()))


class RawColumns(nn.Sequential):
    """BatchNorm straight over raw columns, whose statistics follow the data's scale."""

    def __init__(self) -> None:
        super().__init__(nn.BatchNorm1d(4), nn.Linear(4, 2))


class Adapted(nn.Module):
    """A large base that nobody trains, and a small adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.normal = nn.BatchNorm1d(4, affine=False, track_running_stats=False)
        self.base = nn.Linear(4, 4096).requires_grad_(requires_grad=False)
        self.adapter = nn.Linear(4, 2)
        self.out = nn.Linear(4096, 2).requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normal(x)
        return cast("Tensor", self.out(self.base(x)) + self.adapter(x))


class Masked(nn.Module):
    """A constant with infinities, one of tiny numbers, one that is not saved, and small integers."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(64, 10)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("tiny", torch.full((10,), 1e-40))
        self.register_buffer("passing", torch.zeros(1), persistent=False)
        self.register_buffer("codes", torch.tensor([-128, 127], dtype=torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.out(x.flatten(1)) + self.get_buffer("tiny") + self.get_buffer("mask")[0])


class Several(nn.Module):
    """Several outputs: a tuple in training, a dict otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> object:
        logits = self.out(x.flatten(1))
        return (logits, None) if self.training else {"logits": logits, "loss": None}


class Lazy(nn.Sequential):
    """A layer whose shape is open until it sees a batch."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.LazyLinear(10))


class Thousands(nn.Module):
    """5,000 small tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(64, 10)
        self.shifts = nn.ParameterList([nn.Parameter(torch.zeros(10)) for _ in range(4998)])

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.out(x.flatten(1)) + torch.stack(list(self.shifts)).mean(0))


class Doubles(nn.Sequential):
    """All in float64."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        self.double()


class Centres:
    """A learner without torch: the mean image of each label, and how many it has seen."""

    def model(self) -> dict[str, Any]:
        return {"centres": np.zeros((10, 64)), "seen": np.zeros(1, np.int64)}

    def arrays(self, model: dict[str, Any]) -> dict[str, Any]:
        return model

    def load(self, model: dict[str, Any], arrays: dict[str, Any]) -> None:
        model.update(arrays)

    def fit(self, model: dict[str, Any], data: Any, context: object) -> dict[str, float]:
        del context
        x, y = (part.numpy() for part in data)
        images = x.reshape(len(x), 64).astype(np.float64)
        model["centres"] = np.stack([images[y == label].mean(0) for label in range(10)])
        model["seen"] = model["seen"] + len(x)
        return {"images": float(len(x))}

    def evaluate(self, model: dict[str, Any], data: Any, context: object) -> dict[str, float]:
        del context
        x, y = (part.numpy() for part in data)
        distances = ((x.reshape(len(x), 1, 64) - model["centres"]) ** 2).sum(2)
        return {"accuracy": float((distances.argmin(1) == y).mean())}
