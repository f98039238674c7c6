#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What a GPU does with this program, in less than ten minutes:
#
#     pip install '.[gpu]' torch && benchmarks/gpu.sh tiles/train results/gpu
#
# The first argument is a folder of tissue tiles, the second gets what is printed. SMALL=1 runs everything with a tiny
# network, to see that it works. Each part has a time limit, and a part that fails does not stop the others.
set -u
data=${1:?a folder of tiles}
output=${2:?a folder for the results}
python=${PYTHON:-python}
mkdir -p "$output"

if [ "${SMALL:-0}" = 1 ]; then
    sizes=(--blocks=1 --filters=4 --hr_size=32 --batch_size=1 --rounds=1)
    rates=(--model=saved_models/srgan_sqe_x4_light --rounds=1)
    training=(--blocks=1 --filters=4 --patch_size=64 --batch_size=2 --steps_per_epoch=2 --max_patches=4 --val_patches=2)
else  # the paper's size
    sizes=(--blocks=16 --filters=64 --hr_size=256 --batch_size=16 --rounds=5)
    rates=(--rounds=3)
    training=(--steps_per_epoch=50 --max_patches=182 --val_patches=32)
fi

part() {  # name, seconds, command
    echo "== $1"
    timeout "$2" "${@:3}" 2>&1 | grep -v '^[WIE0-9: ]*\(WARNING: All log\|I0000\|E0000\|W0000\)' | tee "$output/$1.txt"
    local status=${PIPESTATUS[0]}
    [ "$status" = 0 ] || echo "part $1 ended with status $status (124: its time was up)"
}

part device 60 "$python" -c "import tensorflow as tf; print(tf.__version__, tf.config.list_physical_devices('GPU'))"
# Seconds for a patch, by XLA and by the graph executor, beside a matrix product and PyTorch.
part step_float32 120 "$python" -m benchmarks.model "${sizes[@]}"
part step_bfloat16 120 "$python" -m benchmarks.model "${sizes[@]}" --mixed_precision=bfloat16
part inference 90 "$python" -m benchmarks.model --rates "${rates[@]}"
# The study's cell (srgan_sqe, the paper's network), 300 steps; metrics.csv is the loss curve.
part training 180 "$python" -m sr_keras.train --flagfile=sr_keras/flagfiles/paper.flags --method=srgan_sqe \
    --train_data="$data" --autoencoder_epochs=1 --warmup_epochs=3 --adversarial_epochs=2 --run="$output/run" \
    "${training[@]}"
if [ -f "$output/run/metrics.csv" ]; then cp "$output/run/metrics.csv" "$output/"; fi
