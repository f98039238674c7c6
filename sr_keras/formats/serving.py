"""Write what TensorFlow Serving needs beside the models, so that one command serves all models of a folder.

    NAME/VERSION/assets.extra/tf_serving_warmup_requests   with each version
    models.config              which models there are; written anew after each export, a running server reads it again
    batching_parameters.txt    how requests share a GPU
    compose.yaml               the official images, CPU and GPU
    health.sh                  whether each model is ready; of bash alone, since the images have no curl

The last three are written where they are missing, and are the user's from then on.

Batching, as TensorFlow Serving does it (tensorflow_serving/batching/batching_session.cc): requests for one signature
are joined along B and computed at once, and B is filled up to the next allowed size by repeating a row. Tensors of one
batch must have the same height and width, or all requests of that batch fail as FAILED_PRECONDITION. Its way out,
`pad_variable_length_inputs`, is not for pictures: tiles would come back larger than was asked for, their borders
computed from what was padded. The pixels of a batch count against the limit of a request, and a request that is refused
takes its batch with it. So it is switched on only where it pays, on a GPU. There all clients should use one size of
tile: a large picture's tiles are all of that size, but a picture smaller than a tile is sent as it is. `encoded` takes
what comes.
"""
from __future__ import annotations

import json
from pathlib import Path

import tensorflow as tf

from pipelines.files import write_text
from sr_keras.formats.saved_model import WARMUP_TILE
from sr_keras.formats.signatures import ABOUT, ENCODED, FLOAT
from sr_keras.model.loading import SAVED_MODEL_FILE, SIGNATURE, versions_of

EXTRA = "serving"
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
WARMUP_FLOAT_TILE = 64  # for who asks for floats, no size is usual
BATCH_SIZES = (1, 2, 4, 8)
GREY = 128

IMAGE = "tensorflow/serving:2.21.0"  # of the TensorFlow that wrote the models; an older one may not read them

BATCHING = f"""\
# Up to {BATCH_SIZES[-1]} requests are computed at once, in batches of so many; the last size is max_batch_size.
# All tiles of a batch must have one height and width: let all clients use the same --tile.
# A batch is a request to the model's limit in pixels: {BATCH_SIZES[-1]} tiles of 362x362 reach 1,048,576.
max_batch_size {{ value: {BATCH_SIZES[-1]} }}
{"".join(f"allowed_batch_sizes: {size}{chr(10)}" for size in BATCH_SIZES)}\
# Microseconds that a request waits for others.
batch_timeout_micros {{ value: 2000 }}
# Beyond so many batches a client is told UNAVAILABLE, and asks again later.
max_enqueued_batches {{ value: 64 }}
num_batch_threads {{ value: 2 }}
"""

COMPOSE = f"""\
# docker compose --profile cpu up --detach --wait      or --profile gpu, which needs the NVIDIA Container Toolkit
# gRPC at 8500 and REST at 8501, on this machine alone: there is neither TLS nor a password. For others put a proxy in
# front that has both.
x-server: &server
  entrypoint: [tensorflow_model_server]
  volumes: [".:/models:ro"]
  ports: ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
  read_only: true
  tmpfs: [/tmp]
  security_opt: ["no-new-privileges:true"]
  restart: unless-stopped
  healthcheck:
    test: [CMD, bash, /models/health.sh]
    interval: 10s
    timeout: 10s
    retries: 3
    start_period: 300s

services:
  cpu:
    <<: *server
    profiles: [cpu]
    image: {IMAGE}
    command:
      - --port=8500
      - --rest_api_port=8501
      - --rest_api_timeout_in_ms=120000
      - --model_config_file=/models/models.config
      - --model_config_file_poll_wait_seconds=30
      - --file_system_poll_wait_seconds=10
  gpu:
    <<: *server
    profiles: [gpu]
    image: {IMAGE}-gpu
    command:
      - --port=8500
      - --rest_api_port=8501
      - --rest_api_timeout_in_ms=120000
      - --model_config_file=/models/models.config
      - --model_config_file_poll_wait_seconds=30
      - --file_system_poll_wait_seconds=10
      - --enable_batching=true
      - --batching_parameters_file=/models/batching_parameters.txt
    deploy:
      resources:
        reservations:
          devices: [{{driver: nvidia, count: 1, capabilities: [gpu]}}]
"""

HEALTH = r"""#!/bin/bash
# Say whether each model is ready: exit status 0 if so.
#     bash health.sh [models.config] [REST port]
config=${1:-/models/models.config}
port=${2:-8501}
names=$(sed -n 's/^ *name: "\(.*\)"$/\1/p' "$config") || exit 1
while IFS= read -r name; do
  exec 3<>"/dev/tcp/127.0.0.1/$port" || exit 1
  printf 'GET /v1/models/%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "${name// /%20}" >&3
  grep -q '"state": "AVAILABLE"' <&3 || { echo "$name is not ready"; exit 1; }
  exec 3>&-
done <<< "$names"
"""


def write_serving_files(output: Path) -> list[Path]:
    """Write what a server of all models in `output` needs.

    Args:
        output: the folder of models, NAME/VERSION in it.

    Returns:
        The files: models.config, and those beside it that are there to be changed.

    Raises:
        OSError: They can't be written.
    """
    config = output / "models.config"
    write_text(config, models_config(output))
    kept = {"batching_parameters.txt": BATCHING, "compose.yaml": COMPOSE, "health.sh": HEALTH}
    for name, text in kept.items():
        if not (output / name).exists():
            write_text(output / name, text)
    return [config, *(output / name for name in kept)]


def models_config(output: Path) -> str:
    """Return the ModelServerConfig, as text, of the models in a folder that a server sees as /models.

    Two versions of each are served: a picture that began with one is finished with it while the next one arrives.
    """
    names = sorted(folder.name for folder in output.iterdir()
                   if any((version / SAVED_MODEL_FILE).is_file() for version in versions_of(folder)))
    return "model_config_list {\n" + "".join(f"""\
  config {{
    name: {_quoted(name)}
    base_path: {_quoted(f"/models/{name}")}
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 2 }} }}
  }}
""" for name in names) + "}\n"


def write_warmup(folder: Path, name: str, max_pixels: int) -> None:
    """Write what a server asks a model before it is ready, so that the first client does not wait for longer.

    Every signature is asked, and the default one in every size of batch that the model takes. Pictures are grey: the
    work is the same, and all their values take one byte, which stands for those that are left out.

    Without the extra `serving` none is written, and a line says so.

    Args:
        folder: the version's.
        name: what the server calls the model.
        max_pixels: how many LR pixels it takes in a request; a server does not load a model that refuses one of these.
    """
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError:
        print(f"no warm-up requests: a server's first answers will be slow; pip install '.[{EXTRA}]' brings them")
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


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
