# SPDX-License-Identifier: Apache-2.0
"""Print the tables of nuclei in docs/evaluation.md, of the models that ship and of runs with a discriminator.

    python docs/nuclei_table.py

Their numbers are in docs/nuclei.csv and docs/nuclei_gan.csv, rows of nuclei.csv of `sr_keras.evaluate --nuclei`.
"""
from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

from sr_keras.evaluation.detail import means_table, read_detail  # noqa: E402  the line above finds it in a checkout

TABLES = tuple(means_table(read_detail(path)) for path in sorted(DOCS.glob("nuclei*.csv")))

if __name__ == "__main__":
    print("\n".join(TABLES))
