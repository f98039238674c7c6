"""The demo types commands that exist, and says honestly whether the model beats bicubic."""
from __future__ import annotations

import pytest
from absl import flags

from pipelines import console
from sr_keras import demo
from sr_keras.flags import data_options, define_train_flags, train_options

HEADER = "example_id,slide_id,method,psnr,ms_ssim,rrmse,qilv"
BICUBIC = "a,s,bicubic,26.0,0.90,0.070,0.20"


@pytest.mark.parametrize("data", [None, "my_slides"])
def test_training_command_parses_into_options(data, monkeypatch):
    monkeypatch.chdir(demo.FLAGFILES.parents[1])
    values = flags.FlagValues()
    define_train_flags(values)
    console.parse(["train", *demo._training(data), "--run=runs/x", "--resume"], values)
    assert data_options(values).train_data == (data or "sample",)
    assert all(stage.epochs for stage in train_options(values).stages)
    assert (data_options(values).test_region is None) == (data is not None)


@pytest.mark.parametrize(("sr", "says"), [
    ("27.0,0.95,0.060,0.80", "beats bicubic on PSNR, MS-SSIM, RRMSE and QILV"),
    ("27.0,0.95,0.080,0.10", "but not on rrmse, qilv"),
    ("27.0,,0.060,0.80", "but not on ms_ssim"),
])
def test_last_screen_says_where_the_model_does_not_beat_bicubic(sr, says, tmp_path):
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "scores.csv").write_text("\n".join([HEADER, BICUBIC, f"a,s,sr,{sr}"]) + "\n")
    shown = demo.last_screen(tmp_path, tmp_path / "model", tmp_path / "demo.png", own=False)
    assert says in shown
    assert "make demo DATA=" in shown
