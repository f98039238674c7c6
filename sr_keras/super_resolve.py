# SPDX-License-Identifier: Apache-2.0
"""Super-resolve slides and pictures of any size.

    sr-keras super-resolve --input=slide.svs --output=slide_x4.tif
    sr-keras super-resolve --input=slides --output=slides_x4 --mpp=1.0
    sr-keras super-resolve --model=runs/mine --input=picture.png --output=large.png
    sr-keras super-resolve --input=slide.svs --output=out.tif --trust_map=trust.tif
    sr-keras super-resolve --input=slides --output=slides_x4 --ray=auto

The default model ships with the code. The input is a slide, a picture, a folder, or a comma-separated list of them. A
.tif output is a tiled pyramid that OpenSlide and QuPath open, of any size in 2 GiB of memory; so are a .dicom (a folder
of DICOM files, one for each level) and a .zarr (OME-Zarr). .png and .jpg are made in memory. In an output folder,
slides become NAME_x4.tif, or what --format says, and pictures NAME.png. Each output has a report beside it, such as
NAME.png.report.json.

Windows overlap by the receptive field of the network, so there are no seams; only glass is interpolated. A file that
fails does not stop the others. A place that cannot be read becomes white and is reported. A stopped run, even after
kill -9, continues with --resume: on the same machine to the same bytes, elsewhere to the same pixels within 1/255,
before JPEG.

There is a warning if the resolution, stain, blur or JPEG quality of an input is not what the model was made for. --mpp
averages a level that is 2 to 4 times finer if there is one, because the coarse levels of a slide were compressed again.

--trust_map measures on the finished file where the output, degraded again, differs from its input. It writes a map, a
picture of it, and the worst regions as GeoJSON for QuPath, for the output and for the input slide. Invented detail that
is finer than the input's pixels cannot be shown. --resume adds a trust map to an existing output.

--ray uses the machines of a Ray cluster. All must see model, input and output under the same paths. If a machine is
lost, the others repeat its unfinished work.

Exit status: 0 all files written, 1 some (a file failed, or a place could not be read), 2 none.
"""
from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from pipelines import console
from pipelines.cluster import CPUS, Cluster
from pipelines.errors import SlideError
from pipelines.files import check_writable
from pipelines.names import COMMAS, read_key
from pipelines.options import GIVEN, basic, flags_of, read
from pipelines.slide import open_slide
from sr_keras.config import ModelOptions
from sr_keras.model.facts import find_generator
from sr_keras.model.runtimes import AUTO, ENGINE_CHOICES, ENGINES, PRECISIONS
from sr_keras.model.tiles import check_tile
from sr_keras.slides import EnlargeOptions
from sr_keras.slides.distributed import enlarge_all
from sr_keras.slides.enlarge import Job, begun_by, open_plane, try_job
from sr_keras.slides.html_report import write_html
from sr_keras.slides.outputs import (
    alias_of,
    check_output,
    find_inputs,
    is_named,
    is_picture,
    plan_outputs,
    plan_trust_maps,
)
from sr_keras.slides.reports import describe_model, summary, trust_line, write_report
from sr_keras.slides.window_plan import pyramid_tile

if TYPE_CHECKING:
    from sr_keras.model.engines import Engine

MUCH = 2**23  # LR pixels, which take minutes on a few cores, so that half a minute to find the fastest engine pays

Outcome = tuple[Job, dict[str, Any] | Exception]  # with the report, or the error


@dataclass(frozen=True)
class SuperResolveOptions(ModelOptions):
    """What is super-resolved, by what, and where the results go."""

    input: str = basic(None, f"A slide or picture, a folder of them, or a list. {COMMAS}", "", GIVEN)
    output: str = basic(None, "A .tif, .dicom, .zarr, .png or .jpg to write, or a folder", "", GIVEN)
    trust_map: str | None = basic(None, "A .tif for the map of the difference between output and input, or a folder, "
                                  "for NAME_trust.tif")
    engine: str = basic(AUTO, "What runs the network; auto is TensorFlow on a GPU; elsewhere LiteRT, and for large "
                        "slides what is fastest by a measurement", choices=ENGINE_CHOICES)
    precision: str = basic("float32", "Arithmetic; auto is 8-bit integers by LiteRT where the processor is faster with "
                           "them (VNNI) and the model's int8 file passes its check", choices=PRECISIONS)
    report: str | None = basic(None, "Also write a page for people beside each output, NAME.report.html",
                               choices=("html",))
    ray: str | None = basic(None, "Run on a Ray cluster: auto for the one on this machine, or else a new one; or "
                            "HOST:PORT. Needs the extra 'cluster'")


FLAGS = flags_of(SuperResolveOptions, EnlargeOptions)


def main() -> int:
    """Check the flags, super-resolve all inputs, and return the exit status."""
    read(FLAGS, SuperResolveOptions)
    options = read(FLAGS, EnlargeOptions)
    find_inputs(FLAGS.input)  # mistakes in flags are errors before TensorFlow starts
    find_generator(FLAGS.model)
    check_output(Path(FLAGS.output), options)
    if is_named(Path(FLAGS.output)):  # by the user, so it does not depend on the model's scale
        plan_outputs(FLAGS.input, Path(FLAGS.output), 1, options)
    with Cluster(FLAGS.ray, gpu=True, cpus=CPUS) if FLAGS.ray else nullcontext() as cluster:
        generator = _open_generator(cluster)
        jobs = _plan_jobs(generator, options)
        generator = _suited(generator, jobs, options, cluster)
        print(f"engine: {generator.why}")
        if cluster:
            outcomes = enlarge_all(cluster, generator, jobs, options)
        else:
            model = describe_model(generator)
            outcomes = ((job, try_job(generator, job, options, model=model)) for job in jobs)
        if FLAGS.report:
            outcomes = _with_pages(outcomes, options, generator)
        return _print_outcomes(outcomes, len(jobs))


