# SPDX-License-Identifier: Apache-2.0
"""What tests of the viewer share: a scene, a server in a thread, and Chromium."""
from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sr_keras.view.scene import Scene
from sr_keras.view.tiles import Tiles

WAIT = 60  # seconds, on a busy machine


@pytest.fixture
def scene(sample_slide, loaded) -> Iterator[Scene]:
    with Scene(sample_slide, [loaded]) as opened:
        yield opened


@pytest.fixture
def tiles() -> Iterator[Tiles]:
    running = Tiles(2**28)
    yield running
    running.close()


@pytest.fixture(scope="session")
def serve() -> Callable:
    """Return a context manager that serves slides from a thread, and gives the `Viewer`."""
    from sr_keras.view.server import Viewer

    @contextmanager
    def serving(*arguments: Any, **options: Any) -> Iterator[Viewer]:
        started, made = threading.Event(), []

        def run() -> None:
            asyncio.set_event_loop(asyncio.new_event_loop())
            made.append(Viewer(*arguments, **options))
            started.set()
            made[0].run()

        thread = threading.Thread(target=run)
        thread.start()
        assert started.wait(WAIT)
        yield made[0]
        made[0].stop()
        thread.join(WAIT)
        assert not thread.is_alive()

    return serving


@pytest.fixture(scope="session")
def downloads(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def chromium(downloads) -> Iterator[Any]:
    """Headless Chromium, driven by selenium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install '.[dev]'")
    binary, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not (binary and driver):
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1480,1080"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_script_timeout(WAIT)
    yield browser
    browser.quit()
