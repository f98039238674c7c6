# SPDX-License-Identifier: Apache-2.0
"""Pictures and slides of any size and kind are super-resolved, and a bad one does not stop the others."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipelines.slide import open_slide
from sr_keras import super_resolve
from sr_keras.model import engines
from sr_keras.model.loading import LoadedGenerator, load_generator
from sr_keras.networks import generator
from sr_keras.slides import enlarge, outputs, reports
from sr_keras.slides.enlarge import enlarge_file, enlarge_image
from sr_keras.slides.outputs import _parts, is_slide, plan_outputs
from sr_keras.slides.window_plan import EnlargeOptions

from .conftest import difference

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(randomised, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "generator.keras"
    randomised(generator(scale=4, blocks=2, filters=6)).save(path)
    return path


@pytest.fixture(scope="module")
def loaded(model) -> LoadedGenerator:
    return load_generator(model)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def test_tiled_equals_whole_within_one_step(loaded, histology):
    lr = histology[:171, 200:401]
    whole = loaded(lr[np.newaxis])[0]
    assert whole.std() > 20
    for tile in (2 * loaded.halo + 21, 64, 171, None):
        assert difference(enlarge_image(loaded, lr, tile), whole) <= 1, tile


def test_comparison_of_tiled_and_whole_would_see_a_seam(loaded, histology):
    lr = histology[:100, :100]
    blind = LoadedGenerator(loaded.path, loaded.scale, halo=1, facts={}, run=loaded.run)
    assert difference(enlarge_image(blind, lr, 64), loaded(lr[np.newaxis])[0]) > 10


@pytest.mark.parametrize("shape", [(1, 1), (1, 23), (37, 53)])
def test_any_side_is_enlarged_by_the_scale(shape, loaded, histology, run, tmp_path):
    lr = histology[:shape[0], :shape[1]]
    Image.fromarray(lr).save(tmp_path / "odd.png")
    assert run(f"--input={tmp_path / 'odd.png'}", f"--output={tmp_path / 'large.png'}") == 0
    assert difference(pixels(tmp_path / "large.png"), loaded(lr[np.newaxis])[0]) <= 1


def kinds(rgb: np.ndarray) -> dict[str, tuple[Image.Image, np.ndarray]]:
    """Return pictures of every kind with the RGB that they stand for."""
    grey = rgb[..., 1]
    alpha = np.where(np.arange(rgb.shape[1]) < 20, 0, 255).astype(np.uint8) * np.ones(rgb.shape[:2], np.uint8)
    over_white = np.where(alpha[..., np.newaxis] == 0, 255, rgb)
    cmyk = Image.fromarray(rgb).convert("CMYK")
    palette = Image.fromarray(rgb).quantize(32)
    return {
        "grey.png": (Image.fromarray(grey), np.dstack([grey] * 3)),
        "rgba.png": (Image.fromarray(np.dstack([rgb, alpha])), over_white),
        "sixteen.png": (Image.fromarray(grey.astype(np.uint16) * 257), np.dstack([grey] * 3)),
        "cmyk.tif": (cmyk, np.asarray(cmyk.convert("RGB"))),
        "palette.png": (palette, np.asarray(palette.convert("RGB"))),
        "grey.bmp": (Image.fromarray(grey), np.dstack([grey] * 3)),
    }


@pytest.mark.parametrize("name", ["grey.png", "rgba.png", "sixteen.png", "cmyk.tif", "palette.png", "grey.bmp"])
def test_every_kind_of_picture_becomes_rgb(name, loaded, histology, tmp_path):
    image, rgb = kinds(histology[:32, :48])[name]
    image.save(tmp_path / name)
    enlarge_file(loaded, tmp_path / name, tmp_path / "large.png")
    assert difference(pixels(tmp_path / "large.png"), loaded(rgb[np.newaxis])[0]) <= 1


def test_format_follows_the_suffix(loaded, picture, run, tmp_path):
    for name in ("large.png", "large.TIF", "large.jpg"):
        assert run(f"--input={picture}", f"--output={tmp_path / name}") == 0
    expected = loaded(pixels(picture)[np.newaxis])[0]
    assert difference(tifffile.imread(tmp_path / "large.TIF"), pixels(tmp_path / "large.png")) < 60  # JPEG of noise
    assert difference(pixels(tmp_path / "large.png"), expected) <= 1
    with Image.open(tmp_path / "large.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (224, 160))


def test_slide_is_super_resolved_at_its_highest_resolution(loaded, sample_slide, tmp_path):
    enlarge_file(loaded, sample_slide, tmp_path / "large.png")
    assert pixels(tmp_path / "large.png").shape == (2048, 2048, 3)


def test_folder_becomes_folder_and_a_bad_picture_does_not_stop_the_others(picture, run, tmp_path, capsys):
    folder, output = tmp_path / "in", tmp_path / "in" / "out"
    (folder / "case").mkdir(parents=True)
    (folder / "a.png").write_bytes(picture.read_bytes())
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    (folder / "case" / "z.png").write_bytes(picture.read_bytes())
    (folder / "notes.txt").write_text("no picture, and not meant to be one")
    for more in ((), ("--overwrite",)):  # the second time there are results in the folder, which are no input
        assert run(f"--input={folder}", f"--output={output}", *more) == 1
        said = capsys.readouterr()
        assert "2 of 3 written" in said.out
        (failure,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
        assert failure.startswith(f"error: {folder / 'bad.jpg'}: ")
        assert sorted(p.relative_to(output).as_posix() for p in output.rglob("*.*")) == [
            "a.png", "a.png.report.json", "bad.png.report.json", "case/z.png", "case/z.png.report.json"]
    assert pixels(output / "case" / "z.png").shape == (160, 224, 3)


def test_status_says_that_nothing_was_done(run, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nothing")
    assert run(f"--input={tmp_path / 'bad.png'}", f"--output={tmp_path / 'large.png'}") == 2
    assert not (tmp_path / "large.png").exists()
    report = json.loads((tmp_path / "large.png.report.json").read_text())
    assert report["status"] == "failed"
    assert str(tmp_path / "bad.png") in report["error"]


@pytest.mark.parametrize(("engine", "package"), [("litert", "ai_edge_litert"), ("onnx", "onnxruntime")])
def test_engine_makes_the_same_picture_within_one_step(engine, package, picture, run, tmp_path, monkeypatch):
    pytest.importorskip(package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(engines, "call_apart", lambda function, *arguments: function(*arguments))
    assert run(f"--input={picture}", f"--output={tmp_path / 'keras.png'}") == 0
    assert run(f"--input={picture}", f"--output={tmp_path / 'other.png'}", f"--engine={engine}") == 0
    assert difference(pixels(tmp_path / "keras.png"), pixels(tmp_path / "other.png")) <= 1


def test_output_that_exists_is_told_before_the_model_is_loaded(picture, run, tmp_path, monkeypatch):
    (tmp_path / "there.png").write_bytes(b"mine")
    monkeypatch.setattr(super_resolve, "_open_generator", lambda cluster: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match="`output` must not exist"):
        run(f"--input={picture}", f"--output={tmp_path / 'there.png'}")
    assert (tmp_path / "there.png").read_bytes() == b"mine"


def test_output_that_exists_is_kept_unless_told(picture, run, tmp_path):
    (tmp_path / "large.png").write_text("precious")
    with pytest.raises(ValueError, match="`output` must not exist; choose another path, or add --overwrite"):
        run(f"--input={picture}", f"--output={tmp_path / 'large.png'}")
    assert (tmp_path / "large.png").read_text() == "precious"
    assert run(f"--input={picture}", f"--output={tmp_path / 'large.png'}", "--overwrite") == 0
    assert pixels(tmp_path / "large.png").shape == (160, 224, 3)


def test_input_is_never_replaced(picture, tmp_path):
    (tmp_path / "link.png").symlink_to(picture)
    for output in (picture, tmp_path / "link.png", tmp_path):
        with pytest.raises(ValueError, match="`output` must be another file than the input"):
            plan_outputs(str(picture), output, 4, EnlargeOptions(overwrite=True))
    with pytest.raises(ValueError, match="`output` must be another file than the input"):
        plan_outputs(str(tmp_path), tmp_path, 4, EnlargeOptions(overwrite=True))


def test_two_pictures_for_one_output_are_refused(picture, tmp_path):
    picture.with_suffix(".bmp").write_bytes(picture.read_bytes())
    with pytest.raises(ValueError, match=r"have only one file for the output .*picture.png"):
        plan_outputs(str(tmp_path), tmp_path / "out", 4, EnlargeOptions())


def test_picture_goes_into_a_folder_under_its_own_name(picture, tmp_path):
    pairs = plan_outputs(str(picture), tmp_path / "new", 4, EnlargeOptions())
    assert pairs == [(picture, tmp_path / "new" / "picture.png")]


@pytest.mark.parametrize("output", ["large.webp", "large.svs"])
def test_suffix_that_is_not_written_is_refused(output, picture, tmp_path):
    with pytest.raises(ValueError, match=r"`output` must end in one of \.png"):
        plan_outputs(str(picture), tmp_path / output, 4, EnlargeOptions())


def test_folder_into_a_picture_and_folder_without_pictures_are_refused(picture, tmp_path):
    with pytest.raises(ValueError, match="`output` must be a folder"):
        plan_outputs(str(tmp_path), tmp_path / "large.png", 4, EnlargeOptions())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="`input` must contain pictures or slides"):
        plan_outputs(str(tmp_path / "empty"), tmp_path / "out", 4, EnlargeOptions())


@pytest.mark.parametrize("missing", ["model", "input", "output"])
def test_missing_flag_is_named(missing, picture, run, tmp_path):
    given = {"input": picture, "output": tmp_path / "large.png", missing: ""}
    with pytest.raises(ValueError, match=f"`{missing}` must be given; add --{missing}="):
        run(*(f"--{name}={value}" for name, value in given.items()))


def test_picture_too_large_for_memory_is_refused_before_it_is_read(loaded, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "available_memory", lambda: 100_000)
    with pytest.raises(ValueError, match=r"picture\.png: 56x40 pixels take .* GiB of memory.*write a \.tif"):
        enlarge_file(loaded, picture, tmp_path / "large.png")


def test_picture_too_large_for_jpeg_is_refused_before_it_is_computed(loaded, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "JPEG_LONGEST_SIDE", 200)
    with pytest.raises(ValueError, match=r"224x160 pixels are more than JPEG holds; write a \.tif"):
        enlarge_file(loaded, picture, tmp_path / "large.jpg")


def test_tile_that_is_all_overlap_is_refused_once_and_leaves_nothing(mixed, run, tmp_path):
    for tile, message in ((8, "`tile` must be more than twice the halo"), (100, "`tile` must be .* or more")):
        with pytest.raises(ValueError, match=message):
            run(f"--input={mixed}", f"--output={tmp_path / 'out'}", f"--tile={tile}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("output", ["picture.png/large.png", "picture.png/more/large.tif", "/proc/large.png"])
def test_place_that_takes_no_file_is_refused_before_anything_is_computed(output, picture, run, tmp_path, monkeypatch):
    monkeypatch.setattr(enlarge, "enlarge_file", None)
    with pytest.raises(ValueError, match="`output` must be a writable path"):
        run(f"--input={picture}", f"--output={tmp_path / output}")
    with pytest.raises(ValueError, match="`trust_map` must be a writable path"):
        run(f"--input={picture}", f"--output={tmp_path / 'new' / 'a.tif'}", f"--trust_map={tmp_path / output}".replace(
            ".png", ".tif").replace("picture.tif", "picture.png"))
    assert list(tmp_path.iterdir()) == [picture]


@pytest.mark.parametrize(("output", "flag", "message"), [
    ("a.jpg", "--lossless", "`lossless` must be left out for a .jpg"),
    ("a.JPEG", "--format=tiff", "`format` must be left out for a .jpeg"),
    ("a.png", "--format=ome", "`format` must be left out for a .png"),
    ("a.png", "--quality=50", "`quality` must be left out for a .png")])
def test_flag_that_the_output_would_not_follow_is_refused(output, flag, message, picture, run, tmp_path, monkeypatch):
    monkeypatch.setattr("sr_keras.model.engines.open_engine", None)
    with pytest.raises(ValueError, match=message):
        run(f"--input={picture}", f"--output={tmp_path / output}", flag)


def test_flags_of_slides_and_of_jpeg_are_taken_where_an_output_follows_them(mixed, run, tmp_path):
    (mixed / "cut.svs").unlink()
    region = "--region=0,0,40,32"
    assert run(f"--input={mixed}", f"--output={tmp_path / 'out'}", region, "--quality=50", "--format=ome") == 0
    assert run(f"--input={mixed / 'slide.tif'}", f"--output={tmp_path / 'a.png'}", region, "--lossless") == 0


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_full_disk_keeps_what_was_there_and_leaves_no_half_picture(suffix, files_limited_to, loaded, picture, tmp_path):
    target = tmp_path / "out" / f"large{suffix}"
    target.parent.mkdir()
    target.write_text("precious")
    with files_limited_to(1000), pytest.raises(OSError):
        enlarge_file(loaded, picture, target)
    assert [path.read_text() for path in target.parent.iterdir()] == ["precious"]


@pytest.fixture
def mixed(picture, sample_slide, tmp_path) -> Path:
    """A folder with a slide, a picture, a plain TIFF, and a slide that is truncated."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "slide.tif").write_bytes(sample_slide.read_bytes())
    (folder / "cut.svs").write_bytes(sample_slide.read_bytes()[:200_000])
    (folder / "picture.png").write_bytes(picture.read_bytes())
    Image.fromarray(pixels(picture)).save(folder / "plain.tif")
    return folder


