# SPDX-License-Identifier: Apache-2.0
"""Pictures are read as all else here reads them, and nothing is decoded or computed before it is known to fit."""
from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipelines.pixels import as_rgb, to_float, to_uint8
from sr_keras.formats.signatures import Signature, decoded, sides_of, signatures_of
from sr_keras.networks import generator

MAX_PIXELS = 1000
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def network(randomised) -> keras.Model:
    return randomised(generator(scale=2, blocks=1, filters=4))


@pytest.fixture(scope="module")
def ask(network) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
    """The signatures as graphs, since their order of evaluation is one of graphs."""
    def graph(signature: Signature):
        return tf.function(signature.run, input_signature=signature.inputs, autograph=False)

    found = signatures_of(network, scale=2, halo=9, max_pixels=MAX_PIXELS)
    return {name: graph(signature) for name, signature in found.items()}


def by_keras(network: keras.Model, lr: np.ndarray) -> np.ndarray:
    return np.asarray(network(to_float(lr), training=False))


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes = bytes(100)) -> bytes:
    """A PNG that says it has so many pixels, whatever it holds."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def pictures() -> dict[str, tuple[bytes, np.ndarray]]:
    """Files, and the pixels that they hold."""
    rng = np.random.default_rng(0)

    def values(*shape: int) -> np.ndarray:
        return rng.integers(0, 256, shape, dtype=np.uint8)

    arrays = {"rgb": values(7, 11, 3), "grey": values(7, 11), "rgba": values(7, 11, 4), "grey_alpha": values(7, 11, 2),
              "one_bit": values(7, 11) > 127, "grey_16": rng.integers(0, 2**16, (7, 11), dtype=np.uint16)}
    files = {name: encoded(Image.fromarray(array)) for name, array in arrays.items()}
    of_16_bit = rng.integers(0, 2**16, (7, 11, 3), dtype=np.uint16)
    arrays["rgb_16"] = of_16_bit
    files["rgb_16"] = png(11, 7, 16, rows=b"".join(b"\0" + row.astype(">u2").tobytes() for row in of_16_bit))
    for colours in (2, 5, 200):
        picture = Image.fromarray(values(20, 30, 3)).quantize(colours)
        files[f"palette_{colours}"], arrays[f"palette_{colours}"] = encoded(picture), np.asarray(picture.convert("RGB"))
    return {name: (files[name], array) for name, array in arrays.items()}


PICTURES = pictures()


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_every_kind_of_png_becomes_the_rgb_that_a_file_reader_makes_of_it(name):
    data, array = PICTURES[name]
    expected = as_rgb(array, name)
    np.testing.assert_array_equal(decoded(tf.constant(data)), expected)
    assert sides_of(tf.constant(data)).numpy().tolist() == list(expected.shape[:2])


@pytest.mark.parametrize(("mode", "options"), [
    ("RGB", {"quality": 90}), ("RGB", {"quality": 95, "subsampling": 0}), ("RGB", {"progressive": True}), ("L", {})])
def test_every_kind_of_jpeg_becomes_the_rgb_that_pil_makes_of_it(mode, options, histology):
    data = encoded(Image.fromarray(histology[:37, :50]).convert(mode), "JPEG", **options)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decoded(tf.constant(data)), expected)
    assert sides_of(tf.constant(data)).numpy().tolist() == [37, 50]


def test_encoded_gives_the_default_answer_of_pictures_of_any_size(ask, network, histology):
    images = [histology[:20, :30], histology[:1, :1], histology[9:18, 3:10]]
    answers = ask["encoded"](tf.constant([encoded(Image.fromarray(image)) for image in images]))["sr_bytes"].numpy()
    for image, answer in zip(images, answers, strict=True):
        sr = np.asarray(Image.open(io.BytesIO(answer)))
        np.testing.assert_array_equal(sr, ask["serving_default"](image[np.newaxis])["sr"][0])
        assert np.abs(sr.astype(int) - to_uint8(by_keras(network, image[np.newaxis]))[0]).max() <= 1


def test_float_is_neither_rounded_nor_outside_its_range(ask, network, histology):
    lr = to_float(histology[np.newaxis, :20, :30])
    sr = ask["float"](lr)["sr"].numpy()
    np.testing.assert_allclose(sr, np.clip(network(lr, training=False), 0, 1), atol=1e-5)
    for grey in (0.0, 1.0):
        sr = ask["float"](np.full((2, 8, 8, 3), grey, np.float32))["sr"].numpy()
        assert 0 <= sr.min() <= sr.max() <= 1


def test_about_says_what_becomes_of_a_picture(ask):
    about = {name: value.numpy().tolist() for name, value in ask["about"](tf.constant([1, 30])).items()}
    assert about == {"sr_side": [2, 60], "halo": [9, 9], "max_pixels": [MAX_PIXELS] * 2}


@pytest.mark.parametrize("data", [png(60_000, 60_000), png(2**32 - 1, 2**32 - 1), png(2**31, 2),
                                  png(1, MAX_PIXELS + 1)], ids=["bomb", "largest", "flat", "one pixel more"])
def test_what_is_too_large_is_not_decoded(data, ask):
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have 1000 pixels or fewer together; send smaller"):
        ask["encoded"](tf.constant([data]))


def test_limit_is_that_of_all_pictures_of_a_request_together(ask):
    half = encoded(Image.new("RGB", (20, 25)))
    assert len(ask["encoded"](tf.constant([half, half]))["sr_bytes"]) == 2
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have 1000 pixels or fewer together"):
        ask["encoded"](tf.constant([half, half, encoded(Image.new("RGB", (1, 1)))]))


def test_jpeg_that_says_it_is_too_large_is_not_decoded(ask, histology):
    data = encoded(Image.fromarray(histology[:30, :30]), "JPEG")
    start = data.index(b"\xff\xc0") + 5
    huge = data[:start] + struct.pack(">HH", 65_000, 65_000) + data[start + 4:]
    with pytest.raises(tf.errors.InvalidArgumentError, match="1000 pixels or fewer"):
        ask["encoded"](tf.constant([huge]))


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(100), b"BM" + bytes(100), PNG, png(3, 3)[:32], png(0, 3)],
                         ids=["nothing", "GIF", "BMP", "a start", "half a header", "no width"])
def test_what_is_no_picture_is_said_to_be_none(data, ask, histology):
    with pytest.raises(tf.errors.InvalidArgumentError, match="`image_bytes` must be PNG or JPEG files"):
        ask["encoded"](tf.constant([encoded(Image.fromarray(histology[:5, :5])), data]))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_damaged_picture_is_an_error(form, ask, histology):
    data = encoded(Image.fromarray(histology[:20, :20]), form)
    for part in (data[:40], data[:len(data) // 2]):
        with pytest.raises(tf.errors.InvalidArgumentError, match=form):
            ask["encoded"](tf.constant([part]))


@pytest.mark.parametrize("shape", [(1, 1, MAX_PIXELS + 1, 3), (MAX_PIXELS + 1, 1, 1, 3), (0, 4, 4, 3), (1, 0, 4, 3)])
def test_tensor_out_of_the_limits_is_not_computed(shape, ask):
    for name, dtype in (("serving_default", np.uint8), ("float", np.float32)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="`lr` must have 1 to 1000 pixels; send smaller tiles"):
            ask[name](np.zeros(shape, dtype))


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, np.nan, np.inf])
def test_float_out_of_its_range_is_refused(value, ask):
    lr = np.zeros((1, 4, 4, 3), np.float32)
    lr[0, 2, 1, 0] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"`lr` must lie in \[0, 1\]; divide 8-bit values by 255"):
        ask["float"](lr)
