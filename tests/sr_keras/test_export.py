# SPDX-License-Identifier: Apache-2.0
"""`sr-keras export` turns a run into a model with a card that is true and whose commands work."""
from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from pipelines.errors import UserError
from sr_keras.export import _read_nuclei, _read_scores
from sr_keras.formats.format import Tolerance
from sr_keras.formats.litert import FORMAT, read_facts
from sr_keras.model.loading import load_generator
from sr_keras.model.runtimes import ParityError
from sr_keras.networks import generator

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(randomised, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mine"
    folder.mkdir()
    randomised(generator(scale=4, blocks=1, filters=4)).save(folder / "generator.keras")
    (folder / "flags.txt").write_text("--blocks=1\n--train_data=breast_slides\n")
    (folder / "versions.json").write_text('{"tensorflow": "2.21.0", "commit": "abc123"}\n')
    (folder / "scores").mkdir()
    (folder / "scores" / "scores.md").write_text("| psnr |\n| --- |\n| 27.1 |\n")
    return folder


def test_run_is_exported_with_all_that_it_says_of_itself(run, export, tmp_path):
    assert export(f"--model={run}", "--name=breast", f"--output={tmp_path}", f"--scores={run / 'scores'}") == 0
    card = (tmp_path / "breast" / "1" / "README.md").read_text()
    for said in ("--blocks=1", "| 27.1 |", "commit abc123", "x4"):
        assert said in card, said
    assert "Licence of the data: unknown" in card
    assert load_generator(tmp_path / "breast").facts.flags == "--blocks=1\n"


def test_no_path_of_this_machine_is_in_an_export(run, export, tmp_path):
    scores = tmp_path / "scores"
    scores.mkdir()
    (scores / "standard.md").write_text(f"Model {run}, data {run}/pairs, LR standard: x4, 2 / 4 slides.\n")
    (scores / "standard.json").write_text('{"lr": {"real pairs": {"gain": {"psnr": 0.42, "ms_ssim": null}}}}')
    (scores / "nuclei.md").write_text(f"Model {run}, nuclei of 2 slides.\n")
    (scores / "nuclei.json").write_text('{"pairs": {"f1": 0.93}}')
    export(f"--model={run}", "--name=breast", f"--output={tmp_path / 'models'}", f"--scores={scores}",
           "--stain=H&E")
    version = tmp_path / "models" / "breast" / "1"
    text = "".join((version / name).read_text() for name in ("README.md", "facts.json", "parity.json"))
    assert "Model mine, data pairs, LR standard: x4, 2 / 4 slides." in text
    assert "Model mine, nuclei of 2 slides." in text
    assert str(tmp_path.parent) not in text
    assert "breast_slides" not in text
    facts = load_generator(version).facts
    assert (facts.scores, facts.filters) == ({"real pairs": {"psnr": 0.42}}, 4)
    assert facts.nuclei == {"pairs": {"f1": 0.93}}


def test_card_has_the_table_of_all_kinds_of_lr_before_that_of_one(run, export, tmp_path):
    scores = tmp_path / "scores"
    scores.mkdir()
    for name, table in (("scores", "one kind"), ("standard", "all kinds")):
        (scores / f"{name}.md").write_text(f"| {table} |\n", encoding="utf-8")
    export(f"--model={run}", "--name=breast", f"--output={tmp_path / 'models'}", f"--scores={scores}")
    card = (tmp_path / "models" / "breast" / "1" / "README.md").read_text()
    assert "## Scores\n\n| all kinds |\n\n| one kind |\n\n## " in card


def test_folder_with_the_scores_of_nuclei_alone_is_accepted(tmp_path):
    (tmp_path / "nuclei.md").write_text("| F1 |\n")
    (tmp_path / "nuclei.json").write_text('{"pairs": {"f1": 0.93}}')
    assert _read_scores(str(tmp_path)) == (None, None)
    assert _read_nuclei(str(tmp_path)) == ("| F1 |\n", {"pairs": {"f1": 0.93}})


def test_described_data_and_its_licence_reach_the_card(run, export, tmp_path):
    export(f"--model={run / 'generator.keras'}", "--name=breast", f"--output={tmp_path}", "--data=12 H&E slides",
           "--data_licence=CC0", f"--scores={run / 'scores' / 'scores.md'}")
    assert "12 H&E slides\n\nLicence of the data: CC0" in (tmp_path / "breast" / "1" / "README.md").read_text()


def test_what_it_is_made_for_reaches_the_facts_and_the_card(run, export, tmp_path):
    export(f"--model={run}", "--name=breast", f"--output={tmp_path}", "--lr_mpp=0.9,2.1", "--stain=H&E")
    facts = load_generator(tmp_path / "breast").facts
    assert (facts.lr_mpp, facts.stain, facts.versions["commit"]) == ((0.9, 2.1), "H&E", "abc123")
    assert "- Resolution: 0.9 to 2.1 microns per pixel\n- Stain: H&E\n" in (
        tmp_path / "breast" / "1" / "README.md").read_text()


def test_keras_file_on_its_own_is_exported_with_a_card_that_knows_little(run, export, tmp_path):
    alone = tmp_path / "alone.keras"
    alone.write_bytes((run / "generator.keras").read_bytes())
    export(f"--model={alone}", "--name=alone", f"--output={tmp_path / 'models'}")
    assert "Flags are unknown" in (tmp_path / "models" / "alone" / "1" / "README.md").read_text()


def test_python_of_the_card_runs_as_written(run, export, tmp_path):
    export(f"--model={run}", "--name=breast", f"--output={tmp_path / 'saved_models'}")
    card = (tmp_path / "saved_models" / "breast" / "1" / "README.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", card, flags=re.S)
    script = ("import sys, numpy\nsys.modules['sr_keras'] = None\nlr = numpy.zeros((1, 5, 7, 3), 'uint8')\n"
              f"{block.replace('VERSION', '1')}\nprint(sr.dtype.name, sr.shape)")
    done = subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True,
                          timeout=120, check=True)
    assert done.stdout == "uint8 (1, 20, 28, 3)\n"


