# SPDX-License-Identifier: Apache-2.0
"""A whole slide goes in and a whole slide comes out: without seams, in bounded memory, whatever happens meanwhile."""
from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from pipelines.pixels import to_float, to_uint8
from pipelines.pyramid import PyramidOptions, PyramidWriter, work_file
from pipelines.slide import open_slide
from sr_keras.model.facts import ModelFacts
from sr_keras.model.loading import load_generator
from sr_keras.slides import reports
from sr_keras.slides.enlarge import EnlargeOptions, enlarge_file
from sr_keras.slides.loop import super_resolve_plane

from ..conftest import difference

LOSSLESS = EnlargeOptions(lossless=True)
REGION = EnlargeOptions(lossless=True, region=(64, 32, 301, 200))


@pytest.fixture(scope="module")
def glass_slide(histology, tmp_path_factory) -> Path:
    """A slide of 1024x256 at 0.5 microns, its left quarter tissue, the rest glass with a faint slope."""
    slope = np.linspace(236, 246, 1024)[np.newaxis, :, np.newaxis].repeat(256, 0).repeat(3, 2).round().astype(np.uint8)
    slope[:, :256] = histology[:256, :256]
    return write_slide(tmp_path_factory.mktemp("glass") / "glass.tif", slope)


@pytest.fixture(scope="module")
def finished(loaded, sample_slide, tmp_path_factory) -> Path:
    """A region of the sample slide, by a run that nothing stopped."""
    path = tmp_path_factory.mktemp("finished") / "a.tif"
    enlarge_file(loaded, sample_slide, path, REGION)
    return path


def write_slide(path: Path, pixels: np.ndarray, mpp: float | None = 0.5, **more) -> Path:
    options = PyramidOptions(tile=128, quality=None, **more)
    with PyramidWriter(path, pixels.shape[1], pixels.shape[0], mpp, options) as pyramid:
        for row, column in pyramid.missing():
            x, y, width, height = pyramid.levels[0].box(row, column)
            pyramid.put(row, column, pixels[y:y + height, x:x + width])
        pyramid.finish()
    return path


def level_0(path: Path) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


# What comes out

def test_slide_becomes_a_pyramid_that_openslide_reads_as_the_network_would_have_made_it_whole(loaded, sample_slide,
                                                                                           histology, tmp_path):
    report = enlarge_file(loaded, sample_slide, tmp_path / "a.tif", LOSSLESS)
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert slide.level_dimensions == ((2048, 2048), (1024, 1024), (512, 512))
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(0.125)
        assert not slide.associated_images
    assert int(report["work"]["windows"].split()[0]) > 1
    assert difference(level_0(tmp_path / "a.tif"), loaded(histology[np.newaxis])[0]) <= 1


def test_jpeg_is_near_and_has_full_colour(loaded, sample_slide, finished, tmp_path):
    report = enlarge_file(loaded, sample_slide, tmp_path / "a.tif", replace(REGION, lossless=False, quality=80))
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert (tiff.pages[0].compression.name, tiff.pages[0].subsampling) == ("JPEG", (1, 1))
    errors = np.abs(level_0(tmp_path / "a.tif").astype(int) - level_0(finished))
    assert 0 < errors.mean() < 8
    assert report["bytes"] < finished.stat().st_size / 2


def test_ome_tiff_has_the_same_pixels_and_mpp(loaded, sample_slide, finished, tmp_path):
    enlarge_file(loaded, sample_slide, tmp_path / "a.ome.tif", REGION)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert slide.mpp == pytest.approx(0.125)
        assert difference(slide.read_region(0, 0, 0, *slide.dimensions), level_0(finished)) == 0
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        assert tiff.is_ome
        assert len(tiff.pages[0].subifds) == 2


