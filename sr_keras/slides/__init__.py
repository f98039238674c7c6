# SPDX-License-Identifier: Apache-2.0
"""Super-resolution of slides and pictures of any size, in bounded memory, resumable.

    report = enlarge_file(load_generator("saved_models/demo"), Path("case.svs"), Path("case_x4.tif"),
                          EnlargeOptions(mpp=1.0), trust_map=Path("case_trust.tif"))

The modules in the order of the data:

    plan           the options of a run, and windows as large as memory allows, with a halo that avoids seams
    outputs        which input becomes which output; a pyramid on disk or a picture in memory
    lr_plane       the plane that is read, window by window; unreadable places become white
    inspection     whether the input is what the model was made for
    loop           read ahead, run the network (or bicubic on glass), write
    enlarge        one file by all of these
    distributed    many files on a cluster, large ones in batches of windows
    reports        the description in the file, the JSON report, the summary
    html_report    the page for people
    sr_tiles       tiles of SR, computed when they are asked for
    super_resolved a slide made of them, by the interface of openslide-python
    trust_map      how the finished file, degraded again, differs from its input
    trust_files    the map, its worst regions and an overview

`lr_` coordinates are pixels of the plane that is read, `hr_` those of the output, `l0_` those of level 0 of the slide.
The generator is any object with `scale` and `halo` that makes uint8 SR of uint8 LR; see `sr_keras.model.engines`.
"""
from sr_keras.slides.enlarge import enlarge_file, enlarge_image
from sr_keras.slides.window_plan import EnlargeOptions

__all__ = ["EnlargeOptions", "enlarge_file", "enlarge_image"]
