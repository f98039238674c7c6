# SPDX-License-Identifier: Apache-2.0
"""Kill the long programs at random moments, and watch the memory of long runs.

    python -m benchmarks.soak
    python -m benchmarks.soak --kills=7 --slides=12 --epochs=30

Each program runs once undisturbed. Then it is killed by SIGKILL at random moments and started again until it ends, and
its results are compared: shards, slides and trust maps byte by byte, models by every weight, exports by every weight
and by the bytes of the LiteRT file, a study by its table without the times. Memory and open files are measured while
many slides are extracted and super-resolved and a network is trained for many epochs; the median of the last quarter
must not exceed that of the third quarter by more than a twentieth. The first half may be the start of the programs.

Exit status: 0 if every result is the same and nothing grows, otherwise 1.
"""
from __future__ import annotations

import csv
import hashlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import h5py
from absl import flags
from PIL import Image

from pipelines.console import run
from pipelines.errors import UserError, require
from pipelines.sample import cached_sample_slide
from pipelines.slide import open_slide

FLAGS = flags.FlagValues()
flags.DEFINE_integer("kills", 50, "How many times to kill.", flag_values=FLAGS)
flags.DEFINE_integer("slides", 30, "Slides to extract and to super-resolve while memory is measured.",
                     flag_values=FLAGS)
