"""Learners and modules of a user's, and a client of a job with them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from client_fn.training import orders, tensors, work
from client_fn.training.orders import Build, Evaluate, Evaluation, Learner, Model, Together, Train, Training

OWN: Final = """
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from client_fn.learner import Learner

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))

class Loop:
    # With optimizers of its own choice.
    def model(self):
        return Net()
    def fit(self, model, data, context):
        first = context.optimizer(model[0].parameters(), torch.optim.AdamW, lr=context.learning_rate)
        last = context.optimizer(model[2].parameters())
        for _ in range(context.epochs):
            for batch in context.batches(data):
                loss = self.loss(model, batch)
                first.zero_grad(); last.zero_grad()
                loss.backward()
                first.step(); last.step()
        context.report(seen=context.seen, left=context.deadline_s > 0, round=context.round)
        (context.path / "checkpoint").write_text(str(context.device))
        global path
        path = context.path
        return {"loss": loss.item(), "own": 1.5}

class Alone(Loop):
    # Its optimizer is its own matter.
    def fit(self, model, data, context):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for batch in context.batches(data):
            optimizer.zero_grad()
            self.loss(model, batch).backward()
            optimizer.step()

class Searching(Loop):
    def fit(self, model, data, context):
        x, y = data
        optimizer = context.optimizer(model, torch.optim.LBFGS, max_iter=6)
        def closure():
            optimizer.zero_grad()
            loss = self.loss(model, (x, y))
            loss.backward()
            return loss
        optimizer.step(closure)
        return {"samples": 7}

class Plane:
    # No torch at all.
    def model(self):
        return {"w": np.zeros(3), "b": np.zeros(())}
    def arrays(self, model):
        return model
    def load(self, model, arrays):
        model.update(arrays)
    def fit(self, model, data, context):
        x, y = (part.numpy() for part in data)
        solution = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y.astype(float), rcond=None)[0]
        model["w"], model["b"] = solution[:3], np.asarray(solution[3])
    def evaluate(self, model, data, context):
        x, y = (part.numpy() for part in data)
        return {"mse": float(np.mean((x @ model["w"] + model["b"] - y) ** 2))}

class Words(Plane):
    def arrays(self, model):
        return {"classes": np.array(["a", "b"])}

class Batches(Loop):
    # Its batches come as they are.
    def data(self, source):
        x, y = source.samples()
        return list(zip(x, y)) if False else Twice([(x[:20], y[:20]), (x[20:], y[20:])])
    def fit(self, model, data, context):
        return Learner.fit(self, model, data, context)

class Twice:
    def __init__(self, batches):
        self.batches = batches
    def __iter__(self):
        return iter(self.batches)

class Once(Batches):
    def data(self, source):
        return iter([source.samples()])

class NoData(Loop):
    def data(self, source):
        raise FileNotFoundError("Meier")

class NoMetric(Loop):
    def evaluate(self, model, data, context):
        return {"loss": "good"}

class Unnamed(Loop):
    def evaluate(self, model, data, context):
        import torchmetrics
        metric = torchmetrics.classification.MulticlassF1Score(3)
        metric.update(model(data[0]), data[1])
        return {"f1": metric, "share": 0.25, "count": np.float32(2)}

class Summed(Unnamed):
    def metrics(self):
        import torchmetrics
        return {"f1": torchmetrics.classification.MulticlassF1Score(3)}

class Lazy(nn.Sequential):
    def __init__(self):
        super().__init__(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3))

class LazyWithExample(Lazy):
    example_input = torch.zeros(1, 3)

class LazyUnused(Lazy):
    example_input = (torch.zeros(2, 3),)
    def __init__(self):
        super().__init__()
        self.unused = nn.ModuleList([nn.LazyLinear(1)])
    def forward(self, x):
        for layer in list(self)[:4]:
            x = layer(x)
        return x

class LazyAndWrong(Lazy):
    example_input = {"pixels": torch.zeros(1, 3)}

class Masked(Net):
    # A constant with infinities, one of tiny numbers, one that is not saved, and small integers.
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf, 0.0]))
        self.register_buffer("tiny", torch.full((3,), 1e-40))
        self.register_buffer("steps", torch.zeros(1), persistent=False)
        self.register_buffer("codes", torch.tensor([-128, 127], dtype=torch.int8))
    def forward(self, x):
        self.steps += 1
        return super().forward(x) + self.tiny + torch.nan_to_num(self.mask, neginf=0)

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
    def forward(self, x):
        return self.out(self.second(self.first(x)))

class Renaming(Net):
    def forward(self, x):
        if "extra" not in self._modules:
            self.add_module("extra", nn.Linear(1, 1))
        return nn.Sequential(*list(self)[:3])(x)

class Outputs(Net):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
    def forward(self, x):
        logits = super().forward(x)
        return {"tuple": (logits, 1), "dict": {"logits": logits}, "aux": {"out": logits, "aux": 0}}[self.kind]

class Many(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.layers = nn.ParameterList([nn.Parameter(torch.ones(3)) for _ in range(count)])
    def forward(self, x):
        return x * torch.stack(list(self.layers)).mean(0)

class Complex(Net):
    def __init__(self):
        super().__init__()
        self.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))

class Normed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
"""


X = torch.randn(50, 3, generator=torch.Generator().manual_seed(3))
Y = (X.sum(1) > 0).long() + (X[:, 0] > 1).long()


def silent(_: str) -> None:
    """Say nothing."""


@dataclass
class Client:
    """A client of a job."""

    model: Model = field(default_factory=Model)
    learner: Learner = field(default_factory=Learner)
    training: Training = field(default_factory=lambda: Training(batch_size=10, local_epochs=2))
    evaluation: Evaluation = field(default_factory=Evaluation)
    samples: Mapping[str, Tensor] = field(default_factory=lambda: {"x": X, "y": Y})

    @property
    def shard(self) -> bytes:
        return tensors.to_bytes(self.samples)

    def do(self, order: orders.Order, inputs: Mapping[str, bytes]) -> work.Answer:
        decoded = orders.decode(orders.encode(order))
        assert not isinstance(decoded, Together)
        return work.do(decoded, inputs, silent)

    def build(self, **inputs: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
        facts, files = self.do(Build(self.model, 1, self.learner, self.training, self.evaluation), inputs)
        return facts, tensors.from_bytes(files["weights"])

    def train(
        self, weights: Mapping[str, Tensor], states: Mapping[str, bytes] | None = None, **changes: Any
    ) -> work.Answer:
        facts: dict[str, Any] = {"seed": 7, "device": "cpu", "left_s": 60.0, "learner": self.learner} | changes
        inputs = {"weights": tensors.to_bytes(weights), "shard": self.shard, **(states or {})}
        return self.do(Train(self.model, self.training, **facts), inputs)

    def evaluate(self, weights: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        order = Evaluate(self.model, self.evaluation, self.learner, self.training)
        facts, files = self.do(order, {"weights": tensors.to_bytes(weights), "shard": self.shard})
        return facts, tensors.from_bytes(files["sums"])

    def after(self, weights: Mapping[str, Tensor], files: Mapping[str, bytes]) -> dict[str, Tensor]:
        """The model after a round with this client alone."""
        update = tensors.from_bytes(files["update"])
        added = {n: weights[n] + part if part.is_floating_point() else part for n, part in update.items()}
        return {**weights, **added}


def learning(own: str, name: str, **args: Any) -> Client:
    return Client(learner=Learner(f"{own}:{name}", args))


def module(own: str, name: str, **args: Any) -> Client:
    return Client(model=Model(f"{own}:{name}", args))
