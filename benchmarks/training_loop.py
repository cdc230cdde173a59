"""The function's training loop beside the best plain torch loop for the same model, data and optimizer, on one thread.

    python -m benchmarks.training_loop [--model cnn] [--rounds 10]

Ours is what a client's `trained_s` counts: the optimizer is made, the model is trained, the update is computed. The
plain loop does no more than it must: random batches of tensors in memory, forward, backward, step. Of torch's three
implementations of Adam the fastest counts. Both start from a new optimizer, and take turns. Prints JSON: steps per
second of each turn.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

# A trainer uses one thread. Torch reads this when it is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from client_fn.training import models, orders, work

SAMPLES: Final = 600
BATCH: Final = 10
RATE: Final = 1e-3

PLAIN: Final[dict[str, dict[str, Any]]] = {
    "one tensor after the other": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
"""Torch's implementations of Adam."""


def data() -> tuple[Tensor, Tensor]:
    """Return a client's samples: random images and labels."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand((SAMPLES, 28, 28), generator=generator)
    return x, torch.randint(0, 10, (SAMPLES,), generator=generator)


def our_loop(model: str, epochs: int) -> Callable[[], float]:
    """Return what trains once as a client does, and returns the seconds.

    Args:
        model: `nn` or `cnn`.
        epochs: number of epochs.
    """
    x, y = data()
    built = work.do(orders.Build(orders.Model(model), seed=1), {}, _say_nothing)[1]
    inputs = {"weights": built["weights"], orders.SHARD: safetensors.torch.save({"x": x, "y": y})}
    training = orders.Training(rate=RATE, batch_size=BATCH, local_epochs=epochs, optimizer_state="reset")
    order = orders.Train(orders.Model(model), training, seed=1, device="cpu", left_s=3600.0)
    return lambda: float(work.do(order, inputs, _say_nothing)[0]["seconds"]["train"])


def plain_loop(model: str, epochs: int, **implementation: Any) -> Callable[[], float]:
    """Return what trains once with as little as possible, and returns the seconds.

    Args:
        model: `nn` or `cnn`.
        epochs: number of epochs.
        implementation: torch's implementation of Adam.
    """
    x, y = data()
    module = models.build(orders.Model(model), seed=1)
    module.train()

    def train() -> float:
        begin_s = time.perf_counter()
        optimizer = torch.optim.Adam(module.parameters(), lr=RATE, **implementation)
        for _ in range(epochs):
            order = torch.randperm(SAMPLES)
            for start in range(0, SAMPLES, BATCH):
                chosen = order[start : start + BATCH]
                loss = functional.cross_entropy(module(x[chosen]), y[chosen])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return time.perf_counter() - begin_s

    return train


def compare(model: str, rounds: int, epochs: int, warm_up: int) -> dict[str, Any]:
    """Let our loop and the plain ones take turns.

    Args:
        model: `nn` or `cnn`.
        rounds: number of turns that count.
        epochs: number of epochs in each.
        warm_up: number of turns before them.

    Returns:
        `ours` and `plain`: steps per second of each turn; `fastest`: the implementation of Adam that is the plain one.
    """
    steps = epochs * -(-SAMPLES // BATCH)
    loops = {"ours": our_loop(model, epochs)}
    loops |= {name: plain_loop(model, epochs, **options) for name, options in PLAIN.items()}
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(warm_up + rounds):
        for name, loop in loops.items():
            seconds = loop()
            if turn >= warm_up:
                speeds[name].append(steps / seconds)
    fastest = max(PLAIN, key=lambda name: statistics.median(speeds[name]))
    return {"ours": speeds["ours"], "plain": speeds[fastest], "fastest": fastest}


def _say_nothing(_: str) -> None:
    pass


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["nn", "cnn"], default="nn")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(compare(options.model, options.rounds, options.epochs, options.warm_up)))


if __name__ == "__main__":
    main()
