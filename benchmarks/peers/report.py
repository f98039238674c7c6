# SPDX-License-Identifier: Apache-2.0
"""Tables and a figure of the scores and times in docs/peers.csv and docs/peers_speed.csv.

A score of a kind of LR is the mean over slides of each slide's mean.
"""
from __future__ import annotations

import logging
from math import isfinite, nan
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.peers.methods import BICUBIC, BY_NAME, METHODS, OURS
from benchmarks.peers.patches import KINDS
from pipelines.errors import require
from pipelines.files import atomic_path, read_table, write_text
from sr_keras.evaluation.conditions import STANDARD
from sr_keras.evaluation.detail import SCORES as DETAIL
from sr_keras.evaluation.scored_patches import METRICS
from sr_keras.evaluation.tables import GAIN_METRICS, finite_mean, table

SHOWN = {**{name: METRICS[name] for name in GAIN_METRICS}, "lpips_like": DETAIL["lpips_like"],
         "dists_like": DETAIL["dists_like"], "nuclei_f1": DETAIL["f1"]}
COMPARED = ("psnr", "ms_ssim", "qilv", "lpips_like", "nuclei_f1")
REAL = KINDS[0]
KIND_LABELS = {condition.name: condition.label for condition in STANDARD if condition.name in KINDS}
BEGIN, END = "<!-- python -m benchmarks.peers --steps=report writes from here -->", "<!-- to here -->"
MEGA, MIB = 10**6, 2**20
INK, FAINT, PEER, MINE = "#1d1d1f", "#5f5f66", "#8f8f96", "#0b6cc4"


class Score(msgspec.Struct):
    """A line of the table of scores: of a slide, a kind of LR and a method; NaN is not measured."""

    slide: str
    lr: str
    method: str
    patches: int
    psnr: float
    ms_ssim: float
    qilv: float
    rrmse: float
    lpips_like: float = nan
    dists_like: float = nan
    nuclei_f1: float = nan


class Speed(msgspec.Struct):
    """A line of the table of times."""

    method: str
    weight_bytes: int
    file_bytes: int
    runtime: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    rounds: int
    load: float


class Results:
    """Scores by kind of LR and method, and times by method."""

    def __init__(self, scores: Path, speeds: Path) -> None:
        """Read both tables.

        Raises:
            FileNotFoundError: One does not exist.
            ValueError: One is damaged, or a method lacks a slide or its time.
        """
        self.scores = [msgspec.convert(row, Score, strict=False) for row in read_table(scores, Score, "score again")]
        rows = (msgspec.convert(row, Speed, strict=False) for row in read_table(speeds, Speed, "time again"))
        self.speeds = {row.method: row for row in rows}
        self.slides = sorted({row.slide for row in self.scores})
        self.kinds = [kind for kind in KINDS if kind in {REAL, *(row.lr for row in self.scores)}]
        found = {(row.slide, row.lr, row.method) for row in self.scores}
        wanted = {(slide, kind, name) for slide in self.slides for kind in self.kinds for name in BY_NAME}
        require(found == wanted and self.speeds.keys() == BY_NAME.keys(), "scores",
                "have every method on every slide, and its time", "run the steps score and time",
                str([*sorted(found ^ wanted), *sorted({*self.speeds} ^ set(BY_NAME.keys()))][:1]))

    def by_slide(self, kind: str, method: str, metric: str) -> np.ndarray:
        """Return a score of each slide, in the order of `slides`."""
        rows = {row.slide: row for row in self.scores if (row.lr, row.method) == (kind, method)}
        return np.array([getattr(rows[slide], metric) for slide in self.slides])

    def mean(self, kind: str, method: str, metric: str) -> float:
        """Return the mean over slides."""
        return finite_mean(self.by_slide(kind, method, metric))

    @property
    def is_busy(self) -> bool:
        """Whether the machine had other work while the times were taken: the clock is then ahead of the core's time."""
        return any(speed.load > 0.5 or speed.seconds > 1.1 * speed.cpu_seconds for speed in self.speeds.values())


def short_table(results: Results) -> str:
    """Return the table of the README: weights in MB, time, and scores on real LR."""
    real = [name for name in COMPARED if _is_measured(results, REAL, name)]
    heads = ["MB", "s a tile", *(SHOWN[name].heading.replace(" (dB)", "") for name in real)]
    columns = [_column(results, REAL, name) for name in real]
    return table("method", heads, ([method.label, *_size(results, method.name), *cells] for method, *cells in
                                   zip(METHODS, *columns, strict=True)))


