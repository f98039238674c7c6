# SPDX-License-Identifier: Apache-2.0
"""Options check themselves, and say which one, the rule, the remedy and what they received."""
from __future__ import annotations

from math import inf, nan

import pytest
from absl import flags

from pipelines import console
from pipelines.config import (
    CorruptOptions,
    DegradeOptions,
    PatchOptions,
    define_degrade_flags,
    define_patch_flags,
    degradation,
    degrade_options,
    patch_options,
)
from pipelines.errors import require_folder

WRONG = [
    (DegradeOptions, {"scale": 3}, "scale"),
    (DegradeOptions, {"blur_sigma": -1.0}, "blur_sigma"),
    (DegradeOptions, {"blur_sigma": inf}, "blur_sigma"),
    (DegradeOptions, {"blur_sigma": nan}, "blur_sigma"),
    (DegradeOptions, {"blur_sigma": (3.0, 1.0)}, "blur_sigma"),
    (DegradeOptions, {"gain": (1.1, 0.9)}, "gain"),
    (DegradeOptions, {"jpeg_quality": (0, 90)}, "jpeg_quality"),
    (DegradeOptions, {"jpeg_quality": (50, 101)}, "jpeg_quality"),
    (DegradeOptions, {"jpeg_quality": (50.5, 60)}, "jpeg_quality"),
    (DegradeOptions, {"jpeg_passes": (0.5, 0.6, 0.0)}, "jpeg_passes"),
    (DegradeOptions, {"jpeg_subsamplings": ("422",)}, "jpeg_subsamplings"),
    (DegradeOptions, {"blurs": ()}, "blurs"),
    (DegradeOptions, {"resamplings": ("nearest",)}, "resamplings"),
    (DegradeOptions, {"anisotropy": (0.5, 1.0)}, "anisotropy"),
    (DegradeOptions, {"shot_noise": (0.1, 0.0)}, "shot_noise"),
    (CorruptOptions, {"fraction": 30}, "corrupt_fraction"),
    (CorruptOptions, {"kinds": ("fog",)}, "corrupt_kinds"),
    (CorruptOptions, {"kinds": ()}, "corrupt_kinds"),
    (CorruptOptions, {"side": "left"}, "corrupt_side"),
    (CorruptOptions, {"noise_strength": -0.1}, "noise_strength"),
    (CorruptOptions, {"noise_strength": inf}, "noise_strength"),
    (CorruptOptions, {"blur_strength": inf}, "blur_strength"),
    (CorruptOptions, {"contrast_strength": nan}, "contrast_strength"),
    (CorruptOptions, {"fraction": 0.1, "kinds": ("outlier",)}, "outlier_dir"),
    (CorruptOptions, {"outlier_strength": 1.5}, "outlier_strength"),
    (PatchOptions, {"patch_size": 0}, "patch_size"),
    (PatchOptions, {"stride": 0}, "stride"),
    (PatchOptions, {"mpp": 0.0}, "mpp"),
    (PatchOptions, {"mpp": inf}, "mpp"),
    (PatchOptions, {"assume_mpp": inf}, "assume_mpp"),
    (PatchOptions, {"level": -1}, "level"),
    (PatchOptions, {"mpp": 0.5, "level": 1}, "level"),
    (PatchOptions, {"sampling": "random"}, "max_patches"),
    (PatchOptions, {"sampling": "spiral"}, "sampling"),
    (PatchOptions, {"min_tissue": 1.5}, "min_tissue"),
    (PatchOptions, {"min_tissue": nan}, "min_tissue"),
    (PatchOptions, {"seed": -1}, "seed"),
    (PatchOptions, {"seed": 2**63}, "seed"),
]


def test_require_folder_takes_one_that_is_not_there_yet(tmp_path):
    assert require_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("options", "values", "named"), WRONG, ids=lambda value: str(value))
def test_options_refuse_what_cannot_be_and_name_it(options, values, named):
    with pytest.raises(ValueError, match=rf"^`{named}` must .*; .*\. Received: {named}=") as caught:
        options(**values)
    assert "\n" not in str(caught.value)


def test_preset_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"^`degradation` must be one of .*scanner.*Received: degradation='scaner'"):
        degradation("scaner")


def test_preset_takes_changes_and_checks_them():
    assert degradation("scanner", jpeg_quality=(80, 90)).jpeg_quality == (80, 90)
    with pytest.raises(ValueError, match=r"^`jpeg_quality` must have its low end first"):
        degradation("scanner", jpeg_quality=(90, 80))


def degrade(*arguments: str, preset: str = "scanner") -> DegradeOptions:
    values = flags.FlagValues()
    define_degrade_flags(values, preset)
    console.parse(["program", *arguments], values)
    return degrade_options(values)


def test_degradation_is_its_preset_until_a_flag_replaces_a_value():
    assert degrade() == degradation("scanner")
    assert degrade("--degradation=pyramid", "--scale=2") == degradation("pyramid", scale=2)
    assert degrade("--gain=0.9,1.1", "--blurs=disc").gain == (0.9, 1.1)
    assert degrade("--gain=1.1").gain == (1.1, 1.1)


def test_fixed_blur_of_the_textbook_is_still_the_textbook():
    for given in ("--blur_sigma=2", "--blur_sigma=2,2"):
        assert degrade(given, preset="textbook") == DegradeOptions(blur_sigma=2.0)
        assert degrade(given, preset="textbook").is_textbook


@pytest.mark.parametrize("argument", ["--gain=low,high", "--gain=1,2,3", "--jpeg_passes=0.5,0.5", "--gain=2,1"])
def test_wrong_range_names_its_flag(argument):
    name = argument[2:].partition("=")[0]
    with pytest.raises(ValueError, match=rf"^`{name}` must "):
        degrade(argument)


def test_registered_scans_are_pairs_of_scans():
    values = flags.FlagValues()
    define_patch_flags(values)
    console.parse(["program", "--pairs=a.json,b.json", "--patch_size=64"], values)
    assert patch_options(values, seed=3) == PatchOptions(64, seed=3, pairs="scans")
