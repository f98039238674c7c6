"""One panel of a preview: the centre of an image, enlarged without smoothing."""
from __future__ import annotations

import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes

from pipelines.config import SCALES

SHOWN = 160  # side of what a panel shows, in HR pixels
_STEP = max(SCALES)


def show(axis: Axes, image: np.ndarray | tf.Tensor, scale: int = 1) -> None:
    """Draw the SHOWN x SHOWN HR pixels at the centre of an image [h, w, 3] in [0, 1], which is 1/scale of HR.

    HR and LR of a pair show the same place: the corner lies on a whole LR pixel of every scale.
    """
    side = SHOWN // scale
    top, left = (max(full * scale - SHOWN, 0) // (2 * _STEP) * _STEP // scale
                 for full in image.shape[:2])
    axis.imshow(np.asarray(image[top:top + side, left:left + side]), vmin=0, vmax=1, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
