# SPDX-License-Identifier: Apache-2.0
"""Each file is run by its own runtime in a process of its own, which reports what that takes or why it fails."""
from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.format_speed import MEASURED
from benchmarks.timed_process import TimedProcess
from pipelines.errors import UserError
from sr_keras.formats.litert import convert_litert
from sr_keras.formats.onnx import convert_onnx
from sr_keras.formats.saved_model import export_saved_model
from sr_keras.model.loading import eight_bit

SIDE = 16


@pytest.fixture(scope="module")
def written(modest, tmp_path_factory) -> dict[str, Path]:
    """The tiny generator as each runtime takes it."""
    folder = tmp_path_factory.mktemp("written")
    paths = {"keras": folder / "x.keras", "litert": folder / "x.tflite", "onnx": folder / "x.onnx"}
    modest.save(paths["keras"])
    paths["litert"].write_bytes(convert_litert(modest))
    paths["onnx"].write_bytes(convert_onnx(modest))
    return paths | {"saved_model": export_saved_model(modest, folder / "x")}


@pytest.mark.parametrize("runtime", ["keras", "saved_model", "litert", "onnx"])
def test_runtime_computes_what_keras_computes_for_one_shape_after_another(runtime, written, modest, tissue):
    run = MEASURED[runtime].open(written[runtime], 1)
    for lr in (tissue.lr[:1, :SIDE, :SIDE], tissue.lr[:, :SIDE, :SIDE]):
        expected = eight_bit(modest)(tf.constant(lr)).numpy()
        assert np.abs(run(lr).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("runtime", ["litert", "onnx"])
def test_runtime_needs_no_tensorflow(runtime, written):
    code = ("import sys; import numpy as np; from pathlib import Path; from benchmarks.format_speed import MEASURED; "
            f"MEASURED[{runtime!r}].open(Path({str(written[runtime])!r}), 1)(np.zeros((1, 8, 8, 3), np.uint8)); "
            "sys.exit(bool({'tensorflow', 'keras'} & set(sys.modules)))")
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)


def test_process_says_what_a_form_takes(written):
    with closing(TimedProcess(MEASURED["litert"], written["litert"], SIDE)) as process:
        first, second = process.call(1), process.call(16)
    assert process.opened.device == "CPU"
    assert min(process.opened.import_s, process.opened.load_s, first.seconds) > 0
    assert second.seconds > first.seconds
    assert 2**23 < first.peak_bytes <= second.peak_bytes < 2**29  # TensorFlow, which this process has, takes more


def test_file_of_another_kind_is_refused_in_the_words_of_the_runtime(tmp_path):
    (tmp_path / "x.tflite").write_bytes(b"no model")
    with pytest.raises(UserError, match="not a valid Flatbuffer"):
        TimedProcess(MEASURED["litert"], tmp_path / "x.tflite", SIDE)


def test_death_of_the_process_is_said(written):
    with closing(TimedProcess(MEASURED["litert"], written["litert"], SIDE)) as process:
        process._process.kill()
        with pytest.raises(UserError, match=r"its process died \(exit code -9\)"):
            process.call(1)
