"""Register two files: open both, find how they lie, judge every patch, write what was found."""
from __future__ import annotations

from pathlib import Path

from pipelines.errors import require
from pipelines.register.coarse import scans_of
from pipelines.register.colours import fit_colours
from pipelines.register.examine import examine
from pipelines.register.locate import locate
from pipelines.register.overlay import draw_overlay
from pipelines.register.planes import Plane
from pipelines.register.registration import Registration, scan_file, write_registration
from pipelines.slide import open_slide

COLOURED = 64  # patches that the colours are learnt from


def register_scans(lr_path: Path, hr_path: Path, output: Path, patch_size: int, max_patches: int,
                   progress: bool = True) -> Registration:
    """Find how two scans lie to each other, and write that to `output` and a picture of it beside.

    Args:
        lr_path: The scan of low resolution.
        hr_path: The finer scan of the same glass.
        output: The JSON file; the picture has its name with .png.
        patch_size: Side of the patches that are compared, in LR pixels.
        max_patches: Most patches to compare.
        progress: Show a progress bar.

    Raises:
        FileNotFoundError: One of them is not there.
        SlideError: One of them cannot be read.
        ValueError: They show different glass, are the same file, or are not of one of the known scales.
    """
    with open_slide(lr_path) as lr_slide, open_slide(hr_path) as hr_slide:
        require(not lr_path.samefile(hr_path), "hr", "be another file than lr", "name two scans of one glass",
                str(hr_path))
        lr, hr = scans_of(lr_slide, hr_slide)
        matrix, scale = locate(lr, hr, patch_size)
        fits, rejected = examine(lr, hr, matrix, patch_size, scale, max_patches, progress)
        some = fits[::max(1, len(fits) // COLOURED)]
        colours = fit_colours(Plane(lr_slide, 1), Plane(hr_slide, 1), matrix, some, patch_size, scale)
        found = Registration(
            scan_file(lr_path, lr_slide), scan_file(hr_path, hr_slide), tuple(map(tuple, matrix.tolist())), scale,
            patch_size, colours, tuple(fits), tuple(rejected))
        draw_overlay(output.with_suffix(".png"), lr, hr, found)
        write_registration(output, found)
    return found
