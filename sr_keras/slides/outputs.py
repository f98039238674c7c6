# SPDX-License-Identifier: Apache-2.0
"""Outputs: the path of each, so that no file is lost, and what takes SR pixels box by box.

Pictures become pictures, made in memory (PNG, JPEG), and slides become slides, pyramids on disk.
"""
from __future__ import annotations

import io
import math
import os
from collections import Counter
from collections.abc import Iterable
from os.path import realpath
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from pipelines.console import import_optional
from pipelines.errors import require
from pipelines.files import atomic_path, fitting_name
from pipelines.names import alias, read_key, split_paths
from pipelines.pyramid import PyramidWriter
from pipelines.pyramid.formats import EXTRAS
from pipelines.readers.folders import dicom_slide_of, is_dicom, walk_slides
from pipelines.slide import FOLDER_SUFFIXES, SlideError, open_slide, slide_id_of
from pipelines.sources import INPUT_SUFFIXES, SLIDE_SUFFIXES, TIFF_SUFFIXES
from pipelines.workers import available_memory
from sr_keras.model.tiles import Box
from sr_keras.slides.trust_files import is_trust_map, trust_paths
from sr_keras.slides.window_plan import EnlargeOptions

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
OUTPUT_SUFFIXES = (*PICTURE_SUFFIXES, ".tif", ".tiff", *FOLDER_SUFFIXES)
FORMAT_SUFFIXES = {"tiff": ".tif", "ome": ".ome.tif", "dicom": ".dicom", "zarr": ".ome.zarr"}
INDEX_SUFFIXES = (".vms", ".vmu")  # text files that list the JPEGs of a slide
JPEG_QUALITY = 95
JPEG_LONGEST_SIDE = 65500
# Peak memory of a picture, reached while it is written: 3 bytes itself, 4 in PIL's copy, 2 as a file in memory.
BYTES_PER_LR_PIXEL, BYTES_PER_SR_PIXEL = 6, 9


class Output(Protocol):
    """Takes SR pixels."""

    def needs(self, box: Box) -> bool:
        """Whether any part of a box of SR pixels is still missing."""

    def write(self, box: Box, pixels: np.ndarray) -> None:
        """Take a box of SR pixels."""


class PictureOutput:
    """A picture in memory; `pixels` is uint8 [height, width, 3]."""

    def __init__(self, width: int, height: int) -> None:
        self.pixels = np.empty((height, width, 3), np.uint8)

    def needs(self, box: Box) -> bool:
        """Return True: a picture is always computed as a whole."""
        return True

    def write(self, box: Box, pixels: np.ndarray) -> None:
        """Take a box."""
        self.pixels[box.hr_y:box.hr_y + box.hr_height, box.hr_x:box.hr_x + box.hr_width] = pixels


