"""The same task on one machine, for comparison: LoRA on the messages of all shops."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score
from torch.nn import functional

from examples.common import Logits, predict, train
from examples.lora.learn import Adapted
from examples.texts import plain as texts

METRIC = "accuracy"
LARGEST_UPDATE = 0.02
"""Bytes of an update, as a share of the model's: LoRA's matrices are small."""

trivial = texts.trivial


def centralised(folder: Path) -> float:
    """Train the adapters on the messages of all shops."""
    torch.manual_seed(0)
    data, test = (texts.read(folder, pattern, Adapted()) for pattern in ("shop-*", "test.csv"))
    model = Adapted().model()
    model.load_state_dict(load_file(folder / "start/base.safetensors"), strict=False)
    train(Logits(model), functional.cross_entropy, (data["input_ids"],), data["y"], epochs=8, rate=5e-3)
    return accuracy_score(test["y"], predict(Logits(model), test["input_ids"]).argmax(1))
