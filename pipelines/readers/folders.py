# SPDX-License-Identifier: Apache-2.0
"""Slides that are folders, or files without a telling suffix: OME-Zarr, and DICOM whole slide images.

A DICOM slide is a series, one file for each level. Files are recognised by what they contain, without any extra.
"""
from __future__ import annotations

import io
import os
import struct
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.errors import SlideError, require
from pipelines.files import read_json
from pipelines.names import walk

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # the SOP class
DICOM_MAGIC, PREAMBLE = b"DICM", 128
SOP_CLASS, SYNTAX, SERIES = (2, 2), (2, 0x10), (0x20, 0xE)
IMAGE_TYPE, INSTANCE = (8, 8), (8, 0x18)
PYRAMID, CONTAINER = LEVEL_MARKS = (8, 0x19), (0x40, 0x512)  # the same in all levels of a slide
IN_HEAD = frozenset({SOP_CLASS, SYNTAX, IMAGE_TYPE, INSTANCE, SERIES, *LEVEL_MARKS})
IMPLICIT, DEFLATED, BIG_ENDIAN = (f"1.2.840.10008.1.2{end}" for end in ("", ".1.99", ".2"))
LONG_LENGTH = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
ITEMS, END_OF_ITEM, END_OF_SEQUENCE, UNDEFINED = 0xFFFE, (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD), 0xFFFFFFFF
LARGEST_HEADER, LARGEST_JSON = 2**18, 2**24  # bytes: of a DICOM up to its container, and of a Zarr's attributes


def is_dicom(path: Path) -> bool:
    """Whether a file is of the DICOM format."""
    if not os.path.isfile(path):  # opening a pipe would wait for its writer
        return False
    try:
        with path.open("rb") as file:
            return file.read(PREAMBLE + 4)[PREAMBLE:] == DICOM_MAGIC
    except OSError:  # the reader that opens it next reports why
        return False


def dicom_slides(folder: Path, files: Iterable[Path] | None = None) -> list[Path]:
    """Return the DICOM slides whose files lie in a folder itself: the folder if it is one, else a file of each.

    `files` are those to look at; None for all. A damaged file is a slide of its own, so that it is reported.
    """
    first: dict[str, Path] = {}
    for path in sorted(folder.iterdir() if files is None else files):
        series = None if path.name.startswith(".") else series_of(path)
        if series is not None:
            first.setdefault(series or path.name, path)
    return [folder] if len(first) == 1 and "" not in map(series_of, first.values()) else list(first.values())


def dicom_slide_of(path: Path) -> Path:
    """Return the slide that a DICOM file belongs to, as `dicom_slides` names it; another file is its own."""
    series = series_of(path)
    if not series:
        return path
    return next(slide for slide in dicom_slides(path.parent) if slide.is_dir() or series_of(slide) == series)


def dicom_file_of(slide: Path) -> Path:
    """Return a file of a DICOM slide, which may be a folder; any other path is its own."""
    return next((path for path in sorted(slide.iterdir()) if series_of(path)), slide) if slide.is_dir() else slide


def is_ome_zarr(folder: Path) -> bool:
    """Whether a folder is an OME-Zarr image, a collection that `bioformats2raw` wrote, or a Zarr that is damaged."""
    try:
        attributes = zarr_attributes(folder)
    except (OSError, ValueError):
        return True  # named as damaged when it is opened
    return "multiscales" in attributes or "bioformats2raw.layout" in attributes


def zarr_attributes(folder: Path) -> dict[str, Any]:
    """Return what the root of a Zarr says of OME, in version 2 or 3; empty if it is none.

    Raises:
        ValueError: It is damaged; names the file.
    """
    for name, keys in (("zarr.json", ("attributes", "ome")), (".zattrs", ())):
        path = folder / name
        if os.path.isfile(path):  # opening a pipe would wait for its writer
            require(path.stat().st_size <= LARGEST_JSON, "path", f"have attributes of at most {LARGEST_JSON} bytes",
                    "write it again", str(path))
            found: Any = read_json(path, dict, "copy it again")
            for key in keys:
                found = found.get(key) if isinstance(found, dict) else None
            if isinstance(found, dict):
                return found
    return {}


def is_slide_folder(path: Path) -> bool:
    """Whether a folder is one slide."""
    return os.path.isdir(path) and (is_ome_zarr(path) or dicom_slides(path) == [path])