flags.DEFINE_integer("epochs", 60, "Epochs to train while memory is measured.", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of the moments.", flag_values=FLAGS)

GROWTH = 1.05
PATCHES = ["--patch_size=64", "--stride=64", "--eval_patch_size=64", "--min_tissue=0"]
NETWORK = ["--blocks=1", "--filters=4", "--crop_size=32", "--batch_size=2", "--val_patches=2", "--deterministic",
           "--nojit_compile"]
REGIONS = ["--train_region=0,0,512,256", "--val_region=0,256,128,128"]

Results = dict[str, str]


@dataclass(frozen=True)
class Job:
    """A program that writes into a folder, and what to compare there.

    The moment of a kill is drawn from the time between the first file that matches `since` and the end.
    """

    name: str
    command: Callable[[Path], list[str]]
    results: Callable[[Path], Results]
    resume: tuple[str, ...] = ()
    since: str = "."


def main() -> int:
    """Run all jobs, print what happened, and return the exit status."""
    require(FLAGS.kills >= 0 and FLAGS.slides > 0 and FLAGS.epochs > 0, "kills, slides, epochs", "be positive",
            "leave them out", (FLAGS.kills, FLAGS.slides, FLAGS.epochs))
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        root = Path(folder)
        make_inputs(root, FLAGS.slides)
        failures = kill_all(jobs(root), FLAGS.kills, random.Random(FLAGS.seed), root)
        print(f"\n{'run':28}{'seconds':>9}{'MiB early':>11}{'MiB late':>10}{'files early':>13}{'files late':>12}")
        failures += sum(grows(name, command) for name, command in long_runs(root, FLAGS.epochs))
    print("\nall results are the same, and nothing grows" if not failures else f"\n{failures} failed")
    return 1 if failures else 0


def make_inputs(root: Path, slides: int) -> None:
    """Write a model, two slides to be killed over, many for the long runs, and the tiles of a study."""
    sample = cached_sample_slide()
    for folder, count in (("two", 2), ("many", slides)):
        (root / folder).mkdir()
        for number in range(count):
            shutil.copy(sample, root / folder / f"slide{number:02d}.tif")
    with open_slide(sample) as slide:
        pixels = slide.read_region(0, 0, 0, 512, 512)
    for slide_id, top in (("slide-a", 0), ("slide-b", 170), ("slide-c", 340)):
        (root / "tiles" / slide_id).mkdir(parents=True)
        for column in range(2):
            tile = pixels[top:top + 168, column * 168:column * 168 + 168]
            Image.fromarray(tile).save(root / "tiles" / slide_id / f"{column}.png")
    (root / "folds.csv").write_text("slide,case,magnification,fold\nslide-a,a,20x,0\nslide-b,b,20x,0\n"
                                    "slide-c,c,20x,1\n")
    (root / "claims.yaml").write_text("alpha: 0.05\neffects: {ms_ssim: 0.002}\nclaims: []\n")
    finish(train(root / "model", root / "two" / "slide00.tif", 1))


def train(run_folder: Path, data: Path, epochs: int, adversarial: int | None = None) -> list[str]:
    """Return the command that trains a tiny network in all three stages, each of so many epochs."""
    return ["sr_keras.train", f"--run={run_folder}", f"--train_data={data}", *PATCHES, *NETWORK, *REGIONS,
            f"--autoencoder_epochs={epochs}", f"--warmup_epochs={epochs}", "--corrupt_fraction=0.5",
            f"--adversarial_epochs={adversarial or epochs}", "--steps_per_epoch=2"]


def jobs(root: Path) -> list[Job]:
    """Return the programs to kill; training once for each stage."""
    sample, model = root / "two" / "slide00.tif", root / "model"

    def training(folder: Path) -> list[str]:
        return train(folder / "run", sample, 3)

    def study(folder: Path) -> list[str]:
        return ["study", f"--data={root / 'tiles'}", f"--folds={root / 'folds.csv'}",
                f"--claims={root / 'claims.yaml'}", f"--work={folder / 'work'}", f"--output={folder / 'out'}",
                "--patch_size=168", "--eval_patch_size=168", "--min_tissue=0", *NETWORK, "--steps_per_epoch=2",
                "--autoencoder_epochs=1", "--warmup_epochs=1", "--adversarial_epochs=1", "--best_by=last",
                "--scored_tiles=2", "--grid=method=srgan_sqe; fraction=0.5", "--at_once=1"]

    return [
        Job("extraction", lambda folder: [
            "pipelines.extract", f"--data={root / 'two'}", f"--output={folder / 'shards'}", "--patch_size=64",
            "--stride=8", "--min_tissue=0"],
            lambda folder: bytes_of(folder / "shards", "*")),
        Job("training, autoencoder", training, weights_of_run, ("--resume",), "run/checkpoints"),
        Job("training, warm-up", training, weights_of_run, ("--resume",), "run/autoencoder.keras"),
        Job("training, adversarial", training, weights_of_run, ("--resume",), "run/warmup.keras"),
        Job("whole slide", lambda folder: [
            "sr_keras.super_resolve", f"--model={model}", f"--input={sample}", f"--output={folder / 'x4.tif'}",
            f"--trust_map={folder / 'trust.tif'}", "--tile=148", "--everywhere"],
            lambda folder: bytes_of(folder, "*.tif"), ("--resume",)),
        Job("export", lambda folder: ["sr_keras.export", f"--model={model}", "--name=m", "--formats=saved_model,litert",
                                      "--precisions=float32", f"--output={folder / 'models'}"],
            lambda folder: bytes_of(folder / "models" / "m" / "1", "**/*.tflite")
            | bytes_of(folder / "models" / "m" / "1", "variables/*.data*")),
        Job("study", study, table_of_study),
    ]


def kill_all(all_jobs: list[Job], kills: int, rng: random.Random, root: Path) -> int:
    """Kill each job in turn until there were `kills`; print the table, and return the number of other results."""
    print(f"{'program':24}{'seconds':>9}{'kills':>7}{'other results':>15}", flush=True)
    failures = total = 0
    for index, job in enumerate(all_jobs):
        wanted, killed, wrong = kills // len(all_jobs) + (index < kills % len(all_jobs)), 0, 0
        if not wanted:
            continue
        straight, other = root / "straight", root / "killed"
        began = time.monotonic()
        seen = finish(job.command(straight), straight, job.since) - began
        seconds = time.monotonic() - began
        right = job.results(straight)
        require(bool(right), "results", "exist", f"see what {job.name} does", right)
        while killed < wanted:
            killed += kill_and_finish(job, other, rng.uniform(0, seconds - seen))
            wrong += job.results(other) != right
            shutil.rmtree(other)
        shutil.rmtree(straight)
        failures, total = failures + wrong, total + killed
        print(f"{job.name:24}{seconds:9.1f}{killed:7}{wrong:15}", flush=True)
    print(f"{total} kills")
    return failures


def start(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a program without output, in a group of its own, so that its workers can be killed with it."""
    return subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            start_new_session=True)


def finish(command: list[str], folder: Path = Path(), since: str = ".") -> float:
    """Run a program to its end, and return when the first file appeared that matches `since`.

    Raises:
        UserError: It fails.
    """
    seen = None
    with start(command) as process:
        while process.poll() is None:
            seen = seen or (time.monotonic() if (folder / since).exists() else None)
            time.sleep(0.01)
        if process.returncode:
            raise UserError(f"this must end with exit status 0; run it to see why: {' '.join(command)}. "
                            f"Received: exit status {process.returncode}")
    return seen or time.monotonic()


def kill_and_finish(job: Job, folder: Path, delay: float) -> bool:
    """Kill a job `delay` seconds after it has come to its part, run it to its end, and tell whether it was killed."""
    began = None
    with start(job.command(folder)) as process:
        while process.poll() is None and (began is None or time.monotonic() < began + delay):
            began = began or (time.monotonic() if (folder / job.since).exists() or job.since == "." else None)
            time.sleep(0.005)
        killed = process.poll() is None
        if killed:
            os.killpg(process.pid, signal.SIGKILL)
    if killed:
        finish([*job.command(folder), *job.resume])
    return killed


def bytes_of(folder: Path, pattern: str) -> Results:
    """Return the checksum of each file."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob(pattern))
            if path.is_file()}


def weights_of_run(folder: Path) -> Results:
    """Return the checksum of each number array in the models of a run; the files themselves hold times."""
    found: Results = {}
    for name in ("autoencoder", "warmup", "generator"):
        with (zipfile.ZipFile(folder / "run" / f"{name}.keras") as archive,
              h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file):
            def note(place: str, item: object, name: str = name) -> None:
                if isinstance(item, h5py.Dataset):
                    found[f"{name}/{place}"] = hashlib.sha256(item[()].tobytes()).hexdigest()

            file.visititems(note)
    return found


def table_of_study(folder: Path) -> Results:
    """Return the rows of a study without their times."""
    with open(folder / "out" / "results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {f"{row['cell']} {row['slide']}": str({name: value for name, value in row.items() if name != "seconds"})
            for row in rows}


def long_runs(root: Path, epochs: int) -> list[tuple[str, list[str]]]:
    """Return the names and commands of the runs whose memory is measured."""
    many = root / "many"
    return [
        ("extraction", ["pipelines.extract", f"--data={many}", f"--output={root / 'shards'}", "--patch_size=64",
                        "--stride=16", "--min_tissue=0", "--workers=1"]),
        ("super-resolution", ["sr_keras.super_resolve", f"--model={root / 'model'}", f"--input={many}",
                              f"--output={root / 'x4'}", "--tile=148", "--everywhere"]),
        # Nearly all of it is the last stage, since each stage has other networks and so another size.
        ("training", train(root / "long", root / "two" / "slide00.tif", 1, epochs)),
    ]


def grows(name: str, command: list[str]) -> bool:
    """Run a program, print its memory and open files early and late, and tell whether either grew."""
    taken: list[tuple[float, int]] = []
    began = time.monotonic()
    with start(command) as process:
        while process.poll() is None:
            with suppress(OSError, IndexError):  # it has just ended
                resident = int(Path(f"/proc/{process.pid}/status").read_text().split("VmRSS:")[1].split()[0])
                taken.append((resident / 1024, len(os.listdir(f"/proc/{process.pid}/fd"))))
            time.sleep(0.25)
    if process.returncode:
        print(f"{name}: exit status {process.returncode}")
        return True
    quarter = max(1, len(taken) // 4)
    early, late = ([median(values) for values in zip(*part, strict=True)]
                   for part in (taken[2 * quarter:3 * quarter] or taken, taken[-quarter:]))
    print(f"{name:28}{time.monotonic() - began:9.1f}{early[0]:11.0f}{late[0]:10.0f}{early[1]:13.0f}{late[1]:12.0f}",
          flush=True)
    return any(after > GROWTH * before for before, after in zip(early, late, strict=True))


if __name__ == "__main__":
    sys.exit(run(main, FLAGS, __doc__))