def test_slides_become_slides_and_pictures_pictures_and_a_truncated_slide_stops_none(mixed, run, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(f"--input={mixed}", f"--output={output}", "--region=0,0,40,32") == 1
    said = capsys.readouterr()
    assert "3 of 4 written" in said.out
    assert "cut.svs: is truncated" in said.err
    assert sorted(path.name for path in output.iterdir() if path.suffix != ".json") == [
        "picture.png", "plain.png", "slide_x4.tif"]
    with open_slide(output / "slide_x4.tif") as slide:
        assert slide.mpp == pytest.approx(0.125)
        assert slide.dimensions == (160, 128)
    assert json.loads((output / "cut_x4.tif.report.json").read_text())["status"] == "failed"


def test_resume_leaves_what_is_finished_and_tries_what_failed(mixed, sample_slide, run, tmp_path, capsys):
    output, flags = tmp_path / "out", (f"--input={mixed}", f"--output={tmp_path / 'out'}", "--region=0,0,40,32")
    run(*flags)
    before = {path: path.stat().st_mtime_ns for path in output.iterdir() if path.suffix != ".json"}
    (mixed / "cut.svs").write_bytes(sample_slide.read_bytes())
    (output / "slide_x4.tif.report.json").unlink()  # killed after the slide and before its report
    capsys.readouterr()
    assert run(*flags, "--resume") == 0
    assert capsys.readouterr().out.count(": kept, it existed before") == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (output / "cut_x4.tif").exists()


def test_each_output_has_a_report_of_its_own_that_no_other_run_replaces(picture, sample_slide, run, tmp_path):
    region = "--region=0,0,40,32"
    assert run(f"--input={picture}", f"--output={tmp_path / 'one.png'}", region) == 0
    report = (tmp_path / "one.png.report.json").read_text()
    assert run(f"--input={sample_slide}", f"--output={tmp_path / 'one.tif'}", region) == 0
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nothing")
    assert run(f"--input={tmp_path / 'bad.png'}", f"--output={tmp_path / 'one.jpg'}") == 2
    assert json.loads((tmp_path / "one.tif.report.json").read_text())["source"] == str(sample_slide)
    assert json.loads((tmp_path / "one.jpg.report.json").read_text())["status"] == "failed"
    assert run(f"--input={picture}", f"--output={tmp_path / 'one.png'}", region, "--resume") == 0
    other = [region, "--resume", "--everywhere"]
    assert run(f"--input={picture}", f"--output={tmp_path / 'one.png'}", *other) == 2
    assert (tmp_path / "one.png.report.json").read_text() == report


def test_results_beside_their_slides_are_no_input_the_next_time(mixed, run):
    (mixed / "cut.svs").unlink()
    (mixed / "picture.png").unlink()
    (mixed / "plain.tif").unlink()
    for more in ((), ("--overwrite",)):
        assert run(f"--input={mixed}", f"--output={mixed}", "--region=0,0,40,32", *more) == 0
        assert sorted(path.name for path in mixed.iterdir()) == [
            "slide.tif", "slide_x4.tif", "slide_x4.tif.report.json"]


def test_comma_list_names_files_and_folders(mixed, picture, tmp_path):
    (mixed / "picture.png").unlink()
    pairs = plan_outputs(f"{picture}, {mixed}", tmp_path / "out", 2, EnlargeOptions(format="ome"))
    assert [target.name for _, target in pairs] == ["picture.png", "cut_x2.ome.tif", "plain.png", "slide_x2.ome.tif"]
    with pytest.raises(FileNotFoundError, match=r"`input` must name .*Received: input='/no/such\.png'"):
        plan_outputs(f"{picture},/no/such.png", tmp_path / "out", 2, EnlargeOptions())


@pytest.mark.parametrize("spec", [",", " , ", ",,"])
def test_list_of_nothing_is_refused(spec, run, tmp_path):
    with pytest.raises(ValueError, match="`input` must name a picture, a slide or a folder"):
        run(f"--input={spec}", f"--output={tmp_path / 'out'}")


def test_link_to_nothing_is_a_failure_and_stops_none(picture, run, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture.read_bytes())
    for name in ("b.png", "c.tif", "gone.svs", "e.vms"):
        (folder / name).symlink_to(tmp_path / "nowhere" / name)
    (folder / "again.png").symlink_to(folder / "again.png")
    os.mkfifo(folder / "pipe.png")  # no file, and who opened it would wait for ever
    assert run(f"--input={folder}", f"--output={tmp_path / 'out'}") == 1
    said = capsys.readouterr()
    assert "1 of 7 written" in said.out
    assert "gone.svs: is a link that leads nowhere" in said.err
    assert "pipe.png: is a pipe, socket or device" in said.err
    assert said.err.count("error: ") == 6


def test_jpegs_that_a_slide_consists_of_are_no_pictures(mixed, tmp_path):
    for name in ("part.jpg", "other.jpg"):
        (mixed / name).write_bytes(b"\xff\xd8\xff")
    (mixed / "case.vms").write_text("[Virtual Microscope Specimen]\nImageFile=part.jpg\r\nMapFile=map.jpg\n")
    names = [source.name for source, _ in plan_outputs(str(mixed), tmp_path / "out", 4, EnlargeOptions())]
    assert names == ["case.vms", "cut.svs", "other.jpg", "picture.png", "plain.tif", "slide.tif"]


def test_slide_is_told_by_suffix_and_a_tiff_by_levels_or_mpp(mixed):
    assert [name for name in ("cut.svs", "picture.png", "plain.tif", "slide.tif") if is_slide(mixed / name)] == [
        "cut.svs", "slide.tif"]


def test_place_that_cannot_be_read_makes_the_status_say_in_part(broken_slide, run, tmp_path, capsys):
    flags = (f"--input={broken_slide}", f"--output={tmp_path / 'a.tif'}", "--region=100,100,40,40")
    assert run(*flags) == 1
    assert "is white: x, y, width, height 128, 128, 12, 12 of level 0" in capsys.readouterr().out


@pytest.mark.parametrize("layout", [{}, {"tile": (64, 64)}])
@pytest.mark.parametrize("dtype", [np.float32, np.uint32])
def test_tiff_of_other_numbers_than_pixels_says_so(dtype, layout, histology, run, tmp_path, capsys):
    tifffile.imwrite(tmp_path / "a.tif", histology.astype(dtype), photometric="rgb", **layout)
    assert run(f"--input={tmp_path / 'a.tif'}", f"--output={tmp_path / 'large.png'}") == 2
    said = capsys.readouterr().err
    assert "must hold 8 or 16 bit pixels; convert it" in said
    assert "copy it again" not in said


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_picture_that_is_cut_off_fails_and_is_not_made_white(suffix, histology, run, tmp_path, capsys):
    Image.fromarray(histology).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:100_000])
    assert run(f"--input={tmp_path / 'cut.png'}", f"--output={tmp_path / 'a.'}{suffix}", "--everywhere") == 2
    assert "cut.png: cannot be read as a slide or image" in capsys.readouterr().err
    assert not (tmp_path / f"a.{suffix}").exists()


