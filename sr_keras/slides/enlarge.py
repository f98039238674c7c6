# SPDX-License-Identifier: Apache-2.0
"""Super-resolve one file, a slide or a picture, and write its report beside it.

    options = EnlargeOptions(mpp=1.0, quality=90)
    report = enlarge_file(load_generator("saved_models/demo"), Path("case.svs"), Path("case_x4.tif"), options)

A .tif is a pyramid that is written tile by tile and can be resumed; .png and .jpg are made in memory. A trust map is
measured on the finished file.
"""
from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from pipelines.config import SCALES
from pipelines.errors import require
from pipelines.files import fitting_name
from pipelines.names import printable
from pipelines.pyramid import Origin, PyramidWriter, patient_of, read_description
from pipelines.pyramid.work_file import clear_away, facts_of
from pipelines.readers import check_file
from pipelines.readers.folders import files_of, size_of
from pipelines.slide import Slide, SlideError, open_slide
from sr_keras.slides import reports
from sr_keras.slides.inspection import find_mismatches, inspect_input
from sr_keras.slides.loop import Work, super_resolve_plane
from sr_keras.slides.lr_plane import CELL, HasTissue, LRPlane, UnreadablePlaces, find_tissue
from sr_keras.slides.outputs import Output, PictureOutput, PyramidOutput, check_size, is_picture, write_image
from sr_keras.slides.trust_files import trust_paths, write_trust
from sr_keras.slides.trust_map import measure_file
from sr_keras.slides.window_plan import EnlargeOptions, WindowPlan, plan_windows, window_limits

if TYPE_CHECKING:
    from sr_keras.model.loading import LoadedGenerator

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} Mpixel [{elapsed}<{remaining}, {rate_noinv_fmt}]"
LISTED_PLACES = 100  # unreadable ones, in the report


class Job(NamedTuple):
    """An input file, its output, its trust map if one is requested, and what is written in place of its name."""

    source: Path
    output: Path
    trust_map: Path | None = None
    alias: str | None = None


def try_job(generator: LoadedGenerator, job: Job, options: EnlargeOptions, **more: Any) -> dict[str, Any] | Exception:
    """Return the report of `enlarge_file`, or the error that must not stop other jobs."""
    try:
        return enlarge_file(generator, job.source, job.output, options, trust_map=job.trust_map,
                            alias=job.alias, **more)
    except (OSError, SlideError, ValueError) as error:
        return error


def enlarge_file(generator: LoadedGenerator, source: Path, output: Path, options: EnlargeOptions | None = None, *,
                 trust_map: Path | None = None, model: dict[str, Any] | None = None,
                 compute: Callable[..., Work] | None = None, alias: str | None = None) -> dict[str, Any]:
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
        alias: What is written in place of the source's name and path.

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
    require(trust_map is None or generator.scale in SCALES, "trust_map",
            f"be left out for a model of scale {generator.scale}",
            f"the degradation that it needs is defined for scales {', '.join(map(str, SCALES))}", generator.scale)
    check_file(source)
    description = reports.description(model or reports.describe_model(generator), options.of_pixels(), source, alias)
    kept = options.resume and output.exists()
    written = alias or str(source)
    report = _existing_report(written, output, description) if kept else {}
    if kept:
        clear_away(output)
        if trust_map is None or _has_trust_map(report, trust_map):
            return report | {"kept": True}
    with open_slide(source, options.assume_mpp) as slide:
        if not kept:
            report = _super_resolve(generator, slide, output, options, description, compute or super_resolve_plane,
                                    started, read_again=trust_map is not None) | {"source": written}
            reports.write_report(output, report)
        if trust_map:
            report = report | _measure_trust(generator, slide, output, options, trust_map, alias or source.name)
            reports.write_report(output, report)
    return report | {"kept": True} if kept else report


