# SPDX-License-Identifier: Apache-2.0
"""A .tflite computes what Keras computes on any shape, with LiteRT's own operations."""
from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from sr_keras.formats.litert import FORMAT, convert_litert, operations, read_facts
from sr_keras.formats.saved_model import export_saved_model
from sr_keras.model.loading import load_generator
from sr_keras.model.runtimes import LiteRTRunner
from sr_keras.networks import SKIP_GAIN, generator

from ..conftest import by_keras, pixels

needs_litert = pytest.mark.skipif(not find_spec("ai_edge_litert"),
                                  reason="LiteRT is not installed: pip install '.[litert]'")
# What LiteRT calls operations that it borrows from TensorFlow, or that somebody has to bring along.
PRECISIONS = tuple(FORMAT.tolerances)
FOREIGN = ("FLEX", "CUSTOM")


@pytest.fixture(scope="module")
def written(network) -> bytes:
    return convert_litert(network)


@needs_litert
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 8), (1, 9, 13), (3, 13, 9), (2, 31, 5)])
def test_any_shape_gives_what_keras_gives(shape, network, written):
    lr = pixels(*shape)
    expected = by_keras(network, lr)
    sr = LiteRTRunner(written, threads=1)(lr)
    assert (sr.dtype, sr.shape) == (np.uint8, expected.shape)
    assert np.abs(sr.astype(int) - expected).max() <= 1


@needs_litert
@pytest.mark.parametrize("scale", [2, 8])
@pytest.mark.parametrize("global_skip", [True, False])
def test_every_scale_is_written_with_and_without_the_global_skip(scale, global_skip, randomised):
    network = randomised(generator(scale, blocks=1, filters=4, global_skip=global_skip))
    if not global_skip:  # no picture to lie on: around grey, and louder
        network.get_layer("last").bias.assign([0.5] * 3)
        network.get_layer("last").kernel.assign(5 * network.get_layer("last").kernel)
    sr = LiteRTRunner(convert_litert(network), threads=1)(pixels(1, 7, 11))
    expected = by_keras(network, pixels(1, 7, 11))
    assert expected.std() > 20
    assert np.abs(sr.astype(int) - expected).max() <= 1


@needs_litert
@pytest.mark.parametrize(("bias", "pixel"), [(3.0, 255), (-3.0, 0)])
def test_values_outside_the_range_are_clipped_and_do_not_wrap(bias, pixel):
    network = generator(scale=2, blocks=1, filters=2)
    network.get_layer("last").bias.assign([bias / SKIP_GAIN] * 3)
    run = LiteRTRunner(convert_litert(network), threads=1)
    assert np.unique(run(pixels(1, 4, 4))).tolist() == [pixel]


@needs_litert
def test_file_has_only_built_in_operations(written):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # Without XNNPACK, which hides what it takes over.
    reader = Interpreter(model_content=written,
                         experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    names = {op["op_name"] for op in reader._get_ops_details()}
    assert {"CONV_2D", "DEPTH_TO_SPACE", "RESIZE_BILINEAR"} <= names
    assert not [name for name in names if name.upper().startswith(FOREIGN)]


@needs_litert
def test_signature_is_uint8_in_and_out_of_any_size(written):
    from ai_edge_litert.interpreter import Interpreter

    reader = Interpreter(model_content=written)
    assert reader.get_signature_list() == {"serving_default": {"inputs": ["lr"], "outputs": ["sr"]}}
    for detail in (*reader.get_input_details(), *reader.get_output_details()):
        assert detail["dtype"] == np.uint8
        assert detail["shape_signature"].tolist()[:3] == [-1, -1, -1]


@needs_litert
def test_saved_model_is_written_as_the_keras_model_is(network, written, tmp_path):
    loaded = load_generator(export_saved_model(network, tmp_path / "demo"))
    lr = pixels(2, 9, 13)
    np.testing.assert_array_equal(LiteRTRunner(convert_litert(loaded), 1)(lr), LiteRTRunner(written, 1)(lr))


FACTS = {"name": "breast", "scale": 2, "halo": 9, "data_licence": "© 2024 Ärzte"}


@pytest.fixture(scope="module")
def precisions(modest, samples) -> dict[str, bytes]:
    return {precision: convert_litert(modest, precision, samples=samples.lr, facts=FACTS) for precision in PRECISIONS}


@needs_litert
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_passes_its_gate(precision, precisions, reference):
    reference.check(precision, precision, FORMAT.tolerances[precision], LiteRTRunner(precisions[precision], threads=1))


@needs_litert
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 13, 9), (2, 31, 5)])
def test_every_precision_takes_any_shape(precision, shape, precisions, modest):
    sr = LiteRTRunner(precisions[precision], threads=1)(pixels(*shape))
    assert (sr.dtype, sr.shape) == (np.uint8, (shape[0], 2 * shape[1], 2 * shape[2], 3))
    assert np.abs(sr.astype(int) - by_keras(modest, pixels(*shape))).mean() < 3


