"""One file in, one file out: a slide or a picture, super-resolved, with its report beside it.

    options = EnlargeOptions(mpp=1.0, quality=90)
    report = enlarge_file(load_generator("saved_models/demo"), Path("case.svs"), Path("case_x4.tif"), options)

A .tif is a pyramid that is written as it comes and can be gone on with; .png and .jpg are made in memory. How far the
output departs from its input is measured afterwards, on the finished file, where a `trust_map` is asked for.
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
from pipelines.pyramid import PyramidWriter
from pipelines.slide import Slide, SlideError, open_slide
from sr_keras.slides import reports
from sr_keras.slides.config import EnlargeOptions
from sr_keras.slides.departure import measure_file
from sr_keras.slides.familiar import look, unfamiliar
from sr_keras.slides.loop import Sink, Work, halo_error, super_resolve_plane
from sr_keras.slides.lr_plane import CELL, BadPlaces, LRView, TissueMap
from sr_keras.slides.output_paths import is_picture
from sr_keras.slides.outputs import ImageSink, PyramidSink, check_size, write_image
from sr_keras.slides.trust import check_trust, trust_paths, write_trust
from sr_keras.slides.windows import Plan, needs, plan

if TYPE_CHECKING:
    from sr_keras.model.loading import LoadedGenerator

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} Mpixel [{elapsed}<{remaining}, {rate_noinv_fmt}]"



def enlarge_file(generator: LoadedGenerator, source: Path, target: Path, options: EnlargeOptions | None = None, *,
                 trust_map: Path | None = None, model: dict[str, Any] | None = None,
                 loop: Callable[..., Work] | None = None) -> dict[str, Any]:
    """Super-resolve one file.

    Args:
        generator: made by `sr_keras.model.loading.load_generator` or `sr_keras.model.engines.open_engine`.
        source: A slide or picture.
        target: What to write, by its suffix.
        options: How.
        trust_map: A .tif for the map of how far the output departs from its input; see `trust`. Pixels do not follow
            from it: with `resume` one may be added to an output that is there.
        model: From `reports.describe_model`, where it was asked already.
        loop: What has the windows computed, called as `super_resolve_plane` is; `spread` has one for a cluster.

    Returns:
        The report, which lies beside the output. With `kept` where the output was there, whole, before.

    Raises:
        SlideError: The slide can't be read, or not as asked.
        ValueError: It is too large for memory or for the format, the region lies outside, something else is there, or
            nothing can be measured at the model's scale.
        OSError: It can't be written.
    """
    options = options or EnlargeOptions()
    begun = time.monotonic()
    if trust_map:
        check_trust(generator.scale)
    made = reports.description(model or reports.describe_model(generator), options.of_pixels(), source)
    if options.resume and target.exists():
        report = _kept(target, made)
        if trust_map and not _is_measured(report, trust_map):
            with open_slide(source, options.assume_mpp) as slide:
                report = _measured(report or _without_run(source, target, made), generator, slide, target, options,
                                   trust_map)
        return report | {"kept": True}
    with open_slide(source, options.assume_mpp) as slide:
        lr = view_of(slide, options)
        full = generator.halo
        windows = plan(lr.shape, generator.scale, full if options.halo is None else options.halo,
                       needs(generator, generator.scale), options.tile,
                       1 if options.tile and is_picture(target) else None, options.memory)
        if is_picture(target):
            check_size(lr.shape, generator.scale, source, target, read_again=bool(trust_map))
        found = TissueMap(lr).any_in
        seen = look(view_of(slide, options), found)
        causes = unfamiliar(seen, generator.facts)
        for cause in causes:
            tqdm.write(f"warning: {source}: {cause}", file=sys.stderr)
        # In a picture of one window there is nothing to save.
        tissue = None if options.everywhere or len(windows) == 1 else found
        error = None
        if windows.halo < full:
            worst, mean = halo_error(generator, lr, generator.scale, windows.halo, full, tissue)
            error = {"full_halo": full, "largest": worst, "mean": mean}

        def run(sink: Sink) -> Work:
            with _bar(source.name, lr, generator.scale) as bar:
                work = (loop or super_resolve_plane)(generator, lr, windows, sink, has_tissue=tissue,
                                                     progress=_teller(bar))
            if lr.all_bad:
                reason = f" ({str(lr.failure).removeprefix(f'{source}: ')})" if lr.failure else ""
                raise SlideError(f"{source}: nothing of what was asked for can be read; copy it again{reason}")
            return work

        if is_picture(target):
            work = _write_picture(run, lr.shape, generator.scale, target, options)
        else:
            work = _write_pyramid(run, lr, windows, target, options, made)
        report = _report(source, target, lr, windows, work, time.monotonic() - begun)
        report |= {"glass": tissue is not None, "description": made,
                   "input": seen.as_json() | {"unfamiliar": causes}}
        report["work"]["halo_error"] = error
        reports.write_report(reports.report_path(target), report)
        return _measured(report, generator, slide, target, options, trust_map) if trust_map else report


def view_of(slide: Slide, options: EnlargeOptions) -> LRView:
    """Return what is read of a slide."""
    return LRView(slide, options.mpp, options.level, options.region)


def enlarge_image(generator: LoadedGenerator, lr: np.ndarray, tile: int | None = None) -> np.ndarray:
    """Super-resolve a picture in memory: uint8 [H, W, 3] -> uint8 [scale*H, scale*W, 3]; `tile` in LR pixels."""
    scale = generator.scale
    windows = plan(lr.shape, scale, generator.halo, needs(generator, scale), tile, 1 if tile else None)
    sink = ImageSink(scale * lr.shape[1], scale * lr.shape[0])
    super_resolve_plane(generator, lr, windows, sink)
    return sink.pixels


def _write_picture(run: Callable[[Sink], Work], lr_shape: tuple[int, ...], scale: int, target: Path,
                   options: EnlargeOptions) -> Work:
    sink = ImageSink(scale * lr_shape[1], scale * lr_shape[0])
    work = run(sink)
    write_image(sink.pixels, target, options.quality)
    return work


def _write_pyramid(run: Callable[[Sink], Work], lr: LRView, windows: Plan, target: Path, options: EnlargeOptions,
                   made: dict[str, Any]) -> Work:
    scale, (height, width) = windows.scale, lr.shape[:2]
    with PyramidWriter(target, scale * width, scale * height, None if lr.mpp is None else lr.mpp / scale,
                       options.pyramid(target, scale), description=_text(made), identity=windows.windows,
                       resume=options.resume, overwrite=options.overwrite) as writer:
        # Only now is it sure that the notes beside the work file are ours.
        lr.bad = BadPlaces(target.with_name(f"{target.name}.unfinished.bad"), options.resume)
        work = run(PyramidSink(writer))
        writer.finish()
    lr.bad.forget()
    return work


def _report(source: Path, target: Path, lr: LRView, windows: Plan, work: Work, seconds: float) -> dict[str, Any]:
    height, width = lr.shape[:2]
    scale, whole = windows.scale, height * width * windows.scale**2
    return {
        "status": "done", "source": str(source), "output": str(target), "bytes": target.stat().st_size,
        "lr": {"width": width, "height": height, "mpp": lr.mpp, "level": lr.level, "l0_region": list(lr.l0_box),
               "averaged": lr.averaged},
        "sr": {"width": scale * width, "height": scale * height, "mpp": None if lr.mpp is None else lr.mpp / scale},
        "work": {
            "seconds": seconds, "mpixels_per_s": work.pixels / 1e6 / seconds, "windows": windows.windows,
            "halo": windows.halo, "overhead": windows.overhead, "network_share": work.network_seconds / seconds,
            "kept_share": work.kept_pixels / whole, "glass_share": work.glass_pixels / max(1, work.pixels),
            "seconds_saved": work.seconds_saved,
            "time_saved_share": work.seconds_saved / (seconds + work.seconds_saved)},
        "bad": reports.bad_places(len(lr.bad.cells), CELL**2, height * width, lr.bad_l0_rectangles()),
        "peak_rss_bytes": reports.peak_rss(),
    }


def _kept(target: Path, made: dict[str, Any]) -> dict[str, Any]:
    """Return the report of an output that is there and is what would be made now; an empty one where it has none."""
    report = reports.read_report(reports.report_path(target))
    same = report.get("description") == json.loads(_text(made))
    if not same and not is_picture(target):  # a kill may have come before the report
        report = {}
        with tifffile.TiffFile(target) as tiff:
            same = _text(made) in html.unescape(tiff.pages[0].description)
    require(same, "output", "have been made of this source by this model and these flags to be left as it is",
            "name another, or add --overwrite without --resume", str(target))
    return report


def _without_run(source: Path, target: Path, made: dict[str, Any]) -> dict[str, Any]:
    """Return the report of an output whose own was lost in a kill: without what the run took and could not read."""
    return {"status": "done", "source": str(source), "output": str(target), "bytes": target.stat().st_size,
            "description": made}


def _is_measured(report: dict[str, Any], trust_map: Path) -> bool:
    """Whether the map is there and this output's; what lies there may be that of one that was overwritten."""
    return report.get("trust", {}).get("map") == str(trust_map) and all(map(Path.exists, trust_paths(trust_map)))