def enlarge_image(generator: LoadedGenerator, lr: np.ndarray, tile: int | None = None) -> np.ndarray:
    """Super-resolve a picture in memory: uint8 [H, W, 3] -> uint8 [scale*H, scale*W, 3]; `tile` in LR pixels."""
    scale = generator.scale
    windows = plan_windows(lr.shape, scale, generator.halo, window_limits(generator, scale), tile, 1 if tile else None)
    output = PictureOutput(scale * lr.shape[1], scale * lr.shape[0])
    super_resolve_plane(generator, lr, windows, output)
    return output.pixels


def open_plane(slide: Slide, options: EnlargeOptions) -> LRPlane:
    """Return the plane of a slide that the options choose."""
    return LRPlane(slide, options.mpp, options.level, options.region)


def _super_resolve(generator: LoadedGenerator, slide: Slide, output: Path, options: EnlargeOptions,
                   description: dict[str, Any], compute: Callable[..., Work], started: float, *, read_again: bool
                   ) -> dict[str, Any]:
    """Write the output, and return its report."""
    lr, scale, source = open_plane(slide, options), generator.scale, slide.path
    windows = plan_windows(lr.shape, scale, generator.halo, window_limits(generator, scale, options.memory),
                           options.tile, 1 if options.tile and is_picture(output) else None)
    if is_picture(output):
        check_size(lr.shape, scale, source, output, read_again=read_again)
    has_tissue: HasTissue | None = find_tissue(lr)
    properties = inspect_input(open_plane(slide, options), has_tissue)
    warnings = find_mismatches(properties, generator.facts)
    for warning in warnings:
        tqdm.write(f"warning: {source}: {warning}", file=sys.stderr)
    if options.everywhere or len(windows) == 1:  # in one window bicubic would save nothing
        has_tissue = None

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
    made = _describe_work(work, windows, lr.shape[0] * lr.shape[1] * scale**2, time.monotonic() - started)
    return _describe_files(lr, output, scale) | {
        "work": made, "glass": has_tissue is not None, "description": description,
        "input": asdict(properties) | {"unfamiliar": warnings}}


def _write_pyramid(run: Callable[[Output], Work], lr: LRPlane, windows: WindowPlan, output: Path,
                   options: EnlargeOptions, description: dict[str, Any]) -> Work:
    scale, (height, width) = windows.scale, lr.shape[:2]
    profile, pyramid = _colour_profile(lr.slide), options.pyramid(output, scale)
    if profile and pyramid.format == "zarr":
        tqdm.write(f"warning: {lr.slide.path}: OME-Zarr has no place for its colour profile: the output has none",
                   file=sys.stderr)
    with PyramidWriter(output, scale * width, scale * height, lr.mpp and lr.mpp / scale,
                       pyramid, description=_as_text(description), identity=windows.description,
                       icc_profile=profile, resume=options.resume,
                       overwrite=options.overwrite, origin=_origin(lr.slide.path, options, description)) as writer:
        # The writer has checked that the work file belongs to this run, and so does the list of unreadable places.
        places = output.with_name(fitting_name("", output.name, ".unfinished.bad"))
        lr.unreadable = UnreadablePlaces(places, options.resume)
        work = run(PyramidOutput(writer))
        writer.finish()
    lr.unreadable.delete_file()
    return work


def _origin(source: Path, options: EnlargeOptions, description: dict[str, Any]) -> Origin:
    """Return what a DICOM says of its making."""
    model, time_of_source = description["model"], max(path.stat().st_mtime for path in files_of(source))
    return Origin(str(model["name"]), str(model["version"] or ""), description["software"], time_of_source,
                  patient_of(source) if options.keep_patient else None)


def _colour_profile(slide: Slide) -> bytes | None:
    """Return the profile for the output; say why if the source's cannot be carried over."""
    try:
        return slide.icc_profile
    except SlideError as error:
        tqdm.write(f"warning: {error}: the output has none", file=sys.stderr)
        return None


