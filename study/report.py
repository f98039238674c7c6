# SPDX-License-Identifier: Apache-2.0
"""Tables and figures of a study, from its results and claims. Cells may be missing: they are "not run"."""
from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.errors import require
from pipelines.files import read_text, write_text
from sr_keras.evaluation.scored_patches import METRICS
from sr_keras.evaluation.tables import table
from study.claims import NOT_RUN, Answer, Claims, answer
from study.figures import write_figures
from study.folds import Slide
from study.grid import BICUBIC, NONE, RESULTS_FILE, Setting
from study.results import JUDGEMENTS, Row, by_slide, finished, label, read_results
from study.statistics import interval

BEGIN, END = "<!-- {}: written by python -m study --page -->", "<!-- end of {} -->"  # of a table in a page
CAPTIONS = {"methods": "Scores against the corrupted share of the training examples",
            "stability": "What every slide loses from a clean training set",
            "claims": "Every claim in units of the effect that counts"}
MEANS = ("ms_ssim", "qilv", "rrmse", "psnr", "ssim")
TITLES = {"rrmse_squared": "RRMSE squared", "qilv_unit": "QILV on [0, 1]", "d_hr": "D(HR)", "d_sr": "D(SR)",
          "d_accuracy": "accuracy of D"}


def write_report(settings: Sequence[Setting], claims: Claims, slides: dict[str, Slide], folds: str, output: Path,
                 vgg_weights: str, page: str | None = None) -> None:
    """Write OUTPUT/tables.md and OUTPUT/figures, and the table of claims into a page.

    Args:
        settings: The settings of the grid, in its order.
        claims: From `claims.read_claims`.
        slides: From `folds.read_folds`.
        folds: Checksum of the file of folds.
        output: The folder with results.csv.
        vgg_weights: Of SRGAN.
        page: A Markdown file with the lines BEGIN and END of "claims", "figures" and "the paper's scales".
    """
    rows = read_results(output / RESULTS_FILE, folds)
    answers = answer(claims, rows, slides)
    done = [setting for setting in settings if finished(rows, setting.name, _scored_slides(rows, setting.name, slides))]
    write_text(output / "tables.md", "\n\n".join((
        "# Tables of the study by slide", _progress(settings, rows, slides),
        f"## Claims\n\n{long_claims_table(answers)}",
        f"## Means over slides\n\n{means_table(settings, rows, slides, vgg_weights)}",
        f"## By magnification\n\n{magnification_table(done, rows, slides, vgg_weights)}",
        f"## The discriminator in its last epoch\n\n{judgements_table(done, rows, vgg_weights)}",
        f"## The paper's scales\n\n{paper_table(done, rows, vgg_weights)}")) + "\n")
    drawn = write_figures(settings, rows, answers, slides, output / "figures", vgg_weights)
    if page:
        ours = [setting for setting in done if setting.method == "srgan_sqe" and setting.kind in ("mixed", NONE)
                and not setting.variant]
        figures = [f"![{CAPTIONS[path.stem]}]({os.path.relpath(path, Path(page).parent)})" for path in drawn
                   if path.suffix == ".png"]
        _into_page(Path(page), {"figures": "\n\n".join(figures) or "No figure yet.",
                                "claims": f"{claims_table(answers)}\n\n{_progress(settings, rows, slides)}",
                                "the paper's scales": paper_table(ours, rows, vgg_weights)})
    print(f"{output / 'tables.md'}, {output / 'figures'}{f', {page}' if page else ''}")


def claims_table(answers: Sequence[Answer]) -> str:
    """Return a narrow table: a line for each claim, with its answer and the mean difference in each metric."""
    metrics = list(dict.fromkeys(one.metric for one in answers))
    lines = []
    for claim in dict.fromkeys(one.claim for one in answers):
        cells = [one.answer if one.answer == NOT_RUN else
                 f"{_strong(one.answer)} {_signed(one.compared.mean, one.metric)}"
                 for one in answers if one.claim == claim]
        lines.append([claim.claim, *cells])
    return _table(["claim", *(METRICS[metric].label for metric in metrics)], lines, "---")


def long_claims_table(answers: Sequence[Answer]) -> str:
    """Return a line for each claim and metric, with interval, p, effect size, and how many folds agree."""
    lines = []
    for one in answers:
        leading = [one.claim.claim, METRICS[one.metric].label, _signed(one.threshold, one.metric), one.answer]
        found = one.compared
        lines.append([*leading, *(["", "", "", ""] if one.answer == NOT_RUN else [
            f"{_signed(found.mean, one.metric)} ({_signed(found.low, one.metric)} to "
            f"{_signed(found.high, one.metric)})", f"{found.p:.2g}, {one.corrected:.2g}", f"{found.effect:+.2f}",
            "{} of {}".format(*one.agreeing)])])
    return _table(["claim", "metric", "more than", "answer", "better by (95% interval)", "p, after Holm", "Cohen's d",
                   "folds agreeing"], lines, "---")


