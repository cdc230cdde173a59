import csv
import io
import zlib

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

DESKS = ["billing", "delivery", "repair", "account"]
WORDS = 4096


def tokens(text):
    """The words' numbers by hash, so that the shops need no common list of words; 0 is for padding."""
    return torch.tensor([1 + zlib.crc32(word.encode()) % (WORDS - 1) for word in text.split()])


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 32, padding_idx=0)
        self.out = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, len(DESKS)))

    def forward(self, tokens):
        mask = (tokens != 0).unsqueeze(2)
        return self.out((self.embedding(tokens) * mask).sum(1) / mask.sum(1))


class Messages:
    def model(self):
        return Classifier()

    def data(self, source):
        with io.TextIOWrapper(source.open(), "utf-8") as file:
            rows = list(csv.DictReader(file))
        return [(tokens(row["text"]), DESKS.index(row["desk"])) for row in rows]

    def collate(self, samples):
        texts, desks = zip(*samples)
        return pad_sequence(texts, batch_first=True), torch.tensor(desks)
