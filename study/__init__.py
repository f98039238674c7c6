"""Does robustness pay? A grid of training runs, each with the same budget, and what came of it.

`grid` says which cells there are, `cells` trains and scores them, `balance` weighs the terms alike for every q.
`results` is the table; `statistics`, `tables`, `figures`, `residuals` and `report` read it.
"""
