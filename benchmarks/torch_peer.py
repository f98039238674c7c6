# SPDX-License-Identifier: Apache-2.0
"""The generator of `sr_keras.networks` in PyTorch, with a training step, to compare speeds. Needs PyTorch.

Layers, loss and optimizer are those of the Keras step "generator alone": the quasi-norm with q = 0.5, and Adam.
"""
from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import torch
from torch import nn

from sr_keras.config import GeneratorOptions


def convolution_block(filters: int) -> nn.Sequential:
    """Return two 3x3 convolutions with batch normalisation, and a ReLU between them."""
    first, second = ((nn.Conv2d(filters, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters)) for _ in range(2))
    return nn.Sequential(*first, nn.ReLU(), *second)


class Generator(nn.Module):
    """The same layers as `sr_keras.networks.generator`, for images [B, 3, H, W]."""

    def __init__(self, size: GeneratorOptions) -> None:
        """Make the layers."""
        super().__init__()
        doublings = size.scale.bit_length() - 1
        self.scale = size.scale
        self.first = nn.Sequential(nn.Conv2d(3, size.filters, 9, padding=4), nn.ReLU())
        self.blocks = nn.ModuleList(convolution_block(size.filters) for _ in range(size.blocks))
        self.trunk = convolution_block(size.filters)[:2]
        self.up = nn.Sequential(*(layer for _ in range(doublings) for layer in (
            nn.Conv2d(size.filters, 4 * size.filters, 3, padding=1), nn.PixelShuffle(2), nn.ReLU())))
        self.last = nn.Conv2d(size.filters, 3, 9, padding=4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return SR: the interpolated images plus the detail of the network."""
        x = start = self.first(images)
        for block in self.blocks:
            x = x + block(x)
        interpolated = nn.functional.interpolate(images, scale_factor=self.scale, mode="bilinear")
        return interpolated + self.last(self.up(start + self.trunk(x)))


def training_step(size: GeneratorOptions, lr: np.ndarray, hr: np.ndarray) -> Callable[[], float]:
    """Return a function that does one training step on the same batch and returns the loss.

    Args:
        size: Size of the generator.
        lr: float32 [B, h, w, 3].
        hr: float32 [B, scale*h, scale*w, 3].
    """
    computed_in = keras.config.dtype_policy().compute_dtype  # as the Keras step beside it
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inputs, targets = (torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(device) for images in (lr, hr))
    model = Generator(size).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast(device, getattr(torch, computed_in), enabled=computed_in != "float32"):
            sr = model(inputs)
        loss = ((sr.float() - targets).square() + 1e-4).pow(0.25).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
