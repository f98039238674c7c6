# SPDX-License-Identifier: Apache-2.0
"""Training: split the slides, run the three stages, keep what a run writes."""
