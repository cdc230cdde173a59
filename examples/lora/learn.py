import csv
import io
import zlib

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertForSequenceClassification

DESKS = ["billing", "delivery", "repair", "account"]
WORDS = 4096
BASE = BertConfig(
    vocab_size=WORDS,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=128,
    max_position_embeddings=32,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    num_labels=len(DESKS),
)


def adapt(base):
    """The base with LoRA's small matrices and a new classifier. Only these are trained, and travel."""
    return get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", r=2, lora_alpha=8))


def tokens(text):
    return torch.tensor([1 + zlib.crc32(word.encode()) % (WORDS - 1) for word in text.split()])


class Adapted:
    def model(self):
        return adapt(BertForSequenceClassification(BASE))

    def data(self, source):
        with io.TextIOWrapper(source.open(), "utf-8") as file:
            rows = list(csv.DictReader(file))
        return [(tokens(row["text"]), DESKS.index(row["desk"])) for row in rows]

    def collate(self, samples):
        texts, desks = zip(*samples)
        ids = pad_sequence(texts, batch_first=True)
        return {"input_ids": ids, "attention_mask": (ids != 0).long(), "y": torch.tensor(desks)}
