import json
from importlib.resources import files

import torch
from fracast._core.model import build_from_cfg
from torch import nn


class Forecaster(nn.Module):
    """fracast's network for a past of `past` values; its tensors have the names of the pretrained file."""

    def __init__(self, past=128):
        super().__init__()
        config = json.loads((files("fracast") / "weights/config.json").read_text())
        config["model"] |= {"W": past, "level_widths": [past]}
        self.core, self.head = build_from_cfg(config)

    def forward(self, x):
        low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
        scale = (high - low).clamp(min=1e-5)
        past = (x - low) / scale
        valid = torch.ones_like(past, dtype=torch.bool)
        states = self.core(past[:, None], valid[:, None], valid[:, None].float())
        future = self.head.forward_horizon(states, last_obs=past[:, -1:], ctx=past, ctx_mask=valid)
        return future * scale[:, :, None] + low[:, :, None]


class Forecast:
    def predict(self, model, batch):
        past, future = batch
        return model(past)[:, :, 4], future  # of the nine quantiles, the median

    def loss(self, model, batch):
        past, future = batch
        quantiles = torch.arange(1, 10, device=past.device) / 10
        error = future[:, :, None] - model(past)
        return torch.maximum(quantiles * error, (quantiles - 1) * error).mean()