def means_table(settings: Sequence[Setting], rows: Sequence[Row], slides: dict[str, Slide], vgg_weights: str) -> str:
    """Return the mean over slides of every setting with its interval, bicubic first."""
    lines = []
    for name, words in ((BICUBIC, "bicubic"), (f"{BICUBIC}-real", "bicubic, scanned LR"),
                        *((setting.name, label(setting, vgg_weights)) for setting in settings)):
        found = {metric: list(by_slide(rows, name, metric).values()) for metric in MEANS}
        count = max(map(len, found.values()))
        # Means over other slides than those of the rest would be compared with them.
        whole = count == len(_scored_slides(rows, name, slides))
        cells = [_mean(values, metric) for metric, values in found.items()] if whole else [NOT_RUN] * len(MEANS)
        lines.append([words, f"{count} of {len(slides)}", *cells])
    return _table(["method, corrupted share", "slides", *(METRICS[metric].heading for metric in MEANS)], lines)


def magnification_table(settings: Sequence[Setting], rows: Sequence[Row], slides: dict[str, Slide],
                        vgg_weights: str) -> str:
    """Return the mean MS-SSIM and RRMSE of finished settings by magnification."""
    groups = sorted({slide.magnification for slide in slides.values()})
    lines = []
    for setting in settings:
        cells = []
        for group in groups:
            mine = [row for row in rows if row["magnification"] == group]
            found = [list(by_slide(mine, setting.name, metric).values()) for metric in ("ms_ssim", "rrmse")]
            cells.append(f"{np.mean(found[0]):.4f} / {np.mean(found[1]):.4f}" if all(found) else "")
        lines.append([label(setting, vgg_weights), *cells])
    counts = [sum(slide.magnification == group for slide in slides.values()) for group in groups]
    return _table(["MS-SSIM / RRMSE", *(f"{group} ({count})" for group, count in zip(groups, counts, strict=True))],
                  lines)


def judgements_table(settings: Sequence[Setting], rows: Sequence[Row], vgg_weights: str) -> str:
    """Return the mean over folds of what the discriminator gave HR and SR; 0.5 and 0.5 is a blind one."""
    lines = []
    for setting in settings:
        cells = {row["cell"]: row for row in rows if row["setting"] == setting.name and row["d_hr"] is not None}
        if cells:
            lines.append([label(setting, vgg_weights), *(
                f"{np.mean([row[name] for row in cells.values()]):.3f}" for name in JUDGEMENTS)])
    return _table(["method, corrupted share", *(TITLES[name] for name in JUDGEMENTS)], lines)


def paper_table(settings: Sequence[Setting], rows: Sequence[Row], vgg_weights: str) -> str:
    """Return RRMSE and QILV as defined, and as the paper's numbers seem to be made."""
    names = ("ms_ssim", "rrmse", "rrmse_squared", "qilv", "qilv_unit")
    lines = [[words, *(f"{np.mean(list(by_slide(rows, name, metric).values())):.4f}" for metric in names)]
             for name, words in ((BICUBIC, "bicubic"), *((one.name, label(one, vgg_weights)) for one in settings))
             if by_slide(rows, name, "rrmse")]
    return _table(["method, corrupted share", *(TITLES.get(name) or METRICS[name].label for name in names)], lines)


def _scored_slides(rows: Sequence[Row], setting: str, slides: dict[str, Slide]) -> set[str]:
    """Return the slides that a setting is scored on: all, or those with scanned LR."""
    if setting != f"{BICUBIC}-real" and "degradation=" not in setting:
        return set(slides)
    return {row["slide"] for row in rows if row["setting"] == f"{BICUBIC}-real"} or set(slides)


def _progress(settings: Sequence[Setting], rows: Sequence[Row], slides: dict[str, Slide]) -> str:
    folds = len({slide.fold for slide in slides.values()})
    names = {setting.name for setting in settings}
    seconds = {row["cell"]: row["seconds"] for row in rows if row["setting"] in names}
    trained = f" They took {sum(seconds.values()) / 3600:.1f} hours to train." if seconds else ""
    return (f"{len(seconds)} of {folds * len(settings)} cells have been run, {len(slides)} slides in {folds} folds."
            f"{trained}")


def _into_page(path: Path, parts: dict[str, str]) -> None:
    text = read_text(path, "restore it")
    for name, part in parts.items():
        before, begin, rest = text.partition(BEGIN.format(name))
        _, end, after = rest.partition(END.format(name))
        require(bool(end), "page", f"have the lines {BEGIN.format(name)} and {END.format(name)}, in this order",
                "add them", str(path))
        text = f"{before}{begin}\n\n{part}\n\n{end}{after}"
    write_text(path, text)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], rule: str = "---:") -> str:
    return table(head[0], head[1:], lines, rule).rstrip() if lines else "Nothing yet."


def _mean(values: Sequence[float], metric: str) -> str:
    (mean, low, high), digits = interval(values), METRICS[metric].digits
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _signed(value: float, metric: str) -> str:
    return f"{value:+.{METRICS[metric].digits + 1}f}"


def _strong(word: str) -> str:
    return f"**{word}**" if word != "undecided" else word