def test_every_format_is_written_and_stands_in_the_card(run, export, tmp_path, capsys):
    export(f"--model={run}", "--name=breast", f"--output={tmp_path}", "--formats=saved_model,litert,onnx,tensorrt",
           "--precisions=float32,float16", "--data_licence=CC0")
    version = tmp_path / "breast" / "1"
    found = json.loads((version / "parity.json").read_text())
    assert [form["file"] for form in found["forms"]] == [
        "saved_model.pb", "litert/float32.tflite", "litert/float16.tflite", "onnx/model.onnx", "tensorrt/float16.onnx"]
    card, printed = (version / "README.md").read_text(), capsys.readouterr().out
    for form in found["forms"]:
        assert f"\n| {form['form']} | {form['gate']} | " in card
    assert card[card.index("| form |"):card.index("| ONNX |")] in printed
    assert "No TensorRT engine was built: `tensorrt` must be installed" in card
    assert printed.count("\ntrtexec --onnx=") == 2
    facts = read_facts((version / "litert" / "float16.tflite").read_bytes())
    assert facts == {"name": "breast", "version": "1", "scale": 4, "halo": facts["halo"], "code_licence": "Apache-2.0",
                     "data_licence": "CC0"}


def test_form_that_fails_its_gate_leaves_nothing(run, export, tmp_path, monkeypatch):
    monkeypatch.setitem(FORMAT.tolerances, "float16", Tolerance(0.0))
    with pytest.raises(ParityError, match="`LiteRT float16` must agree with Keras"):
        export(f"--model={run}", "--name=breast", f"--output={tmp_path}", "--formats=litert", "--precisions=float16")
    assert list((tmp_path / "breast").iterdir()) == []


