# SPDX-License-Identifier: Apache-2.0
"""Peers get the patches that evaluate scores, are read as they were written, and are timed beside each other."""
from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from benchmarks.peers import __main__ as command
from benchmarks.peers import bicubic, esrgan_thick, litert, real_esrgan
from benchmarks.peers.methods import BY_NAME, METHODS, OURS, ROOT
from benchmarks.peers.patches import KINDS, check_resembles, commands_of, measure, read, super_resolve, write_patches
from benchmarks.peers.runner import rounded
from benchmarks.peers.scores import MPP, Slide, joined, of_nuclei, of_pixels, score
from pipelines import console
from pipelines.config import PatchOptions
from pipelines.errors import UserError
from pipelines.pixels import to_float
from sr_keras import metrics
from sr_keras.evaluate import score_standard
from sr_keras.evaluation import conditions
from sr_keras.evaluation.conditions import condition_named
from sr_keras.evaluation.scored_patches import BICUBIC, find_sets
from sr_keras.model.loading import load_generator, read_weights

PYTHON = Path(sys.executable)
LITTLE = [BY_NAME["bicubic"], BY_NAME[OURS]]


@pytest.fixture(scope="module")
def data(histology, tmp_path_factory) -> list[str]:
    """Tiles of slide-a, and pairs of slide-b whose LR is the mean of 4x4."""
    root = tmp_path_factory.mktemp("data")
    for name, top in (("tiles/slide-a", 0), ("pairs/slide-b", 256)):
        (root / name).mkdir(parents=True)
        for i in range(2):
            hr = histology[top:top + 256, 256 * i:256 * i + 256]
            Image.fromarray(hr).save(root / name / f"t{i}.png")
            if top:
                lr = np.rint(hr.reshape(64, 4, 64, 4, 3).mean((1, 3))).astype(np.uint8)
                Image.fromarray(lr).save(root / name / f"t{i}_lr00.png")
    return [str(root / "tiles"), str(root / "pairs")]


@pytest.fixture(scope="module")
def work(data, tmp_path_factory) -> Path:
    """A work folder with the patches, and what two methods made of them."""
    folder = tmp_path_factory.mktemp("work")
    write_patches(data, folder, per_slide=2)
    for name, started in commands_of(LITTLE, peers_python=PYTHON, work=folder).items():
        super_resolve(BY_NAME[name], started, folder)
    return folder


def test_every_kind_of_lr_has_its_hr(work):
    for kind in KINDS:
        lr, hr = (read(work / plane / f"{kind}.npz") for plane in ("lr", "hr"))
        assert lr.keys() == hr.keys()
        assert {name.partition("/")[0] for name in lr} == ({"slide-b"} if kind == "pairs" else {"slide-a", "slide-b"})
        assert all(hr[name].shape == (256, 256, 3) and lr[name].shape == (64, 64, 3) for name in lr)
    means = {name: image.reshape(64, 4, 64, 4, 3).mean((1, 3)) for name, image in hr.items()}
    for kind in ("pairs", "box"):
        for name, image in read(work / "lr" / f"{kind}.npz").items():
            np.testing.assert_allclose(image, means[name], atol=0.51)


@pytest.mark.slow
def test_scores_are_those_of_evaluate(work, data, tmp_path, monkeypatch):
    monkeypatch.setattr(conditions, "standard_conditions", lambda scale, real: [
        condition_named(kind).at_scale(scale) for kind in KINDS])
    rows = {(row["slide"], row["lr"], row["method"]): row
            for kind in KINDS for row in score(work, "pixels", kind, LITTLE)}
    sets = find_sets(data, tmp_path / "cut", PatchOptions(max_patches=2), 4)
    gains = {gain.condition.name: gain for gain in score_standard(load_generator(ROOT / "saved_models" / OURS), sets,
                                                                  4, 2)}
    assert len(rows) == 2 * (1 + 2 * (len(KINDS) - 1))
    for (slide, kind, method), row in rows.items():
        known = gains[kind].slides[slide].means[BICUBIC if method == "bicubic" else "sr"]
        for name, digits in (("psnr", 0.01), ("ms_ssim", 2e-4), ("qilv", 2e-3), ("rrmse", 2e-4)):
            assert row[name] == pytest.approx(known[name], abs=digits), (slide, kind, method, name)


