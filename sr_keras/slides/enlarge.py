# SPDX-License-Identifier: Apache-2.0
"""Super-resolve one file, a slide or a picture, and write its report beside it.

    options = EnlargeOptions(mpp=1.0, quality=90)
    report = enlarge_file(load_generator("saved_models/demo"), Path("case.svs"), Path("case_x4.tif"), options)

A .tif is a pyramid that is written tile by tile and can be resumed; .png and .jpg are made in memory. A trust map is
measured on the finished file.
"""
from __future__ import annotations

import html
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from tqdm import tqdm

from pipelines.errors import require
from pipelines.files import fitting_name
from pipelines.pyramid import PyramidWriter
from pipelines.slide import Slide, SlideError, open_slide
from sr_keras.slides import reports
from sr_keras.slides.enlarge_options import EnlargeOptions
from sr_keras.slides.inspection import find_mismatches, inspect_input
from sr_keras.slides.loop import HasTissue, Work, halo_error, super_resolve_plane
from sr_keras.slides.lr_plane import CELL, LRPlane, TissueMap, UnreadablePlaces
from sr_keras.slides.output_paths import is_picture
from sr_keras.slides.outputs import Output, PictureOutput, PyramidOutput, check_size, write_image
from sr_keras.slides.trust_files import check_trust, trust_paths, write_trust
from sr_keras.slides.trust_map import measure_file
from sr_keras.slides.window_plan import WindowPlan, memory_need, plan_windows

if TYPE_CHECKING:
    from sr_keras.model.loading import LoadedGenerator

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} Mpixel [{elapsed}<{remaining}, {rate_noinv_fmt}]"


def enlarge_file(generator: LoadedGenerator, source: Path, output: Path, options: EnlargeOptions | None = None, *,
                 trust_map: Path | None = None, model: dict[str, Any] | None = None,
                 compute: Callable[..., Work] | None = None) -> dict[str, Any]:
    """Super-resolve one file.

    Args:
        generator: From `sr_keras.model.loading.load_generator` or `sr_keras.model.engines.open_engine`.
        source: A slide or picture.
        output: The file to write; its suffix decides the format.
        options: Options of the run.
        trust_map: A .tif to write the trust map to; see `trust_files`. With `resume` it can be added to an existing
            output.
        model: From `reports.describe_model`, if known already.
        compute: Called in place of `super_resolve_plane`; `distributed` has one for a cluster.

    Returns:
        The report that is written beside the output; with `kept` if the finished output existed before.

    Raises:
        SlideError: The slide cannot be read.
        ValueError: It is too large for memory or for the format, the region lies outside, another file exists, or no
            trust map can be measured at the model's scale.
        OSError: The output cannot be written.
    """
    started = time.monotonic()
    options = options or EnlargeOptions()
    if trust_map:
        check_trust(generator.scale)
    description = reports.description(model or reports.describe_model(generator), options.of_pixels(), source)
    kept = options.resume and output.exists()
    report = _existing_report(source, output, description) if kept else {}
    if kept and (trust_map is None or _has_trust_map(report, trust_map)):
        return report | {"kept": True}
    with open_slide(source, options.assume_mpp) as slide:
        if not kept:
            report = _super_resolve(generator, slide, source, output, options, description, started,
                                    compute or super_resolve_plane, read_again=trust_map is not None)
            reports.write_report(reports.report_path(output), report)
        if trust_map:
            report = report | _measure_trust(generator, slide, output, options, trust_map)
            reports.write_report(reports.report_path(output), report)
    return report | {"kept": True} if kept else report


def enlarge_image(generator: LoadedGenerator, lr: np.ndarray, tile: int | None = None) -> np.ndarray:
    """Super-resolve a picture in memory: uint8 [H, W, 3] -> uint8 [scale*H, scale*W, 3]; `tile` in LR pixels."""
    scale = generator.scale
    windows = plan_windows(lr.shape, scale, generator.halo, memory_need(generator, scale), tile, 1 if tile else None)
    output = PictureOutput(scale * lr.shape[1], scale * lr.shape[0])
    super_resolve_plane(generator, lr, windows, output)
    return output.pixels