def _open_generator(cluster: Cluster | None) -> Engine:
    console.import_tensorflow()
    from sr_keras.model.engines import open_engine

    if cluster:
        cluster.leave_gpus()
    if cluster and cluster.threads is None and FLAGS.engine == AUTO:  # this process does not see the workers' GPUs
        return replace(open_engine("tensorflow", FLAGS.model), why="tensorflow (the workers have GPUs)")
    return open_engine(FLAGS.engine, FLAGS.model, precision=FLAGS.precision)


def _suited(generator: Engine, jobs: list[Job], options: EnlargeOptions, cluster: Cluster | None) -> Engine:
    """Return the engine of auto for these jobs: the one that they were begun with, or for much work the fastest."""
    from sr_keras.model.engines import fastest, open_engine

    if FLAGS.engine != AUTO or FLAGS.precision == AUTO:
        return generator
    before = next(filter(None, (begun_by(job.output) for job in jobs)), None) if options.resume else None
    if before in ENGINES:
        return replace(generator if before == generator.name else open_engine(before, FLAGS.model),
                       why=f"{before} (the output was begun with it)")
    if cluster or not _is_much(jobs, options):  # the workers may have other processors
        return generator
    return fastest(generator)


def _is_much(jobs: Sequence[Job], options: EnlargeOptions) -> bool:
    """Whether the inputs have MUCH or more pixels, all together."""
    pixels = 0
    for job in jobs:
        with suppress(OSError, SlideError, ValueError), open_slide(job.source, options.assume_mpp) as slide:
            height, width = open_plane(slide, options).shape[:2]
            pixels += height * width
        if pixels >= MUCH:
            return True
    return False


def _plan_jobs(generator: Engine, options: EnlargeOptions) -> list[Job]:
    """Return the jobs, after checking all paths and options."""
    scale = generator.scale
    pairs = plan_outputs(FLAGS.input, Path(FLAGS.output), scale, options)
    outputs = [output for _, output in pairs]
    if options.tile is not None:  # refused once, and not for every file
        step = 1 if all(map(is_picture, outputs)) else pyramid_tile(scale) // scale
        check_tile(options.tile, generator.halo, step)
    check_writable("output", [output for output in outputs if not (options.resume and output.exists())])
    maps: Sequence[Path | None] = [None] * len(pairs)
    if FLAGS.trust_map:
        from sr_keras.model.uncertainty_head import load_uncertainty

        load_uncertainty(generator.path)  # it may be another generator's, which is told before hours of work
        maps = plan_trust_maps(pairs, Path(FLAGS.output), Path(FLAGS.trust_map), options)
        check_writable("trust_map", [path for path in maps if path])
    key = read_key(options.anonymous)
    jobs = [Job(*pair, trust_map, alias_of(pair[0], FLAGS.input, key) if key else None)
            for pair, trust_map in zip(pairs, maps, strict=True)]
    for job in jobs:
        if job.alias:  # the screen is the only place where a name stands beside its hash
            print(f"{job.source} is {job.alias}")
    return jobs


def _with_pages(outcomes: Iterator[Outcome], options: EnlargeOptions, generator: Engine) -> Iterator[Outcome]:
    """Write the page of each output that is finished."""
    for job, outcome in outcomes:
        if isinstance(outcome, dict):
            write_html(outcome, job.source, job.output, options, generator)
        yield job, outcome


def _print_outcomes(outcomes: Iterator[Outcome], count: int) -> int:
    """Print each outcome as it comes, and return the exit status."""
    reports, failures = [], []
    try:
        for job, outcome in tqdm(outcomes, desc="files", unit="file", total=count, disable=count == 1):
            if isinstance(outcome, Exception):
                failures.append(_record_failure(job, outcome))
            else:
                reports.append(outcome)
                kept = f"{job.output}: kept, it existed before"
                kept += f"; {trust_line(outcome['trust'])}" if FLAGS.trust_map else ""
                tqdm.write(kept if outcome.get("kept") else summary(outcome))
    except KeyboardInterrupt:
        print(f"\n{FLAGS.output} is not finished; run the same command with --resume to continue", file=sys.stderr)
        raise
    print(f"{len(reports)} of {count} written to {FLAGS.output}")
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    unreadable = any(report.get("bad", {}).get("places") for report in reports)  # a kept output may have no report
    return 2 if not reports else 1 if failures or unreadable else 0


def _record_failure(job: Job, error: Exception) -> str:
    """Return the error as one line, and write it to the report of the missing output."""
    line = f"{job.source}: {console.one_line(error).removeprefix(f'{job.source}: ')}"
    if not job.output.exists():  # otherwise the report belongs to the existing output
        with suppress(OSError):
            write_report(job.output, {"status": "failed", "source": job.alias or str(job.source),
                                      "output": str(job.output),
                                      "error": "the screen said why" if job.alias else line})
    return line


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
