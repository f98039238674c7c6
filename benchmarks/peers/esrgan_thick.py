# SPDX-License-Identifier: Apache-2.0
"""Convert ESRGAN-thick x4, a TensorFlow.js layers model of npm's @upscalerjs/esrgan-thick, to a .tflite.

    npm pack @upscalerjs/esrgan-thick@1.0.0 && tar xzf upscalerjs-esrgan-thick-1.0.0.tgz
    python -m benchmarks.peers.esrgan_thick package/models/x4/model.json esrgan-thick.tflite

The graph is a Keras 2 configuration, and the weights are float32 arrays one after the other in the files of its
manifest. Its two own layers are those of the package's esrgan.js: a product with 0.2, and depth to space. It takes and
gives RGB in [0, 1] (`inputRange` and `outputRange` there).
"""
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

BETA = 0.2
SCALE = 4


class MultiplyBeta(keras.layers.Layer):
    """The product with BETA; the configuration repeats it as `beta`."""

    def __init__(self, beta: float = BETA, **options: Any) -> None:
        """Keep the factor."""
        super().__init__(**options)
        self.beta = beta

    def call(self, inputs: Any) -> Any:
        return self.beta * inputs


class PixelShuffle4x(keras.layers.Layer):
    """Depth to space."""

    def __init__(self, scale: int = SCALE, **options: Any) -> None:
        """Keep the scale."""
        super().__init__(**options)
        self.scale = scale

    def call(self, inputs: Any) -> Any:
        import tensorflow as tf

        return tf.nn.depth_to_space(inputs, self.scale)

    def compute_output_shape(self, shape: Any) -> tuple[Any, ...]:
        batch, height, width, channels = shape
        height, width = (side and side * self.scale for side in (height, width))
        return batch, height, width, channels // self.scale**2


OWN_LAYERS = {"MultiplyBeta": MultiplyBeta, "PixelShuffle4x": PixelShuffle4x}


def load(model_json: Path) -> keras.Model:
    """Return a TensorFlow.js layers model with its weights."""
    content = json.loads(model_json.read_text(encoding="utf-8"))
    model = keras.Model.from_config(content["modelTopology"]["model_config"]["config"], custom_objects=OWN_LAYERS)
    for group in content["weightsManifest"]:
        values = np.frombuffer(b"".join((model_json.parent / name).read_bytes() for name in group["paths"]), "<f4")
        for about in group["weights"]:
            layer, name = about["name"].split("/")
            count = int(np.prod(about["shape"]))
            _check(len(values) >= count, model_json, f"{about['name']} is cut short")
            getattr(model.get_layer(layer), name).assign(values[:count].reshape(about["shape"]))
            values = values[count:]
        _check(not len(values), model_json, f"{len(values)} numbers are left over")
    return model


def _check(fine: bool, model_json: Path, problem: str) -> None:
    if not fine:
        raise ValueError(f"{model_json}: the weights do not fit, {problem}; download the package again")


def main() -> None:
    """Convert."""
    from sr_keras.formats.litert import convert_litert

    model_json, output = map(Path, sys.argv[1:])
    output.write_bytes(convert_litert(load(model_json)))


if __name__ == "__main__":
    main()