def _measured(report: dict[str, Any], generator: LoadedGenerator, slide: Slide, target: Path, options: EnlargeOptions,
              trust_map: Path) -> dict[str, Any]:
    """Return the report of a finished output with what was measured, and leave map and report on disk."""
    begun = time.monotonic()
    for old in trust_paths(trust_map):  # of another output: if measuring fails, it must not be taken for this one's
        old.unlink(missing_ok=True)
    # A view of its own: the notes of the one that was super-resolved lay in a file that is gone.
    lr = view_of(slide, options)
    with _bar(f"{slide.path.name}, trust", lr, generator.scale) as bar:
        tell = _teller(bar)
        trust = measure_file(lr, target, generator.scale, lambda pixels: tell(pixels, False),
                             generator.facts.usual_departure)
    place = partial(_in_qupath, slide, lr, generator.scale)
    said = write_trust(trust_map, trust, slide.path.name, place) | {"seconds": time.monotonic() - begun}
    report = report | {"trust": said, "peak_rss_bytes": reports.peak_rss()}
    reports.write_report(reports.report_path(target), report)
    return report


def _in_qupath(slide: Slide, lr: LRView, scale: int, hr_x: float, hr_y: float) -> tuple[float, float]:
    """Return where a pixel of the output lies in the input: QuPath shows the scanned area, where a slide says it."""
    x, y = lr.l0_point(hr_x / scale, hr_y / scale)
    return x - slide.bounds_corner[0], y - slide.bounds_corner[1]


def _text(made: dict[str, Any]) -> str:
    return json.dumps(made, sort_keys=True)


def _bar(name: str, lr: LRView, scale: int) -> tqdm:
    pixels = lr.shape[0] * lr.shape[1] * scale**2
    return tqdm(desc=name, total=pixels / 1e6, unit=" Mpixel", bar_format=BAR, leave=False)


def _teller(bar: tqdm) -> Callable[[int, bool], None]:
    def tell(pixels: int, kept: bool) -> None:
        more = min(pixels / 1e6, bar.total - bar.n)
        if kept:  # what was there counts for the share that is done, and not for the rate
            bar.initial += more
        bar.update(more)

    return tell