def test_description_says_model_flags_and_source_and_no_path_or_date(loaded, sample_slide, finished):
    with tifffile.TiffFile(finished) as tiff:
        said = json.loads(tiff.pages[0].description)
        assert "DateTime" not in {tag.name for tag in tiff.pages[0].tags}
    assert said["source"] == {"file": sample_slide.name, "sha256": reports.sha256([sample_slide])}
    assert said["model"]["name"] == "small"
    assert said["model"]["sha256"] == reports.sha256([loaded.path])
    assert said["flags"]["region"] == [64, 32, 301, 200]
    assert str(sample_slide.parent) not in json.dumps(said)


def test_picture_and_slide_take_one_path_to_the_same_pixels(loaded, sample_slide, finished, tmp_path):
    enlarge_file(loaded, sample_slide, tmp_path / "a.png", REGION)
    with Image.open(tmp_path / "a.png") as image:
        assert difference(np.asarray(image), level_0(finished)) == 0


@pytest.mark.parametrize(("asked", "expected"), [
    ({"level": 1}, ((256, 256, 3), 1.0)),
    ({"mpp": 2.0}, ((128, 128, 3), 2.0)),
    ({"mpp": 1.25}, ((204, 204, 3), 1.25)),
    ({"mpp": 1.0, "region": (100, 40, 60, 80)}, ((40, 30, 3), 1.0)),
])
def test_level_mpp_and_region_choose_what_is_read(asked, expected, loaded, sample_slide, tmp_path):
    report = enlarge_file(loaded, sample_slide, tmp_path / "a.tif", EnlargeOptions(lossless=True, **asked))
    (height, width, _), mpp = expected
    assert (report["lr"]["width"], report["lr"]["height"]) == (width, height)
    assert report["sr"]["mpp"] == pytest.approx(mpp / 4)
    with open_slide(sample_slide) as slide:
        x, y = asked.get("region", (0, 0))[:2]
        lr = slide.read_at(x, y, width, height, asked.get("mpp"), asked.get("level", 0), average=True)
    assert difference(level_0(tmp_path / "a.tif"), loaded(lr[np.newaxis])[0]) <= 1


@pytest.mark.parametrize("sides", [(1, 1), (37, 53), (129, 257)])
def test_image_with_odd_sides_or_smaller_than_a_tile_becomes_a_slide_without_mpp(sides, loaded, histology, tmp_path):
    lr = histology[:sides[0], :sides[1]]
    Image.fromarray(lr).save(tmp_path / "odd.png")
    report = enlarge_file(loaded, tmp_path / "odd.png", tmp_path / "a.tif", LOSSLESS)
    assert report["sr"]["mpp"] is None
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert openslide.PROPERTY_NAME_MPP_X not in slide.properties
    assert difference(level_0(tmp_path / "a.tif"), loaded(lr[np.newaxis])[0]) <= 1


def test_slide_of_one_level_is_read_and_one_without_mpp_is_told_its_own(loaded, histology, tmp_path):
    tifffile.imwrite(tmp_path / "one.tif", histology[:256], tile=(128, 128), photometric="rgb")
    with open_slide(tmp_path / "one.tif") as slide:
        assert (len(slide.level_dimensions), slide.mpp) == (1, None)
    report = enlarge_file(loaded, tmp_path / "one.tif", tmp_path / "a.tif",
                          EnlargeOptions(mpp=1.0, assume_mpp=0.5, lossless=True))
    assert report["sr"] == {"width": 1024, "height": 512, "mpp": 0.25}


def test_mpp_is_averaged_from_a_finer_level_and_the_report_says_so(loaded, sample_slide, histology, tmp_path):
    report = enlarge_file(loaded, sample_slide, tmp_path / "a.tif", replace(LOSSLESS, mpp=2.0))
    assert (report["lr"]["averaged"], report["lr"]["level"]) == (4, 0)
    assert "level 0, means of 4x4 of its pixels" in reports.summary(report)
    lr = np.asarray(Image.fromarray(histology).reduce(4))
    assert difference(level_0(tmp_path / "a.tif"), loaded(lr[np.newaxis])[0]) <= 1
    by_level = enlarge_file(loaded, sample_slide, tmp_path / "b.tif", replace(LOSSLESS, level=2))
    assert by_level["lr"]["averaged"] is None


