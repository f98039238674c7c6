# SPDX-License-Identifier: Apache-2.0
"""Templates give the files that ship, and need all their values."""
from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from sr_keras.templates import render

SHIPPED = Path(__file__).parents[2] / "saved_models"
REPLICAS = ("replica-1", "replica-2")
ADDRESSES = {kind: [f"{name}:{port}" for name in REPLICAS] for kind, port in (("grpc", 8500), ("rest", 8501))}
VALUES = {"models.config": {"names": sorted(path.name for path in SHIPPED.iterdir() if path.is_dir())},
          "batching_parameters.txt": {"sizes": (1, 2, 4, 8)},
          "compose.yaml": {"image": "tensorflow/serving:2.21.0", "replicas": REPLICAS}, "health.sh": {},
          "monitoring.config": {}, "nginx.conf": {**ADDRESSES, "grpc_port": 8500, "rest_port": 8501},
          "prometheus.yml": ADDRESSES}


@pytest.mark.parametrize("name", VALUES)
def test_shipped_files_are_what_the_templates_give(name):
    assert render(name, **VALUES[name]) == (SHIPPED / name).read_text(encoding="utf-8")


def test_value_that_is_not_given_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="names"):
        render("models.config")


def test_names_are_quoted_as_text_protobuf_does():
    assert 'name: "a \\"b\\" ü"\n    base_path: "/models/a \\"b\\" ü"\n' in render("models.config", names=['a "b" ü'])
