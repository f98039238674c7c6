"""A slide in, a slide out: super-resolution of files of any size, in bounded memory, that nothing stops for good.

    report = enlarge_file(load_generator("saved_models/demo"), Path("case.svs"), Path("case_x4.tif"),
                          EnlargeOptions(mpp=1.0), trust_map=Path("case_trust.tif"))

The way of a file, in the order of the modules:

    options    what can be asked for
    targets    which file goes where; nothing is written over unasked
    view       the plane that is read, piece by piece: `[y0:y1, x0:x1]` in LR pixels; what can't be read is white
    familiar   whether it is what the model was made for: by `samples`, `sharpness`, `stain` and `compression`
    windows    which pieces it is cut into: as large as memory allows, with a halo so that there are no seams
    loop       read ahead -> network, or bicubic on glass -> sink
    sinks      what takes the tiles: a pyramid on disk, a picture in memory
    enlarge    one file by all of these, gone on with where it was stopped
    spread     many files on the machines of a cluster, and large ones in regions
    reports    what is said of it: in the file, beside it and on the screen
    rates      how fast all of that is, beside the bare engine

How far the output, degraded again, departs from what was scanned is measured on the finished file:

    fitting    which degradation makes the input of the output on this slide
    departure  the map, square by square
    usual      what it shows on slides that a model was validated on
    regions    where it is far out, for QuPath
    overview   a picture of both
    trust      the four files

`lr_` coordinates are pixels of the plane that is read, `hr_` those of the output, `l0_` those of the slide's level 0.
The generator is anything that has `scale` and `halo` and makes uint8 SR of uint8 LR; `sr_keras.model.engines` opens
them.
"""
from sr_keras.slides.config import EnlargeOptions
from sr_keras.slides.enlarge import enlarge_file, enlarge_image

__all__ = ["EnlargeOptions", "enlarge_file", "enlarge_image"]
