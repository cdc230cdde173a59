"""The messages of the shops in `examples/texts`, and a base model that knows only half of their words.

The base is trained here on messages that anybody may read, which takes a few seconds.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import BertForSequenceClassification

from examples.common import Logits, train
from examples.lora.learn import BASE, adapt, tokens
from examples.texts import make_data as texts

PUBLIC = {desk: " ".join(words.split()[:6]) for desk, words in texts.DESKS.items()}


def pretrain() -> BertForSequenceClassification:
    """Return a base that has been trained on public messages."""
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    desks = rng.integers(len(PUBLIC), size=1000)
    ids = pad_sequence([tokens(texts.write(rng, desk, PUBLIC)) for desk in desks], batch_first=True)
    base = BertForSequenceClassification(BASE)
    train(Logits(base), functional.cross_entropy, (ids,), torch.from_numpy(desks), epochs=3)
    return base


def make(folder: Path) -> None:
    """Write the shards, the test set and the base, with the names that its tensors have in the clients' model."""
    texts.make(folder, similarity=10.0)
    base = adapt(pretrain()).state_dict()
    (folder / "start").mkdir(exist_ok=True)
    public = {name: tensor for name, tensor in base.items() if "lora_" not in name and "classifier" not in name}
    save_file(public, folder / "start/base.safetensors")
