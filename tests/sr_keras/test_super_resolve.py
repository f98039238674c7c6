"""Pictures of any size and kind are super-resolved without seams, and a bad one does not stop the others."""
from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipelines import console
from sr_keras import super_resolve as command
from sr_keras.models import LoadedGenerator, load_generator
from sr_keras.networks import generator
from sr_keras.super_resolve import plan, super_resolve_file, super_resolve_image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(randomised, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "generator.keras"
    randomised(generator(scale=4, blocks=2, filters=6)).save(path)
    return path


@pytest.fixture(scope="module")
def loaded(model) -> LoadedGenerator:
    return load_generator(model)


@pytest.fixture
def run(model):
    def main(*argv: object) -> int:
        console.parse(["super_resolve", f"--model={model}", *map(str, argv)], command.FLAGS)
        return command.main()

    yield main
    command.FLAGS.unparse_flags()


@pytest.fixture
def picture(histology, tmp_path) -> Path:
    Image.fromarray(histology[:40, :56]).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def difference(one: np.ndarray, two: np.ndarray) -> int:
    assert one.shape == two.shape
    return int(np.abs(one.astype(int) - two).max())


def test_tiled_equals_whole_within_one_step(loaded, histology):
    lr = histology[:171, 200:401]
    whole = loaded(lr[np.newaxis])[0]
    assert whole.std() > 20
    for tile in (2 * loaded.halo + 21, 64, 171, None):
        assert difference(super_resolve_image(loaded, lr, tile), whole) <= 1, tile


def test_comparison_of_tiled_and_whole_would_see_a_seam(loaded, histology):
    lr = histology[:100, :100]
    blind = LoadedGenerator(loaded.path, loaded.scale, halo=1, facts={}, run=loaded.run)
    assert difference(super_resolve_image(blind, lr, 64), loaded(lr[np.newaxis])[0]) > 10


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
    super_resolve_file(loaded, tmp_path / name, tmp_path / "large.png")
    assert difference(pixels(tmp_path / "large.png"), loaded(rgb[np.newaxis])[0]) <= 1


def test_format_follows_the_suffix(loaded, picture, run, tmp_path):
    for name in ("large.png", "large.TIF", "large.jpg"):
        assert run(f"--input={picture}", f"--output={tmp_path / name}") == 0
    expected = loaded(pixels(picture)[np.newaxis])[0]
    assert difference(tifffile.imread(tmp_path / "large.TIF"), pixels(tmp_path / "large.png")) == 0
    assert difference(pixels(tmp_path / "large.png"), expected) <= 1
    with Image.open(tmp_path / "large.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (224, 160))


def test_slide_is_super_resolved_at_its_highest_resolution(loaded, sample_slide, tmp_path):
    super_resolve_file(loaded, sample_slide, tmp_path / "large.png")
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
        assert sorted(p.relative_to(output).as_posix() for p in output.rglob("*.*")) == ["a.png", "case/z.png"]
    assert pixels(output / "case" / "z.png").shape == (160, 224, 3)


def test_status_says_that_nothing_was_done(run, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nothing")
    assert run(f"--input={tmp_path / 'bad.png'}", f"--output={tmp_path / 'large.png'}") == 2
    assert not (tmp_path / "large.png").exists()


def test_output_that_exists_is_kept_unless_told(picture, run, tmp_path):
    (tmp_path / "large.png").write_text("precious")
    with pytest.raises(ValueError, match="`output` must be new; name another, or add --overwrite"):
        run(f"--input={picture}", f"--output={tmp_path / 'large.png'}")
    assert (tmp_path / "large.png").read_text() == "precious"
    assert run(f"--input={picture}", f"--output={tmp_path / 'large.png'}", "--overwrite") == 0
    assert pixels(tmp_path / "large.png").shape == (160, 224, 3)


def test_input_is_never_replaced(picture, tmp_path):
    (tmp_path / "link.png").symlink_to(picture)
    for output in (picture, tmp_path / "link.png", tmp_path):
        with pytest.raises(ValueError, match="`output` must be another file than the input"):
            plan(picture, output, overwrite=True)
    with pytest.raises(ValueError, match="`output` must be another file than the input"):
        plan(tmp_path, tmp_path, overwrite=True)


def test_two_pictures_for_one_output_are_refused(picture, tmp_path):
    picture.with_suffix(".bmp").write_bytes(picture.read_bytes())
    with pytest.raises(ValueError, match=r"give .*picture.png one picture"):
        plan(tmp_path, tmp_path / "out")


def test_picture_goes_into_a_folder_under_its_own_name(picture, tmp_path):
    assert plan(picture, tmp_path / "new") == [(picture, tmp_path / "new" / "picture.png")]


@pytest.mark.parametrize("output", ["large.webp", "large.svs"])
def test_suffix_that_is_not_written_is_refused(output, picture, tmp_path):
    with pytest.raises(ValueError, match=r"`output` must end in one of \.png"):
        plan(picture, tmp_path / output)


def test_folder_into_a_picture_and_folder_without_pictures_are_refused(picture, tmp_path):
    with pytest.raises(ValueError, match="`output` must be a folder"):
        plan(tmp_path, tmp_path / "large.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="`input` must have pictures in it"):
        plan(tmp_path / "empty", tmp_path / "out")


@pytest.mark.parametrize("missing", ["model", "input", "output"])
def test_missing_flag_is_named(missing, picture, run, tmp_path):
    given = {"input": picture, "output": tmp_path / "large.png", missing: ""}
    with pytest.raises(ValueError, match=f"`{missing}` must be given; add --{missing}=PATH"):
        run(*(f"--{name}={value}" for name, value in given.items()))


def test_picture_too_large_for_memory_is_refused_before_it_is_read(loaded, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "available_memory", lambda: 100_000)
    with pytest.raises(ValueError, match=r"picture\.png: 56x40 pixels take .* GiB of memory"):
        super_resolve_file(loaded, picture, tmp_path / "large.png")


def test_available_memory_is_that_of_a_computer():
    assert 2**26 < command.available_memory() < 2**46


def test_picture_too_large_for_jpeg_is_refused_before_it_is_computed(loaded, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "JPEG_LONGEST_SIDE", 200)
    with pytest.raises(ValueError, match="224x160 pixels are more than JPEG holds; write PNG or TIFF"):
        super_resolve_file(loaded, picture, tmp_path / "large.jpg")


def test_tile_that_is_all_overlap_is_refused(picture, run, tmp_path, capsys):
    assert run(f"--input={picture}", f"--output={tmp_path / 'large.png'}", "--tile=8") == 2
    assert "`tile` must be more than twice the halo" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_full_disk_keeps_what_was_there_and_leaves_no_half_picture(suffix, loaded, picture, tmp_path):
    target = tmp_path / "out" / f"large{suffix}"
    target.parent.mkdir()
    target.write_text("precious")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # what a full disk is to who writes
    try:
        with pytest.raises(OSError):
            super_resolve_file(loaded, picture, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.read_text() for path in target.parent.iterdir()] == ["precious"]


def test_command_runs_as_written_and_a_mistake_is_one_line(model, picture, tmp_path):
    def type_command(*argv: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "sr_keras.super_resolve", *argv], cwd=ROOT, capture_output=True,
                              text=True, timeout=120, check=False)

    done = type_command(f"--model={model.parent}", f"--input={picture}", f"--output={tmp_path / 'large.png'}")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 written" in done.stdout
    wrong = type_command(f"--model={model}", "--input=/no/such.png", f"--output={tmp_path / 'other.png'}")
    assert wrong.returncode == 2
    assert wrong.stderr == "error: no such picture or folder: /no/such.png\n"
