"""How good a model is on patches it never saw, beside bicubic: numbers, tables, pictures.

`measure` scores patches: one row per patch and method. `summary` makes rows a table with intervals, and a CSV.
`pictures` draws. None of it knows where the patches come from or what the model is.

`conditions` lists the kinds of LR. `gains` makes rows of several kinds a table of gains over bicubic, and `gain_curves`
draws them. `patches` finds what is scored, and `standard` scores it on the whole list.
"""
from sr_keras.evaluation.measure import METRICS, bicubic, score, score_images
from sr_keras.evaluation.pictures import picture_sheet, side_by_side
from sr_keras.evaluation.summary import Summary, markdown_table, pick, slide_table, summarise, write_csv

__all__ = ["METRICS", "Summary", "bicubic", "markdown_table", "pick", "picture_sheet", "score", "score_images",
           "side_by_side", "slide_table", "summarise", "write_csv"]
