# SPDX-License-Identifier: Apache-2.0
"""Write slides: tiled pyramids larger than memory, resumed after a kill without making a tile twice.

    options = PyramidOptions(quality=90)
    with PyramidWriter("case_x4.tif", width, height, mpp=0.25, options=options, resume=True) as writer:
        for row, column in writer.missing():
            x, y, tile_w, tile_h = writer.levels[0].box(row, column)
            writer.put(row, column, make(x, y, tile_w, tile_h))
        writer.finish()

    case_x4.tif.unfinished   the work file: encoded tiles, safe against kill -9; deleted at the end
    case_x4.tif              a BigTIFF or OME-TIFF, or a folder of DICOM or OME-Zarr; it exists only when it is complete

The same tiles give the same bytes, however often the run was stopped and in whatever order they came: the file has no
date, lower levels are made from tiles as stored, and the file is written when the last tile is there. Disk: up to twice
the finished file, until the work file is deleted. Memory: some tiles per thread.

`tiff`: levels, encoded tiles and the finished file. `dicom`: the finished folder. `formats`: OME-Zarr, and the choice.
`work_file`: tiles that survive a kill. `writer`: from tiles to a slide.
"""
from pipelines.pyramid.dicom import Origin, patient_of
from pipelines.pyramid.formats import read_description
from pipelines.pyramid.tiff import Level, PyramidOptions
from pipelines.pyramid.writer import PyramidWriter

__all__ = ["Level", "Origin", "PyramidOptions", "PyramidWriter", "patient_of", "read_description"]
