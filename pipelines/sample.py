"""Real histology that is always there: scikit-image's own picture of a colon, as a small slide.

    python -m pipelines.sample --output=slides            # the sample slide, offline
    python -m pipelines.sample --output=slides --slide    # OpenSlide's CC0 test slide as well, from its site

`skimage.data.immunohistochemistry()` shows colonic glands, 512x512, FHL2 in DAB brown and haematoxylin blue (Center for
Microscopy and Molecular Imaging; "no known copyright restrictions"), and lies inside the scikit-image package. It is
written as a tiled, pyramidal TIFF without loss, which OpenSlide opens as "generic-tiff". Wherever data is asked for,
the word `sample` means this slide.
"""
from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import tifffile
from absl import flags
from skimage.data import immunohistochemistry

from pipelines.console import run
from pipelines.errors import require_folder
from pipelines.files import atomic_path

# The picture does not say its resolution. Nuclei of colonic epithelium are some 7 microns wide and are about 14 pixels
# wide in it, which is a 20x scan.
SAMPLE_MPP = 0.5
SAMPLE_NAME = "immunohistochemistry.tif"
SAMPLE_LEVELS = 3
TILE = 128

SLIDE_URL = "https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/CMU-1-Small-Region.svs"
SLIDE_SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"

FLAGS = flags.FlagValues()
flags.DEFINE_string("output", ".", "Folder to write the slide into.", flag_values=FLAGS)
flags.DEFINE_boolean("slide", False, "Fetch OpenSlide's test slide too (1.9 MB, CC0).", flag_values=FLAGS)


def write_sample_slide(path: str | os.PathLike[str]) -> Path:
    """Write the sample slide to `path`, atomically, and return it."""
    levels = [immunohistochemistry()]
    for _ in range(SAMPLE_LEVELS - 1):
        levels.append(_half(levels[-1]))
    with atomic_path(path) as temporary, tifffile.TiffWriter(temporary) as tiff:
        for i, level in enumerate(levels):
            pixels_per_cm = 1e4 / (SAMPLE_MPP * 2**i)
            tiff.write(level, photometric="rgb", tile=(TILE, TILE), compression="adobe_deflate", predictor=True,
                       resolution=(pixels_per_cm, pixels_per_cm), resolutionunit="CENTIMETER",
                       subfiletype=1 if i else 0, metadata=None)
    return Path(path)


def cached_sample_slide(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the sample slide in `cache_dir` (by default ~/.cache/sr_keras), written there on first use."""
    folder = Path(cache_dir) if cache_dir is not None else Path.home() / ".cache" / "sr_keras"
    path = folder / SAMPLE_NAME
    return path if path.is_file() else write_sample_slide(path)


def fetch_test_slide(folder: str | os.PathLike[str]) -> Path:
    """Fetch CMU-1-Small-Region.svs into `folder` unless it is there, checked by its sha256.

    Raises:
        ConnectionError: It cannot be fetched; says where to get it by hand.
        ValueError: What came has another checksum.
    """
    import pooch

    pooch.get_logger().setLevel("ERROR")  # the path is printed once it is there
    name = SLIDE_URL.rsplit("/", 1)[1]
    try:
        return Path(pooch.retrieve(SLIDE_URL, f"sha256:{SLIDE_SHA256}", fname=name, path=Path(folder)))
    except ValueError as error:  # pooch's word for a wrong checksum; it keeps no such file
        raise ValueError(f"{name} must have the sha256 {SLIDE_SHA256}; what {SLIDE_URL} gave has another, so nothing "
                         "was kept: try again, or go without --slide") from error
    except OSError as error:
        raise ConnectionError(f"{name} cannot be fetched ({type(error).__name__}); with a network, put {SLIDE_URL} "
                              f"into the folder {folder}") from error


def main() -> int:
    """Write the sample slide, and say where it is."""
    folder = require_folder(FLAGS.output)
    print(write_sample_slide(folder / SAMPLE_NAME))
    if FLAGS.slide:
        print(fetch_test_slide(folder))
    return 0


def _half(image: np.ndarray) -> np.ndarray:
    """Return the image at half its side: 2x2 means, rounded."""
    height, width, channels = image.shape
    blocks = image.reshape(height // 2, 2, width // 2, 2, channels).astype(np.uint16)
    return ((blocks.sum(axis=(1, 3)) + 2) // 4).astype(np.uint8)


if __name__ == "__main__":
    sys.exit(run(main, FLAGS, __doc__))
