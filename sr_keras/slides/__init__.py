# SPDX-License-Identifier: Apache-2.0
"""Super-resolution of slides and pictures of any size, in bounded memory, resumable.

    report = enlarge_file(load_generator("saved_models/demo"), Path("case.svs"), Path("case_x4.tif"),
                          EnlargeOptions(mpp=1.0), trust_map=Path("case_trust.tif"))

The modules in the order of the data:

    enlarge_options    the options of a run
    output_paths       which input becomes which output
    lr_plane           the plane that is read, window by window; unreadable places become white
    inspection         whether the input is what the model was made for, by its `image_properties`
    window_plan        windows as large as memory allows, with a halo that avoids seams
    loop               read ahead, run the network (or bicubic on glass), write
    outputs            a pyramid on disk or a picture in memory
    enlarge            one file by all of these
    distributed        many files on a cluster, large ones in batches of windows
    reports            the description in the file, the JSON report, the summary

The trust map is measured on the finished file: `degradation_fit` finds the degradation that turns the output back into
the input, `trust_map` measures the difference, and `trust_files` writes map, regions and overview.

`lr_` coordinates are pixels of the plane that is read, `hr_` those of the output, `l0_` those of level 0 of the slide.
The generator is any object with `scale` and `halo` that makes uint8 SR of uint8 LR; see `sr_keras.model.engines`.
"""
from sr_keras.slides.enlarge import enlarge_file, enlarge_image
from sr_keras.slides.enlarge_options import EnlargeOptions

__all__ = ["EnlargeOptions", "enlarge_file", "enlarge_image"]