def test_slide_of_which_nothing_can_be_read_fails(broken_slide, run, tmp_path, capsys):
    flags = (f"--input={broken_slide}", f"--output={tmp_path / 'a.tif'}", "--region=130,130,40,40")
    assert run(*flags) == 2
    assert ("broken.tif: no part of the requested area can be read; the file may be damaged, copy it again (cannot be "
            "read") in capsys.readouterr().err


def test_interrupt_says_how_to_go_on(sample_slide, run, tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(enlarge, "enlarge_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(f"--input={sample_slide}", f"--output={tmp_path / 'a.tif'}")
    assert "run the same command with --resume to continue" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "message"), [
    ("--region=1,2,3", "`region` must be 4 numbers; write x,y,width,height"),
    ("--region=1,2,3,-4", "`region` must be x,y,width,height"),
    ("--quality=0", "`quality` must lie in 1 to 100"), ("--level=-1", "`level` must be 0 or more"),
    ("--tile=0", "`tile` must be 1 or more"), ("--mpp=inf", "`mpp` must be positive and finite"),
    ("--mpp=nan", "`mpp` must be positive and finite"), ("--memory=inf", "`memory` must be more than .* and finite"),
    ("--assume_mpp=inf", "`assume_mpp` must be positive and finite"),
])
def test_flag_out_of_range_is_told_before_the_model_is_loaded(flag, message, picture, run, tmp_path, monkeypatch):
    monkeypatch.setattr("sr_keras.model.engines.open_engine", None)
    with pytest.raises(ValueError, match=message):
        run(f"--input={picture}", f"--output={tmp_path / 'a.tif'}", flag)


