# SPDX-License-Identifier: Apache-2.0
"""Flags become options; a method is a preset that single flags override."""
from __future__ import annotations

from pathlib import Path

import pytest
from absl import flags

from pipelines import console
from sr_keras.config import METHODS, data_options, define_train_flags, generator_options, objective, train_options

FLAGFILES = Path(__file__).parents[2] / "sr_keras" / "flagfiles"
TRAINING = sorted(path for path in FLAGFILES.glob("*.flags") if not path.stem.startswith("study"))


def parsed(*argv: str) -> flags.FlagValues:
    values = flags.FlagValues()
    define_train_flags(values)
    console.parse(["train", *argv], values)
    return values


@pytest.mark.parametrize("method", METHODS)
def test_method_is_its_preset_until_a_flag_says_otherwise(method):
    assert objective(parsed(f"--method={method}")) == METHODS[method]
    changed = objective(parsed(f"--method={method}", "--q=1.5", "--lambda_d=0"))
    assert (changed.q, changed.lambda_d) == (1.5, 0.0)
    assert changed.lambda_m == METHODS[method].lambda_m


def test_presets_are_the_methods_of_the_paper():
    sqe = METHODS["srgan_sqe"]
    assert (sqe.q, sqe.lambda_m, sqe.lambda_s, sqe.lambda_d) == (0.5, 0.2, 2.0, 0.016)
    assert (METHODS["srgan_e"].q, METHODS["srgan_e"].lambda_s) == (2.0, 0.0)
    assert (METHODS["srgan_qe"].q, METHODS["srgan_qe"].lambda_s) == (0.5, 0.0)
    assert METHODS["srgan"].lambda_v > 0


@pytest.mark.parametrize("flag", ["--q=0", "--q=2.1", "--lambda_m=-1", "--lambda_s=-0.1", "--lambda_d=-1",
                                  "--epsilon=0", "--epsilon=inf", "--lambda_m=inf", "--lambda_c=nan"])
def test_objective_refuses_what_the_paper_does_not_allow(flag):
    with pytest.raises(ValueError, match=flag[2:].partition("=")[0]):
        objective(parsed(flag))


@pytest.mark.parametrize("flag", ["--batch_size=0", "--crop_size=-4", "--ema_decay=1", "--warmup_epochs=-1",
                                  "--warmup_learning_rate=0", "--keep_checkpoints=0", "--steps_per_epoch=0",
                                  "--adversarial_learning_rate=inf", "--discriminator_learning_rate=inf", "--seed=-1",
                                  "--seed=99999999999999999999"])
def test_train_options_refuse_nonsense_by_name(flag):
    with pytest.raises(ValueError, match=flag[2:].partition("=")[0]):
        train_options(parsed(flag))


def test_a_region_is_four_whole_numbers():
    assert data_options(parsed("--val_region=1,2,3,4")).val_region == (1, 2, 3, 4)
    with pytest.raises(ValueError, match="val_region"):
        data_options(parsed("--val_region=1,2,3"))


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_every_flagfile_of_training_parses_into_options_from_any_folder(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    values = parsed(f"--flagfile={path}")
    for options in (train_options, data_options, objective, generator_options):
        options(values)


def test_demo_sets_every_flag_that_quick_flags_do():
    def names(file):
        return {line.partition("=")[0] for line in (FLAGFILES / file).read_text().splitlines() if line.startswith("--")}

    assert names("quick.flags") <= names("demo.flags")


@pytest.mark.parametrize("method", list(METHODS))
def test_paper_flags_are_the_papers_for_each_method_one_flag_apart(method):
    values = parsed(f"--flagfile={FLAGFILES / 'paper.flags'}", f"--method={method}")
    assert objective(values) == METHODS[method]
    size = generator_options(values)
    assert (size.scale, size.blocks, size.filters, size.global_skip) == (4, 16, 64, False)
    assert values.patch_size == 256
