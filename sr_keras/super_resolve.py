"""Super-resolve slides and pictures of any size.

    python -m sr_keras.super_resolve --input=slide.svs --output=slide_x4.tif
    python -m sr_keras.super_resolve --input=slides --output=slides_x4 --mpp=1.0
    python -m sr_keras.super_resolve --model=runs/mine --input=picture.png --output=large.png
    python -m sr_keras.super_resolve --input=slide.svs --output=out.tif --trust_map=trust.tif

Model: the one that ships with the code if left out. Input: a file that pipelines.slide opens, a folder, or a comma
list. Output: a .tif is a tiled pyramid that OpenSlide and QuPath open, of any size in 2 GiB of memory; .png and .jpg
are made in memory; in a folder slides become NAME_x4.tif and pictures NAME.png. Beside each lies its report, as in
NAME.png.report.json.
Windows overlap by all that a pixel depends on, so there are no seams; where there is only glass, bicubic does. A file
that fails does not stop the others, and a place that can't be read becomes white and is reported. What was stopped,
even by kill -9, goes on with --resume: to the same bytes on the same machine with as many cores, elsewhere to the same
pixels within 1/255, before JPEG.

The input is looked at first: a line warns of each way in which it is not what the model was made for (resolution,
stain, blur, JPEG quality), and the report holds what was seen. --mpp averages a level that is 2 to 4 times finer, where
there is one: a slide's coarse levels were compressed again.

--trust_map tells where the output, degraded again by what fits this slide, departs from its input: a map, a picture,
and its worst regions as GeoJSON, once for the output and once for the input slide as QuPath opens them. It can't show
invented detail that is finer than the input's pixels. The finished file is measured, so --resume adds it to one that is
there.

    python -m sr_keras.super_resolve --input=slides --output=slides_x4 --ray=auto

--ray does it on the machines of a Ray cluster, slides side by side and large ones in regions, to the same pixels within
1/255, before JPEG. All machines must see model, input and output under the same paths. A machine that is lost costs
time and no work that is done; when the command itself is stopped, --resume goes on.

Exit status: 0 all done, 1 in part (a file failed, or a place could not be read), 2 nothing.
"""
from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from tqdm import tqdm

from pipelines import console
from pipelines.cluster import CPUS, Cluster
from pipelines.errors import require
from pipelines.slide import SlideError
from sr_keras.config import SHIPPED_MODEL
from sr_keras.model.tiles import check_tile
from sr_keras.slides import EnlargeOptions, enlarge_file
from sr_keras.slides.distributed import Job, enlarge_all
from sr_keras.slides.output_paths import check_output, check_writable, find_inputs, is_picture, plan, plan_trust
from sr_keras.slides.reports import describe_model, report_path, summary, trust_line, write_report
from sr_keras.slides.trust import check_trust
from sr_keras.slides.windows import pyramid_tile

if TYPE_CHECKING:
    from sr_keras.model.engines import Engine

FLAGS = flags.FlagValues()
flags.DEFINE_string("model", str(SHIPPED_MODEL), "saved_models/NAME, a run folder, or a .keras generator.",
                    flag_values=FLAGS)
