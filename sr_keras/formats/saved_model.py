# SPDX-License-Identifier: Apache-2.0
"""TensorFlow SavedModel: pixels in, pixels out, and no code of this project needed to run it; and what serves it.

    NAME/VERSION/saved_model.pb, variables/    the signatures of `sr_keras.formats.signatures`, and a function
                                               `unlimited` without a limit of pixels, for `sr_keras.model.loading`
    NAME/VERSION/facts.json                    scale, halo, max_pixels, and the rest of `sr_keras.model.facts`
    NAME/VERSION/assets.extra/tf_serving_warmup_requests
    models.config              for TensorFlow Serving: the models; rewritten after each export, reread by a server
    batching_parameters.txt    how requests share a GPU
    compose.yaml               the official images: CPU, GPU, or two replicas
    nginx.conf                 gives each request to the replica that has the fewest
    monitoring.config, prometheus.yml      what the replicas count, and who asks them for it
    health.sh                  whether each model is ready; for bash alone, since the images have no curl

Conversion to float, clipping, rounding, PNG and JPEG are in the graph. A version is written whole or not at all and is
never replaced: an export takes the next free number, and TensorFlow Serving loads it by itself. All files but
models.config are written only if they are missing, so you can edit them.

Batching in TensorFlow Serving (tensorflow_serving/batching/batching_session.cc) joins requests for one signature along
B and fills B up to the next allowed size. Tensors of one batch must have the same height and width, otherwise all
requests of that batch fail as FAILED_PRECONDITION. Its option `pad_variable_length_inputs` is not for pictures: tiles
would come back larger than requested, with borders computed from padding. The pixels of a batch count against the limit
of a request, and a refused request fails its whole batch. Batching is therefore enabled only on a GPU, where it pays.
There all clients should use one tile size: a picture smaller than a tile is sent as it is. `encoded` accepts any sizes.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.errors import require
from pipelines.files import atomic_path, write_text
from sr_keras.formats.format import FLOAT32, Format, Source, Written, tensorflow_device
from sr_keras.model.facts import FACTS_FILE, SAVED_MODEL_FILE, SIGNATURE, ModelFacts, versions_of
from sr_keras.model.runtimes import check_parity
from sr_keras.model.tiles import Pixels
from sr_keras.templates import MODEL_NAME, render

if TYPE_CHECKING:
    import keras

DEFAULT_MAX_PIXELS = 2**20
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
WARMUP_TILE = 256  # the client's default tile, which every model must accept
WARMUP_FLOAT_TILE = 64
BATCH_SIZES = (1, 2, 4, 8)
GREY = 128
IMAGE = "tensorflow/serving:2.21.0"  # of the TensorFlow that wrote the models; an older one may not read them
CONFIG_FILE = "models.config"
EDITABLE_FILES = ("batching_parameters.txt", "compose.yaml", "health.sh", "monitoring.config", "nginx.conf",
                  "prometheus.yml")
REPLICAS = ("replica-1", "replica-2")
GRPC_PORT, REST_PORT = 8500, 8501


def export_saved_model(generator: keras.Model, folder: str | Path, *, facts: ModelFacts | None = None,
                       max_pixels: int = DEFAULT_MAX_PIXELS, extra: Callable[[Path], None] | None = None) -> Path:
    """Write the next version of a model and compare it with Keras.

    Args:
        generator: lr -> sr, float, made by `networks.generator`.
        folder: NAME, in which versions are numbered from 1.
        facts: What is known about the model.
        max_pixels: LR pixels that a request may have; see `sr_keras.formats.signatures` for the memory they take.
        extra: Writes further files; called with the version's temporary folder once the SavedModel in it is whole and
            compared. If it raises, nothing is kept.

    Returns:
        The version's folder.

    Raises:
        ValueError: It is not a generator, or `max_pixels` is out of range.
        OSError: It can't be written.
        ParityError: The SavedModel does not compute what `generator` computes. Nothing is kept.
    """
    from sr_keras.formats.signatures import check_signatures, write_graph
    from sr_keras.model.loading import eight_bit, in_float32, load_generator, scale_of
    from sr_keras.networks import receptive_field

    require(WARMUP_TILE**2 <= max_pixels < 2**31, "max_pixels", f"be {WARMUP_TILE**2} or more, and fit in 31 bits",
            f"{DEFAULT_MAX_PIXELS} is the default", max_pixels)
    generator = in_float32(generator)
    scale, halo = scale_of(generator), receptive_field(generator)
    content = {"scale": scale, "halo": halo, "max_pixels": max_pixels, **asdict(facts or ModelFacts())}
    target = next_version(Path(folder))
    with atomic_path(target, folder=True) as temporary:
        write_graph(generator, temporary, scale=scale, halo=halo, max_pixels=max_pixels)
        (temporary / FACTS_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (temporary / WARMUP_FILE).parent.mkdir()
        write_warmup(temporary, target.parent.name, max_pixels)
        check_parity(eight_bit(generator), load_generator(temporary))
        check_signatures(generator, temporary)
        if extra is not None:
            extra(temporary)
    return target


def next_version(folder: Path) -> Path:
    """Return the folder of the version after the highest; numbers are not used twice."""
    versions = versions_of(folder)
    return folder / str(int(versions[-1].name) + 1 if versions else 1)


def write_warmup(folder: Path, name: str, max_pixels: int) -> None:
    """Write the requests that a server sends to a model before it is ready, so that the first client need not wait.

    Every signature is called, the default one with every batch size that the model accepts. Pictures are grey: the work
    is the same, and the file stays small. None has more than `max_pixels`: a server does not load a model that refuses
    a warm-up request. Without the extra `serving` none are written, and a line says so.
    """
    import tensorflow as tf

    from sr_keras.formats.signatures import ABOUT, ENCODED, FLOAT

    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError:
        print("no warm-up requests were written, so a server's first answers will be slow; pip install '.[serving]' "
              "and export again to add them")
        return

    def grey(size: int, tile: int, value: float, dtype: tf.DType) -> tf.compat.v1.TensorProto:
        proto = tf.make_tensor_proto([value], dtype, [1])
        proto.tensor_shape.CopyFrom(tf.TensorShape([size, tile, tile, 3]).as_proto())
        return proto

    picture = tf.io.encode_png(tf.fill([WARMUP_TILE, WARMUP_TILE, 3], tf.constant(GREY, tf.uint8)))
    requests: list[tuple[str, str, Any]] = [
        *((SIGNATURE, "lr", grey(size, WARMUP_TILE, GREY, tf.uint8)) for size in BATCH_SIZES
          if size * WARMUP_TILE**2 <= max_pixels),
        (FLOAT, "lr", grey(1, WARMUP_FLOAT_TILE, 0.5, tf.float32)),
        (ENCODED, "image_bytes", tf.make_tensor_proto([picture.numpy()])),
        (ABOUT, "side", tf.make_tensor_proto([1], tf.int32))]
    with tf.io.TFRecordWriter(str(folder / WARMUP_FILE)) as file:
        for signature, key, value in requests:
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name, request.model_spec.signature_name = name, signature
            request.inputs[key].CopyFrom(value)
            file.write(log.SerializeToString())


def write_serving_files(output: Path) -> list[Path]:
    """Write what a server of all models in a folder needs; return the files, models.config and those to edit.

    Raises:
        OSError: They can't be written.
    """
    found = sorted(folder.name for folder in output.iterdir()
                   if any((version / SAVED_MODEL_FILE).is_file() for version in versions_of(folder)))
    names = [name for name in found if MODEL_NAME.fullmatch(name)]
    if len(names) < len(found):
        print(f"not served, since their names have other characters than letters, digits, spaces and . + - _: "
              f"{', '.join(map(repr, sorted({*found} - {*names})))}; rename them and export again")
    # Two versions of each are served: a picture that began with one is finished with it when the next arrives.
    write_text(output / CONFIG_FILE, render(CONFIG_FILE, names=names))
    for name in EDITABLE_FILES:
        if not (output / name).exists():
            write_text(output / name, render(name, image=IMAGE, sizes=BATCH_SIZES, replicas=REPLICAS,
                                             grpc_port=GRPC_PORT, rest_port=REST_PORT,
                                             grpc=[f"{replica}:{GRPC_PORT}" for replica in REPLICAS],
                                             rest=[f"{replica}:{REST_PORT}" for replica in REPLICAS]))
    return [output / name for name in (CONFIG_FILE, *EDITABLE_FILES)]


def _convert(source: Source, precision: str, folder: Path) -> Iterator[Written]:
    from sr_keras.formats.signatures import write_graph
    from sr_keras.model.loading import load_generator, scale_of
    from sr_keras.networks import receptive_field

    if not (folder / SAVED_MODEL_FILE).is_file():  # an export has written it already
        network = source.network
        write_graph(network, folder, scale=scale_of(network), halo=receptive_field(network),
                    max_pixels=DEFAULT_MAX_PIXELS)
    yield Written(SAVED_MODEL_FILE, "SavedModel", "tensorflow", partial(load_generator, folder))


def _open(path: Path, threads: int) -> Pixels:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))

    def run(lr: np.ndarray) -> np.ndarray:  # by way of `loaded`, which owns the weights
        return loaded.signatures[tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY](lr=tf.constant(lr))["sr"].numpy()

    return run


FORMAT = Format("saved_model", {"float32": FLOAT32}, file="", packages=(), extra="", runtime=("tensorflow",),
                convert=_convert, open=_open, device=tensorflow_device)
