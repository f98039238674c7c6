# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a model beside bicubic, on patches that it was not trained on.

    conditions    the kinds of LR that models are scored on, by name
    shard_sets    find or cut the patches
    scores        score patches, and summarise the scores in tables with intervals
    standard      gain over bicubic on the standard list of LR kinds: tables, files, curves
    pictures      LR, bicubic, SR and HR side by side
"""
from sr_keras.evaluation.pictures import picture_sheet, side_by_side
from sr_keras.evaluation.scores import (
    METRICS,
    Summary,
    markdown_table,
    pick,
    score,
    score_images,
    slide_table,
    summarise,
    write_csv,
)
from sr_keras.metrics import bicubic

__all__ = ["METRICS", "Summary", "bicubic", "markdown_table", "pick", "picture_sheet", "score", "score_images",
           "side_by_side", "slide_table", "summarise", "write_csv"]
