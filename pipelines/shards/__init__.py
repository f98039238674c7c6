# SPDX-License-Identifier: Apache-2.0
"""Shards: HR patches on disk, written once and read fast. TFRecord files of raw pixels, and one JSON page per slide.

    FOLDER/SLIDE-00000.tfrecord   about 64 MB of patches each, in the order of reading
    FOLDER/SLIDE.json             the page, written last: what the shards hold, from which files and options
    FOLDER/.unfinished            exists until every requested slide is done

A slide counts as done when its page exists and its shards have the size that the page gives. Each file is written under
another name, synced and renamed, so a killed run leaves nothing that looks complete. The same command again keeps the
finished slides, repeats the others, and ends with the same bytes. Slides can be added to a folder.

`reading`: names, pages and opening, without TensorFlow. `records`: patches as records. `writing`: slides to shards.
"""
from pipelines.shards.reading import Shard, ShardSet, copy_shards, is_shards, open_shards
from pipelines.shards.writing import Report, print_skipped, write_shards

__all__ = ["Report", "Shard", "ShardSet", "copy_shards", "is_shards", "open_shards", "print_skipped",
           "write_shards"]
