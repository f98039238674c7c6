"""HR patches on disk: written once, read fast. TFRecord files of raw pixels, and a page about each slide beside them.

    FOLDER/SLIDE-00000.tfrecord   some 64 MB of patches each, in the order in which they were read
    FOLDER/SLIDE.json             written last: what the shards hold, of which options and files, what was skipped
    FOLDER/.unfinished            there until every slide that was asked for is done

A slide counts when its page is there and its shards have the size that the page says. Everything is written under
another name, synced and renamed, so a run that was killed leaves nothing that looks whole. The same run again keeps the
finished slides, starts the others anew, and ends with the same bytes. A folder may be added to: what is there stays.

Names and pages: `layout`. One patch: `record`. Whole sets: `reading`, `writing`. Records as a stream: `streams`.
"""
from pipelines.shards.reading import Shard, ShardSet, copy_shards, is_shards, open_shards
from pipelines.shards.writing import Report, write_shards

__all__ = ["Report", "Shard", "ShardSet", "copy_shards", "is_shards", "open_shards", "write_shards"]