def test_sr_of_other_patches_is_refused(work, tmp_path):
    shutil.copytree(work, tmp_path / "work")
    np.savez(tmp_path / "work" / "sr" / "bicubic" / "box.npz", **{"slide-a/other": np.zeros((256, 256, 3), np.uint8)})
    with pytest.raises(ValueError, match=r"`sr` must have the patches of hr; remove .*sr/bicubic.*box"):
        score(tmp_path / "work", "pixels", "box", LITTLE)
    (tmp_path / "work" / "sr" / "bicubic" / "pairs.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"run the steps lr and sr first\. Received: .*pairs\.npz"):
        score(tmp_path / "work", "pixels", "pairs", LITTLE)


def test_nuclei_are_those_of_hr_and_blur_loses_them(histology, monkeypatch):
    monkeypatch.setitem(MPP, "slide", 0.5)
    hr = [histology[:256, :256], histology[256:, 256:]]
    blurred = [np.rint(gaussian_filter(one, (6, 6, 0), output=np.float32)).astype(np.uint8) for one in hr]
    found = of_nuclei(Slide("slide", hr, hr, {"same": hr, "blurred": blurred}))
    assert found["same"]["nuclei_f1"] == 1
    assert found["blurred"]["nuclei_f1"] < 0.9


def test_slides_that_the_detector_can_not_judge_have_no_score(histology, monkeypatch):
    monkeypatch.setitem(MPP, "glass", 0.5)
    glass = [np.full((128, 128, 3), 245, np.uint8)]
    for name, pictures in (("glass", glass), ("of unknown mpp", [histology[:128, :128]])):
        assert np.isnan(of_nuclei(Slide(name, pictures, pictures, {"x": pictures}))["x"]["nuclei_f1"])


def test_patch_that_one_method_returns_without_error_counts_for_none(histology):
    lr, hr = [np.zeros((64, 64, 3), np.uint8)] * 2, [histology[:256, :256], histology[256:, 256:]]
    sr = {"right": [hr[0], hr[1] // 2], "dark": [hr[0] // 2, hr[1] // 2]}
    found = of_pixels(Slide("slide", lr, hr, sr))
    assert found["right"]["psnr"] == found["dark"]["psnr"]
    assert found["right"]["rrmse"] < found["dark"]["rrmse"]


def test_measures_are_joined_and_what_is_not_measured_is_not_a_number():
    key = {"slide": "a", "method": "bicubic", "patches": 2}
    rows = joined({("pixels", "pairs"): [{**key, "lr": "pairs", "psnr": 20.0}],
                   ("pixels", "box"): [{**key, "lr": "box", "psnr": 21.0}],
                   ("nuclei", "box"): [{**key, "lr": "box", "nuclei_f1": 0.9}]})
    assert [(row["lr"], row["psnr"]) for row in rows] == [("pairs", 20.0), ("box", 21.0)]
    assert np.isnan(rows[0]["nuclei_f1"])
    assert rows[1]["nuclei_f1"] == 0.9


@pytest.mark.parametrize("shape", [(64, 64), (13, 40)])
def test_bicubic_is_that_of_the_scores_within_rounding(shape, histology):
    lr = histology[100:100 + shape[0], 200:200 + shape[1]]
    known = np.asarray(metrics.bicubic(to_float(lr[None]), 4))[0] * 255
    assert np.abs(bicubic.open_peer().run(lr) - known).max() < 1.01


def test_floats_are_clipped_and_rounded_to_the_nearest_level():
    assert rounded(np.array([[[-0.2, 0.5 / 255 + 1e-4, 0.4 / 255], [1.4, 254.6 / 255, 254.4 / 255]]])).tolist() == [
        [[0, 1, 0], [255, 255, 254]]]


def test_weights_of_a_shipped_file_are_counted():
    found = litert.weight_bytes((ROOT / BY_NAME[OURS].file).read_bytes())
    kernels = sum(4 * value.size for value in read_weights(ROOT / "saved_models" / OURS).values() if value.ndim == 4)
    assert kernels < found < 1.02 * kernels


def test_weights_of_an_ncnn_graph_are_counted(tmp_path):
    lines = ("7767517", "3 3", "Input input.1 0 1 data", "Convolution Conv_0 1 1 data a 0=64 1=3 4=1 5=1 6=1728",
             "Convolution Conv_1 1 1 a output 0=3 1=3 4=1 5=1 6=1728 9=2 -23310=1,2.0e-01")
    (tmp_path / "x.param").write_text("\n".join(lines))
    assert real_esrgan.weight_bytes(tmp_path / "x.param") == 4 * (64 + 1728 + 3 + 1728)


@pytest.fixture
def layers_model(tmp_path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A TensorFlow.js layers model in two files: 1x1 convolution to 48 channels, product with 0.2, pixel shuffle."""
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(1, 1, 3, 48)).astype("<f4"), rng.normal(size=48).astype("<f4")
    content = kernel.tobytes() + bias.tobytes()
    (tmp_path / "a.bin").write_bytes(content[:101])
    (tmp_path / "b.bin").write_bytes(content[101:])

    def layer(kind, name, before, **config):
        return {"class_name": kind, "name": name, "config": {"name": name, **config},
                "inbound_nodes": [[[before, 0, 0, {}]]] if before else []}

    layers = [layer("InputLayer", "lr", None, batch_input_shape=[None, None, None, 3], dtype="float32"),
              layer("Conv2D", "conv", "lr", filters=48, kernel_size=[1, 1], padding="same"),
              layer("MultiplyBeta", "beta", "conv", beta=0.2), layer("PixelShuffle4x", "shuffle", "beta", scale=4)]
    config = {"name": "generator", "layers": layers, "input_layers": [["lr", 0, 0]],
              "output_layers": [["shuffle", 0, 0]]}
    (tmp_path / "model.json").write_text(json.dumps({
        "modelTopology": {"model_config": {"class_name": "Functional", "config": config}},
        "weightsManifest": [{"paths": ["a.bin", "b.bin"], "weights": [
            {"name": "conv/kernel", "shape": [1, 1, 3, 48]}, {"name": "conv/bias", "shape": [48]}]}]}))
    return tmp_path / "model.json", kernel[0, 0], bias


def test_layers_model_computes_what_its_graph_says(layers_model):
    path, kernel, bias = layers_model
    lr = np.random.default_rng(1).random((1, 5, 6, 3), np.float32)
    inner = (0.2 * (lr @ kernel + bias))[0].reshape(5, 6, 4, 4, 3)
    expected = inner.transpose(0, 2, 1, 3, 4).reshape(20, 24, 3)
    np.testing.assert_allclose(esrgan_thick.load(path)(lr)[0], expected, atol=1e-5)


@pytest.mark.parametrize(("name", "change", "words"), [
    ("b.bin", lambda data: data + bytes(8), "194 weights in place of 192"),
    ("b.bin", lambda data: data[:-4], "191 weights in place of 192"),
    ("b.bin", lambda data: data[:-1], "must be a multiple of element size"),
    ("model.json", lambda data: data.replace(b"conv/bias", b"conv/bins"), "bins"),
    ("model.json", lambda data: data.replace(b"weightsManifest", b"weights"), "weightsManifest"),
    ("model.json", lambda data: data[:-1], r"model\.json` must be a JSON file")])
def test_layers_model_that_is_damaged_is_refused_by_one_line_and_nothing_is_written(layers_model, name, change, words):
    path = layers_model[0]
    (path.parent / name).write_bytes(change((path.parent / name).read_bytes()))
    with pytest.raises(ValueError, match=words) as caught:
        esrgan_thick.convert(path, path.parent / "x.tflite")
    assert "; download the package again. Received: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {one.name for one in path.parent.iterdir()} == {"model.json", "a.bin", "b.bin"}


def test_methods_are_timed_in_turn_on_one_core(tmp_path):
    rows = {row["method"]: row for row in measure(commands_of(LITTLE, peers_python=PYTHON, work=tmp_path), rounds=2)}
    first, second = rows["bicubic"], rows[OURS]
    assert 0 < first["cpu_seconds"] < second["cpu_seconds"] < 1.05 * second["seconds"] + 0.02  # no second core helps
    assert 2**23 < first["peak_bytes"] < second["peak_bytes"] < 2**29
    assert second["weight_bytes"] < second["file_bytes"] == (ROOT / BY_NAME[OURS].file).stat().st_size


def test_runner_that_dies_is_said(tmp_path):
    commands = {"nosuch": [str(PYTHON), "-m", "benchmarks.peers.nosuch"]}
    with pytest.raises(UserError, match=r"nosuch: its runner died; run it by hand .*benchmarks\.peers\.nosuch"):
        measure(commands, rounds=1)
    with pytest.raises(UserError, match=r"bicubic failed on pairs: .*No module named .*nosuch"):
        super_resolve(BY_NAME["bicubic"], commands["nosuch"], tmp_path)


def test_sr_that_is_refused_is_not_kept(work, tmp_path):
    shutil.copytree(work / "lr", tmp_path / "lr")
    (tmp_path / "dark.py").write_text(
        "import sys, numpy as np\nlr = np.load(sys.argv[1])\nnp.savez(sys.argv[2], **{name: np.zeros((256, 256, 3)) "
        "for name in lr})\n")
    with pytest.raises(UserError, match="bicubic is run wrongly"):
        super_resolve(BY_NAME["bicubic"], [str(PYTHON), str(tmp_path / "dark.py")], tmp_path, ["box"])
    assert list((tmp_path / "sr" / "bicubic").iterdir()) == []


@pytest.mark.parametrize(("change", "words"), [
    (lambda sr: sr // 255, "averaged, departs from LR by .* levels; check the range and the layout of its pixels"),
    (lambda sr: sr.transpose(1, 0, 2), "averaged, departs from LR by"),
    (lambda sr: sr[::2, ::2], "it makes .128, 128, 3.")])
def test_peer_that_is_run_wrongly_is_found(change, words, work):
    lr, sr = (read(work / folder / "pairs.npz") for folder in ("lr", "sr/bicubic"))
    check_resembles(lr, sr, "x")
    with pytest.raises(UserError, match=f"x is run wrongly: .*{words}"):
        check_resembles(lr, {name: change(image) for name, image in sr.items()}, "x")


@pytest.mark.parametrize(("arguments", "words"), [
    (["--steps=paint"], "`steps` must be some of lr, sr, score, time, report; check the spelling. Received: "),
    (["--measures=beauty"], "`measures` must be some of pixels, nuclei, perceptual; check the spelling. Received: "),
    (["--steps=score", "--kinds="], "`kinds` must be some of pairs, textbook, box, jpeg-80; "),
    (["--steps=lr"], "`data` must be given; "),
    (["--steps=lr", "--data=nosuch"], "`data` must exist; check the spelling. Received: data='nosuch'"),
    (["--steps=sr", "--peers_python=nosuch"], "`peers_python` must be the Python of the peers' environment; "),
    (["--steps=sr", f"--peers_python={PYTHON}"], "`esrgan_thick` must be the model.json of ESRGAN-thick x4; "),
    (["--steps=score"], "`work` must hold this file; run the steps lr and sr first. Received: "),
])
def test_mistake_is_one_line_and_changes_nothing(run_program, arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "SCORES", tmp_path / "peers.csv")
    with pytest.raises(console.USER_ERRORS) as caught:
        run_program(command, *arguments, f"--work={tmp_path / 'work'}")
    assert str(caught.value).startswith(words)
    assert not list(tmp_path.iterdir())


def test_every_method_has_a_runner():
    assert all((ROOT / "benchmarks" / "peers" / f"{method.runner}.py").is_file() for method in METHODS)
