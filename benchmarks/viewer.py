# SPDX-License-Identifier: Apache-2.0
"""Time the viewer as Chromium sees it: from a click to the first tile of SR, and all tiles of a pan.

    python -m benchmarks.viewer --model=srgan_sqe_x4_light
    python -m benchmarks.viewer --slide=case.svs --mpp=1.0 --engine=litert --rounds=9

It serves the slide as `sr-keras view` does, clicks on tissue in the overview that nobody looked at before, and then
pans by half a panel. Needs Chromium and its driver (Debian: chromium, chromium-driver) and the extra `dev`.
"""
from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

import numpy as np
from absl import flags

from pipelines import console
from pipelines.errors import UserError
from pipelines.sample import cached_sample_slide
from pipelines.slide import open_slide
from pipelines.tissue import slide_mask
from sr_keras import shipped_model
from sr_keras.model.runtimes import ENGINE_CHOICES

SECONDS = 120
MASK_SIDE = 64  # places far enough from each other
GOALS = {"click to the first tile": 2.0, "click to all tiles": None, "pan to the first tile": None,
         "pan to all tiles": 1.0}
# After the next event of that kind, or at once: seconds until the middle of the panel shows SR, and until all of the
# panel does. Pixels that are not computed yet are 0.
WATCH = """
const [layer, event, pan] = arguments, doc = Bokeh.documents[0]
const [xs, ys, source] = ["x", "y", layer].map((name) => doc.get_model_by_name(name))
window.seconds = null
const old = source.data
const watch = (started, first) => {
    const {image, x, y, dw, dh} = source.data
    if (source.data !== old && image.length > 0) {
        const [rows, columns] = image[0].shape
        const column = Math.floor(((xs.start + xs.end) / 2 - x[0]) / dw[0] * columns)
        const row = Math.floor(((ys.start + ys.end) / 2 - y[0]) / dh[0] * rows)
        if (0 <= column && column < columns && 0 <= row && row < rows && image[0][row * columns + column] != 0)
            first ??= performance.now() - started
        if (first != null && image[0].every((pixel) => pixel != 0)) {
            window.seconds = [first / 1000, (performance.now() - started) / 1000]
            return
        }
    }
    setTimeout(() => watch(started, first), 5)
}
if (event) addEventListener(event, () => watch(performance.now(), null), {once: true, capture: true})
else {
    const by = pan * (xs.end - xs.start)
    xs.setv({start: xs.start + by, end: xs.end + by})
    watch(performance.now(), null)
}
"""
# Where the slide is in the overview, whose figure has a margin.
BOX = """
const view = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name("overview"))
const {left, top} = view.el.getBoundingClientRect(), {bbox} = view.frame
return [left + bbox.left, top + bbox.top, bbox.width, bbox.height]
"""

FLAGS = flags.FlagValues()
flags.DEFINE_string("slide", None, "The slide to look at; the sample if left out.", flag_values=FLAGS)
flags.DEFINE_float("mpp", None, "Microns per pixel to read it at.", flag_values=FLAGS)
flags.DEFINE_string("model", str(shipped_model("srgan_sqe_x4_light")), "The model.", flag_values=FLAGS)
flags.DEFINE_enum("engine", "litert", list(ENGINE_CHOICES), "What runs it.", flag_values=FLAGS)
flags.DEFINE_integer("rounds", 5, "Clicks, each followed by a pan.", lower_bound=1, flag_values=FLAGS)


def main() -> int:
    """Print a table of the medians, the largest, and the goals."""
    console.import_tensorflow()
    from sr_keras.model.engines import open_engine
    from sr_keras.slides import EnlargeOptions
    from sr_keras.view.scene import by_name

    model = FLAGS.model if Path(FLAGS.model).exists() else str(shipped_model(FLAGS.model))
    slide = Path(FLAGS.slide) if FLAGS.slide else cached_sample_slide()
    generator = open_engine(FLAGS.engine, model)
    with open_slide(slide) as opened:
        mask = slide_mask(opened, MASK_SIDE)
    rows, columns = np.nonzero(mask)
    chosen = np.random.default_rng(0).permutation(len(rows))[:FLAGS.rounds]
    places = [((columns[i] + 0.5) / mask.shape[1], (rows[i] + 0.5) / mask.shape[0]) for i in chosen]
    with serving([slide], [generator], EnlargeOptions(mpp=FLAGS.mpp)) as viewer, chromium() as browser:
        seconds = measure(browser, viewer.url, next(iter(by_name([generator]))), places)
    print("| what | median s | largest s | goal s |\n| --- | ---: | ---: | ---: |")
    for name, goal in GOALS.items():
        print(f"| {name} | {median(seconds[name]):.2f} | {max(seconds[name]):.2f} | {goal or ''} |")
    return 0


def measure(browser: Any, url: str, layer: str, places: Sequence[tuple[float, float]]) -> dict[str, list[float]]:
    """Return the seconds of clicks on places of the overview, as shares of its sides, and of a pan after each."""
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    browser.get(url)
    _wait(browser, "return window.Bokeh?.documents?.[0]?.get_model_by_name('status')?.text == 'all tiles are computed'")
    seconds: dict[str, list[float]] = {name: [] for name in GOALS}
    for x, y in places:
        left, top, width, height = browser.execute_script(BOX)  # a line above it may have come or gone
        browser.execute_script(WATCH, layer, "pointerup", 0)
        actions = ActionBuilder(browser, duration=20)
        actions.pointer_action.move_to_location(round(left + x * width), round(top + y * height)).click()
        actions.perform()
        for kind in ("click", "pan"):
            first, whole = _wait(browser, "return window.seconds")
            seconds[f"{kind} to the first tile"].append(first)
            seconds[f"{kind} to all tiles"].append(whole)
            if kind == "click":
                browser.execute_script(WATCH, layer, None, 0.5 if x < 0.5 else -0.5)  # stay there
    return seconds


@contextmanager
def serving(*arguments: Any, **options: Any) -> Iterator[Any]:
    """Serve from a thread, by the arguments of `Viewer`, and yield the viewer."""
    from sr_keras.view.server import Viewer

    made: Future[Any] = Future()

    def run() -> None:
        asyncio.set_event_loop(asyncio.new_event_loop())
        try:
            made.set_result(Viewer(*arguments, **options))
        except BaseException as error:
            made.set_exception(error)
        else:
            made.result().run()

    thread = Thread(target=run, daemon=True)
    thread.start()
    viewer = made.result(SECONDS)
    try:
        yield viewer
    finally:
        viewer.stop()
        thread.join(SECONDS)


@contextmanager
def chromium(downloads: Path | None = None) -> Iterator[Any]:
    """Open headless Chromium, which saves files in `downloads`.

    Raises:
        UserError: It, its driver or selenium is not installed.
    """
    webdriver = console.import_optional("selenium.webdriver", "dev")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and driver):
        raise UserError("Chromium and its driver must be installed; on Debian, apt-get install chromium "
                        "chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1480,1080"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)} if downloads else {})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_script_timeout(SECONDS)
    try:
        yield browser
    finally:
        browser.quit()


def _wait(browser: Any, script: str) -> Any:
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.support.ui import WebDriverWait

    try:
        return WebDriverWait(browser, SECONDS, 0.05).until(lambda browser: browser.execute_script(script))
    except TimeoutException as error:
        raise UserError(f"the page must show its tiles within {SECONDS} s; run it again on a machine that is less busy"
                        ) from error


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
