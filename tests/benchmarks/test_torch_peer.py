# SPDX-License-Identifier: Apache-2.0
"""The generator in PyTorch is the one that its speed is compared with."""
from __future__ import annotations

import numpy as np
import pytest

from sr_keras import networks
from sr_keras.config import GeneratorOptions


def test_generator_in_pytorch_is_that_of_keras_in_size_and_output():
    torch = pytest.importorskip("torch")
    from benchmarks import torch_peer

    size = GeneratorOptions(4, 2, 8)
    model, reference = torch_peer.Generator(size), networks.generator(size.scale, size.blocks, size.filters)
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert count == sum(int(np.prod(weight.shape)) for weight in reference.trainable_weights)
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 32, 32)
