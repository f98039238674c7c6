# SPDX-License-Identifier: Apache-2.0
"""Draw docs/slide.png: H&E as scanned, its LR, bicubic, and the SR of two models, with scores.

    python docs/slide_picture.py --slide=CMU-1-Small-Region.svs --old=OLD_MODEL --output=docs/slide.png

The slide is test data of OpenSlide (CC0), 0.5 microns per pixel. LR is made as in a scanner's pyramid, two levels
below: averaged twice over 2x2 pixels, then JPEG of quality 75 with halved chroma. OLD_MODEL is the model of release
0.1.0, which was trained only on LR of the degradation "textbook".
"""
from __future__ import annotations

import argparse

import matplotlib
import numpy as np
import tensorflow as tf

from pipelines.config import degradation
from pipelines.degrade import degrade_example
from pipelines.pixels import to_float, to_uint8
from pipelines.slide import open_slide
from sr_keras import metrics
from sr_keras.metrics import bicubic
from sr_keras.model.loading import load_generator

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PLACES = ((1080, 1700), (1240, 1100))  # level-0 corners (x, y) of the shown regions
SIDE, SCORED, SCALE = 160, 1024, 4  # side of the shown region, and of the scored region around it


def main() -> None:
    """Read the slide, make LR, super-resolve it, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("slide", "old", "output"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--new", default="saved_models/srgan_sqe_x4")
    arguments = parser.parse_args()
    models = {"model of 0.1.0": load_generator(arguments.old), "this model": load_generator(arguments.new)}
    figure, axes = plt.subplots(len(PLACES), 3 + len(models), figsize=(13, 3.1 * len(PLACES)), squeeze=False)
    for row, (x, y) in zip(axes, PLACES, strict=True):
        left, top = (place - (SCORED - SIDE) // 2 if place > SCORED else 0 for place in (x, y))
        with open_slide(arguments.slide) as slide:
            hr = slide.read_region(left, top, 0, SCORED, SCORED)
        lr = scanned(hr)
        panels = {"LR": np.kron(lr, np.ones((SCALE, SCALE, 1), np.uint8)),
                  "bicubic": to_uint8(np.asarray(bicubic(to_float(lr[np.newaxis]), SCALE))[0]),
                  **{name: model(lr[np.newaxis])[0] for name, model in models.items()}, "as scanned": hr}
        for axis, (name, image) in zip(row, panels.items(), strict=True):
            axis.imshow(image[y - top:y - top + SIDE, x - left:x - left + SIDE], interpolation="nearest")
            axis.set_axis_off()
            caption = "" if name in ("LR", "as scanned") else f"\n{scores(hr, image)}"
            axis.set_title(f"{name}{caption}", fontsize=9)
    figure.tight_layout(pad=0.4, h_pad=1.5)
    figure.savefig(arguments.output, dpi=110)
    print(arguments.output)


def scanned(hr: np.ndarray) -> np.ndarray:
    """Return uint8 LR of a uint8 HR image, as stored in a slide's pyramid."""
    options = degradation("pyramid", jpeg_passes=(0.0, 1.0, 0.0), jpeg_quality=(75, 75))
    return to_uint8(degrade_example(tf.constant(to_float(hr)), options, tf.constant([0, 0])).numpy())


def scores(hr: np.ndarray, sr: np.ndarray) -> str:
    """Return PSNR and MS-SSIM of one image as text."""
    pair = [to_float(image[np.newaxis]) for image in (hr, sr)]
    return f"{float(metrics.psnr(*pair)[0]):.2f} dB, MS-SSIM {float(metrics.ms_ssim(*pair)[0]):.3f}"


if __name__ == "__main__":
    main()
