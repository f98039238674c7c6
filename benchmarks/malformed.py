# SPDX-License-Identifier: Apache-2.0
"""Run the programs on malformed inputs, and count tracebacks, hangs, crashes and outputs that may be wrong.

    python -m benchmarks.malformed --inputs=FOLDER
    python -m benchmarks.malformed --inputs=FOLDER --programs=extract,preview --logs=logs

FOLDER holds a folder for each input. Each program is given each of these folders as its data. One process runs many of
them, since importing TensorFlow and loading a model take seconds; it is killed and replaced when it takes longer than
`--limit`.

A program that ends with exit status 0 or 1 has written something. What it said about that is listed, since only a
reader can tell a correct skip, or a picture that is right in spite of its name, from a wrong output. Damage that no
decoder notices, in the data of JPEG 2000 or the quantisation table of a JPEG, gives wrong pixels: docs/promises.md.

Exit status: 0 if there was no traceback, hang or crash, otherwise 1.
"""
from __future__ import annotations

import functools
import multiprocessing
import os
import runpy
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from absl import flags
from PIL import Image

from pipelines.console import import_tensorflow, run
from pipelines.errors import require
from pipelines.sample import sample_picture

FLAGS = flags.FlagValues()
flags.DEFINE_string("inputs", None, "Folder with a folder for each input.", flag_values=FLAGS)
flags.DEFINE_list("programs", [], "Some of extract, super_resolve, evaluate, train, preview; all if left out.",
                  flag_values=FLAGS)
flags.DEFINE_float("limit", 60.0, "Seconds after which a program hangs; the first one imports TensorFlow.",
                   flag_values=FLAGS)
flags.DEFINE_string("logs", None, "Folder for what each program printed; by default it is not kept.", flag_values=FLAGS)
flags.DEFINE_string("model", "saved_models/srgan_sqe_x4_light", "Model for super_resolve and evaluate.",
                    flag_values=FLAGS)

SIDE = 168  # of a patch; the smallest that MS-SSIM takes, by 8
PATCHES = [f"--patch_size={SIDE}", "--min_tissue=0", "--max_patches=2"]
TRACEBACK, HANG, CRASH = BAD = ("traceback", "hang", "crash")
REMARK = 160  # characters
Command = tuple[str, list[str]]  # module and arguments


@dataclass(frozen=True)
class Outcome:
    """How a program ended on an input: "exit N" or one of BAD, with what it printed and the seconds it took."""

    end: str
    printed: str
    seconds: float


def main() -> int:
    """Run everything, print the table and the remarks, and return the exit status."""
    require(bool(FLAGS.inputs) and Path(FLAGS.inputs).is_dir(), "inputs", "be a folder", "name the folder of folders",
            FLAGS.inputs)
    known = commands(Path(), Path(), Path(), FLAGS.model)
    names = FLAGS.programs or list(known)
    require(set(names) <= set(known), "programs", f"be some of {', '.join(known)}", "check the spelling", names)
    cases = sorted(path for path in Path(FLAGS.inputs).absolute().iterdir() if path.is_dir())
    require(bool(cases), "inputs", "hold a folder for each input", "write them there", FLAGS.inputs)
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory(prefix="malformed") as folder, Runner(FLAGS.limit) as runner:
        logs = Path(FLAGS.logs or folder) / "logs"
        good = Path(folder) / "good.png"
        Image.fromarray(sample_picture()).save(good)
        for name in names:
            counts[name] = Counter()
            for case in cases:
                command = commands(case, Path(folder) / name / case.name, good, FLAGS.model)[name]
                outcome = runner.run(command, logs / name / f"{case.name}.txt")
                counts[name][outcome.end] += 1
                print(f"{name:14}{case.name:24}{outcome.end:11}{outcome.seconds:6.1f} s  {remark(outcome)}", flush=True)
    print(f"\n{table(counts)}")
    return 1 if any(count[end] for count in counts.values() for end in BAD) else 0


