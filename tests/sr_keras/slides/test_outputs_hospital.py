# SPDX-License-Identifier: Apache-2.0
"""DICOM and OME-Zarr through super-resolution: folders in, folders out."""
from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.errors import SlideError, UserError
from pipelines.pyramid import PyramidOptions, PyramidWriter
from pipelines.slide import open_slide
from pipelines.sources import find_sources
from sr_keras.slides import reports
from sr_keras.slides.enlarge import EnlargeOptions, Job, enlarge_file, try_job
from sr_keras.slides.outputs import check_output, plan_outputs

OPTIONS = EnlargeOptions(region=(0, 0, 100, 64))


def needs(kind):
    pytest.importorskip({"dicom": "pydicom", "zarr": "zarr"}[kind], reason=f"pip install '.[{kind}]'")


@pytest.fixture
def study(tmp_path, histology) -> Path:
    """A folder with a DICOM slide and an OME-Zarr, both lossless."""
    for name, kind in (("one", "dicom"), ("two.ome.zarr", "zarr")):
        needs(kind)
        options = PyramidOptions(512, None, kind)
        with PyramidWriter(tmp_path / "in" / name, 512, 512, 0.5, options, description=name) as pyramid:
            pyramid.put(0, 0, histology)
            pyramid.finish()
    return tmp_path / "in"


@pytest.mark.parametrize("kind", ["dicom", "zarr"])
@pytest.mark.parametrize("name", ["one", "two.ome.zarr"])
def test_output_is_that_of_a_tiff_and_kept_by_its_report_or_its_description(loaded, study, tmp_path, kind, name):
    lossless = EnlargeOptions(lossless=True, region=OPTIONS.region)
    output, tiff = tmp_path / f"a.{kind}", tmp_path / "a.tif"
    report = enlarge_file(loaded, study / name, output, lossless)
    enlarge_file(loaded, study / name, tiff, lossless)
    assert report["bytes"] == sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    with open_slide(output) as one, open_slide(tiff) as other:
        assert one.mpp == pytest.approx(0.125)
        assert one.level_dimensions == other.level_dimensions
        np.testing.assert_array_equal(one.read_level(0, 0, 0, 400, 256), other.read_level(0, 0, 0, 400, 256))
    resumed = EnlargeOptions(lossless=True, region=OPTIONS.region, resume=True)
    assert enlarge_file(loaded, study / name, output, resumed)["kept"]
    reports.report_path(output).unlink()
    assert enlarge_file(loaded, study / name, output, resumed)["kept"]
    with pytest.raises(ValueError, match="`output` must come from the same source"):
        enlarge_file(loaded, study / name, output, EnlargeOptions(lossless=True, resume=True))


def test_trust_map_is_measured_on_a_finished_folder(loaded, study, tmp_path):
    report = enlarge_file(loaded, study / "one", tmp_path / "a.dicom", EnlargeOptions(),
                          trust_map=tmp_path / "trust.tif")
    assert report["trust"]["map"] == str(tmp_path / "trust.tif")


def test_folders_of_slides_are_inputs_by_name(study, tmp_path):
    pairs = plan_outputs(str(study), tmp_path / "out", 4, EnlargeOptions(format="dicom"))
    assert [(source.name, target.name) for source, target in pairs] == [
        ("one", "one_x4.dicom"), ("two.ome.zarr", "two_x4.dicom")]
    one = plan_outputs(str(study / "one"), tmp_path / "a.tif", 4, EnlargeOptions())
    assert one == [(study / "one", tmp_path / "a.tif")]
    assert plan_outputs(str(study / "one" / "level0.dcm"), tmp_path / "new", 4, EnlargeOptions(format="zarr")) == [
        (study / "one", tmp_path / "new" / "one_x4.ome.zarr")]
    listed = plan_outputs(f"{study / 'one'},{study / 'two.ome.zarr'}", tmp_path / "out", 4, EnlargeOptions())
    assert [target for _, target in listed] == [tmp_path / "out" / "one_x4.tif", tmp_path / "out" / "two_x4.tif"]


def test_file_of_a_series_names_its_slide_and_a_folder_all_that_is_in_it(study, histology, tmp_path, monkeypatch):
    for name in ("inner/deep.png", "beside.png"):
        (study / "one" / name).parent.mkdir(exist_ok=True)
        Image.fromarray(histology[:64, :64]).save(study / "one" / name)
    (study / "one" / "copy.dcm").write_bytes((study / "one" / "level0.dcm").read_bytes())
    files = f"{study / 'one' / 'level0.dcm'},{study / 'one' / 'copy.dcm'}"
    assert plan_outputs(files, tmp_path / "out", 4, EnlargeOptions()) == [
        (study / "one", tmp_path / "out" / "one_x4.tif")]
    monkeypatch.chdir(study / "one")
    found = plan_outputs(".", tmp_path / "out", 4, EnlargeOptions())
    assert [target.relative_to(tmp_path / "out").as_posix() for _, target in found] == [
        "one_x4.tif", "beside.png", "inner/deep.png"]