def page_tables(results: Results) -> str:
    """Return the tables of the page: size and time; scores on each kind of LR; slides on which ours is better."""
    parts = [_speed_table(results)]
    for kind in results.kinds:
        names = [name for name in SHOWN if _is_measured(results, kind, name)]
        columns = [_column(results, kind, name) for name in names]
        parts.append(f"**{KIND_LABELS[kind]}**\n\n" + table("method", [SHOWN[name].heading for name in names], (
            [method.label, *cells] for method, *cells in zip(METHODS, *columns, strict=True))))
    parts.append(_slides_table(results))
    return "\n".join(parts)


def draw(results: Results, path: Path) -> None:
    """Draw seconds against quality on real LR; the area of a circle is that of the weights, in bytes."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it reports the font cache that its first use builds
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), dpi=100, facecolor="white", layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("psnr", "qilv"), strict=True):
        floor = results.mean(REAL, BICUBIC, name)
        axes.axhline(floor, color=FAINT, linewidth=1, linestyle="--")
        axes.text(0.985, floor, "bicubic", color=FAINT, fontsize=9, va="bottom", ha="right",
                  transform=axes.get_yaxis_transform())
        for method in METHODS[1:]:
            speed, color = results.speeds[method.name], MINE if method.name.startswith(OURS) else PEER
            at = speed.cpu_seconds, results.mean(REAL, method.name, name)
            area = 30 * speed.weight_bytes / MEGA
            axes.scatter(*at, s=area, color=color, alpha=0.55, linewidth=0)
            axes.scatter(*at, s=9, color=color)
            label = f"{method.label.strip('*')}, {speed.weight_bytes / MEGA:.1f} MB"
            axes.annotate(label, at, (0, 4 + area**0.5 / 2), textcoords="offset points", ha="center", fontsize=9,
                          color=INK)
        axes.set(xscale="log", xlim=(0.008, 9), xlabel="seconds of one core for a tile of 64x64 LR pixels",
                 ylabel=f"{SHOWN[name].label}, higher is better")
        axes.margins(y=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Real LR of five slides: quality against time; the area of a circle is the bytes of the weights",
                    color=INK, fontsize=11)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, pil_kwargs={"optimize": True})


def write_between(path: Path, text: str, gap: str = "\n\n") -> None:
    """Replace what is between BEGIN and END in a file, with `gap` before and after it.

    Raises:
        ValueError: It lacks these lines.
    """
    content = path.read_text(encoding="utf-8")
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    require(bool(begin and end), "page", "have the lines between which tables are written", f"restore {BEGIN!r} and "
            f"{END!r}", str(path))
    write_text(path, f"{before}{BEGIN}{gap}{text.strip()}{gap}{END}{after}")


def _speed_table(results: Results) -> str:
    rows = []
    for method in METHODS:
        speed = results.speeds[method.name]
        rows.append([method.label, *_size(results, method.name), f"{speed.seconds:.3f}",
                     f"{speed.peak_bytes / MIB:.0f}", f"{speed.file_bytes / MEGA:.1f}", speed.runtime])
    busy = ("\n**The machine was busy: times are a first look.**" if results.is_busy else "")
    one = next(iter(results.speeds.values()))
    heads = ["weights, MB", "s a tile", "by the clock, s", "memory, MiB", "file, MB", "runtime"]
    return table("method", heads, rows) + (
        f"\nMedians of {one.rounds} rounds; the load of the machine before was {one.load:.1f}.{busy}\n")


def _slides_table(results: Results) -> str:
    """Return on how many slides the default model is better than each other method, by kind of LR and metric."""
    others = [method for method in METHODS if method.name != OURS]
    rows = []
    for kind in results.kinds:
        for name in (name for name in COMPARED if _is_measured(results, kind, name)):
            mine, wins = results.by_slide(kind, OURS, name), []
            for method in others:
                gains = (mine - results.by_slide(kind, method.name, name)) * (1 if SHOWN[name].higher_is_better else -1)
                wins.append(f"{np.sum(gains > 0)} of {np.isfinite(gains).sum()}")
            rows.append([f"{KIND_LABELS[kind]}, {SHOWN[name].label}", *wins])
    return ("**Slides on which our default model is better than**\n\n"
            + table("LR and score", [one.label for one in others], rows))


def _is_measured(results: Results, kind: str, name: str) -> bool:
    return all(isfinite(results.mean(kind, method.name, name)) for method in METHODS)


def _size(results: Results, name: str) -> tuple[str, str]:
    speed = results.speeds[name]
    return f"{speed.weight_bytes / MEGA:.2f}" if speed.weight_bytes else "", f"{speed.cpu_seconds:.3f}"


def _column(results: Results, kind: str, name: str) -> list[str]:
    """Return a score of every method, the best in bold."""
    metric = SHOWN[name]
    values = [results.mean(kind, method.name, name) for method in METHODS]
    best = (max if metric.higher_is_better else min)(values)
    shown = [f"{value:.{metric.digits}f}" for value in values]
    return [f"**{text}**" if value == best else text for text, value in zip(shown, values, strict=True)]