def commands(case: Path, output: Path, good: Path, model: str) -> dict[str, Command]:
    """Return each program with the arguments that make it read the folder `case`; `good` is a sound picture."""
    network = ["--blocks=1", "--filters=4", "--crop_size=32", "--batch_size=1", "--val_patches=1", "--nojit_compile",
               "--lambda_m=0", "--autoencoder_epochs=0", "--warmup_epochs=1", "--adversarial_epochs=0",
               "--steps_per_epoch=1"]
    return {
        "extract": ("pipelines.extract", [f"--data={case}", f"--output={output}", *PATCHES, "--workers=1"]),
        "super_resolve": ("sr_keras.super_resolve", [
            f"--model={model}", f"--input={case}", f"--output={output / 'x4'}", "--engine=tensorflow",
            "--region=0,0,192,192"]),
        "evaluate": ("sr_keras.evaluate", [f"--model={model}", f"--data={case}", f"--output={output}", "--limit=1",
                                           *PATCHES]),
        "train": ("sr_keras.train", [f"--train_data={case}", f"--val_data={good}", f"--run={output}",
                                     f"--eval_patch_size={SIDE}", *PATCHES, *network, "--workers=1"]),
        "preview": ("pipelines.preview", [f"--data={case}", f"--output={output}.png", *PATCHES])}


class Runner:
    """A process that runs commands one after the other, replaced when it hangs or dies."""

    def __init__(self, limit_s: float) -> None:
        """Start nothing yet."""
        self._limit_s = limit_s
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def run(self, command: Command, log: Path) -> Outcome:
        """Run a command with its output in a file, and return how it ended."""
        log.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        pipe = self._started()
        pipe.send((command, log))
        end = HANG
        try:
            if pipe.poll(self._limit_s):
                end = pipe.recv()
        except EOFError:
            end = CRASH
        if end in (HANG, CRASH):
            self._stop()
        printed = log.read_text(encoding="utf-8", errors="backslashreplace")
        return Outcome(TRACEBACK if "Traceback (most recent call last)" in printed else end, printed,
                       time.monotonic() - began)

    def _started(self) -> Connection:
        if self._pipe is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs,))
            self._process.start()
            theirs.close()
        return self._pipe

    def _stop(self) -> None:
        if self._process and self._pipe:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = self._pipe = None


def _serve(pipe: Connection) -> None:
    """Run each command that comes, and send how it ended."""
    while True:
        (module, arguments), log = pipe.recv()
        kept = os.dup(1), os.dup(2)
        with open(log, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        try:
            end = _run(module, arguments)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, handle in zip((1, 2), kept, strict=True):
                os.dup2(handle, number)
                os.close(handle)
        pipe.send(end)


def _run(module: str, arguments: list[str]) -> str:
    sys.argv = [module, *arguments]
    try:
        if module in ("sr_keras.super_resolve", "sr_keras.evaluate"):
            _keep_models()
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return f"exit {ended.code or 0}"
    except BaseException:
        traceback.print_exc()
        return TRACEBACK
    return "exit 0"


@functools.cache
def _keep_models() -> None:
    """Load a model once, since that takes longer than most programs do."""
    import_tensorflow()
    from sr_keras.model import engines, loading

    engines.open_engine = functools.cache(engines.open_engine)
    loading.load_generator = functools.cache(loading.load_generator)


def remark(outcome: Outcome) -> str:
    """Return the line that says most: what was skipped or warned of, an error, or the last one."""
    lines = [line.strip() for line in outcome.printed.replace("\r", "\n").splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("error:", "skipped", "warning:"))] or lines[-1:]
    return " | ".join(telling)[:REMARK]


def table(counts: dict[str, Counter[str]]) -> str:
    """Return the numbers of each end, a line for each program."""
    ends = [*sorted({end for count in counts.values() for end in count} - set(BAD)), *BAD]
    lines: list[list[object]] = [["program", *ends]]
    lines += [[name, *(count[end] for end in ends)] for name, count in counts.items()]
    return "\n".join("".join(f"{cell!s:>12}" if place else f"{cell!s:14}" for place, cell in enumerate(line))
                     for line in lines)


if __name__ == "__main__":
    sys.exit(run(main, FLAGS, __doc__))