def test_outputs_beside_their_slides_are_no_input_the_next_time(loaded, study):
    (source, target), _ = plan_outputs(str(study), study, 4, EnlargeOptions(format="dicom"))
    enlarge_file(loaded, source, target, OPTIONS)
    again = plan_outputs(str(study), study, 4, EnlargeOptions(format="dicom", overwrite=True))
    assert [path.name for path, _ in again] == ["one", "two.ome.zarr"]


@pytest.mark.parametrize(("output", "options", "words"), [
    ("a.tif", {"format": "dicom"}, "`format` must be left out for a .tif"),
    ("a.dicom", {"format": "zarr"}, "`format` must be left out for a .dicom"),
    ("a.zarr", {"quality": 80}, "`quality` must be left out for Zarr"),
    ("out", {"format": "zarr", "quality": 80}, "`quality` must be left out for Zarr"),
    ("a.tif", {"keep_patient": True}, "`keep_patient` must be left out unless DICOM is written")])
def test_options_that_do_not_fit_the_output_are_refused(tmp_path, output, options, words):
    with pytest.raises(ValueError, match=words):
        check_output(tmp_path / output, EnlargeOptions(**options))


@pytest.mark.parametrize(("output", "package"), [("a.dicom", "pydicom"), ("a.zarr", "zarr")])
def test_missing_extra_is_named_before_the_model_is_loaded(tmp_path, output, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"pip install '\.\[{output[2:]}\]'"):
        check_output(tmp_path / output, EnlargeOptions())


def test_patient_is_in_the_output_only_if_it_is_to_be_kept(loaded, study, tmp_path):
    import pydicom

    image = pydicom.dcmread(study / "one" / "level0.dcm")
    image.SpecificCharacterSet, image.PatientName, image.PatientID = "ISO_IR 192", "Müller^Änne", "P7-0815"
    image.save_as(study / "one" / "level0.dcm")
    for keep in (False, True):
        output = tmp_path / f"{keep}.dicom"
        options = replace(OPTIONS, keep_patient=keep)
        enlarge_file(loaded, study / "one", output, options)
        assert ("Müller".encode() in (output / "level0.dcm").read_bytes()) == keep
        assert (b"P7-0815" in (output / "level0.dcm").read_bytes()) == keep
        made = pydicom.dcmread(output / "level0.dcm")
        assert made.ImageType[:2] == ["DERIVED", "PRIMARY"]
        assert made.DerivationDescription.startswith("super-resolution by the model small, sr_keras ")
        assert [float(mpp) for mpp in made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing] == (
            pytest.approx([0.000125, 0.000125]))  # millimetres
        assert ("keep_patient" in options.of_pixels()) == keep  # so that outputs without it stay as they were recorded
    outcome = try_job(loaded, Job(study / "two.ome.zarr", tmp_path / "b.dicom"), replace(OPTIONS, keep_patient=True))
    assert "`keep_patient` must be left out for a source that is not DICOM" in str(outcome)


def test_damaged_slide_is_an_error_that_names_it(loaded, study, tmp_path):
    (study / "two.ome.zarr" / ".zattrs").write_text("{")
    dicom = study / "one" / "level0.dcm"
    dicom.write_bytes(dicom.read_bytes()[:600])
    for source in (study / "one", study / "two.ome.zarr"):
        outcome = try_job(loaded, Job(source, tmp_path / "a.tif"), OPTIONS)
        assert isinstance(outcome, SlideError)
        assert str(source) in str(outcome)


@pytest.mark.parametrize("name", ["one", "two.ome.zarr"])
def test_damaged_tile_becomes_a_white_place_that_is_reported(loaded, histology, tmp_path, name):
    kind = "zarr" if "zarr" in name else "dicom"
    needs(kind)
    with PyramidWriter(tmp_path / name, 512, 512, 0.5, PyramidOptions(256, None, kind), description="x") as pyramid:
        for row, column in pyramid.missing():
            pyramid.put(row, column, histology[256 * row:256 * row + 256, 256 * column:256 * column + 256])
        pyramid.finish()
    broken = tmp_path / name / ("0/0/1/1" if kind == "zarr" else "level0.dcm")
    broken.write_bytes(broken.read_bytes()[:100] if kind == "zarr" else broken.read_bytes()[:-5000])
    report = enlarge_file(loaded, tmp_path / name, tmp_path / "a.png", EnlargeOptions(everywhere=True))
    assert report["bad"]["l0_rectangles"] == [[256, 256, 256, 256]]
    with open_slide(tmp_path / "a.png") as slide:
        assert (slide.read_region(0, 0, 0, 2048, 2048)[1024:, 1024:].mean((0, 1)) > 200).all()


def test_linked_slides_are_found_once_and_what_is_no_file_is_left_out(study, tmp_path):
    (study / "two.ome.zarr" / "inner.png").write_bytes(b"")
    os.mkfifo(study / "one" / "pipe")
    (study / "again.zarr").symlink_to(study / "two.ome.zarr")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "series").symlink_to(study / "one")
    for folder, names in ((study, ["one", "two.ome.zarr"]), (tmp_path / "linked", ["series"])):
        pairs = plan_outputs(str(folder), tmp_path / "out", 4, EnlargeOptions())
        assert [source.name for source, _ in pairs] == names
        assert [source.paths[0].name for source in find_sources(folder)] == names
