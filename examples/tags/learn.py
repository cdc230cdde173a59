from torch import nn


class Tagger(nn.Sequential):
    def __init__(self, words, tags):
        super().__init__(nn.Linear(words, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, tags))