@needs_litert
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_has_only_built_in_operations_and_says_what_it_is(precision, precisions):
    found = operations(precisions[precision])
    assert {"CONV_2D", "DEPTH_TO_SPACE", "RESIZE_BILINEAR"} <= found
    assert not [name for name in found if name.upper().startswith(FOREIGN)]
    assert read_facts(precisions[precision]) == FACTS


@needs_litert
def test_precisions_differ_in_size_as_they_should(precisions):
    size = {precision: len(model) for precision, model in precisions.items()}
    assert size["int8_dynamic"] < size["float16"] < size["float32"]
    assert size["int8"] < size["float16"]


@needs_litert
def test_int8_convolves_integers_and_keeps_the_picture_in_float(precisions):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    reader = Interpreter(model_content=precisions["int8"],
                         experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    types = {detail["index"]: detail["dtype"] for detail in reader.get_tensor_details()}
    made = {op["op_name"]: [] for op in reader._get_ops_details()}
    for op in reader._get_ops_details():
        made[op["op_name"]].append(types[op["outputs"][0]])
    assert set(made["CONV_2D"]) == {np.int8}
    assert set(made["RESIZE_BILINEAR"]) == set(made["MINIMUM"]) == {np.float32}


@needs_litert
@pytest.mark.parametrize("global_skip", [True, False])
def test_int8_knows_the_ranges_of_what_is_overwritten_in_place(global_skip, randomised, samples, tissue):
    # TensorFlow's own calibrator takes the network's output, times 255, for its output: 9 dB without the global skip.
    network = randomised(generator(2, blocks=1, filters=8, global_skip=global_skip))
    if global_skip:
        network.get_layer("last").kernel.assign(network.get_layer("last").kernel / 8)
    else:
        network.get_layer("last").kernel.assign(network.get_layer("last").kernel / 4)
        network.get_layer("last").bias.assign([0.5] * 3)
    sr = LiteRTRunner(convert_litert(network, "int8", samples=samples.lr), threads=1)(tissue.lr)
    error = np.square((sr - by_keras(network, tissue.lr).astype(float)) / 255).mean()
    assert -10 * np.log10(error) > 38


@needs_litert
def test_converting_and_running_says_nothing(modest, samples, capfd):
    LiteRTRunner(convert_litert(modest, "int8", samples=samples.lr), threads=1)(pixels(1, 4, 4))
    assert capfd.readouterr() == ("", "")


def test_unknown_precision_and_int8_without_tissue_are_refused(modest):
    with pytest.raises(ValueError, match=r"`precision` must be one of float32, float16.*Received: precision='int4'"):
        convert_litert(modest, "int4")
    with pytest.raises(ValueError, match="`samples` must be given for int8"):
        convert_litert(modest, "int8")


def test_file_without_facts_says_so(written):
    with pytest.raises(ValueError, match=r"must hold sr_keras\.json"):
        read_facts(written)
