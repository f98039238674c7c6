"""TensorFlow comes in without a word, and is heard when it fails."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          cwd=Path(__file__).parents[2], env=environment or None)


def test_import_says_nothing_and_leaves_stderr_open():
    ran = python("import pipelines, sys, keras, tensorflow; print('ours', file=sys.stderr)")
    assert ran.returncode == 0
    assert ran.stderr == "ours\n"
    assert ran.stdout == ""


def test_importing_pipelines_does_not_import_tensorflow():
    assert python("import pipelines, sr_keras, sys; print('tensorflow' in sys.modules)").stdout == "False\n"


def test_import_that_fails_shows_what_was_held_back(tmp_path):
    broken = "import os\nos.write(2, b'from the depth\\n')\nraise ImportError('broken')\n"
    (tmp_path / "tensorflow.py").write_text(broken)
    ran = python(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import pipelines; import tensorflow")
    assert ran.returncode == 1
    assert "from the depth" in ran.stderr
    assert "ImportError: broken" in ran.stderr