flags.DEFINE_string("input", None, "A slide or picture, a folder of them, or a comma list.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "A .tif, .png or .jpg to write, or a folder.", flag_values=FLAGS)
flags.DEFINE_string("trust_map", None, "A .tif for the map of how far the output departs from its input, or a folder, "
                    "where it is NAME_trust.tif.", flag_values=FLAGS)
flags.DEFINE_enum("engine", "tensorflow", ["tensorflow", "litert", "onnx", "auto"],
                  "What runs the network; auto is the fastest that is installed, measured once.", flag_values=FLAGS)
flags.DEFINE_boolean("overwrite", False, "Replace what is there.", flag_values=FLAGS)
flags.DEFINE_boolean("resume", False, "Go on with what was stopped; what is finished stays.", flag_values=FLAGS)
flags.DEFINE_float("mpp", None, "Microns per pixel to read at; 1.0 is about 10x. Averaged from a level that is 2 to 4 "
                   "times finer where there is one.", flag_values=FLAGS)
flags.DEFINE_integer("level", 0, "Slide level to read where no mpp is asked.", flag_values=FLAGS)
flags.DEFINE_float("assume_mpp", None, "mpp of slides that do not say theirs.", flag_values=FLAGS)
flags.DEFINE_list("region", None, "x,y,width,height of a part, in level-0 pixels.", flag_values=FLAGS)
flags.DEFINE_integer("quality", None, "Of JPEG, 1 to 100; 90 in a .tif, 95 in a .jpg if left out.", flag_values=FLAGS)
flags.DEFINE_boolean("lossless", False, "No JPEG in the .tif.", flag_values=FLAGS)
flags.DEFINE_enum("format", None, ["tiff", "ome"], "Of a .tif: for OpenSlide, or OME-TIFF for Bio-Formats; what the "
                  "output's name says if left out.", flag_values=FLAGS)
flags.DEFINE_boolean("everywhere", False, "Run the network on glass too.", flag_values=FLAGS)
flags.DEFINE_integer("halo", None, "Overlap of windows in input pixels; less than the network sees is faster, and the "
                     "error is measured.", flag_values=FLAGS)
flags.DEFINE_integer("tile", None, "Side of a window in input pixels, less for less memory; what fits in --memory if "
                     "left out.", flag_values=FLAGS)
flags.DEFINE_float("memory", 2.0, "GiB that may be taken: more makes windows larger, so that less is computed twice.",
                   flag_values=FLAGS)
flags.DEFINE_string("ray", None, "Run on a Ray cluster: auto for the one that runs on this machine, else one of its "
                    "own; or HOST:PORT. Needs the extra 'cluster'.", flag_values=FLAGS)


def main() -> int:
    """Check what was asked before anything is loaded, and do it."""
    for name in ("model", "input", "output"):
        require(bool(FLAGS[name].value), name, "be given", f"add --{name}=PATH", FLAGS[name].value)
    options = enlarge_options(FLAGS)
    find_inputs(FLAGS.input)  # a slip of the keys is told before seconds of loading
    check_output(Path(FLAGS.output), options)

    with Cluster(FLAGS.ray, gpu=True, cpus=CPUS) if FLAGS.ray else nullcontext() as cluster:
        return _enlarge(options, cluster)


def _enlarge(options: EnlargeOptions, cluster: Cluster | None) -> int:
    from sr_keras.model.engines import open_engine

    if cluster:
        cluster.leave_gpus()
    generator = open_engine(FLAGS.engine, FLAGS.model)
    if FLAGS.engine == "auto":
        print(generator.why)
    pairs = plan(FLAGS.input, Path(FLAGS.output), generator.scale, ome=options.format == "ome",
                 overwrite=options.overwrite, resume=options.resume)
    targets = [target for _, target in pairs]
    if options.tile is not None:  # told once, and not of every file
        step = 1 if all(map(is_picture, targets)) else pyramid_tile(generator.scale) // generator.scale
        check_tile(options.tile, generator.halo if options.halo is None else options.halo, step)
    check_writable("output", [target for target in targets if not (options.resume and target.exists())])
    maps = _maps(FLAGS.trust_map, pairs, generator.scale, options)
    jobs = [Job(*pair, trust_map) for pair, trust_map in zip(pairs, maps, strict=True)]
    outcomes = enlarge_all(cluster, generator, jobs, options) if cluster else _one_by_one(generator, jobs, options)
    done, failures = [], []
    try:
        for job, outcome in tqdm(outcomes, desc="files", unit="file", total=len(jobs), disable=len(jobs) == 1):
            if isinstance(outcome, Exception):
                failures.append(_failed(job.source, job.target, outcome))
            else:
                done.append(outcome)
                tqdm.write(_kept(job.target, outcome) if outcome.get("kept") else summary(outcome))
    except KeyboardInterrupt:
        print(f"\n{FLAGS.output} is not done: the same command with --resume goes on with it", file=sys.stderr)
        raise
    print(f"{len(done)} of {len(jobs)} written to {FLAGS.output}")
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 2 if not done else 1 if failures or any(_has_bad_places(report) for report in done) else 0


def _one_by_one(generator: Engine, jobs: Sequence[Job],
                options: EnlargeOptions) -> Iterator[tuple[Job, dict[str, Any] | Exception]]:
    """Yield each job with its report, or with why it failed."""
    model = describe_model(generator)
    for job in jobs:
        try:
            yield job, enlarge_file(generator, job.source, job.target, options, trust_map=job.trust_map, model=model)
        except (OSError, SlideError, ValueError) as error:
            yield job, error


def enlarge_options(values: flags.FlagValues) -> EnlargeOptions:
    """Return the flags as options."""
    return EnlargeOptions(
        mpp=values.mpp, level=values.level, assume_mpp=values.assume_mpp, region=_region(values.region),
        quality=values.quality, lossless=values.lossless, format=values.format, everywhere=values.everywhere,
        halo=values.halo, tile=values.tile, memory=values.memory, overwrite=values.overwrite, resume=values.resume)


def _maps(trust_map: str | None, pairs: list[tuple[Path, Path]], scale: int,
          options: EnlargeOptions) -> Sequence[Path | None]:
    if not trust_map:
        return [None] * len(pairs)
    check_trust(scale)
    maps = plan_trust(pairs, Path(FLAGS.output), Path(trust_map), overwrite=options.overwrite, resume=options.resume)
    check_writable("trust_map", maps)
    return maps


def _kept(target: Path, report: dict[str, Any]) -> str:
    line = f"{target}: kept, it was there"
    return f"{line}; it {trust_line(report['trust'])}" if FLAGS.trust_map else line


def _region(numbers: list[str] | None) -> Any:
    if numbers is None:
        return None
    require(len(numbers) == 4 and all(number.strip().isdecimal() for number in numbers), "region",
            "be x,y,width,height", "give four whole numbers, in level-0 pixels", ",".join(numbers))
    return tuple(map(int, numbers))


def _has_bad_places(report: dict[str, Any]) -> bool:
    return bool(report.get("bad", {}).get("places"))  # of an output that was kept there may be no report


def _failed(source: Path, target: Path, error: Exception) -> str:
    """Return what went wrong in a line, and leave it beside where the output would be."""
    line = f"{source}: {console.one_line(error).removeprefix(f'{source}: ')}"
    if not target.exists():  # a report that is there is that of the output that is there
        with suppress(OSError):
            write_report(report_path(target), {"status": "failed", "source": str(source), "output": str(target),
                                               "error": line})
    return line


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
