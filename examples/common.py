"""What the examples share: writing shards, splitting rows among clients, and a plain training loop to compare with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

Arrays = dict[str, np.ndarray[Any, Any]]

TEST = "test.safetensors"

# As in a trainer: another number of threads rounds differently, and small tensors gain nothing by more.
torch.set_num_threads(1)


def save(folder: Path, clients: dict[str, Arrays], test: Arrays | None = None) -> None:
    """Write one shard per client, and the server's test set.

    Args:
        folder: where the files go: `<client>.safetensors` and `test.safetensors`.
        clients: each client's arrays.
        test: the server's arrays; None: the clients hold their own test samples out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, arrays in clients.items():
        save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, folder / f"{name}.safetensors")
    if test is not None:
        save_file({key: np.ascontiguousarray(value) for key, value in test.items()}, folder / TEST)


def split(rows: int, clients: int) -> list[np.ndarray[Any, Any]]:
    """Return each client's share of the row numbers, drawn at random."""
    return np.array_split(np.random.default_rng(0).permutation(rows), clients)


def pooled(folder: Path) -> dict[str, Tensor]:
    """Return the arrays of all clients, one after the other: what one machine would train on."""
    files = [load_file(file) for file in sorted(folder.glob("*.safetensors")) if file.name != TEST]
    return {name: torch.from_numpy(np.concatenate([file[name] for file in files])) for name in files[0]}


def test_set(folder: Path) -> dict[str, Tensor]:
    """Return the server's test set."""
    return {name: torch.from_numpy(array) for name, array in load_file(folder / TEST).items()}


def train(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: tuple[Tensor, ...],
    y: Tensor,
    *,
    epochs: int,
    rate: float = 1e-3,
) -> None:
    """Train a model with Adam on one machine, in batches of 32.

    Args:
        model: the model.
        loss: returns the loss of outputs and targets.
        inputs: the samples, one tensor for each parameter of the model.
        y: their targets.
        epochs: passes over them.
        rate: the learning rate.
    """
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    order = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(y), generator=order).split(32):
            optimizer.zero_grad()
            loss(model(*(x[batch] for x in inputs)), y[batch]).backward()
            optimizer.step()


def predict(model: nn.Module, *inputs: Tensor) -> Tensor:
    """Return a model's outputs for samples."""
    model.eval()
    with torch.no_grad():
        return model(*inputs)


class Logits(nn.Module):
    """A text classifier of `transformers` as a function from tokens, 0 where there are none, to logits.

    Args:
        classifier: the classifier.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits (N, classes) of tokens (N, length)."""
        return self.classifier(input_ids=ids, attention_mask=(ids != 0).long()).logits