def test_summary_fits_a_screen_and_says_what_was_done(sample_slide, run, tmp_path, capsys):
    assert run(f"--input={sample_slide}", f"--output={tmp_path / 'a.tif'}", "--region=0,0,64,48") == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) < 24
    assert max(len(line) for line in said if str(tmp_path) not in line) <= 120
    for word in ("sha256", "64 x 48 pixels of 0.5 microns", "256 x 192 pixels of 0.125 microns", "Mpixel/s", "GiB",
                 "computed twice", "unreadable nothing"):
        assert any(word in line for line in said), word


@pytest.mark.slow  # a conversion, once
def test_command_runs_as_written_and_a_mistake_is_one_line(model, picture, tmp_path):
    def type_command(*argv: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "sr_keras.super_resolve", *argv], cwd=ROOT, capture_output=True,
                              text=True, timeout=300, check=False, env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)})

    done = type_command(f"--model={model.parent}", f"--input={picture}", f"--output={tmp_path / 'large.png'}")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 written" in done.stdout
    assert done.stdout.startswith("engine: litert (opens fastest; rates not measured)\n")
    assert reports.read_report(tmp_path / "large.png")["description"]["model"]["engine"] == "litert"
    wrong = type_command(f"--model={model}", "--input=/no/such.png", f"--output={tmp_path / 'other.png'}")
    assert wrong.returncode == 2
    assert wrong.stderr == ("error: `input` must name existing pictures, slides or folders; check the spelling. "
                            "Received: input='/no/such.png'\n")


def test_index_of_many_spaces_is_read_in_a_moment(tmp_path):
    index = tmp_path / "case.vms"
    index.write_text("ImageFile=part.jpg\r\nMapFile =  map 1.jpg  \n=x" + " " * 200_000 + "x\nEmpty=\n")
    started = time.monotonic()
    first, second, _ = _parts(index)
    assert (first.name, second.name) == ("part.jpg", "map 1.jpg")
    assert time.monotonic() - started < 1
