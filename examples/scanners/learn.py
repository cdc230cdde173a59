import torch
from torch import nn
from torch.nn.functional import cross_entropy


class Digits(nn.Module):
    def __init__(self, width=24):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width)
        self.out = nn.Linear(16 * width, 10)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return self.out(x.flatten(1))


def augment(x):
    """Noise, and one row of each image hidden."""
    x = x + 0.1 * x.std() * torch.randn_like(x)
    hidden = torch.randint(8, (len(x), 1, 1, 1), device=x.device) == torch.arange(8, device=x.device)[:, None]
    return torch.where(hidden, x.mean(), x)


class Augmented:
    def model(self):
        return Digits()

    def loss(self, model, batch):
        x, y = batch
        return cross_entropy(model(augment(x)), y)
