# SPDX-License-Identifier: Apache-2.0
"""The sample slide, real histology that is always available: scikit-image's picture of a colon.

    python -m pipelines.sample --output=slides            # the sample slide, offline
    python -m pipelines.sample --output=slides --slide    # and OpenSlide's CC0 test slide, downloaded

`skimage.data.immunohistochemistry()` shows colonic glands, 512x512, FHL2 in DAB brown and haematoxylin blue (Center for
Microscopy and Molecular Imaging; "no known copyright restrictions"), and is part of the scikit-image package. It is
written as a tiled, lossless pyramid, which OpenSlide opens as "generic-tiff". Every flag for data accepts the word
`sample` for this slide.
"""
from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from pipelines.console import run
from pipelines.errors import require_folder
from pipelines.files import atomic_path, cache_home
from pipelines.options import Options, basic, flags_of

# The picture has no resolution metadata. Nuclei of colonic epithelium are about 7 microns wide, here about 14 pixels:
# a 20x scan.
SAMPLE_MPP = 0.5
SAMPLE_NAME = "immunohistochemistry.tif"
TILE = 128

SLIDE_URL = "https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/CMU-1-Small-Region.svs"
SLIDE_SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"


@dataclass(frozen=True)
class SampleOptions(Options):
    """What is written, and where."""

    output: str = basic(".", "Folder to write the slide into")
    slide: bool = basic(False, "Also download OpenSlide's test slide (1.9 MB, CC0)")


FLAGS = flags_of(SampleOptions)


def sample_picture() -> np.ndarray:
    """Return the picture, uint8 [512, 512, 3]. To import skimage.data fails where a user has no home."""
    with files("skimage").joinpath("data", "ihc.png").open("rb") as file, Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def write_sample_slide(path: str | os.PathLike[str]) -> Path:
    """Write the sample slide to `path`, atomically, and return the path."""
    finest = Image.fromarray(sample_picture())
    levels = finest, finest.reduce(2), finest.reduce(2).reduce(2)
    with atomic_path(path) as temporary, tifffile.TiffWriter(temporary) as tiff:
        for i, level in enumerate(levels):
            pixels_per_cm = 1e4 / (SAMPLE_MPP * 2**i)
            tiff.write(np.asarray(level), photometric="rgb", tile=(TILE, TILE), compression="adobe_deflate",
                       predictor=True, resolution=(pixels_per_cm, pixels_per_cm), resolutionunit="CENTIMETER",
                       subfiletype=1 if i else 0, metadata=None)
    return Path(path)


def cached_sample_slide(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the sample slide in `cache_dir` (by default ~/.cache/sr_keras); write it on first use."""
    path = Path(cache_dir or cache_home() / "sr_keras", SAMPLE_NAME)
    return path if path.is_file() else write_sample_slide(path)


def fetch_test_slide(folder: str | os.PathLike[str]) -> Path:
    """Download CMU-1-Small-Region.svs to `folder` unless it exists; check its sha256.

    Raises:
        ConnectionError: It cannot be downloaded; says where to get it by hand.
        ValueError: The checksum is wrong.
    """
    import pooch

    pooch.get_logger().setLevel("ERROR")  # only the path is printed
    name = SLIDE_URL.rsplit("/", 1)[1]
    try:
        return Path(pooch.retrieve(SLIDE_URL, f"sha256:{SLIDE_SHA256}", fname=name, path=folder))
    except ValueError as error:  # a wrong checksum; pooch keeps no such file
        raise ValueError(f"{name} must have the sha256 {SLIDE_SHA256}; the download from {SLIDE_URL} has another "
                         "and was deleted: try again, or leave out --slide") from error
    except OSError as error:
        raise ConnectionError(f"{name} cannot be downloaded ({type(error).__name__}); download {SLIDE_URL} "
                              f"by hand into the folder {folder}") from error


def main() -> int:
    """Write the sample slide, and print its path."""
    folder = require_folder(FLAGS.output)
    print(write_sample_slide(folder / SAMPLE_NAME))
    if FLAGS.slide:
        print(fetch_test_slide(folder))
    return 0


if __name__ == "__main__":
    sys.exit(run(main, FLAGS, __doc__))
