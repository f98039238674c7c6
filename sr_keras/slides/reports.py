"""What is said of a super-resolved slide: in its description, in a JSON beside it, and on one screen.

The description goes into the file and says what its pixels follow from: model, flags, source. It holds no date, no path
and nothing else of the source's metadata, so that a run that was stopped ends with the same bytes.
"""
from __future__ import annotations

import hashlib
import json
import resource
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sr_keras
from pipelines.files import write_text

LISTED_PLACES = 100
MUCH = 0.25  # computed twice


def report_path(output: Path) -> Path:
    """Return where the report of an output lies: beside it; one.png and one.tif have each its own."""
    return output.with_name(f"{output.name}.report.json")


def describe_model(generator: Any) -> dict[str, Any]:
    """Return name, version and checksum of a loaded generator, and the engine that runs it."""
    path = Path(generator.path).resolve()
    names: dict[str, str | None]
    if path.is_dir():
        names = {"name": path.parent.name, "version": path.name}
        files = [path / "saved_model.pb", *sorted((path / "variables").glob("*"))]
    else:
        names = {"name": path.parent.name if path.stem == "generator" else path.stem, "version": None}
        files = [path]
    return {**names, "sha256": sha256(file for file in files if file.is_file()),
            "engine": getattr(generator, "name", "tensorflow"), "scale": generator.scale}


def sha256(files: Iterable[Path]) -> str:
    """Return the checksum of files, one behind the other, read piece by piece."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def description(model: dict[str, Any], asked: dict[str, Any], source: Path) -> dict[str, Any]:
    """Return what the pixels of an output follow from.

    Args:
        model: From `describe_model`.
        asked: Flags that alter pixels.
        source: The slide; of one that is many files, the one that names it.
    """
    return {"software": f"sr_keras {sr_keras.__version__}", "model": model, "flags": asked,
            "source": {"file": source.name, "sha256": sha256([source])}}


def peak_rss() -> int:
    """Return the most memory in bytes that this process had."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would give the parent's where that had more
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report as JSON, atomically."""
    write_text(path, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def read_report(path: Path) -> dict[str, Any]:
    """Return a report that was written before; an empty one where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def summary(report: dict[str, Any]) -> str:
    """Return a finished report for people, on one screen."""
    lr, sr, work, made = report["lr"], report["sr"], report["work"], report["description"]
    model, source = made["model"], made["source"]
    version = f" version {model['version']}" if model["version"] else ""
    lines = {
        "source": f"{source['file']}, sha256 {source['sha256'][:16]}...",
        "model": f"{model['name']}{version}, x{model['scale']}, sha256 {model['sha256'][:16]}..., {model['engine']}",
        "read": f"{lr['width']} x {lr['height']} pixels{_mpp(lr['mpp'])}, level {lr['level']}{_averaged(lr)}",
        "written": f"{sr['width']} x {sr['height']} pixels{_mpp(sr['mpp'])}, {report['bytes'] / 2**20:.1f} MiB",
        "time": f"{_time(work['seconds'])}, {work['mpixels_per_s']:.2f} Mpixel/s; the network was at work for "
                f"{work['network_share']:.0%} of it",
        "glass": _glass(work) if report["glass"] else "not looked for",
        "halo": f"{work['halo']} LR pixels: {work['overhead']:.0%} computed twice, {work['windows']} windows"
                f"{'; more --memory, less of it' if work['overhead'] > MUCH else ''}",
        "memory": f"{report['peak_rss_bytes'] / 2**30:.2f} GiB at most",
        "unreadable": _bad(report["bad"]),
    }
    if report["input"]["unfamiliar"]:
        lines["unfamiliar"] = "; ".join(report["input"]["unfamiliar"])
    if report.get("trust"):
        lines["trust"] = trust_line(report["trust"])
    if work["halo_error"]:
        lines["seams"] = _halo_error(work["halo_error"])
    if work["kept_share"]:
        lines["resumed"] = f"{work['kept_share']:.0%} of it was there; rates are those of this run"
    return "\n".join([report["output"], *(f"  {name:<11}{text}" for name, text in lines.items())])


def trust_line(trust: dict[str, Any]) -> str:
    """Return in a line how far an output departs from its input, from what `trust.write_trust` returned."""
    worst = f"; {len(trust['worst'])} regions beyond {trust['threshold']:.1f}, worst at left, top, right, bottom " \
            f"{', '.join(map(str, trust['worst'][0]['hr_box']))}" if trust["worst"] else \
            f"; no region beyond {trust['threshold']:.1f}"
    how = f", the input taken as {trust['degradation']['words']}" if trust["degradation"] else ""
    return f"departs by {trust['median']:.2f} of 255 at the median{_usual(trust)}{worst}; measured in " \
           f"{_time(trust['seconds'])}{how}"


def bad_places(cells: int, cell_pixels: int, plane_pixels: int,
               l0_rectangles: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """Return how much could not be read and where, for a report."""
    return {"places": len(l0_rectangles), "share": min(1.0, cells * cell_pixels / plane_pixels),
            "l0_rectangles": [list(box) for box in l0_rectangles[:LISTED_PLACES]]}


def _mpp(mpp: float | None) -> str:
    return ", mpp unknown" if mpp is None else f" of {mpp:.4g} microns"


def _averaged(lr: dict[str, Any]) -> str:
    side = lr["averaged"]
    return f", means of {side:.3g}x{side:.3g} of its pixels" if side else ""


def _usual(trust: dict[str, Any]) -> str:
    if trust["usual"] is None:
        return ""
    low, high = trust["usual"]
    return f", where {low:.1f} to {high:.1f} is usual{': unfamiliar input' if trust['unusual'] else ''}"


def _glass(work: dict[str, Any]) -> str:
    if work["glass_share"] == 1:
        return "all of it, by bicubic: no tissue was found, --everywhere runs the network"
    return f"{work['glass_share']:.0%} by bicubic, which saved {_time(work['seconds_saved'])}, " \
           f"{work['time_saved_share']:.0%} of the time"


def _halo_error(error: dict[str, Any]) -> str:
    return f"a halo of {error['full_halo']} would be exact, this one errs by {error['largest']} of 255 at most, " \
           f"{error['mean']:.2g} on the mean"


def _bad(bad: dict[str, Any]) -> str:
    if not bad["places"]:
        return "nothing"
    first = ", ".join(map(str, bad["l0_rectangles"][0]))
    more = f" and {bad['places'] - 1} more" if bad["places"] > 1 else ""
    return f"{bad['share']:.2%} is white: x, y, width, height {first} of level 0{more}, see the report"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
