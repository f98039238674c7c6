# SPDX-License-Identifier: Apache-2.0
"""Engines run the same weights to the same pixels; conversions and measurements are made once, and mended."""
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from pipelines.config import DegradeOptions
from pipelines.errors import UserError
from pipelines.pixels import to_float
from sr_keras.config import SHIPPED_MODEL
from sr_keras.formats.saved_model import export_saved_model
from sr_keras.model import engines, runtimes
from sr_keras.model import tiles as tiling
from sr_keras.model.engines import fastest, installed, measure, open_engine
from sr_keras.model.facts import ModelFacts, find_generator
from sr_keras.model.loading import LoadedGenerator
from sr_keras.model.runtimes import ENGINES, RUNTIMES, LiteRTRunner
from sr_keras.networks import generator, receptive_field

from ..conftest import by_keras, pixels
from .conftest import FLAGS

APART = engines.call_apart


def needs(name: str) -> pytest.MarkDecorator:
    packages = RUNTIMES[name].packages if name in RUNTIMES else ()
    return pytest.mark.skipif(not all(map(find_spec, packages)),
                              reason=f"{name} is not installed: pip install '.[{name}]'")


CONVERTED = [pytest.param(name, marks=needs(name)) for name in RUNTIMES]
EVERY = [pytest.param(name, marks=needs(name)) for name in ENGINES]
needs_litert = needs("litert")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A cache of our own, shared by the tests that do not look into it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache, monkeypatch):
    """And no process of its own for each conversion, in which TensorFlow takes seconds to import."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(engines, "call_apart", lambda function, *arguments: function(*arguments))


@pytest.fixture
def empty_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return engines.cache_folder()


@pytest.fixture(scope="module")
def converted() -> dict[tuple[str, Path], bytes]:
    """What `conversions` has made so far: a conversion takes seconds, and only its being asked for is of interest."""
    return {}


@pytest.fixture
def conversions(converted, monkeypatch) -> list[str]:
    """Names of the formats that were converted to, in turn."""
    asked, convert = [], engines._convert

    def remembered(name: str, found: Path) -> bytes:
        asked.append(name)
        if (name, found) not in converted:
            converted[name, found] = convert(name, found)
        return converted[name, found]

    monkeypatch.setattr(engines, "_convert", remembered)
    return asked


@pytest.fixture
def stubbed(monkeypatch) -> dict[str, float]:
    """Seconds that engines are said to take, and how often that was `asked`."""
    said = {"asked": 0.0, "tensorflow": 0.3, "litert": 0.1, "onnx": 0.2}

    def stub(function, name, found, threads):
        assert function is engines._seconds
        said["asked"] += 1
        if isinstance(said[name], Exception):
            raise said[name]
        return said[name]

    monkeypatch.setattr(engines, "call_apart", stub)
    monkeypatch.setattr(engines, "installed", lambda: list(ENGINES))
    monkeypatch.setattr(engines, "_open", lambda name, found, threads, why: engines.Engine(
        found, 4, 9, {}, lambda lr: lr, name, why, None))
    return said


@pytest.fixture(scope="module")
def sample(histology) -> np.ndarray:
    return histology[np.newaxis, 100:164, 100:180]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(1, 9, 13), (3, 13, 9), (1, 1, 1)])
def test_every_engine_computes_what_keras_computes(name, shape, network, run):
    lr = pixels(*shape)
    expected = by_keras(network, lr)
    sr = open_engine(name, run)(lr)
    assert (sr.dtype, sr.shape) == (np.uint8, expected.shape)
    assert np.abs(sr.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("scale", [2, 8])
def test_other_scales_are_known_and_computed(name, scale, randomised, tmp_path):
    network = randomised(generator(scale, blocks=1, filters=4))
    network.save(tmp_path / "x.keras")
    opened = open_engine(name, tmp_path / "x.keras")
    expected = by_keras(network, pixels(1, 7, 11))
    assert opened.scale == scale
    assert np.abs(opened(pixels(1, 7, 11)).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", EVERY)
def test_network_with_a_narrow_tail_runs_on_every_engine_and_its_size_is_a_fact(name, randomised, tmp_path):
    network = randomised(generator(4, blocks=1, filters=4, tail_filters=2))
    network.save(tmp_path / "x.keras")
    opened = open_engine(name, tmp_path / "x.keras")
    assert np.abs(opened(pixels(1, 7, 11)).astype(int) - by_keras(network, pixels(1, 7, 11))).max() <= 1
    assert (opened.facts.filters, opened.facts.tail_filters) == (4, 2)


@pytest.mark.parametrize("name", EVERY)
def test_engine_keeps_what_a_loaded_generator_knows(name, network, run):
    for opened in (open_engine(name, run), open_engine(name, run / "generator.keras")):  # the second from the cache
        assert isinstance(opened, LoadedGenerator)
        assert (opened.name, opened.path) == (name, run / "generator.keras")
        assert (opened.scale, opened.halo, opened.degrade.blur_sigma) == (4, receptive_field(network), 0.8)
        assert opened.facts.flags == FLAGS


@pytest.mark.parametrize("name", CONVERTED)
def test_floats_and_wrong_shapes_are_treated_as_by_any_generator(name, run):
    opened = open_engine(name, run)
    lr = pixels(1, 9, 13)
    np.testing.assert_array_equal(opened(to_float(lr)), to_float(opened(lr)))
    with pytest.raises(ValueError, match="`lr` must have the shape"):
        opened(lr[0])


@pytest.mark.parametrize("name", CONVERTED)
def test_tiles_with_the_halo_give_the_whole(name, run):
    opened = open_engine(name, run)
    lr = pixels(70, 90)
    tiled = tiling.super_resolve(opened, lr, opened.scale, halo=opened.halo, tile=2 * opened.halo + 9)
    assert np.abs(tiled.astype(int) - opened(lr[np.newaxis])[0]).max() <= 1


@pytest.mark.parametrize("name", CONVERTED)
def test_saved_model_opens_on_every_engine(name, network, tmp_path):
    export_saved_model(network, tmp_path / "demo", facts=ModelFacts(degradation=DegradeOptions(blur_sigma=0.8)))
    opened = open_engine(name, tmp_path / "demo")
    expected = by_keras(network, pixels(2, 9, 13))
    assert (opened.halo, opened.degrade.blur_sigma) == (receptive_field(network), 0.8)
    assert np.abs(opened(pixels(2, 9, 13)).astype(int) - expected).max() <= 1


@needs_litert
def test_second_opening_converts_nothing_and_loads_no_keras_model(run, empty_cache, conversions, monkeypatch):
    first = open_engine("litert", run)(pixels(1, 5, 7))
    monkeypatch.setattr(engines, "load_generator", None)
    np.testing.assert_array_equal(open_engine("litert", run)(pixels(1, 5, 7)), first)
    assert conversions == ["litert"]


@needs_litert
@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:-1000], lambda data: data[:3000] + b"?" * 9 + data[3009:],
    lambda data: b"?" * len(data)], ids=["empty", "cut", "altered", "noise"])
def test_damaged_cache_is_rebuilt(damage, run, empty_cache, conversions):
    expected = open_engine("litert", run)(pixels(1, 5, 7))
    [entry] = empty_cache.iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    for _ in range(2):
        np.testing.assert_array_equal(open_engine("litert", run)(pixels(1, 5, 7)), expected)
    assert conversions == ["litert", "litert"]


@needs_litert
def test_other_weights_flags_or_versions_are_another_entry(network, run, tmp_path, monkeypatch):
    path = shutil.copytree(run, tmp_path / "run") / "generator.keras"
    keys = [engines._key(path, "litert"), engines._key(path, "onnx")]
    assert engines._key(run / "generator.keras", "litert") == keys[0]  # wherever it lies
    (path.parent / "flags.txt").write_text("--blur_sigma=1.0\n")
    keys.append(engines._key(path, "litert"))
    path.write_bytes(path.read_bytes() + b"\0")
    keys.append(engines._key(path, "litert"))
    monkeypatch.setattr(engines, "_versions", lambda: {"tensorflow": "3"})
    keys.append(engines._key(path, "litert"))
    assert len(set(keys)) == 5


@needs_litert
def test_cache_that_cannot_be_written_is_done_without(run, tmp_path, conversions, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert open_engine("litert", run)(pixels(1, 5, 7)).shape == (1, 20, 28, 3)


def test_cache_is_where_the_user_has_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for named in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", named)
        assert engines.cache_folder() == tmp_path / ".cache" / "sr_keras" / "engines"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert engines.cache_folder() == Path("/elsewhere/sr_keras/engines")


@pytest.mark.parametrize("name", ENGINES)
def test_fastest_takes_the_fastest_says_why_and_measures_once(name, run, empty_cache, stubbed):
    stubbed[name] = 0.05
    for _ in range(2):
        opened = fastest(open_engine("auto", run))
        assert opened.name == name
        assert opened.why.startswith(f"{name} (5.24 Mpixel/s when it was measured; ")  # 512x512 in 0.05 s
        assert all(other in opened.why for other in ENGINES)
    assert stubbed["asked"] == len(ENGINES)


def test_fastest_measures_again_on_another_machine_or_with_damage(run, empty_cache, stubbed, monkeypatch):
    def measured() -> None:
        assert fastest(open_engine("auto", run)).name == "litert"

    measured()
    monkeypatch.setattr(engines, "_cpu", lambda: "another")
    measured()
    monkeypatch.setattr(engines, "cores", lambda: 77)
    measured()
    assert stubbed["asked"] == 3 * len(ENGINES)
    for damage in ("", "[]", "{}", '{"another": 0.1}', '{"tensorflow": 0.1, "litert": "?", "onnx": 0.1}'):
        for kept in empty_cache.glob("*.json"):
            kept.write_text(damage)
        measured()
        measured()
    assert stubbed["asked"] == 8 * len(ENGINES)


def test_fastest_leaves_out_an_engine_that_cannot_run_the_model(run, empty_cache, stubbed):
    stubbed["litert"] = RuntimeError("no such operation")
    opened = fastest(open_engine("auto", run))
    assert (opened.name, "litert" in opened.why) == ("onnx", False)


def test_fastest_measures_nothing_where_there_is_no_choice(run, empty_cache, stubbed, monkeypatch):
    monkeypatch.setattr(engines, "installed", lambda: ["tensorflow"])
    opened = open_engine("auto", run)
    assert fastest(opened) is opened
    monkeypatch.setattr(engines, "installed", lambda: list(ENGINES))
    monkeypatch.setattr(engines, "_gpus", lambda: True)
    assert fastest(opened) is opened
    assert stubbed["asked"] == 0


@pytest.mark.slow
def test_fastest_really_measures_what_is_installed_in_other_processes(run, empty_cache, monkeypatch):
    monkeypatch.setattr(engines, "call_apart", APART)
    opened = fastest(open_engine("auto", run))
    [kept] = empty_cache.glob("*.json")
    seconds = json.loads(kept.read_text())
    assert set(seconds) == set(installed())
    assert opened.name == min(seconds, key=seconds.get)
    assert opened(pixels(1, 5, 7)).shape == (1, 20, 28, 3)


@pytest.mark.parametrize("name", EVERY)
def test_engine_computes_a_core_without_the_rest_of_the_window(name, run):
    opened, lr = open_engine(name, run), pixels(60, 50)
    core = opened.stream.core(lr, slice(10, 30), slice(0, 50))
    assert np.abs(core.astype(int) - opened(lr[np.newaxis])[0][40:120]).max() <= 1


@needs_litert
def test_auto_is_litert_unmeasured_and_says_so(run, empty_cache, conversions):
    opened = open_engine("auto", run)
    assert (opened.name, opened.why) == ("litert", "litert (opens fastest; rates not measured)")
    assert conversions == ["litert"]
    assert not list(empty_cache.glob("*.json"))


def gpu(monkeypatch):
    monkeypatch.setattr(engines.tf.config, "list_physical_devices", lambda kind: [kind])


def no_litert(monkeypatch):
    monkeypatch.setattr(engines, "installed", lambda: ["tensorflow", "onnx"])


def no_conversion(monkeypatch):
    def fail(name, found):
        raise RuntimeError("no such operation" + " and a dump" * 99)

    monkeypatch.setattr(engines, "_convert", fail)


@pytest.mark.parametrize(("change", "why"), [
    (gpu, "it has a GPU"), (no_litert, "LiteRT is not installed"),
    pytest.param(no_conversion, "LiteRT can't run this model: no such operation", marks=needs_litert)])
def test_auto_is_tensorflow_on_a_gpu_or_without_litert(change, why, run, empty_cache, monkeypatch):
    change(monkeypatch)
    opened = open_engine("auto", run)
    assert opened.name == "tensorflow"
    assert opened.why.startswith(f"tensorflow ({why}")
    assert len(opened.why) < 300
    assert opened(pixels(1, 5, 7)).shape == (1, 20, 28, 3)


def test_auto_tells_what_is_no_generator(tmp_path):
    (tmp_path / "x.keras").write_text("")
    with pytest.raises(ValueError, match="damaged"):
        open_engine("auto", tmp_path / "x.keras")


@pytest.fixture
def vnni(monkeypatch) -> None:
    monkeypatch.setattr(runtimes, "_cpu_words", lambda: {"fpu", "avx512_vnni"})


@needs_litert
@pytest.mark.slow
def test_script_is_not_run_again_for_a_conversion(run, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("print('once', flush=True)\nfrom sr_keras.model.engines import open_engine\n"
                      f"print(open_engine('auto', {str(run)!r}).name)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=600,
                          env=os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(Path.cwd())})
    assert done.stdout.splitlines() == ["once", "litert"], done.stderr


@needs_litert
def test_int8_is_taken_where_the_processor_has_vnni_and_the_file_passes(vnni, sample):
    opened = open_engine("auto", SHIPPED_MODEL, precision="auto")
    assert (opened.name, opened.scale, opened.stream) == ("litert_int8", 4, None)
    assert opened.why == "litert in int8 (the processor has VNNI instructions)"
    exact = LiteRTRunner((opened.path / "litert" / "float32.tflite").read_bytes(), threads=1)(sample).astype(int)
    difference = np.abs(opened(sample) - exact)
    assert 0 < np.square(difference).mean() < 255**2 / 10**4  # 40 dB
    again = open_engine("litert_int8", SHIPPED_MODEL, threads=1)  # as a worker opens it
    np.testing.assert_array_equal(again(sample), opened(sample))


@needs_litert
@pytest.mark.parametrize(("words", "least", "reason"), [
    ({"fpu"}, 40, "this processor has no VNNI instructions"),
    ({"avx_vnni"}, 99, r"int8 differs too much: PSNR \d\d\.\d dB, 99 are needed")])
def test_float_is_used_where_int8_does_not_pay_or_fails_its_check(words, least, reason, monkeypatch):
    monkeypatch.setattr(runtimes, "_cpu_words", lambda: words)
    monkeypatch.setattr(runtimes, "INT8_PSNR_DB", least)
    assert re.match(reason, runtimes.why_not_int8(find_generator(SHIPPED_MODEL)))


@needs_litert
def test_float_of_a_run_without_files_says_why(vnni, run):
    opened = open_engine("litert", run, precision="auto")
    assert opened.name == "litert"
    assert "in float32: the model has no litert/float32.tflite and litert/int8.tflite" in opened.why


@pytest.mark.parametrize(("name", "precision", "message"), [
    ("litert", "int4", r"`precision` must be float32 or auto; .*'int4'"),
    ("onnx", "auto", r"`precision` must be float32 for this engine; .*'onnx'")])
def test_unknown_precision_or_another_engine_in_int8_is_refused(name, precision, message, run):
    with pytest.raises(ValueError, match=message):
        open_engine(name, run, precision=precision)


def test_measure_gives_medians_after_warm_up_within_the_budget():
    now = 0.0
    durations = iter([9.0, 0.125, 0.5, 0.375, 0.125])

    def work():
        nonlocal now
        now += next(durations)

    assert measure(work, budget_s=1.0, clock=lambda: now) == 0.375  # of three calls, which take a second
    assert next(durations) == 0.125


def test_measure_runs_once_whatever_the_budget():
    calls = []
    measure(lambda: calls.append(1), budget_s=0.0)
    assert len(calls) == 2  # one of them to warm up


@pytest.mark.parametrize("name", CONVERTED)
def test_missing_package_is_one_line_with_the_extra(name, run, monkeypatch):
    monkeypatch.setitem(sys.modules, RUNTIMES[name].packages[0], None)
    with pytest.raises(UserError, match=rf"must be installed; run pip install '\.\[{name}\]'\.") as caught:
        open_engine(name, run)
    assert "\n" not in str(caught.value)


def test_unknown_engine_and_no_threads_are_refused(run):
    with pytest.raises(ValueError, match=r"`engine` must be one of auto, .*, litert, onnx; .*='torch'"):
        open_engine("torch", run)
    with pytest.raises(ValueError, match=r"`threads` must be 1 or more; .*threads=0"):
        open_engine("tensorflow", run, threads=0)
    with pytest.raises(FileNotFoundError, match="`model` must exist"):
        open_engine("litert", run / "nothing")


def test_threads_that_tensorflow_takes_no_more_are_refused(network, run):
    network(np.zeros((1, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match=r"`threads` must be given before TensorFlow first computes.*threads=97"):
        open_engine("tensorflow", run, threads=97)


@pytest.mark.parametrize("name", CONVERTED)
def test_number_of_threads_changes_no_pixel(name, run):
    one, two = (open_engine(name, run, threads)(pixels(1, 33, 21)) for threads in (1, 2))
    np.testing.assert_array_equal(one, two)