def test_format_whose_package_is_missing_names_the_extra_and_nothing_is_written(run, export, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(UserError, match=r"`ai_edge_litert` must be installed; run pip install '\.\[litert\]'"):
        export(f"--model={run}", "--name=x", f"--output={tmp_path}", "--formats=litert")
    assert list(tmp_path.iterdir()) == []


def test_run_with_no_finished_stage_is_named_and_nothing_written(export, tmp_path):
    (tmp_path / "flags.txt").write_text("--blocks=1\n")
    with pytest.raises(FileNotFoundError, match=r"this run has no generator\.keras yet; let it finish"):
        export(f"--model={tmp_path}", "--name=x", f"--output={tmp_path / 'models'}")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(("flag", "says"), [
    ("--formats=saved_model,caffe", r"`formats` must name some of \('saved_model', 'litert', 'onnx', 'tensorrt'\); .*"
                                    r"Received: formats=\('saved_model', 'caffe'\)"),
    ("--precisions=int4", r"`precisions` must name some of \('float32', .*precisions=\('int4',\)"),
    ("--formats=", r"`formats` must name some of \('saved_model'"),
    ("--name=", "`name` must be given; add --name"),
    ("--name=../away", "`name` must be the plain name of a folder"),
    ("--name=.hidden", "`name` must be the plain name of a folder"),
    ("--name=$(reboot)", "`name` must be the plain name of a folder"),
    ("--name=a\nb", "`name` must be the plain name of a folder"),
    ("--name=a:b", "`name` must be the plain name of a folder"),
    ("--model=", "`model` must be given"),
    ("--scores=/no/such/table.md", "`scores` must be a Markdown table.*scores='/no/such/table.md'"),
    ("--scores=tests", r"`scores` must be a Markdown table, or a folder with standard\.md, scores\.md or nuclei\.md"),
    ("--lr_mpp=2.1,0.9", "`lr_mpp` must have its low end first"), ("--lr_mpp=1,2,3", "`lr_mpp` must be 2 numbers"),
    ("--max_pixels=65535", "`max_pixels` must be 65536 or more"),
])
def test_wrong_flag_is_refused(flag, says, run, export, tmp_path):
    with pytest.raises(ValueError, match=says):
        export(f"--model={run}", "--name=x", f"--output={tmp_path}", flag)
    assert list(tmp_path.iterdir()) == []


def test_missing_model_is_named_and_nothing_written(export, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`model` must exist.*'/no/such/run'"):
        export("--model=/no/such/run", "--name=x", f"--output={tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_versions_that_are_damaged_are_one_line_that_names_the_file(run, export, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "versions.json").write_text("{")
    with pytest.raises(ValueError, match=r"/run/versions\.json` must be a JSON file as it was written; remove it: "):
        export(f"--model={tmp_path / 'run'}", "--name=x", f"--output={tmp_path / 'models'}")
    assert not (tmp_path / "models").exists()


def test_lower_limit_of_pixels_is_that_of_the_graph_and_stands_beside_it(run, export, tmp_path):
    export(f"--model={run}", "--name=small", f"--output={tmp_path}", f"--max_pixels={256 * 256}")
    facts = json.loads((tmp_path / "small" / "1" / "facts.json").read_text())
    assert facts["max_pixels"] == 256 * 256
    signatures = (loaded := tf.saved_model.load(str(tmp_path / "small" / "1"))).signatures
    assert signatures["about"](side=tf.constant([1]))["max_pixels"].numpy() == [256 * 256]
    assert signatures["serving_default"](lr=tf.zeros([1, 256, 256, 3], tf.uint8))["sr"].shape == (1, 1024, 1024, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`lr` must have 1 to 65536 pixels"):
        signatures["serving_default"](lr=tf.zeros([1, 257, 256, 3], tf.uint8))
    del loaded


def test_saved_model_is_not_exported_again(run, export, tmp_path):
    export(f"--model={run}", "--name=x", f"--output={tmp_path}")
    with pytest.raises(ValueError, match="exported already"):
        export(f"--model={tmp_path / 'x'}", "--name=y", f"--output={tmp_path}")


def test_lambda_layer_is_one_line_on_the_command_line(tmp_path):
    image = keras.Input((None, None, 3))
    keras.Model(image, keras.layers.Lambda(lambda x: x * 2)(image)).save(tmp_path / "lambda.keras")
    done = subprocess.run([sys.executable, "-m", "sr_keras.export", f"--model={tmp_path / 'lambda.keras'}", "--name=x",
                           f"--output={tmp_path / 'models'}"], cwd=ROOT, capture_output=True, text=True, timeout=120,
                          check=False)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "It holds '__lambda__', which networks.generator does not make; code is never run" in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()
