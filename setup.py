# SPDX-License-Identifier: Apache-2.0
"""Copy the shipped models into the package when it is built; everything else is in pyproject.toml."""
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

MODELS = Path(__file__).parent / "saved_models"
# Inference needs no ONNX file where LiteRT and TensorFlow are: leaving it out saves a fifth of the wheel.
LEFT_OUT = shutil.ignore_patterns("onnx", "__pycache__")


class BuildWithModels(build_py):
    """Build, and add saved_models/ as sr_keras/saved_models."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shipped = Path(self.build_lib) / "sr_keras" / "saved_models"
            shutil.rmtree(shipped, ignore_errors=True)
            for model in sorted(MODELS.glob("srgan_sqe_*")):
                shutil.copytree(model, shipped / model.name, ignore=LEFT_OUT)


setup(cmdclass={"build_py": BuildWithModels})