def _describe_files(lr: LRPlane, output: Path, scale: int) -> dict[str, Any]:
    """Return what a report says of input and output."""
    (height, width), places = lr.shape[:2], lr.unreadable_l0_rectangles()
    return {
        "status": "done", "output": str(output), "bytes": size_of(output),
        "lr": {"width": width, "height": height, "mpp": lr.mpp, "level": lr.level, "l0_region": list(lr.l0_box),
               "averaged": lr.averaged},
        "sr": {"width": scale * width, "height": scale * height, "mpp": lr.mpp and lr.mpp / scale},
        "bad": {"places": len(places), "share": min(1.0, len(lr.unreadable.cells) * CELL**2 / (height * width)),
                "l0_rectangles": [list(box) for box in places[:LISTED_PLACES]]},
        "peak_rss_bytes": reports.peak_rss()}


def _describe_work(work: Work, windows: WindowPlan, whole: int, seconds: float) -> dict[str, Any]:
    """Return what a report says of how the `whole` SR pixels were made."""
    return {
        "seconds": seconds, "mpixels_per_s": work.pixels / 1e6 / seconds, "windows": windows.description,
        "halo": windows.halo, "overhead": windows.overhead, "network_share": work.network_seconds / seconds,
        "kept_share": work.kept_pixels / whole, "glass_share": work.glass_pixels / max(1, work.pixels),
        "seconds_saved": work.seconds_saved, "time_saved_share": work.seconds_saved / (seconds + work.seconds_saved)}


def _existing_report(source: str, output: Path, description: dict[str, Any]) -> dict[str, Any]:
    """Return the report of an existing output that this run would make again.

    If a kill came before the report was written, the description in the file identifies the output.
    """
    report = reports.read_report(output)
    same = report.get("description") == json.loads(_as_text(description))
    if not same and not is_picture(output):
        report = {"status": "done", "source": source, "output": str(output), "bytes": size_of(output),
                  "description": description}
        same = _as_text(description) in read_description(output)
    require(same, "output", "come from the same source, model and options to be resumed",
            "choose another path, or replace it by --overwrite without --resume", str(output))
    return report


def begun_by(output: Path) -> str | None:
    """Return the engine that makes an output, as its report says, or its work file; None if neither says it."""
    with suppress(OSError, ValueError, AttributeError, TypeError):  # a damaged one is told when it is resumed
        made = reports.read_report(output).get("description") if output.exists() else json.loads(
            facts_of(output).get("description", "{}"))
        engine = made.get("model", {}).get("engine") if made else None
        return engine if isinstance(engine, str) else None
    return None


def _has_trust_map(report: dict[str, Any], trust_map: Path) -> bool:
    """Whether the files of the trust map exist and belong to this output, and not to one that was overwritten."""
    return report.get("trust", {}).get("map") == str(trust_map) and all(map(Path.exists, trust_paths(trust_map)))


def _measure_trust(generator: LoadedGenerator, slide: Slide, output: Path, options: EnlargeOptions,
                   trust_map: Path, title: str) -> dict[str, Any]:
    """Write the trust map of a finished output, and return what its report says of it."""
    from sr_keras.model.uncertainty_head import load_uncertainty

    started, scale = time.monotonic(), generator.scale
    for old in trust_paths(trust_map):  # they may belong to another output
        old.unlink(missing_ok=True)
    lr = open_plane(slide, options)  # a new one: the file of the other's unreadable places is deleted
    with _progress_bar(f"{slide.path.name}, trust map", lr, scale) as bar:
        trust = measure_file(lr, output, scale, partial(_update, bar), generator.facts.usual_departure,
                             load_uncertainty(generator.path), generator.halo)
    found = write_trust(trust_map, trust, printable(title),
                        lambda hr_x, hr_y: lr.l0_point(hr_x / scale, hr_y / scale))
    return {"trust": found | {"seconds": time.monotonic() - started}, "peak_rss_bytes": reports.peak_rss()}


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
