# SPDX-License-Identifier: Apache-2.0
"""The command writes a trust map with any output, adds it to finished ones, and never replaces another file."""
from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.transform import downscale_local_mean

from pipelines.pixels import to_float
from sr_keras.metrics import lr_consistency
from sr_keras.model.facts import ModelFacts
from sr_keras.slides import EnlargeOptions, enlarge, enlarge_file, outputs, reports
from sr_keras.slides.trust_files import trust_paths, write_trust
from sr_keras.slides.trust_map import SIGMAS


def square_error(lr: np.ndarray, sr: np.ndarray) -> float:
    """By the metric, of the whole at once, in grey levels of 255; of the blur or mean that comes nearest."""
    by_blur = [float(lr_consistency(to_float(lr)[np.newaxis], to_float(sr)[np.newaxis], 4, 4 * sigma)[0])
               for sigma in SIGMAS]
    mean = downscale_local_mean(to_float(sr), (4, 4, 1)) - to_float(lr)
    return 255 * min(*by_blur, float(np.sqrt(np.mean(mean**2))))


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg"])
def test_command_leaves_map_regions_and_overview_that_agree_with_the_metric(suffix, picture, run, tmp_path, capsys):
    target, trust_map = tmp_path / f"large{suffix}", tmp_path / "t.tif"
    assert run(f"--input={picture}", f"--output={target}", f"--trust_map={trust_map}") == 0
    assert all(path.exists() for path in trust_paths(trust_map))
    with Image.open(picture) as lr, Image.open(target) as sr:
        expected = square_error(np.asarray(lr), np.asarray(sr))
    lr_error = tifffile.imread(trust_map)
    assert lr_error.shape == (10, 14)  # the squares are whole ones
    # What fits is sought away from the border, so another neighbour of the best may have been taken.
    assert np.sqrt(np.mean(lr_error.astype(float)**2)) == pytest.approx(expected, rel=0.02)
    trust = json.loads(reports.report_path(target).read_text())["trust"]
    assert trust["map"] == str(trust_map)
    assert trust["largest"] == lr_error.max()
    printed = capsys.readouterr().out
    assert f"differs from the input by {trust['median']:.2f} of 255 at the median" in printed
    assert f"assuming {trust['degradation']['words']}" in printed
    with Image.open(trust_paths(trust_map)[3]) as overview:
        assert overview.format == "PNG"


def test_worst_region_of_a_slides_part_is_told_in_pixels_of_the_output(loaded, sample_slide, run, tmp_path,
                                                                        monkeypatch, capsys):
    by_network = enlarge.super_resolve_plane

    def with_a_black_square(generator, lr, windows, output, **more):
        def wrong(batch):
            sr = np.repeat(np.repeat(batch, 4, 1), 4, 2)
            sr[:, 160:240, 320:416] = 0
            return sr

        return by_network(wrong, lr, windows, output, **more)

    monkeypatch.setattr(enlarge, "super_resolve_plane", with_a_black_square)
    assert run(f"--input={sample_slide}", f"--output={tmp_path / 'a.tif'}", "--region=64,32,200,120", "--lossless",
               f"--trust_map={tmp_path / 't.tif'}") == 0
    trust = json.loads((tmp_path / "a.tif.report.json").read_text())["trust"]
    left, top, right, bottom = trust["worst"][0]["hr_box"]
    assert 320 - 32 <= left < 320 < 416 < right <= 416 + 32
    assert 160 - 32 <= top < 160 < 240 < bottom <= 240 + 32
    feature = json.loads(trust_paths(tmp_path / "t.tif")[1].read_text())["features"][0]
    xs, ys = zip(*feature["geometry"]["coordinates"][0], strict=True)
    assert (min(xs), min(ys), max(xs), max(ys)) == (left, top, right, bottom)
    there = json.loads(trust_paths(tmp_path / "t.tif")[2].read_text())["features"][0]
    on_slide = [[64 + x / 4, 32 + y / 4] for x, y in feature["geometry"]["coordinates"][0]]
    assert there["geometry"]["coordinates"] == [on_slide]
    assert f"worst at left, top, right, bottom {left}, {top}, {right}, {bottom}; measured in" in capsys.readouterr().out


def test_several_files_get_a_folder_of_maps_and_none_becomes_input(picture, sample_slide, run, tmp_path):
    folder = tmp_path / "in"
    (folder / "case").mkdir(parents=True)
    (folder / "a.png").write_bytes(picture.read_bytes())
    (folder / "case" / "b.tif").write_bytes(sample_slide.read_bytes())
    flags = f"--input={folder}", "--region=0,0,40,32"
    for more in ((), ("--overwrite",)):
        assert run(*flags, f"--output={tmp_path / 'out'}", f"--trust_map={folder}", *more) == 0
        assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == [
            "a.png", "a_trust.on_input.geojson", "a_trust.on_output.geojson", "a_trust.overview.png", "a_trust.tif",
            "case/b.tif", "case/b_trust.on_input.geojson", "case/b_trust.on_output.geojson",
            "case/b_trust.overview.png", "case/b_trust.tif"]
        assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")) == [
            "a.png", "a.png.report.json", "case/b_x4.tif", "case/b_x4.tif.report.json"]