@pytest.mark.parametrize(("asked", "told"), [({}, True), ({"mpp": 2.0}, False), ({"level": 1}, True)])
def test_input_of_another_resolution_than_the_model_is_for_is_warned_of(asked, told, loaded, sample_slide, tmp_path,
                                                                       capsys):
    made_for = replace(loaded, facts=ModelFacts(lr_mpp=(1.9, 2.1)))
    report = enlarge_file(made_for, sample_slide, tmp_path / "a.tif", EnlargeOptions(region=(0, 0, 256, 256), **asked))
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warned) == told
    if told:
        assert f"{sample_slide}: it is read at {report['lr']['mpp']:.3g} microns per pixel" in warned[0]
        assert "and the model is for 1.9 to 2.1: read it with --mpp=2" in warned[0]
        assert f"unfamiliar {report['input']['unfamiliar'][0]}" in reports.summary(report)
    assert report["input"]["mpp"] == report["lr"]["mpp"]
    assert report["input"]["stain"]["kind"] == "not H&E"  # the sample is stained with DAB
    assert json.loads(json.dumps(report))["input"]["blur"] >= 0


# Glass

def test_glass_is_bicubic_and_tissue_is_the_networks(loaded, glass_slide, tmp_path):
    from sr_keras.metrics import bicubic

    report = enlarge_file(loaded, glass_slide, tmp_path / "a.tif", LOSSLESS)
    sr, lr = level_0(tmp_path / "a.tif"), level_0(glass_slide)
    share = report["work"]["glass_share"]
    assert 0.4 < share <= 0.75
    assert 0 < report["work"]["time_saved_share"] < 1
    assert "by bicubic, which saved" in reports.summary(report)
    from_x = round(4 * 1024 * (1 - share))
    interpolated = to_uint8(bicubic(to_float(lr)[np.newaxis], 4).numpy())[0]
    assert difference(sr[:, from_x:], interpolated[:, from_x:]) == 0
    assert difference(sr[:, :4 * 256], loaded(lr[np.newaxis])[0][:, :4 * 256]) <= 1


def test_everywhere_runs_the_network_on_glass_too(loaded, glass_slide, tmp_path):
    report = enlarge_file(loaded, glass_slide, tmp_path / "a.tif", replace(LOSSLESS, everywhere=True))
    assert report["work"]["glass_share"] == 0
    lr = level_0(glass_slide)
    assert difference(level_0(tmp_path / "a.tif"), loaded(lr[np.newaxis])[0]) <= 1


# Places that can't be read

def test_broken_tile_becomes_white_where_it_is_broken_and_is_located(loaded, broken_slide, histology, tmp_path):
    report = enlarge_file(loaded, broken_slide, tmp_path / "a.tif", LOSSLESS)
    lr = histology.copy()
    lr[128:256, 128:256] = 255
    assert difference(level_0(tmp_path / "a.tif"), loaded(lr[np.newaxis])[0]) <= 1
    assert report["bad"] == {"places": 1, "share": pytest.approx(1 / 16), "l0_rectangles": [[128, 128, 128, 128]]}
    assert "128, 128, 128, 128 of level 0" in reports.summary(report)


# Stopping and going on

def killed(model: str, source: str, target: str, puts: int) -> None:
    """Super-resolve, and be killed by SIGKILL in the middle."""
    put, calls = PyramidWriter.put, []

    def put_or_die(self, *rest):
        calls.append(rest)
        if len(calls) > puts:
            os.kill(os.getpid(), signal.SIGKILL)
        put(self, *rest)

    work_file.BATCH_BYTES = 1
    PyramidWriter.put = put_or_die
    enlarge_file(load_generator(model), Path(source), Path(target), LOSSLESS)


