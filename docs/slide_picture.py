"""Draw docs/slide.png: H&E as scanned, its LR, bicubic, and what two models make of it, with scores under each.

    python docs/slide_picture.py --slide=CMU-1-Small-Region.svs --old=OLD_MODEL --output=docs/slide.png

The slide is OpenSlide's test data (CC0), 0.5 microns a pixel. LR is what a scanner's pyramid would hold two levels
below: averaged twice over 2x2 pixels, then JPEG of quality 75 with halved chroma. OLD_MODEL is the model of release
0.1.0, which was trained on the textbook's LR alone.
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
from sr_keras.evaluation import bicubic
from sr_keras.model.loading import load_generator

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PLACES = ((1080, 1700), (1240, 1100))  # corners in level 0 of what is shown
SIDE, SCORED, SCALE = 160, 1024, 4  # shown, and scored around it


def main() -> None:
    """Read, make LR, super-resolve, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("slide", "old", "output"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--new", default="saved_models/srgan_sqe_x4")
    asked = parser.parse_args()
    models = {"model of 0.1.0": load_generator(asked.old), "this model": load_generator(asked.new)}
    figure, axes = plt.subplots(len(PLACES), 3 + len(models), figsize=(13, 3.1 * len(PLACES)), squeeze=False)
    for row, (x, y) in zip(axes, PLACES, strict=True):
        with open_slide(asked.slide) as slide:
            hr = slide.read_region(x - (SCORED - SIDE) // 2 if x > SCORED else 0,
                                   y - (SCORED - SIDE) // 2 if y > SCORED else 0, 0, SCORED, SCORED)
            left, top = (place - (SCORED - SIDE) // 2 if place > SCORED else 0 for place in (x, y))
        lr = scanned(hr)
        panels = {"LR": np.kron(lr, np.ones((SCALE, SCALE, 1), np.uint8)),
                  "bicubic": to_uint8(np.asarray(bicubic(to_float(lr[np.newaxis]), SCALE))[0]),
                  **{name: model(lr[np.newaxis])[0] for name, model in models.items()}, "as scanned": hr}
        for axis, (name, image) in zip(row, panels.items(), strict=True):
            axis.imshow(image[y - top:y - top + SIDE, x - left:x - left + SIDE], interpolation="nearest")
            axis.set_axis_off()
            said = "" if name in ("LR", "as scanned") else f"\n{scores(hr, image)}"
            axis.set_title(f"{name}{said}", fontsize=9)
    figure.tight_layout(pad=0.4, h_pad=1.5)
    figure.savefig(asked.output, dpi=110)
    print(asked.output)


def scanned(hr: np.ndarray) -> np.ndarray:
    """Return uint8 LR of a uint8 HR image as a pyramid holds it."""
    options = degradation("pyramid", jpeg_passes=(0.0, 1.0, 0.0), jpeg_quality=(75, 75))
    return to_uint8(degrade_example(tf.constant(to_float(hr)), options, tf.constant([0, 0])).numpy())


def scores(hr: np.ndarray, sr: np.ndarray) -> str:
    """Return PSNR and MS-SSIM of one image, in words."""
    pair = [to_float(image[np.newaxis]) for image in (hr, sr)]
    return f"{float(metrics.psnr(*pair)[0]):.2f} dB, MS-SSIM {float(metrics.ms_ssim(*pair)[0]):.3f}"


if __name__ == "__main__":
    main()