def test_map_alters_no_byte_of_the_output(sample_slide, run, tmp_path):
    flags = f"--input={sample_slide}", "--region=0,0,40,32"
    assert run(*flags, f"--output={tmp_path / 'a' / 'x.tif'}") == 0
    assert run(*flags, f"--output={tmp_path / 'b' / 'x.tif'}", f"--trust_map={tmp_path / 't.tif'}") == 0
    assert (tmp_path / "a" / "x.tif").read_bytes() == (tmp_path / "b" / "x.tif").read_bytes()


def killed(model: str, source: str, target: str, trust_map: str) -> None:
    """Super-resolve, and be killed by SIGKILL between output and map."""
    from sr_keras.model.loading import load_generator

    enlarge.measure_file = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    enlarge_file(load_generator(model), Path(source), Path(target), EnlargeOptions(region=(0, 0, 40, 32)),
                 trust_map=Path(trust_map))


@pytest.mark.parametrize(("suffix", "report"), [(".tif", False), (".png", True)])
def test_kill_between_output_and_map_is_made_good_by_a_resume(suffix, report, loaded, sample_slide, run, run_apart,
                                                              tmp_path, capsys):
    target, trust_map = tmp_path / f"a{suffix}", tmp_path / "t.tif"
    flags = f"--input={sample_slide}", "--region=0,0,40,32"
    assert run(*flags, f"--output={tmp_path / 'whole' / f'a{suffix}'}",
               f"--trust_map={tmp_path / 'whole' / 't.tif'}") == 0
    outcome = run_apart(__file__, f"killed({str(loaded.path)!r}, {str(sample_slide)!r}, {str(target)!r}, "
                                        f"{str(trust_map)!r})")
    assert outcome.returncode == -signal.SIGKILL, outcome.stderr
    assert target.exists()
    assert not any(path.exists() for path in trust_paths(trust_map))
    if not report:
        reports.report_path(target).unlink()
    before = target.stat().st_mtime_ns
    capsys.readouterr()
    assert run(*flags, f"--output={target}", f"--trust_map={trust_map}", "--resume") == 0
    assert "kept, it existed before; differs from the input by" in capsys.readouterr().out
    assert target.stat().st_mtime_ns == before
    for one, two in zip(trust_paths(trust_map), trust_paths(tmp_path / "whole" / "t.tif"), strict=True):
        assert one.read_bytes() == two.read_bytes()
    said = json.loads(reports.report_path(target).read_text())
    assert said["trust"]["map"] == str(trust_map)
    assert "kept" not in said
    if report:
        assert said["sr"]["width"] == 160
    measured = trust_map.stat().st_mtime_ns
    assert run(*flags, f"--output={target}", f"--trust_map={trust_map}", "--resume") == 0
    assert trust_map.stat().st_mtime_ns == measured


def test_resume_measures_once_and_again_if_a_file_is_missing(sample_slide, run, tmp_path):
    trust_map = tmp_path / "t.tif"
    flags = (f"--input={sample_slide}", f"--output={tmp_path / 'a.tif'}", "--region=0,0,40,32",
             f"--trust_map={trust_map}", "--resume")
    assert run(*flags) == 0
    before = trust_map.stat().st_mtime_ns
    assert run(*flags) == 0
    assert trust_map.stat().st_mtime_ns == before
    trust_paths(trust_map)[3].unlink()
    assert run(*flags) == 0
    assert trust_paths(trust_map)[3].exists()