def test_killed_run_is_gone_on_with_to_the_bytes_of_one_never_stopped(run_apart, loaded, broken_slide, tmp_path):
    whole, path = tmp_path / "whole" / "a.tif", tmp_path / "a.tif"
    enlarge_file(loaded, broken_slide, whole, LOSSLESS)
    outcome = run_apart(__file__, f"killed({str(loaded.path)!r}, {str(broken_slide)!r}, {str(path)!r}, 10)")
    assert outcome.returncode == -signal.SIGKILL, outcome.stderr
    assert not path.exists()
    assert path.with_name("a.tif.unfinished").exists()
    told = []

    def recorded(*arguments, progress, **more):
        return super_resolve_plane(*arguments, progress=lambda *one: told.append(one), **more)

    report = enlarge_file(loaded, broken_slide, path, replace(LOSSLESS, resume=True), compute=recorded)
    assert 0 < report["work"]["kept_share"] < 1
    assert sum(count for count, kept in told if not kept) == (1 - report["work"]["kept_share"]) * 2048 * 2048
    assert path.read_bytes() == whole.read_bytes()
    assert report["bad"]["l0_rectangles"] == [[128, 128, 128, 128]]  # read by the run that was killed
    assert sorted(name.name for name in tmp_path.iterdir()) == ["a.tif", "a.tif.report.json", "whole"]


def interrupted(*arguments, progress, **more):
    """Super-resolve, and be interrupted after the first window."""
    def interrupt(pixels, kept):
        raise KeyboardInterrupt

    return super_resolve_plane(*arguments, progress=interrupt, **more)


