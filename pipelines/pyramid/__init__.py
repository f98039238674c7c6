"""Slides written: tiled, pyramidal, larger than memory, and no tile made twice after a run that was killed.

    options = PyramidOptions(quality=90)
    with PyramidWriter("case_x4.tif", width, height, mpp=0.25, options=options, resume=True) as writer:
        for row, column in writer.missing():
            x, y, tile_w, tile_h = writer.levels[0].box(row, column)
            writer.put(row, column, make(x, y, tile_w, tile_h))
        writer.finish()

    case_x4.tif.unfinished   the work file: encoded tiles as they come, safe against kill -9; gone when all is done
    case_x4.tif              a BigTIFF, or an OME-TIFF, there when it is whole and not before

The same tiles give the same bytes, however often the run was stopped and in whatever order they came: there is no date
in the file, lower levels are made of tiles as stored, and the file is laid out only when the last of them is there.
Disk: up to twice the finished file, until the work file goes. Memory: some tiles for each thread.

Levels and how a tile is encoded: `tiles`. The work file: `store`. The finished file: `tiff`. The way through: `writer`.
"""
from pipelines.pyramid.tiles import Level, PyramidOptions
from pipelines.pyramid.writer import PyramidWriter

__all__ = ["Level", "PyramidOptions", "PyramidWriter"]
