# SPDX-License-Identifier: Apache-2.0
"""Robustness study: a grid of cells, each trained on four folds of the slides and scored on the fifth.

`folds` says which slide is in which fold, `grid` defines the cells, `cells` trains and scores them, `results` reads and
writes the table, `statistics` compares slide by slide, `claims` answers claims that were written down before the run,
`report` writes tables and figures.
"""
