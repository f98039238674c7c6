"""A picture of every corruption on real tissue: each at three strengths, then which side of a pair is bad.

    python -m pipelines.preview --output=preview.png
    python -m pipelines.preview --output=preview.png --data=slides --outlier_dir=tiles/giemsa

The panels are made by the functions that training uses. One panel pixel is one image pixel, or a whole number of them.
"""
from __future__ import annotations

import sys
from itertools import islice

import numpy as np
import tensorflow as tf
from absl import flags
from matplotlib.figure import Figure

from pipelines import corrupt
from pipelines.console import run
from pipelines.degrade import degrade
from pipelines.files import atomic_path
from pipelines.flags import define_degrade_flags, define_patch_flags, degrade_options, patch_options
from pipelines.options import SIDES, CorruptOptions, DegradeOptions
from pipelines.patches import Patch, find_sources, read_patches
from pipelines.pixels import quantise, to_float

STRENGTHS = (0.5, 1.0, 2.0)
CANDIDATES = 64  # patches to choose the fullest one from
SHOWN = 192  # side of a panel in HR pixels: the centre of the patch

# Half of the seeds put an image out of focus and half blur it softly, and so on: these show each once (a test says so).
VARIANTS = {
    "noise": ("noise", 0), "defocus blur": ("blur", 0), "Gaussian blur": ("blur", 1),
    "more stain": ("contrast", 0), "less stain": ("contrast", 1),
    "harsh, dark": ("contrast", 2), "flat, bright": ("contrast", 3),
}