def walk_slides(root: Path, suffixes: Collection[str]) -> Iterator[tuple[Path, list[Path], list[Path]]]:
    """Yield each folder that `walk` finds, its DICOM and OME-Zarr slides, and its files with one of the suffixes."""
    for folder, names in walk(root, is_ome_zarr):
        paths = [folder / name for name in names]
        files = [path for path in paths if path.suffix.lower() in suffixes]
        yield folder, [folder] if is_ome_zarr(folder) else dicom_slides(folder, set(paths).difference(files)), files


def files_of(slide: Path) -> list[Path]:
    """Return the files of a slide: itself, or what its folder contains."""
    return sorted(path for path in slide.rglob("*") if path.is_file()) if slide.is_dir() else [slide]


def size_of(slide: Path) -> int:
    """Return the bytes of a slide."""
    return sum(path.stat().st_size for path in files_of(slide))


def check_series(path: Path) -> None:
    """Refuse a DICOM file if others of its series are of another slide, or copies.

    OpenSlide would take them for levels of this slide, or leave them out in silence.

    Raises:
        SlideError: Two files have one instance UID, or two levels are of different pyramids or glass slides.
    """
    series = series_of(path)
    instances: dict[str, Path] = {}
    marks: dict[tuple[int, int], tuple[str, Path]] = {}
    for file in sorted(path.parent.iterdir()) if series else ():
        head = head_of(file) or {}
        if head.get(SERIES) == series:
            marked = LEVEL_MARKS if "VOLUME" in head.get(IMAGE_TYPE, "") else ()
            known = {tag: marks.setdefault(tag, (head[tag], file)) for tag in marked if head.get(tag)}
            others = [other for tag, (value, other) in known.items() if value != head[tag]]
            for other in (instances.setdefault(head.get(INSTANCE) or file.name, file), *others):
                if other != file:
                    raise SlideError(f"{path.parent}: holds two slides, or copies, under one series UID; move one to "
                                     f"another folder. Received: {other.name} and {file.name}")


def series_of(path: Path) -> str | None:
    """Return the series UID of a DICOM whole slide image, "" if its header is damaged; None for any other file."""
    head = head_of(path)
    return None if head is None else head.get(SERIES, "")


def head_of(path: Path) -> dict[tuple[int, int], str] | None:
    """Return elements of a DICOM whole slide image: those IN_HEAD that it has, none if they are damaged up to SERIES.

    None for any other file.
    """
    if not is_dicom(path):
        return None
    found: dict[tuple[int, int], str] = {}
    tag = (0, 0)
    try:
        with path.open("rb") as file:
            header = io.BytesIO(file.read(LARGEST_HEADER))
        header.seek(PREAMBLE + 4)
        while tag < CONTAINER:
            tag, length = read_element(header, found.get(SYNTAX) == IMPLICIT)
            if tag > SOP_CLASS and found.get(SOP_CLASS) != WHOLE_SLIDE:
                return None
            if (tag > SERIES and SERIES not in found) or (
                    tag > SYNTAX and found.get(SYNTAX) in (DEFLATED, BIG_ENDIAN)):
                return {}
            if tag in IN_HEAD and length != UNDEFINED:
                found[tag] = header.read(length).decode("ascii").strip("\0 ")
            else:
                skip_value(header, length, found.get(SYNTAX) == IMPLICIT)
    except (OSError, ValueError, struct.error):
        return found if SERIES in found else {}
    return found


def read_element(file: BinaryIO, implicit: bool) -> tuple[tuple[int, int], int]:
    """Return the tag and the length of the next element; the file meta group is always explicit."""
    group, element = struct.unpack("<HH", file.read(4))
    kind = file.read(2)
    if group == ITEMS or (implicit and group != 2):
        return (group, element), struct.unpack("<I", kind + file.read(2))[0]
    short = file.read(2)
    length = struct.unpack("<I", file.read(4))[0] if kind in LONG_LENGTH else struct.unpack("<H", short)[0]
    return (group, element), length


def skip_value(file: BinaryIO, length: int, implicit: bool) -> None:
    """Skip a value. One of undefined length, a sequence or an item, ends with a delimiter and may hold others."""
    depth = 0
    while True:
        if length == UNDEFINED:
            depth += 1
        else:
            file.seek(length, os.SEEK_CUR)
        if depth == 0:
            return
        tag, length = read_element(file, implicit)
        if tag in (END_OF_ITEM, END_OF_SEQUENCE):
            depth -= 1