def test_map_of_an_output_that_was_overwritten_is_not_taken_for_the_new_ones(loaded, sample_slide, tmp_path,
                                                                            monkeypatch):
    trust_map, region = tmp_path / "t.tif", (0, 0, 40, 32)
    enlarge_file(loaded, sample_slide, tmp_path / "a.tif", EnlargeOptions(region=region), trust_map=trust_map)
    old = trust_map.read_bytes()
    options = EnlargeOptions(region=(60, 60, 40, 32), overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr(enlarge, "measure_file", full_disk)
        with pytest.raises(OSError, match="no space left"):
            enlarge_file(loaded, sample_slide, tmp_path / "a.tif", options, trust_map=trust_map)
    assert not trust_map.exists()
    trust_map.write_bytes(old)
    for path in trust_paths(trust_map)[1:]:
        path.write_text("old")
    options = EnlargeOptions(region=(60, 60, 40, 32), resume=True)
    assert enlarge_file(loaded, sample_slide, tmp_path / "a.tif", options, trust_map=trust_map)["kept"]
    assert trust_map.read_bytes() != old


def test_usual_departure_of_the_model_is_told_beside_that_of_the_slide(loaded, sample_slide, tmp_path):
    for usual, unfamiliar in (((2.0, 200.0), False), ((0.01, 0.02), True)):
        known = replace(loaded, facts=ModelFacts(usual_departure=usual))
        report = enlarge_file(known, sample_slide, tmp_path / "a.tif", EnlargeOptions(
            region=(0, 0, 40, 32), overwrite=True), trust_map=tmp_path / "t.tif")
        (line,) = [line for line in reports.summary(report).splitlines() if "differs from the input by" in line]
        assert f" of 255 at the median (usual: {usual[0]:.1f} to {usual[1]:.1f})" in line
        assert ("unfamiliar input" in line) == report["trust"]["unusual"] == unfamiliar


def full_disk(*_: object) -> None:
    raise OSError("no space left on device")


def test_measuring_that_fails_is_told_and_leaves_the_output_and_its_report(sample_slide, run, tmp_path, monkeypatch,
                                                                          capsys):
    monkeypatch.setattr(enlarge, "measure_file", full_disk)
    assert run(f"--input={sample_slide}", f"--output={tmp_path / 'a.tif'}", "--region=0,0,40,32",
               f"--trust_map={tmp_path / 't.tif'}") == 2
    assert "no space left on device" in capsys.readouterr().err
    assert json.loads((tmp_path / "a.tif.report.json").read_text())["status"] == "done"


# Refusals

@pytest.mark.parametrize(("trust_map", "message"), [
    ("t.png", r"end in \.tif, or be a folder"), ("picture.tif", "not exist"), ("large.tif", "be another file than"),
    ("plain", r"end in \.tif, or be a folder"), ("source.tif", "be another file than"), ("half.tif", "not exist")])
def test_map_that_would_replace_something_is_refused_before_anything_is_computed(trust_map, message, picture, run,
                                                                                tmp_path):
    picture.rename(tmp_path / "source.tif")
    for name in ("picture.tif", "plain", "half.overview.png"):
        (tmp_path / name).write_text("precious")
    with pytest.raises(ValueError, match=f"`trust_map` must {message}"):
        run(f"--input={tmp_path / 'source.tif'}", f"--output={tmp_path / 'large.tif'}",
            f"--trust_map={tmp_path / trust_map}")
    assert not (tmp_path / "large.tif").exists()


def test_map_replaces_what_is_there_if_told_and_by_resume_only_a_map(picture, invented, run, tmp_path):
    flags = f"--input={picture}", f"--output={tmp_path / 'large.png'}", f"--trust_map={tmp_path / 't.tif'}"
    (tmp_path / "t.tif").write_text("precious")
    with pytest.raises(ValueError, match="`trust_map` must be a trust map to be resumed"):
        run(*flags, "--resume")
    assert (tmp_path / "t.tif").read_text() == "precious"
    assert run(*flags, "--overwrite") == 0
    assert tifffile.imread(tmp_path / "t.tif").shape == (10, 14)
    write_trust(tmp_path / "t.tif", invented, "other", lambda x, y: (x / 4, y / 4))
    assert run(*flags, "--resume", "--overwrite") == 0


def test_one_map_for_several_files_and_several_of_one_name_are_refused(picture, run, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture.read_bytes())
    (folder / "b.png").write_bytes(picture.read_bytes())
    with pytest.raises(ValueError, match="`trust_map` must be a folder, because there are 2 inputs"):
        run(f"--input={folder}", f"--output={tmp_path / 'out'}", f"--trust_map={tmp_path / 't.tif'}")
    (folder / "b.png").rename(folder / "a.svs")
    with pytest.raises(ValueError, match=r"`trust_map` must be the only one with the name a_trust\.tif"):
        run(f"--input={folder}", f"--output={tmp_path / 'out'}", f"--trust_map={tmp_path / 'maps'}")


def test_scale_that_cannot_be_measured_is_told_before_inference(loaded, picture, tmp_path):
    with pytest.raises(ValueError, match="`trust_map` must be left out for a model of scale 3"):
        enlarge_file(replace(loaded, scale=3, run=None), picture, tmp_path / "a.tif", trust_map=tmp_path / "t.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_picture_that_could_not_be_read_again_is_refused_before_it_is_computed(loaded, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs.Image, "MAX_IMAGE_PIXELS", 160 * 224 // 2 - 1)
    with pytest.raises(ValueError, match=r"more than PIL can read back from a \.png.*write a \.tif"):
        enlarge_file(loaded, picture, tmp_path / "a.png", trust_map=tmp_path / "t.tif")