class PyramidOutput:
    """An open `PyramidWriter`; boxes are cut into its tiles, and tiles that exist already are not written again."""

    def __init__(self, writer: PyramidWriter) -> None:
        self._writer = writer
        self._tile = writer.options.tile
        self._missing = set(writer.missing())

    def needs(self, box: Box) -> bool:
        """Whether a tile of the box is missing."""
        return any(tile in self._missing for tile in self._tiles(box))

    def write(self, box: Box, pixels: np.ndarray) -> None:
        """Take a box that starts on the grid of tiles and ends there or at the border."""
        for row, column in self._tiles(box):
            if (row, column) in self._missing:
                x, y, width, height = self._writer.levels[0].box(row, column)
                top, left = y - box.hr_y, x - box.hr_x
                self._writer.put(row, column, pixels[top:top + height, left:left + width])

    def _tiles(self, box: Box) -> list[tuple[int, int]]:
        rows = range(box.hr_y // self._tile, -(-(box.hr_y + box.hr_height) // self._tile))
        columns = range(box.hr_x // self._tile, -(-(box.hr_x + box.hr_width) // self._tile))
        return [(row, column) for row in rows for column in columns]


def write_image(pixels: np.ndarray, path: Path, quality: int | None = None, icc_profile: bytes | None = None) -> None:
    """Write uint8 [H, W, 3] as PNG, or as JPEG without chroma subsampling, by the suffix."""
    # Encode in memory: when the disk is full, PIL leaves half a JPEG on it without an error.
    file = io.BytesIO()
    if path.suffix.lower() == ".png":
        Image.fromarray(pixels).save(file, "PNG", icc_profile=icc_profile)
    else:
        Image.fromarray(pixels).save(file, "JPEG", quality=quality or JPEG_QUALITY, subsampling=0,
                                     icc_profile=icc_profile)
    with atomic_path(path) as temporary:
        temporary.write_bytes(file.getbuffer())


def check_size(lr_shape: tuple[int, ...], scale: int, source: Path, output: Path, *, read_again: bool = False) -> None:
    """Refuse a picture that is too large for its format, for memory or for its reader, before it is computed.

    `lr_shape` begins with height and width of the LR plane; with `read_again` the trust map reads the finished picture.
    """
    height, width = lr_shape[:2]
    sr_size = f"{source}: {scale * width}x{scale * height} pixels"
    largest = 2 * (Image.MAX_IMAGE_PIXELS or math.inf)  # PIL refuses larger ones as decompression bombs
    if read_again and width * height * scale**2 > largest:
        raise ValueError(f"{sr_size} are more than PIL can read back from a {output.suffix}, and --trust_map "
                         "measures the finished file; write a .tif")
    if output.suffix.lower() in (".jpg", ".jpeg") and scale * max(width, height) > JPEG_LONGEST_SIDE:
        raise ValueError(f"{sr_size} are more than JPEG holds; write a .tif")
    needed, free = width * height * (BYTES_PER_LR_PIXEL + BYTES_PER_SR_PIXEL * scale**2), available_memory()
    if needed > free:
        raise ValueError(f"{source}: {width}x{height} pixels take {needed / 2**30:.1f} GiB of memory as a "
                         f"{output.suffix}, and {free / 2**30:.1f} GiB are free; write a .tif, which needs little "
                         "memory, or choose a --region")


def plan_outputs(inputs: str, output: Path, scale: int, options: EnlargeOptions) -> list[tuple[Path, Path]]:
    """Return the pairs of input and output file, without those that an earlier run wrote beside their slides.

    Args:
        inputs: A picture, a slide, a folder (searched recursively, linked folders too), or a comma-separated list of
            them.
        output: A picture, .tif, .dicom or .zarr for one input, or a folder. In a folder, pictures become NAME.png and
            slides NAME_x4.tif, or what the format says.
        scale: SR side over LR side.
        options: They say the format, and whether existing outputs may be replaced or kept.

    Raises:
        FileNotFoundError: An input does not exist.
        ValueError: A folder contains nothing readable, or an output is impossible or would replace a file.
    """
    paths = find_inputs(inputs)
    suffix = f"_x{scale}{FORMAT_SUFFIXES[options.format or 'tiff']}"
    found = {path: find_files(path, output) if path.is_dir() else [dicom_slide_of(path)] for path in paths}
    one = len(paths) == 1 and (paths[0].is_file() or found[paths[0]] == paths)
    named = FOLDER_SUFFIXES if output.is_dir() else OUTPUT_SUFFIXES
    if one and output.suffix.lower() in named:
        pairs = [(found[paths[0]][0], output)]
    else:
        require(not one or output.is_dir() or not output.suffix, "output",
                f"end in one of {', '.join(OUTPUT_SUFFIXES)}, or be a folder", "change the suffix", str(output))
        require(one or not (output.is_file() or output.suffix.lower() in OUTPUT_SUFFIXES), "output",
                "be a folder, because the input is a folder or a list", "name a folder", str(output))
        pairs = _outputs_in_folder(found, output, suffix, read_key(options.anonymous))
    sources, uses = {realpath(source) for source, _ in pairs}, Counter(path for _, path in pairs)
    for path, count in uses.items():
        require(realpath(path) not in sources, "output", "be another file than the input", "choose another path",
                str(path))
        require(count == 1, "input", f"have only one file for the output {path}", "rename the others", inputs)
        require(options.overwrite or options.resume or not path.exists(), "output", "not exist",
                "choose another path, or add --overwrite (or --resume, to keep it)", str(path))
    return pairs


def plan_trust_maps(pairs: list[tuple[Path, Path]], output: Path, trust_map: Path, options: EnlargeOptions
                    ) -> list[Path]:
    """Return the path of the trust map of each output.

    Args:
        pairs: From `plan_outputs`.
        output: The output path given to it.
        trust_map: A .tif for one file, or a folder. In a folder, maps become NAME_trust.tif, in the same subfolders as
            the outputs.
        options: They say whether existing maps may be replaced, or kept and completed.

    Raises:
        ValueError: A map is impossible or would replace a file.
    """
    maps = _trust_map_paths(pairs, output, trust_map, options.anonymous is not None)
    taken, uses = {realpath(path) for pair in pairs for path in pair}, Counter(maps)
    for path in maps:
        require(uses[path] == 1, "trust_map", f"be the only one with the name {path.name}", "rename the inputs",
                str(trust_map))
        for file in trust_paths(path):
            require(realpath(file) not in taken, "trust_map", "be another file than inputs and outputs",
                    "choose another path", str(file))
            require(options.overwrite or options.resume or not file.exists(), "trust_map", "not exist",
                    "choose another path, or add --overwrite (or --resume, to complete it)", str(file))
        require(options.overwrite or not path.exists() or is_trust_map(path), "trust_map",
                "be a trust map to be resumed", "choose another path, or add --overwrite", str(path))
    return maps


def alias_of(source: Path, inputs: str, key: bytes) -> str:
    """Return the hash of a file's name, with the folders between it and the input that it was found in."""
    root = next((path for path in find_inputs(inputs) if path in source.parents), source.parent)
    return alias(str(source.relative_to(root).with_name(slide_id_of(source))), key)


def find_inputs(inputs: str) -> list[Path]:
    """Return the files and folders of a comma-separated list, which all must exist."""
    names = split_paths(inputs)
    require(bool(names), "input", "name a picture, a slide or a folder", "separate several by commas", inputs)
    for name in names:
        if not os.path.exists(name):
            raise FileNotFoundError("`input` must name existing pictures, slides or folders; check the spelling. "
                                    f"Received: input={name!r}")
    return [path if path.name not in ("", "..") else path.resolve() for path in map(Path, names)]


def check_output(output: Path, options: EnlargeOptions) -> None:
    """Refuse options that have no effect on an output of that name, and a format whose extra is not installed."""
    suffix, kind = output.suffix.lower(), options.pyramid(output, 1).format
    fitting = {".tif": ("tiff", "ome"), ".tiff": ("tiff", "ome"), ".dicom": ("dicom",), ".zarr": ("zarr",)}
    if suffix in FOLDER_SUFFIXES or not output.is_dir():
        require(kind in fitting.get(suffix, (kind,)), "format", f"be left out for a {suffix}",
                "or change the suffix of the output", options.format)
    require(kind == "dicom" or not options.keep_patient, "keep_patient", "be left out unless DICOM is written",
            "add --format=dicom", options.keep_patient)
    if kind in EXTRAS:
        import_optional(EXTRAS[kind], kind)
    if output.is_dir() or not is_picture(output):
        return
    require(options.format is None, "format", f"be left out for a {suffix}", "write a .tif to use it", options.format)
    require(options.quality is None or suffix != ".png", "quality", "be left out for a .png, which is lossless",
            "write a .jpg or a .tif to use it", options.quality)
    require(not options.lossless or suffix == ".png", "lossless", f"be left out for a {suffix}",
            "write a .png or a .tif to use it", options.lossless)


def is_named(output: Path) -> bool:
    """Whether an output is one file, or one DICOM or OME-Zarr, and not a folder of outputs."""
    return not output.is_dir() and output.suffix.lower() in OUTPUT_SUFFIXES


def is_slide(path: Path) -> bool:
    """Whether an input is a slide: by its suffix; a TIFF if it has several levels or an mpp; DICOM and OME-Zarr are."""
    suffix = path.suffix.lower()
    if suffix not in TIFF_SUFFIXES:
        return suffix in SLIDE_SUFFIXES or path.is_dir() or is_dicom(path)
    try:
        with open_slide(path) as slide:
            return len(slide.level_dimensions) > 1 or slide.mpp is not None
    except (OSError, SlideError):
        return False  # the run reports it when it opens the file


def is_picture(output: Path) -> bool:
    """Whether an output is a PNG or JPEG, which is made in memory."""
    return output.suffix.lower() in PICTURE_SUFFIXES


def _outputs_in_folder(inputs: dict[Path, list[Path]], output: Path, suffix: str, key: bytes | None
                       ) -> list[tuple[Path, Path]]:
    """Return the pairs of the files found in each input, in the same subfolders; with a key by hashes of both."""
    pairs = []
    for path, found in inputs.items():
        require(bool(found), "input", f"contain pictures or slides ({', '.join(sorted(INPUT_SUFFIXES))})",
                "name another folder", str(path))
        for file in found:
            inner, name = file.relative_to(path).parent if path in file.parents else Path(), slide_id_of(file)
            if key:
                inner, name = Path(), alias(str(inner / name), key)
            ending = suffix if is_slide(file) else ".png"
            pairs.append((file, output / inner / fitting_name("", name, ending)))
    # Outputs of an earlier run beside their slides are not inputs.
    written = {realpath(path) for _, path in pairs if path.name.endswith(suffix)}
    return list(dict.fromkeys((source, path) for source, path in pairs if realpath(source) not in written))


def _trust_map_paths(pairs: list[tuple[Path, Path]], output: Path, trust_map: Path, anonymous: bool) -> list[Path]:
    if trust_map.suffix.lower() in TIFF_SUFFIXES and not trust_map.is_dir():
        require(len(pairs) == 1, "trust_map", f"be a folder, because there are {len(pairs)} inputs", "name a folder",
                str(trust_map))
        return [trust_map]
    require(trust_map.is_dir() or not (trust_map.suffix or trust_map.exists()), "trust_map",
            "end in .tif, or be a folder", "change the suffix", str(trust_map))
    roots = [output if output in path.parents else path.parent for _, path in pairs]
    names = [slide_id_of(path if anonymous else source) for source, path in pairs]
    return [trust_map / path.relative_to(root).with_name(fitting_name("", name, "_trust.tif"))
            for (_, path), root, name in zip(pairs, roots, names, strict=True)]


def find_files(folder: Path, output: Path) -> list[Path]:
    """Return the slides and pictures under a folder, except outputs, trust maps and the JPEGs that a slide consists of.

    Broken links, pipes and sockets are included, so that they are reported as failures.
    """
    found = [path for _, slides, files in walk_slides(folder, INPUT_SUFFIXES) for path in (*slides, *files)
             if output == folder or not path.is_relative_to(output)]
    parts = {part for path in found for part in _parts(path)}
    return sorted(path for path in found if path not in parts)


def _parts(path: Path) -> Iterable[Path]:
    """Return the files that belong to a file: those that an index lists, or those of a trust map."""
    if path.suffix.lower() in INDEX_SUFFIXES and os.path.isfile(path):
        lines = path.read_text(errors="replace").splitlines()
        return [path.parent / name for line in lines if (name := line.partition("=")[2].strip())]
    return trust_paths(path) if path.suffix.lower() in TIFF_SUFFIXES and is_trust_map(path) else ()
