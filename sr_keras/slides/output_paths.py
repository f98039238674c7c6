# SPDX-License-Identifier: Apache-2.0
"""Choose the output path of each input: pictures become pictures, slides become slides, and no file is lost."""
from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import require
from pipelines.files import fitting_name
from pipelines.names import split_paths, walk
from pipelines.slide import SlideError, open_slide, slide_id_of
from pipelines.sources import SLIDE_SUFFIXES, TIFF_SUFFIXES, TILE_SUFFIXES
from sr_keras.slides.trust_files import trust_paths
from sr_keras.slides.trust_map import is_trust_map

if TYPE_CHECKING:
    from sr_keras.slides.enlarge_options import EnlargeOptions

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
OUTPUT_SUFFIXES = (*PICTURE_SUFFIXES, ".tif", ".tiff")
INDEX_SUFFIXES = (".vms", ".vmu")  # text files that list the JPEGs of a slide
INPUT_SUFFIXES = TILE_SUFFIXES | SLIDE_SUFFIXES


def plan_outputs(inputs: str, output: Path, scale: int, *, ome: bool = False, overwrite: bool = False,
                 resume: bool = False) -> list[tuple[Path, Path]]:
    """Return the pairs of input and output file.

    Args:
        inputs: A picture, a slide, a folder (searched recursively, linked folders too), or a comma-separated list of
            them.
        output: A picture or .tif for one file, or a folder. In a folder, pictures become NAME.png and slides
            NAME_x4.tif.
        scale: SR side over LR side.
        ome: Write slides as OME-TIFF.
        overwrite: Existing outputs may be replaced.
        resume: Existing outputs may be kept.

    Raises:
        FileNotFoundError: An input does not exist.
        ValueError: A folder contains nothing readable; the output has another suffix, would replace an input, or
            exists; or two inputs would have the same output.
    """
    paths = find_inputs(inputs)
    suffix = f"_x{scale}.ome.tif" if ome else f"_x{scale}.tif"
    if len(paths) == 1 and paths[0].is_file():
        pairs = [(paths[0], _output_of_file(paths[0], output, suffix))]
    else:
        pairs = _outputs_in_folder(paths, output, suffix)
    sources, uses = {realpath(source) for source, _ in pairs}, Counter(path for _, path in pairs)
    for path, count in uses.items():
        require(realpath(path) not in sources, "output", "be another file than the input", "choose another path",
                str(path))
        require(count == 1, "input", f"have only one file for the output {path}", "rename the others", inputs)
        require(overwrite or resume or not path.exists(), "output", "not exist",
                "choose another path, or add --overwrite (or --resume, to keep it)", str(path))
    return pairs


def plan_trust_maps(pairs: list[tuple[Path, Path]], output: Path, trust_map: Path, *, overwrite: bool = False,
                    resume: bool = False) -> list[Path]:
    """Return the path of the trust map of each output.

    Args:
        pairs: From `plan_outputs`.
        output: The output path given to it.
        trust_map: A .tif for one file, or a folder. In a folder, maps become NAME_trust.tif, in the same subfolders as
            the outputs.
        overwrite: Existing files may be replaced.
        resume: Existing maps may be kept or completed.

    Raises:
        ValueError: A map would replace an input, an output or another existing file; two files would have the same
            map; or the path is neither a .tif nor a folder.
    """
    maps = _trust_map_paths(pairs, output, trust_map)
    taken, uses = {realpath(path) for pair in pairs for path in pair}, Counter(maps)
    for path in maps:
        require(uses[path] == 1, "trust_map", f"be the only one with the name {path.name}", "rename the inputs",
                str(trust_map))
        for file in trust_paths(path):
            require(realpath(file) not in taken, "trust_map", "be another file than inputs and outputs",
                    "choose another path", str(file))
            require(overwrite or resume or not file.exists(), "trust_map", "not exist",
                    "choose another path, or add --overwrite (or --resume, to complete it)", str(file))
        require(overwrite or not path.exists() or is_trust_map(path), "trust_map", "be a trust map to be resumed",
                "choose another path, or add --overwrite", str(path))
    return maps


def find_inputs(inputs: str) -> list[Path]:
    """Return the files and folders of a comma-separated list.

    Raises:
        FileNotFoundError: One of them does not exist.
        ValueError: The list is empty.
    """
    names = split_paths(inputs)
    require(bool(names), "input", "name a picture, a slide or a folder", "separate several by commas", inputs)
    for name in names:
        if not os.path.exists(name):
            raise FileNotFoundError("`input` must name existing pictures, slides or folders; check the spelling. "
                                    f"Received: input={name!r}")
    return [Path(name) for name in names]


def check_output(output: Path, options: EnlargeOptions) -> None:
    """Refuse options that have no effect on a picture of that name.

    Raises:
        ValueError: There are such options.
    """
    if output.is_dir() or not is_picture(output):
        return
    suffix = output.suffix.lower()
    require(options.format is None, "format", f"be left out for a {suffix}", "write a .tif to use it", options.format)
    require(options.quality is None or suffix != ".png", "quality", "be left out for a .png, which is lossless",
            "write a .jpg or a .tif to use it", options.quality)
    require(not options.lossless or suffix == ".png", "lossless", f"be left out for a {suffix}",
            "write a .png or a .tif to use it", options.lossless)


