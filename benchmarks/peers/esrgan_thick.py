# SPDX-License-Identifier: Apache-2.0
"""Convert ESRGAN-thick x4, a TensorFlow.js layers model of npm's @upscalerjs/esrgan-thick, to a .tflite.

The graph is a Keras 2 configuration, and the weights are float32 arrays one after the other in the files of its
manifest. Its two own layers are those of the package's esrgan.js: a product with 0.2, and depth to space. It takes and
gives RGB in [0, 1] (`inputRange` and `outputRange` there).
"""
from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from pipelines.files import atomic_path, read_json

AGAIN = "download the package again"
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


def convert(model_json: Path, output: Path) -> None:
    """Write the model as a .tflite, atomically; it raises what `load` raises."""
    from sr_keras.formats.litert import convert_litert

    with atomic_path(output) as temporary:
        temporary.write_bytes(convert_litert(load(model_json)))


def load(model_json: Path) -> keras.Model:
    """Return a TensorFlow.js layers model with its weights.

    Raises:
        ValueError: It is not such a model, or its weights do not fit it.
    """
    content = read_json(model_json, dict[str, Any], AGAIN)
    try:
        model = keras.Model.from_config(content["modelTopology"]["model_config"]["config"], custom_objects=OWN_LAYERS)
        for group in content["weightsManifest"]:
            values = np.frombuffer(b"".join((model_json.parent / name).read_bytes() for name in group["paths"]), "<f4")
            ends = np.cumsum([int(np.prod(about["shape"])) for about in group["weights"]])
            if len(values) != ends[-1]:
                raise ValueError(f"{len(values)} weights in place of {ends[-1]}")
            for about, own in zip(group["weights"], np.split(values, ends[:-1]), strict=True):
                layer, name = about["name"].split("/")
                getattr(model.get_layer(layer), name).assign(own.reshape(about["shape"]))
    except (KeyError, TypeError, AttributeError, OSError, ValueError) as error:
        raise ValueError(f"`esrgan_thick` must be the model.json of ESRGAN-thick x4, beside its weights; {AGAIN}. "
                         f"Received: {model_json}: {' '.join(str(error).split())}") from error
    return model
