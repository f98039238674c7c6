# SPDX-License-Identifier: Apache-2.0
"""Robustness study: a grid of training runs with the same budget, and their scores.

`grid` defines the cells. `training` trains and scores them, with the weights of `balance`. `results` reads and writes
the table. `statistics`, `tables`, `figures`, `residuals`, `patches` and `report` evaluate it.
"""
