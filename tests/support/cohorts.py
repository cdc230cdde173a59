"""A cohort whose clients are trained in one program or one by one, and models of a user's for it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from client_fn.training import tensors, together, work
from client_fn.training.orders import Build, Learner, Model, Together, Train, Training, of_member

OWN = """
import torch
from torch import nn

from client_fn.learner import Learner

class Small(nn.Module):
    trains_together = True

    def __init__(self, dtype):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, dtype=dtype)
        self.out = nn.Linear(36, 3, dtype=dtype)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.conv(x)), 2)
        return self.out(x.flatten(1))

class Double(Small):
    def __init__(self):
        super().__init__(torch.float64)

class Single(Small):
    def __init__(self):
        super().__init__(torch.float32)

class Silent(Double):
    trains_together = False

class Dropping(Double):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.5, self.training))

class Layered(Double):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.2)

class Normed(Double):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1, track_running_stats=False, dtype=torch.float64)

class Buffered(Double):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

class Hooked(Double):
    def __init__(self):
        super().__init__()
        self.out.register_forward_hook(lambda *_: None)

class Doubled(Double):
    def __init__(self):
        super().__init__()
        self.out.weight.register_hook(lambda gradient: 2 * gradient)

class Followed(Double):
    def __init__(self):
        super().__init__()
        self.out.weight.register_post_accumulate_grad_hook(lambda parameter: parameter.grad.mul_(2))

class Unused(Double):
    def __init__(self):
        super().__init__()
        self.more = nn.Linear(2, 2, dtype=torch.float64)

class Counting(Double):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)

class Choosing(Double):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)

class Quiet(Learner):
    pass

class Doubling(Learner):
    trains_together = True

    def data(self, source):
        x, y = source.samples()
        return torch.cat([x, x]), torch.cat([y, y])

class Scaling(Learner):
    trains_together = True

    def data(self, source):
        x, y = source.samples()
        self.scale = float(x.std())
        return x / self.scale, y

    def evaluate(self, model, data, context):
        return {"scale": self.scale, **super().evaluate(model, data, context)}

class Looping(Doubling):
    def fit(self, model, data, context):
        return {"loss": 0.0, "samples": 1}
"""

SIZES = (43, 23, 53, 3)
"""Samples of the clients. The last batch of an epoch has three of them; the last client has no other."""

EARLIER = (0, 2, 5, 1)
"""Epochs of each client's earlier training, whose optimizer state it carries."""


def silent(_: str) -> None:
    """Say nothing."""


def as_it_is(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    return {"x": x, "y": y}


def shard(
    size: int, seed: int, change: Callable[[Tensor, Tensor], dict[str, Tensor]] = as_it_is, *, bad: bool = False
) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((size, 1, 8, 8), generator=generator, dtype=torch.float64)
    y = torch.randint(3, (size,), generator=generator)
    x[:, 0, 0, 0] += y
    return tensors.to_bytes(change(x * float("nan") if bad else x, y))


class Clients:
    """Clients of one job with shards of different sizes.

    Args:
        training: the job's.
        earlier: epochs of each client's training before.
        change: makes a shard's tensors of images and labels.
        settings: of the orders.
    """

    def __init__(
        self,
        model: Model,
        training: Training,
        *,
        earlier: Sequence[int] = EARLIER,
        change: Callable[[Tensor, Tensor], dict[str, Tensor]] = as_it_is,
        **settings: Any,
    ) -> None:
        self.fewer: str | None = None
        self.replayed: int | None = None
        self.unrecorded: str | None = None
        self.weights = work.do(Build(model, seed=1, learner=settings.get("learner", Learner())), {}, silent)[1]
        self.orders = [Train(model, training, 7 + n, "cpu", 600.0, **settings) for n in range(len(SIZES))]
        self.files: list[dict[str, Any]] = [{"shard": shard(size, n, change)} for n, size in enumerate(SIZES)]
        for order, files, epochs in zip(self.orders, self.files, earlier, strict=True):
            if epochs:
                before = order._replace(seed=100, training=training._replace(local_epochs=epochs))
                files |= {name: got for name, got in self.do(before, files)[1].items() if name.startswith("state.")}

    def do(self, order: Train, files: dict[str, Any]) -> work.Answer:
        return work.do(order, {**self.weights, **files}, silent)

    def alone(self, number: int) -> work.Answer:
        return self.do(self.orders[number], self.files[number])

    def together(self, say: work.Say = silent, *, graph: bool = True) -> list[work.Answer]:
        """Return the answers; of a client that must be trained alone, the reason."""
        named = {of_member(n, name): file for n, files in enumerate(self.files) for name, file in files.items()}
        facts, files = together.do(Together(tuple(self.orders), graph=graph), {**self.weights, **named}, say)
        self.fewer, self.replayed, self.unrecorded = map(facts.get, ("fewer", "replayed", "unrecorded"))
        return [
            (each, {name: files[of_member(n, name)] for name in ("update", "state.opt") if of_member(n, name) in files})
            for n, each in enumerate(facts["clients"])
        ]

    def reasons(self) -> list[str]:
        return [facts.get("alone", "") for facts, _ in self.together()]


def flat(file: bytes) -> Tensor:
    return torch.cat([tensor.double().flatten() for tensor in tensors.from_bytes(file).values()])


def distance(got: bytes, expected: bytes) -> float:
    """Return how far files with the same tensors are from each other, as a share of the expected one's norm."""
    wanted = flat(expected)
    return float((flat(got) - wanted).norm() / wanted.norm())


OPTIMIZERS = {
    "sgd": Training("sgd", 0.05),
    "momentum": Training("sgd", 0.02, optimizer_args={"momentum": 0.9, "dampening": 0.2, "weight_decay": 0.01}),
    "nesterov": Training("sgd", 0.02, optimizer_args={"momentum": 0.9, "nesterov": True}),
    "adam": Training("adam", 0.002),
    "amsgrad": Training("adam", 0.002, optimizer_args={"amsgrad": True, "weight_decay": 0.01}),
    "decoupled": Training("adam", 0.002, optimizer_args={"decoupled_weight_decay": True, "weight_decay": 0.01}),
    "nadam": Training("nadam", 0.002),
}
