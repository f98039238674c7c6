# SPDX-License-Identifier: Apache-2.0
"""Score and time other people's models beside the shipped ones; `python -m benchmarks.peers --help`."""