def open_plane(slide: Slide, options: EnlargeOptions) -> LRPlane:
    """Return the plane of a slide that the options choose."""
    return LRPlane(slide, options.mpp, options.level, options.region)


def _super_resolve(generator: LoadedGenerator, slide: Slide, source: Path, output: Path, options: EnlargeOptions,
                   description: dict[str, Any], started: float, compute: Callable[..., Work], *,
                   read_again: bool) -> dict[str, Any]:
    """Write the output, and return its report."""
    lr, scale = open_plane(slide, options), generator.scale
    windows = plan_windows(lr.shape, scale, generator.halo if options.halo is None else options.halo,
                           memory_need(generator, scale), options.tile,
                           1 if options.tile and is_picture(output) else None, options.memory)
    if is_picture(output):
        check_size(lr.shape, scale, source, output, read_again=read_again)
    has_tissue: HasTissue | None = TissueMap(lr).any_in
    properties = inspect_input(open_plane(slide, options), has_tissue)
    warnings = find_mismatches(properties, generator.facts)
    for warning in warnings:
        tqdm.write(f"warning: {source}: {warning}", file=sys.stderr)
    if options.everywhere or len(windows) == 1:  # in one window bicubic would save nothing
        has_tissue = None
    seams = _measure_seams(generator, lr, windows, has_tissue)

    def run(out: Output) -> Work:
        with _progress_bar(source.name, lr, scale) as bar:
            work = compute(generator, lr, windows, out, has_tissue=has_tissue, progress=partial(_update, bar))
        if lr.all_unreadable:
            reason = f" ({str(lr.failure).removeprefix(f'{source}: ')})" if lr.failure else ""
            raise SlideError(f"{source}: no part of the requested area can be read; the file may be damaged, copy it "
                             f"again{reason}")
        return work

    if is_picture(output):
        picture = PictureOutput(scale * lr.shape[1], scale * lr.shape[0])
        work = run(picture)
        write_image(picture.pixels, output, options.quality, _colour_profile(slide))
    else:
        work = _write_pyramid(run, lr, windows, output, options, description)
    report = _report(source, output, lr, windows, work, time.monotonic() - started)
    report["work"]["halo_error"] = seams
    return report | {"glass": has_tissue is not None, "description": description,
                     "input": properties.as_json() | {"unfamiliar": warnings}}


def _write_pyramid(run: Callable[[Output], Work], lr: LRPlane, windows: WindowPlan, output: Path,
                   options: EnlargeOptions, description: dict[str, Any]) -> Work:
    scale, (height, width) = windows.scale, lr.shape[:2]
    with PyramidWriter(output, scale * width, scale * height, None if lr.mpp is None else lr.mpp / scale,
                       options.pyramid(output, scale), description=_as_text(description),
                       identity=windows.description, icc_profile=_colour_profile(lr.slide),
                       resume=options.resume, overwrite=options.overwrite) as writer:
        # The writer has checked that the work file belongs to this run, and so does the list of unreadable places.
        places = output.with_name(fitting_name("", output.name, ".unfinished.bad"))
        lr.unreadable = UnreadablePlaces(places, options.resume)
        work = run(PyramidOutput(writer))
        writer.finish()
    lr.unreadable.delete_file()
    return work


def _colour_profile(slide: Slide) -> bytes | None:
    """Return the profile for the output; say why if the source's cannot be carried over."""
    try:
        return slide.icc_profile
    except SlideError as error:
        tqdm.write(f"warning: {error}: the output has none", file=sys.stderr)
        return None


def _measure_seams(generator: LoadedGenerator, lr: LRPlane, windows: WindowPlan,
                   has_tissue: HasTissue | None) -> dict[str, Any] | None:
    """Return the error of a halo that is smaller than the receptive field; None if it is not."""
    if windows.halo >= generator.halo:
        return None
    largest, mean = halo_error(generator, lr, windows.scale, windows.halo, generator.halo, has_tissue)
    return {"full_halo": generator.halo, "largest": largest, "mean": mean}


