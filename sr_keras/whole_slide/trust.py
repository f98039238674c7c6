"""What --trust_map leaves behind: a map over the slide, its worst regions, and a picture of both.

    case_trust.tif               float32, one value per square of the output: `departure`, in grey levels of 255
    case_trust.regions.geojson   where it is far out, worst first; QuPath imports it onto the output
    case_trust.overview.png      the input beside the map, the regions outlined and numbered

`departure` measures, `regions` outlines, `overview` draws; all of them see a `TrustMap`.
"""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.files import write_text
from pipelines.options import SCALES, require
from sr_keras.whole_slide.departure import UNIT, TrustMap, write_map
from sr_keras.whole_slide.overview import write_overview
from sr_keras.whole_slide.regions import REGIONS, geojson, worst_regions


def check_trust(scale: int) -> None:
    """Refuse, before hours of inference, a map that can't be measured after them.

    Raises:
        ValueError: How LR is made is not known at this scale.
    """
    require(scale in SCALES, "trust_map", f"be left out for a model of scale {scale}",
            f"degradation, by which it is measured, is known for scales {', '.join(map(str, SCALES))}", scale)


def trust_paths(path: Path) -> tuple[Path, Path, Path]:
    """Return map, regions and overview, by the name of the map."""
    return path, path.with_name(f"{path.stem}.regions.geojson"), path.with_name(f"{path.stem}.overview.png")


def write_trust(path: Path, trust: TrustMap, title: str, count: int = REGIONS) -> dict[str, Any]:
    """Write map, regions and overview, each atomically.

    Returns:
        What a report says of it, for JSON.
    """
    regions = worst_regions(trust, count)
    paths = trust_paths(path)
    write_map(paths[0], trust)
    write_text(paths[1], json.dumps(geojson(regions)) + "\n")
    write_overview(paths[2], trust, regions, title)
    return {"map": str(paths[0]), "regions": str(paths[1]), "overview": str(paths[2]), "unit": UNIT,
            "square": trust.square, "median": trust.quartiles[1], "threshold": trust.threshold,
            "largest": float(trust.departure.max()), "far_share": float((trust.departure > trust.threshold).mean()),
            "worst": [{"hr_box": list(region.box), "largest": region.largest, "rms": region.rms} for region in regions]}
