"""Super-resolve pictures of any size.

    python -m sr_keras.super_resolve --model=saved_models/demo --input=picture.png --output=large.png
    python -m sr_keras.super_resolve --model=runs/demo --input=folder --output=large_folder

Input: PNG, JPEG, TIFF, BMP or whatever pipelines.slide opens, at its highest resolution, as long as the result fits in
memory. Grey, RGBA, 16-bit and CMYK pictures become RGB. Output: PNG, or what the suffix of --output says; from a folder
a folder of PNG with the same names. A picture is computed in tiles that overlap by all that a pixel depends on, so
there are no seams. One that fails does not stop the others.
"""
from __future__ import annotations

import io
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tifffile
from absl import flags
from PIL import Image
from tqdm import tqdm

from pipelines import console
from pipelines.files import atomic_path
from pipelines.options import require
from pipelines.slide import SlideError, open_slide, slide_id_of
from sr_keras import tiling

if TYPE_CHECKING:
    from sr_keras.models import LoadedGenerator

READ = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
WRITTEN = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
JPEG_LONGEST_SIDE = 65500
# Side of a tile in SR pixels. The default network, 64 filters at SR size, takes about 2.5 GB for it; larger ones gain
# little more, smaller ones spend most of their time on overlap.
SR_TILE = 2048
# What a picture takes at the worst moment, when it is written: 3 itself, 4 in PIL's copy, 2 as a file in memory.
BYTES_PER_LR_PIXEL, BYTES_PER_SR_PIXEL = 6, 9
GIB = 2**30

FLAGS = flags.FlagValues()
flags.DEFINE_string("model", None, "saved_models/NAME, a run folder, or a .keras generator.", flag_values=FLAGS)
flags.DEFINE_string("input", None, "A picture, or a folder of them.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "A picture to write, or a folder.", flag_values=FLAGS)
flags.DEFINE_boolean("overwrite", False, "Replace what is there.", flag_values=FLAGS)
flags.DEFINE_integer("tile", None, "Side of a tile in input pixels, less for less memory; "
                     f"{SR_TILE}/scale if left out.", flag_values=FLAGS)


def main() -> int:
    for name in ("model", "input", "output"):
        require(bool(FLAGS[name].value), name, "be given", f"add --{name}=PATH", FLAGS[name].value)
    pairs = plan(Path(FLAGS.input), Path(FLAGS.output), FLAGS.overwrite)

    from sr_keras.models import load_generator

    generator = load_generator(FLAGS.model)
    failures = []
    for source, target in tqdm(pairs, desc="pictures", unit="picture", disable=len(pairs) == 1):
        try:
            super_resolve_file(generator, source, target, FLAGS.tile)
        except (OSError, SlideError, ValueError) as error:
            failures.append(f"{source}: {console.one_line(error).removeprefix(f'{source}: ')}")
    print(f"{len(pairs) - len(failures)} of {len(pairs)} written to {FLAGS.output}")
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 0 if not failures else 1 if len(failures) < len(pairs) else 2


def plan(source: Path, output: Path, overwrite: bool = False) -> list[tuple[Path, Path]]:
    """Return which picture goes where, before anything is computed.

    Raises:
        FileNotFoundError: There is no such input.
        ValueError: The folder has no pictures; the output has a suffix that can't be written, would replace an input
            or, without `overwrite`, anything else; or two pictures would have one output.
    """
    if not source.exists():
        raise FileNotFoundError(f"no such picture or folder: {source}")
    pairs = _plan_folder(source, output) if source.is_dir() else [(source, _plan_file(source, output))]
    sources, uses = {path.resolve() for path, _ in pairs}, Counter(path for _, path in pairs)
    for target, count in uses.items():
        require(target.resolve() not in sources, "output", "be another file than the input", "name another",
                str(target))
        require(count == 1, "input", f"give {target} one picture", "rename the others", str(source))
        require(overwrite or not target.exists(), "output", "be new", "name another, or add --overwrite", str(target))
    return pairs


def _plan_file(source: Path, output: Path) -> Path:
    if output.suffix.lower() in WRITTEN and not output.is_dir():
        return output
    require(output.is_dir() or not output.suffix, "output", f"end in one of {', '.join(WRITTEN)}, or be a folder",
            "choose one of these", str(output))
    return output / f"{slide_id_of(source)}.png"


def _plan_folder(source: Path, output: Path) -> list[tuple[Path, Path]]:
    require(not output.is_file() and output.suffix.lower() not in WRITTEN, "output", "be a folder, as the input is",
            "name one", str(output))
    # A result folder inside the input is not input the next time.
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in READ and path.is_file()
                   and not path.name.startswith(".") and (output == source or not path.is_relative_to(output)))
    require(bool(found), "input", f"have pictures in it ({', '.join(READ)})", "name another folder", str(source))
    return [(path, output / path.relative_to(source).with_name(f"{slide_id_of(path)}.png")) for path in found]


