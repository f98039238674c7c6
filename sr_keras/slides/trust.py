"""What --trust_map leaves behind: a map over the slide, its worst regions, and a picture of both.

    case_trust.tif                 float32, one value per square of the output: `departure`, in grey levels of 255
    case_trust.on_output.geojson   where it is far out, worst first, in pixels of the output
    case_trust.on_input.geojson    the same in level-0 pixels of the input, for QuPath where it has that slide open
    case_trust.overview.png        the input beside the map, the regions outlined and numbered

`departure` measures, `regions` outlines, `overview` draws; all of them see a `TrustMap`.
"""
from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.config import SCALES
from pipelines.errors import require
from pipelines.files import write_text
from sr_keras.model.facts import in_words
from sr_keras.slides.departure import UNIT, TrustMap, write_map
from sr_keras.slides.overview import write_overview
from sr_keras.slides.regions import REGIONS, Place, geojson, worst_regions


def check_trust(scale: int) -> None:
    """Refuse, before hours of inference, a map that can't be measured after them.

    Raises:
        ValueError: How LR is made is not known at this scale.
    """
    require(scale in SCALES, "trust_map", f"be left out for a model of scale {scale}",
            f"degradation, by which it is measured, is known for scales {', '.join(map(str, SCALES))}", scale)


def trust_paths(path: Path) -> tuple[Path, Path, Path, Path]:
    """Return map, regions on the output and on the input, and overview, by the name of the map."""
    on_output, on_input = (path.with_name(f"{path.stem}.on_{image}.geojson") for image in ("output", "input"))
    return path, on_output, on_input, path.with_name(f"{path.stem}.overview.png")


def write_trust(path: Path, trust: TrustMap, title: str, place: Place, count: int = REGIONS) -> dict[str, Any]:
    """Write map, regions and overview, each atomically.

    Args:
        path: Of the map.
        trust: What was measured.
        title: Of the overview.
        place: Where a pixel of the output lies in the input, as QuPath counts its pixels.
        count: How many regions at most.

    Returns:
        What a report says of it, for JSON.
    """
    regions = worst_regions(trust, count)
    paths = trust_paths(path)
    write_map(paths[0], trust)
    write_text(paths[1], json.dumps(geojson(regions)) + "\n")
    write_text(paths[2], json.dumps(geojson(regions, place)) + "\n")
    write_overview(paths[3], trust, regions, title)
    compared = trust.degradation
    return {"map": str(paths[0]), "on_output": str(paths[1]), "on_input": str(paths[2]), "overview": str(paths[3]),
            "unit": UNIT, "square": trust.square, "median": trust.quartiles[1], "threshold": trust.threshold,
            "usual": trust.usual and list(trust.usual), "unusual": trust.is_unusual,
            "degradation": compared and {"words": in_words(compared), **asdict(compared)},
            "largest": float(trust.departure.max()), "far_share": float((trust.departure > trust.threshold).mean()),
            "worst": [{"hr_box": list(region.box), "largest": region.largest, "rms": region.rms} for region in regions]}
