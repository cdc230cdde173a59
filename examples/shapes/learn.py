import torch
from torch import nn
from torch.nn.functional import interpolate, relu


class Segmenter(nn.Module):
    """A small U-Net."""

    def __init__(self, classes=3, width=12):
        super().__init__()
        self.down = nn.Conv2d(1, width, 3, padding=1)
        self.middle = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(2 * width, 2 * width, 3, padding=2, dilation=2)
        self.up = nn.Conv2d(3 * width, width, 3, padding=1)
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        fine = relu(self.down(x))
        coarse = relu(self.deep(relu(self.middle(fine))))
        both = torch.cat([fine, interpolate(coarse, scale_factor=2.0)], dim=1)
        return self.out(relu(self.up(both)))
