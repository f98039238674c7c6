# SPDX-License-Identifier: Apache-2.0
"""Describe a super-resolved slide: in the file itself, in a JSON report beside it, and in a summary on the screen.

The description in the file names what determines its pixels: model, options and source. It contains no date, no path
and no other metadata of the source, so that a resumed run ends with the same bytes.
"""
from __future__ import annotations

import hashlib
import json
import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

import sr_keras
from pipelines.files import Count, Finite, checked, fitting_name, read_json, side_product, write_text
from pipelines.readers.folders import files_of

LARGE_OVERHEAD = 0.25


def report_path(output: Path) -> Path:
    """Return the path of the report: beside the output, one for each output file."""
    return output.with_name(fitting_name("", output.name, ".report.json"))


def describe_model(generator: Any) -> dict[str, Any]:
    """Return name, version, checksum and engine of a loaded generator."""
    path = Path(generator.path).resolve()
    if path.is_dir():
        name, version = path.parent.name, path.name
        files = [path / "saved_model.pb", *sorted((path / "variables").glob("*"))]
    else:
        name, version = path.parent.name if path.stem == "generator" else path.stem, None
        files = [path]
    return {"name": name, "version": version, "sha256": sha256(file for file in files if file.is_file()),
            "engine": getattr(generator, "name", "tensorflow"), "scale": generator.scale}


def sha256(files: Iterable[Path]) -> str:
    """Return the checksum of files, one after the other."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def description(model: dict[str, Any], asked: dict[str, Any], source: Path, name: str | None = None) -> dict[str, Any]:
    """Return the description of an output, from `describe_model`, the options that can change pixels, and the slide.

    If a slide consists of many files, `source` is the one that is opened, or their folder. `name` stands in place of
    its name.
    """
    return {"software": f"sr_keras {sr_keras.__version__}", "model": model, "flags": asked,
            "source": {"file": name or source.name, "sha256": sha256(files_of(source))}}


def peak_rss() -> int:
    """Return the peak memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage returns the parent's if that was larger
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def write_report(output: Path, report: dict[str, Any]) -> None:
    """Write the report of an output as JSON, atomically; if it can't be written, warn: the slide is finished."""
    path = report_path(output)
    with side_product(path):
        write_text(path, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def read_report(output: Path) -> dict[str, Any]:
    """Return the report of an output; an empty one if there is none.

    Raises:
        ValueError: It is damaged.
    """
    path, remedy = report_path(output), "remove it and repeat the command"
    if not path.exists():
        return {}
    report = read_json(path, dict[str, Any], remedy)
    checked(report, _ReadBack, path, remedy)
    return report


class _Box(TypedDict):
    hr_box: list[int]


class _Words(TypedDict):
    words: str


class _Trust(TypedDict):
    map: str
    median: Finite
    usual: tuple[Finite, Finite] | None
    unusual: bool
    worst: list[_Box]
    threshold: Finite
    degradation: _Words | None
    seconds: Finite


class _Bad(TypedDict):
    places: Count


class _ReadBack(TypedDict, total=False):
    """What is needed of a report of an earlier run: which file it is of, and what the screen says of it again."""

    description: dict[str, Any]
    bad: _Bad
    trust: _Trust


def summary(report: dict[str, Any]) -> str:
    """Return a report as text for one screen."""
    lr, sr, work, made = report["lr"], report["sr"], report["work"], report["description"]
    model, source = made["model"], made["source"]
    averaged = f", means of {lr['averaged']:.3g}x{lr['averaged']:.3g} of its pixels" if lr["averaged"] else ""
    version = f" version {model['version']}" if model["version"] else ""
    lines = {
        "source": f"{source['file']}, sha256 {source['sha256'][:16]}...",
        "model": f"{model['name']}{version}, x{model['scale']}, sha256 {model['sha256'][:16]}..., {model['engine']}",
        "read": f"{lr['width']} x {lr['height']} pixels{_mpp(lr['mpp'])}, level {lr['level']}{averaged}",
        "written": f"{sr['width']} x {sr['height']} pixels{_mpp(sr['mpp'])}, {report['bytes'] / 2**20:.1f} MiB",
        "time": f"{_time(work['seconds'])}, {work['mpixels_per_s']:.2f} Mpixel/s, {work['network_share']:.0%} of it in "
                "the network",
        "glass": _glass(work) if report["glass"] else "not detected",
        "overlap": f"halo of {work['halo']} LR pixels, {work['windows']} windows, {work['overhead']:.0%} computed twice"
                   f"{'; more --memory reduces it' if work['overhead'] > LARGE_OVERHEAD else ''}",
        "memory": f"{report['peak_rss_bytes'] / 2**30:.2f} GiB at most",
        "unreadable": _unreadable(report["bad"]),
    }
    if report["input"]["unfamiliar"]:
        lines["unfamiliar"] = "; ".join(report["input"]["unfamiliar"])
    if report.get("trust"):
        lines["trust"] = trust_line(report["trust"])
    if work["kept_share"]:
        lines["resumed"] = f"{work['kept_share']:.0%} existed before; rates are those of this run"
    return "\n".join([report["output"], *(f"  {name:<11}{text}" for name, text in lines.items())])


def trust_line(trust: dict[str, Any]) -> str:
    """Return a line about a trust map, from what `trust_files.write_trust` returned."""
    usual = f" (usual: {trust['usual'][0]:.1f} to {trust['usual'][1]:.1f})" if trust["usual"] else ""
    unfamiliar = "; unfamiliar input" if trust["unusual"] else ""
    worst = f"{len(trust['worst'])} regions above {trust['threshold']:.1f}, worst at left, top, right, bottom " \
            f"{', '.join(map(str, trust['worst'][0]['hr_box']))}" if trust["worst"] else \
            f"no region above {trust['threshold']:.1f}"
    fitted = f", assuming {trust['degradation']['words']}" if trust["degradation"] else ""
    departure = trust.get("lr_median", trust["median"])  # older reports have one value
    if trust.get("shows", "").startswith("the expected"):
        worst = f"expected error {trust['median']:.2f} at the median, {worst}"
    return f"differs from the input by {departure:.2f} of 255 at the median{usual}{unfamiliar}; {worst}; " \
           f"measured in {_time(trust['seconds'])}{fitted}"


def _mpp(mpp: float | None) -> str:
    return ", mpp unknown" if mpp is None else f" of {mpp:.4g} microns"


def _glass(work: dict[str, Any]) -> str:
    if work["glass_share"] == 1:
        return "all of it, by bicubic: no tissue was found, --everywhere runs the network"
    return f"{work['glass_share']:.0%} by bicubic, which saved {_time(work['seconds_saved'])}, " \
           f"{work['time_saved_share']:.0%} of the time"


def _unreadable(bad: dict[str, Any]) -> str:
    if not bad["places"]:
        return "nothing"
    first = ", ".join(map(str, bad["l0_rectangles"][0]))
    more = f" and {bad['places'] - 1} more" if bad["places"] > 1 else ""
    return f"{bad['share']:.2%} is white: x, y, width, height {first} of level 0{more}, see the report"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