def test_interrupted_run_leaves_no_output_and_is_gone_on_with(loaded, sample_slide, finished, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        enlarge_file(loaded, sample_slide, tmp_path / "a.tif", REGION, compute=interrupted)
    assert [name.name for name in tmp_path.iterdir()] == ["a.tif.unfinished"]
    with pytest.raises(ValueError, match="continue it with --resume, or start again with --overwrite"):
        enlarge_file(loaded, sample_slide, tmp_path / "a.tif", REGION)
    with pytest.raises(ValueError, match="`output` must be resumed with the settings of the original run"):
        enlarge_file(loaded, sample_slide, tmp_path / "a.tif", replace(REGION, lossless=False, resume=True))
    enlarge_file(loaded, sample_slide, tmp_path / "a.tif", replace(REGION, resume=True))
    assert (tmp_path / "a.tif").read_bytes() == finished.read_bytes()


def test_work_file_of_a_run_killed_at_its_very_end_goes_unless_a_run_holds_it(loaded, sample_slide, finished, tmp_path):
    path, work = tmp_path / "a.tif", tmp_path / "a.tif.unfinished"
    with pytest.raises(KeyboardInterrupt):
        enlarge_file(loaded, sample_slide, path, REGION, compute=interrupted)
    shutil.copy(finished, path)
    with closing(sqlite3.connect(work, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert enlarge_file(loaded, sample_slide, path, replace(REGION, resume=True))["kept"]
        assert work.exists()
    assert enlarge_file(loaded, sample_slide, path, replace(REGION, resume=True))["kept"]
    assert [name.name for name in tmp_path.iterdir()] == ["a.tif"]
    assert path.read_bytes() == finished.read_bytes()


@pytest.mark.parametrize("halo", [None, 4])
def test_output_begun_when_halo_was_an_option_is_resumed_if_its_pixels_are_the_same(halo, loaded, sample_slide,
                                                                                    finished, tmp_path):
    flags = {"assume_mpp": None, "everywhere": False, "format": None, "halo": halo, "level": 0, "lossless": True,
             "mpp": None, "quality": None, "region": [64, 32, 301, 200], "tile": None}  # as that version recorded them
    path = tmp_path / "a.tif"
    with pytest.raises(KeyboardInterrupt):
        enlarge_file(loaded, sample_slide, path, REGION, compute=interrupted)
    with closing(sqlite3.connect(tmp_path / "a.tif.unfinished")) as work, work:
        facts = json.loads(work.execute("SELECT facts FROM made").fetchone()[0])
        made = json.loads(facts["description"]) | {"flags": flags}
        facts["description"] = json.dumps(made, sort_keys=True)
        work.execute("UPDATE made SET facts = ?", (json.dumps(facts),))
    if halo is None:
        enlarge_file(loaded, sample_slide, path, replace(REGION, resume=True))
        assert path.read_bytes() == finished.read_bytes()
        reports.report_path(path).write_text(json.dumps({"status": "done", "description": made}))
        assert enlarge_file(loaded, sample_slide, path, replace(REGION, resume=True))["kept"]
    else:
        with pytest.raises(ValueError, match=r"these settings differ: description"):
            enlarge_file(loaded, sample_slide, path, replace(REGION, resume=True))


def test_full_disk_keeps_the_work_file_and_is_gone_on_with(files_limited_to, loaded, sample_slide, finished, tmp_path,
                                                           monkeypatch):
    monkeypatch.setattr(work_file, "BATCH_BYTES", 1)
    room = finished.stat().st_size // 2
    with files_limited_to(room), pytest.raises(OSError, match="make room and resume with --resume"):
        enlarge_file(loaded, sample_slide, tmp_path / "a.tif", REGION)
    assert not (tmp_path / "a.tif").exists()
    enlarge_file(loaded, sample_slide, tmp_path / "a.tif", replace(REGION, resume=True))
    assert (tmp_path / "a.tif").read_bytes() == finished.read_bytes()


@pytest.mark.parametrize("report", [True, False])
def test_finished_output_is_kept_by_a_resume_if_it_is_what_would_be_made(report, loaded, sample_slide, finished,
                                                                        tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(finished.read_bytes())
    if report:
        reports.report_path(path).write_bytes(reports.report_path(finished).read_bytes())
    assert enlarge_file(loaded, sample_slide, path, replace(REGION, resume=True))["kept"]
    with pytest.raises(ValueError, match=r"`output` must come from the same source, model and options to be resumed"):
        enlarge_file(loaded, sample_slide, path, replace(REGION, everywhere=True, resume=True))


# Refusals

def test_model_of_another_scale_than_it_says_is_refused(loaded, sample_slide, tmp_path):
    with pytest.raises(ValueError, match="`fn` must return 2 times the sides of its input"):
        enlarge_file(replace(loaded, scale=2), sample_slide, tmp_path / "a.tif", REGION)


@pytest.mark.parametrize(("wrong", "message"), [
    ({"quality": 101}, "`quality` must lie in 1 to 100"),
    ({"quality": 90, "lossless": True}, "`quality` must be left out when lossless is given"),
    ({"mpp": 0.5, "level": 1}, "`level` must be left out when mpp is given"),
    ({"region": (1, 2, 3)}, "`region` must be x,y,width,height"),
    ({"region": (-1, 0, 10, 10)}, "`region` must be x,y,width,height"),
    ({"memory": 0.5}, "`memory` must be more than"),
    ({"format": "svs"}, "`format` must be one of"), ({"assume_mpp": 0}, "`assume_mpp` must be positive"),
    ({"mpp": np.inf}, "`mpp` must be positive and finite"),
])
def test_options_check_themselves(wrong, message):
    with pytest.raises(ValueError, match=message):
        EnlargeOptions(**wrong)


@pytest.mark.parametrize(("wrong", "message"), [
    ({"level": 3}, "has levels 0 to 2; choose one of them"),
    ({"region": (0, 0, 513, 10)}, "`region` must lie inside the 512x512 pixels"),
    ({"region": (0, 0, 0, 10)}, "`region` must lie inside"),
    ({"tile": 100}, "`tile` must be .* or more: twice the halo"),
])
def test_what_the_slide_does_not_have_is_told_before_anything_is_written(wrong, message, loaded, sample_slide,
                                                                        tmp_path):
    with pytest.raises((ValueError, RuntimeError), match=message):
        enlarge_file(loaded, sample_slide, tmp_path / "a.tif", EnlargeOptions(**wrong))
    assert not list(tmp_path.iterdir())


def test_mpp_of_a_slide_without_one_names_the_flag(loaded, histology, tmp_path):
    path = write_slide(tmp_path / "none.tif", histology[:128], mpp=None)
    with pytest.raises(RuntimeError, match="--assume_mpp"):
        enlarge_file(loaded, path, tmp_path / "a.tif", EnlargeOptions(mpp=1.0))