def super_resolve_file(generator: LoadedGenerator, source: Path, target: Path, tile: int | None = None) -> None:
    """Super-resolve one picture, file to file.

    Args:
        generator: made by `sr_keras.models.load_generator`.
        source: what to read.
        target: what to write, by its suffix.
        tile: side of a tile in LR pixels; chosen if left out.

    Raises:
        SlideError: The picture can't be read.
        ValueError: It is too large for memory or for the format.
        OSError: It can't be written.
    """
    with open_slide(source) as slide:
        _check_size(slide.dimensions, generator.scale, source, target)
        lr = slide.read_region(0, 0, 0, *slide.dimensions)
    write_image(super_resolve_image(generator, lr, tile, source.name), target)


def super_resolve_image(generator: LoadedGenerator, lr: np.ndarray, tile: int | None = None,
                        name: str = "") -> np.ndarray:
    """Super-resolve one picture in memory: uint8 [H, W, 3] -> uint8 [scale*H, scale*W, 3]; `name` is for the bar."""
    import tensorflow as tf

    side = tile or max(SR_TILE // generator.scale, 4 * generator.halo)
    with tqdm(desc=name, unit="tile", leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            return tiling.super_resolve(generator, lr, generator.scale, halo=generator.halo, tile=side,
                                        progress=progress)
        except (MemoryError, tf.errors.ResourceExhaustedError) as error:
            raise ValueError(f"`tile` must fit in memory; choose a smaller one. Received: tile={side}") from error


def write_image(pixels: np.ndarray, path: Path) -> None:
    """Write uint8 [H, W, 3] as PNG, JPEG (quality 95, no chroma subsampling) or tiled TIFF, by the suffix."""
    with atomic_path(path) as temporary:
        if path.suffix.lower() in (".tif", ".tiff"):
            tifffile.imwrite(temporary, pixels, photometric="rgb", tile=(256, 256), compression="zlib")
        else:
            temporary.write_bytes(_encoded(pixels, path.suffix))


def _encoded(pixels: np.ndarray, suffix: str) -> bytes:
    # In memory first: PIL writing to a file itself leaves half a JPEG on a full disk and says nothing.
    file = io.BytesIO()
    if suffix.lower() == ".png":
        Image.fromarray(pixels).save(file, "PNG")
    else:
        Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def _check_size(dimensions: tuple[int, int], scale: int, source: Path, target: Path) -> None:
    """Refuse what can't end well before hours are spent on it."""
    width, height = dimensions
    if target.suffix.lower() in (".jpg", ".jpeg") and scale * max(dimensions) > JPEG_LONGEST_SIDE:
        raise ValueError(f"{source}: {scale * width}x{scale * height} pixels are more than JPEG holds; "
                         "write PNG or TIFF")
    needed = width * height * (BYTES_PER_LR_PIXEL + BYTES_PER_SR_PIXEL * scale**2)
    free = available_memory()
    if needed > free:
        raise ValueError(f"{source}: {width}x{height} pixels take {needed / GIB:.1f} GiB of memory to super-resolve "
                         f"and {free / GIB:.1f} are free; cut out a part (whole slides are not super-resolved here)")


def available_memory() -> int:
    """Return how many bytes of memory can be had: what Linux says is available, elsewhere all that there is."""
    meminfo = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()) if meminfo.exists() else None
    return int(found[1]) * 1024 if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
