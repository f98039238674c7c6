# SPDX-License-Identifier: Apache-2.0
"""HR -> LR: how a scanner shows the same glass at a coarser resolution.

    degrade(hr, scale, blur_sigma)           the paper's: Gaussian blur, every `scale`-th pixel. Batches, differentiable
    degrade_example(hr, options, seed)       one patch by a `DegradeOptions`, drawn from a seed

`kernels`: the first, and the lens and the coarser plane of the second. `family`: its order, and what the camera and its
software do.
"""
from pipelines.degrade.family import degrade_example
from pipelines.degrade.kernels import TRUNCATE, degrade, extend_symmetric, taps

__all__ = ["TRUNCATE", "degrade", "degrade_example", "extend_symmetric", "taps"]