def check_writable(name: str, paths: Iterable[Path]) -> None:
    """Refuse paths that cannot be written, before the inference; no file is left behind.

    Args:
        name: The argument that names them.
        paths: Files to write; their folders need not exist.

    Raises:
        ValueError: No file can be created in the nearest existing folder.
    """
    nearest = {next(folder for folder in path.parents if folder.exists()): path for path in paths}
    for folder, path in nearest.items():
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise ValueError(f"`{name}` must be a writable path; choose another, because no file can be created in "
                             f"{folder} ({error.strerror}). Received: {name}={str(path)!r}") from error


def is_slide(path: Path) -> bool:
    """Whether a file is a slide: by its suffix; a TIFF if it has several levels or an mpp."""
    suffix = path.suffix.lower()
    if suffix not in TIFF_SUFFIXES:
        return suffix in SLIDE_SUFFIXES
    try:
        with open_slide(path) as slide:
            return len(slide.level_dimensions) > 1 or slide.mpp is not None
    except (OSError, SlideError):
        return False  # the run reports it when it opens the file


def is_picture(output: Path) -> bool:
    """Whether an output is a PNG or JPEG, which is made in memory."""
    return output.suffix.lower() in PICTURE_SUFFIXES


def _output_name(source: Path, suffix: str) -> str:
    return fitting_name("", slide_id_of(source), suffix if is_slide(source) else ".png")


def _output_of_file(source: Path, output: Path, suffix: str) -> Path:
    if output.suffix.lower() in OUTPUT_SUFFIXES and not output.is_dir():
        return output
    require(output.is_dir() or not output.suffix, "output", f"end in one of {', '.join(OUTPUT_SUFFIXES)}, or be a "
            "folder", "change the suffix", str(output))
    return output / _output_name(source, suffix)


def _outputs_in_folder(inputs: list[Path], output: Path, suffix: str) -> list[tuple[Path, Path]]:
    require(not output.is_file() and output.suffix.lower() not in OUTPUT_SUFFIXES, "output", "be a folder, because "
            "the input is a folder or a list", "name a folder", str(output))
    pairs = []
    for path in inputs:
        found = _find_files(path, output) if path.is_dir() else [path]
        require(bool(found), "input", f"contain pictures or slides ({', '.join(sorted(INPUT_SUFFIXES))})",
                "name another folder", str(path))
        root = path if path.is_dir() else path.parent
        pairs += [(file, output / file.relative_to(root).with_name(_output_name(file, suffix))) for file in found]
    # Outputs of an earlier run beside their slides are not inputs.
    written = {realpath(path) for _, path in pairs if path.name.endswith(suffix)}
    return [(source, path) for source, path in pairs if realpath(source) not in written]


def _trust_map_paths(pairs: list[tuple[Path, Path]], output: Path, trust_map: Path) -> list[Path]:
    if trust_map.suffix.lower() in TIFF_SUFFIXES and not trust_map.is_dir():
        require(len(pairs) == 1, "trust_map", f"be a folder, because there are {len(pairs)} inputs", "name a folder",
                str(trust_map))
        return [trust_map]
    require(trust_map.is_dir() or not (trust_map.suffix or trust_map.exists()), "trust_map",
            "end in .tif, or be a folder", "change the suffix", str(trust_map))
    roots = [output if output in path.parents else path.parent for _, path in pairs]
    return [trust_map / path.relative_to(root).with_name(fitting_name("", slide_id_of(source), "_trust.tif"))
            for (source, path), root in zip(pairs, roots, strict=True)]


def _find_files(folder: Path, output: Path) -> list[Path]:
    """Return the readable files under a folder, except outputs, trust maps and the JPEGs that a slide consists of.

    Broken links, pipes and sockets are included, so that they are reported as failures.
    """
    found = sorted(inner / name for inner, names in walk(folder) for name in names
                   if Path(name).suffix.lower() in INPUT_SUFFIXES)
    if output != folder:
        found = [path for path in found if not path.is_relative_to(output)]
    parts = {part for path in found for part in (*_slide_parts(path), *_trust_map_parts(path))}
    return [path for path in found if path not in parts]


def _slide_parts(path: Path) -> list[Path]:
    """Return the files that an index file lists; none for other files."""
    if path.suffix.lower() not in INDEX_SUFFIXES or not os.path.isfile(path):
        return []
    text = path.read_text(errors="replace")
    return [path.parent / name for line in text.splitlines() if (name := line.partition("=")[2].strip())]


def _trust_map_parts(path: Path) -> tuple[Path, ...]:
    return trust_paths(path) if path.suffix.lower() in TIFF_SUFFIXES and is_trust_map(path) else ()
