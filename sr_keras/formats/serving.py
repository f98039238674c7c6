# SPDX-License-Identifier: Apache-2.0
"""Write what TensorFlow Serving needs beside the models, so that one command serves all models of a folder.

    NAME/VERSION/assets.extra/tf_serving_warmup_requests   with each version
    models.config              the list of models; rewritten after each export, and reread by a running server
    batching_parameters.txt    how requests share a GPU
    compose.yaml               the official images, CPU and GPU
    health.sh                  whether each model is ready; for bash alone, since the images have no curl

The last three are written only if they are missing, so you can edit them.

Batching in TensorFlow Serving (tensorflow_serving/batching/batching_session.cc) joins requests for one signature along
B and fills B up to the next allowed size. Tensors of one batch must have the same height and width, otherwise all
requests of that batch fail as FAILED_PRECONDITION. Its option `pad_variable_length_inputs` is not for pictures: tiles
would come back larger than requested, with borders computed from padding. The pixels of a batch count against the limit
of a request, and a refused request fails its whole batch. Batching is therefore enabled only on a GPU, where it pays.
There all clients should use one tile size: a picture smaller than a tile is sent as it is. `encoded` accepts any sizes.
"""
from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from pipelines.files import write_text
from sr_keras.formats.saved_model import WARMUP_TILE
from sr_keras.formats.signatures import ABOUT, ENCODED, FLOAT
from sr_keras.model.loading import SAVED_MODEL_FILE, SIGNATURE, versions_of
from sr_keras.templates import MODEL_NAME, render

EXTRA = "serving"
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
WARMUP_FLOAT_TILE = 64
BATCH_SIZES = (1, 2, 4, 8)
GREY = 128
IMAGE = "tensorflow/serving:2.21.0"  # of the TensorFlow that wrote the models; an older one may not read them
CONFIG_FILE = "models.config"
EDITABLE_FILES = ("batching_parameters.txt", "compose.yaml", "health.sh")


def write_serving_files(output: Path) -> list[Path]:
    """Write what a server of all models in a folder needs.

    Args:
        output: The folder of models, with NAME/VERSION in it.

    Returns:
        The files: models.config, and those that users may edit.

    Raises:
        OSError: They can't be written.
    """
    found = sorted(folder.name for folder in output.iterdir()
                   if any((version / SAVED_MODEL_FILE).is_file() for version in versions_of(folder)))
    names = [name for name in found if MODEL_NAME.fullmatch(name)]
    if len(names) < len(found):
        print(f"not served, since their names have other signs than letters, digits, spaces and . + - _: "
              f"{', '.join(map(repr, sorted({*found} - {*names})))}; rename them and export again")
    # Two versions of each are served: a picture that began with one is finished with it when the next arrives.
    write_text(output / CONFIG_FILE, render(CONFIG_FILE, names=names))
    for name in EDITABLE_FILES:
        if not (output / name).exists():
            write_text(output / name, render(name, image=IMAGE, sizes=BATCH_SIZES))
    return [output / name for name in (CONFIG_FILE, *EDITABLE_FILES)]


def write_warmup(folder: Path, name: str, max_pixels: int) -> None:
    """Write the requests that a server sends to a model before it is ready, so that the first client need not wait.

    Every signature is called, the default one with every batch size that the model accepts. Pictures are grey: the work
    is the same, and the file stays small. Without the extra `serving` none are written, and a line says so.

    Args:
        folder: The version's folder.
        name: The model's name on the server.
        max_pixels: LR pixels that a request may have; a server does not load a model that refuses a warm-up request.
    """
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError:
        print(f"no warm-up requests were written, so a server's first answers will be slow; pip install '.[{EXTRA}]' "
              "and export again to add them")
        return
    with tf.io.TFRecordWriter(str(folder / WARMUP_FILE)) as file:
        for signature, inputs in _warmup_inputs(max_pixels):
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name, request.model_spec.signature_name = name, signature
            for key, value in inputs.items():
                request.inputs[key].CopyFrom(value)
            file.write(log.SerializeToString())


def _warmup_inputs(max_pixels: int) -> list[tuple[str, dict[str, tf.compat.v1.TensorProto]]]:
    sizes = [size for size in BATCH_SIZES if size * WARMUP_TILE**2 <= max_pixels]
    picture = tf.io.encode_png(tf.fill([WARMUP_TILE, WARMUP_TILE, 3], tf.constant(GREY, tf.uint8)))
    return [
        *((SIGNATURE, {"lr": _grey(size, WARMUP_TILE, GREY, tf.uint8)}) for size in sizes),
        (FLOAT, {"lr": _grey(1, WARMUP_FLOAT_TILE, 0.5, tf.float32)}),
        (ENCODED, {"image_bytes": tf.make_tensor_proto([picture.numpy()])}),
        (ABOUT, {"side": tf.make_tensor_proto([1], tf.int32)}),
    ]


def _grey(size: int, tile: int, value: float, dtype: tf.DType) -> tf.compat.v1.TensorProto:
    proto = tf.make_tensor_proto([value], dtype, [1])
    proto.tensor_shape.CopyFrom(tf.TensorShape([size, tile, tile, 3]).as_proto())
    return proto
