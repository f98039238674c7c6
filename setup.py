"""Install `sr_keras` and `pipelines`. The base requirements are the pinned ones of requirements.txt."""
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
REQUIREMENTS = [line for line in (HERE / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]

EXTRAS = {
    "cluster": ["ray==2.60.0"],
    "litert": ["ai-edge-litert==2.3.0"],
    "onnx": ["onnx==1.23.2", "onnxruntime==1.32.0", "tf2onnx==1.17.0"],
    "serving": ["grpcio==1.85.3", "tensorflow-serving-api==2.21.0"],
}

setup(
    name="sr_keras",
    version="0.1.0",
    description="Super-resolution for digital pathology that survives uncurated slides",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["pipelines", "pipelines.*", "sr_keras", "sr_keras.*"]),
    package_data={"sr_keras": ["flagfiles/*.flags", "templates/*"]},
    # Keras 3.15 starts at Python 3.11; tensorflow-io's wheels end at 3.12.
    python_requires=">=3.11,<3.13",
    install_requires=REQUIREMENTS,
    extras_require={
        "gpu": ["tensorflow[and-cuda]==2.21.0"],
        # For CUDA 12, as TensorFlow's own; the release whose list of operations exports are checked against.
        "tensorrt": ["cuda-bindings==12.9.4", "tensorrt-cu12==10.15.1.29", *EXTRAS["onnx"]],
        **EXTRAS,
        # Tests of every engine and of what other software reads come with it.
        "dev": ["mypy==2.4.1", "pytest==9.2.0", "pytest-xdist==3.8.0", "pyvips-binary==8.18.7", "pyvips==3.2.0",
                "ruff==0.17.6", *EXTRAS["cluster"], *EXTRAS["litert"], *EXTRAS["onnx"], *EXTRAS["serving"]],
    },
)