def _report(source: Path, output: Path, lr: LRPlane, windows: WindowPlan, work: Work, seconds: float
            ) -> dict[str, Any]:
    height, width = lr.shape[:2]
    scale, whole = windows.scale, height * width * windows.scale**2
    return {
        "status": "done", "source": str(source), "output": str(output), "bytes": output.stat().st_size,
        "lr": {"width": width, "height": height, "mpp": lr.mpp, "level": lr.level, "l0_region": list(lr.l0_box),
               "averaged": lr.averaged},
        "sr": {"width": scale * width, "height": scale * height, "mpp": None if lr.mpp is None else lr.mpp / scale},
        "work": {
            "seconds": seconds, "mpixels_per_s": work.pixels / 1e6 / seconds, "windows": windows.description,
            "halo": windows.halo, "overhead": windows.overhead, "network_share": work.network_seconds / seconds,
            "kept_share": work.kept_pixels / whole, "glass_share": work.glass_pixels / max(1, work.pixels),
            "seconds_saved": work.seconds_saved,
            "time_saved_share": work.seconds_saved / (seconds + work.seconds_saved)},
        "bad": reports.bad_places(len(lr.unreadable.cells), CELL**2, height * width, lr.unreadable_l0_rectangles()),
        "peak_rss_bytes": reports.peak_rss(),
    }


def _existing_report(source: Path, output: Path, description: dict[str, Any]) -> dict[str, Any]:
    """Return the report of an existing output that this run would make again.

    If a kill came before the report was written, the description in the file identifies the output.
    """
    report = reports.read_report(reports.report_path(output))
    same = report.get("description") == json.loads(_as_text(description))
    if not same and not is_picture(output):
        report = {"status": "done", "source": str(source), "output": str(output), "bytes": output.stat().st_size,
                  "description": description}
        with tifffile.TiffFile(output) as tiff:
            same = _as_text(description) in html.unescape(tiff.pages[0].description)
    require(same, "output", "be made from this source by this model with these options to be kept",
            "choose another path, or add --overwrite without --resume", str(output))
    return report


def _has_trust_map(report: dict[str, Any], trust_map: Path) -> bool:
    """Whether the files of the trust map exist and belong to this output, and not to one that was overwritten."""
    return report.get("trust", {}).get("map") == str(trust_map) and all(map(Path.exists, trust_paths(trust_map)))


def _measure_trust(generator: LoadedGenerator, slide: Slide, output: Path, options: EnlargeOptions,
                   trust_map: Path) -> dict[str, Any]:
    """Write the trust map of a finished output, and return what its report says of it."""
    started = time.monotonic()
    for old in trust_paths(trust_map):  # they may belong to another output
        old.unlink(missing_ok=True)
    lr = open_plane(slide, options)  # a new one: the file of the other's unreadable places is deleted
    with _progress_bar(f"{slide.path.name}, trust map", lr, generator.scale) as bar:
        trust = measure_file(lr, output, generator.scale, partial(_update, bar), generator.facts.usual_departure)
    to_input = partial(_position_in_qupath, slide, lr, generator.scale)
    found = write_trust(trust_map, trust, slide.path.name, to_input)
    return {"trust": found | {"seconds": time.monotonic() - started}, "peak_rss_bytes": reports.peak_rss()}


def _position_in_qupath(slide: Slide, lr: LRPlane, scale: int, hr_x: float, hr_y: float) -> tuple[float, float]:
    """Return the position of an output pixel in the input; QuPath counts from the scanned area if the slide has one."""
    x, y = lr.l0_point(hr_x / scale, hr_y / scale)
    return x - slide.bounds_corner[0], y - slide.bounds_corner[1]


def _as_text(description: dict[str, Any]) -> str:
    return json.dumps(description, sort_keys=True)


def _progress_bar(name: str, lr: LRPlane, scale: int) -> tqdm:
    pixels = lr.shape[0] * lr.shape[1] * scale**2
    return tqdm(desc=name, total=pixels / 1e6, unit=" Mpixel", bar_format=BAR, leave=False)


def _update(bar: tqdm, pixels: int, kept: bool = False) -> None:
    """Advance the bar; pixels that existed before do not count for the rate."""
    more = min(pixels / 1e6, bar.total - bar.n)
    if kept:
        bar.initial += more
    bar.update(more)
