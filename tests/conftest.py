# SPDX-License-Identifier: Apache-2.0
"""What tests share. Tests of real slides skip where the data is not."""
from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.data import immunohistochemistry

from pipelines.cluster import ENVIRONMENT
from pipelines.console import parse, quiet_tensorflow
from pipelines.errors import UserError
from pipelines.sample import SAMPLE_NAME, write_sample_slide

quiet_tensorflow()  # as programs do; tests of their output need it
ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("SR_KERAS_TEST_DATA", ROOT.parent / "shared" / "data"))
RAY_START_SECONDS = 180
# Files whose tests take a second at most: what make test-fast runs, in under 2 minutes on 2 cores.
FAST = (
    "benchmarks/test_house.py",
    "pipelines/degrade/test_kernels_textbook.py",
    *(f"pipelines/test_{name}.py" for name in ("names_anonymous", "config", "console", "errors", "files",
                                               "pairs_correspondence", "patches", "pixels", "readers", "sources",
                                               "tissue")),
    "sr_keras/client/test_protocol.py",
    "sr_keras/evaluation/test_tables.py",
    "sr_keras/test_cli.py",
    "sr_keras/test_config.py",
    "sr_keras/model/test_facts.py",
    "sr_keras/model/test_tiles.py",
    "sr_keras/test_layers.py",
    "sr_keras/test_losses.py",
    "sr_keras/test_metrics.py",
    "sr_keras/test_config_flags.py",
    "study/test_statistics.py",
    "test_packaging.py",
    "test_repository.py",
)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no other file than those of FAST where only their tests run; importing all takes longer than these."""
    other = collection_path.suffix == ".py" and _below_tests(collection_path) not in FAST
    return True if config.getoption("markexpr") == "fast" and other else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of FAST, those that are slow aside."""
    for item in items:
        if _below_tests(item.path) in FAST and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.fast)


def _below_tests(path: Path) -> str:
    here = Path(__file__).parent
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else ""


@contextmanager
def ray_starts_on_a_busy_machine() -> Iterator[None]:
    """Have less started of Ray, whose nodes give up after 15 s, and wait for a node longer than Ray's own 30 s."""
    from ray._private import services, utils

    get_node = services.get_node

    def wait_for_node(*address: str) -> Any:
        end = time.monotonic() + RAY_START_SECONDS
        while True:
            try:
                return get_node(*address)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "get_node", wait_for_node)
        patch.setattr(utils, "get_dashboard_dependency_error", lambda: ImportError("nobody looks at a dashboard"))
        yield


class TwoMachines:
    """A Ray cluster of two machines with a core each, on this one; the second can be lost."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        with ray_starts_on_a_busy_machine():
            self._ray = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self._second: Any = None
        self.address = self._ray.address

    def complete(self, **resources: int) -> None:
        """Add the second machine if it is not there."""
        if self._second is None:
            self._ray.wait_for_nodes(RAY_START_SECONDS)  # until Ray knows that one is lost; else it counts as a third
            with ray_starts_on_a_busy_machine():
                self._second = self._ray.add_node(**{"num_cpus": 1, **resources})

    def lose(self) -> None:
        """Have the second machine die, with all that runs on it."""
        self._ray.remove_node(self._second, allow_graceful=False)
        self._second = None

    def is_busy(self, cluster: Any) -> bool:
        """Whether a worker of `cluster` is at work on the second machine."""
        return any(lane.job and lane.node == self._second.node_id for lane in cluster._lanes)

    def stop(self) -> None:
        """End all of it."""
        self._ray.shutdown()


@pytest.fixture(scope="module")
def ray_machines() -> Iterator[TwoMachines]:
    """The cluster that the tests of a file share."""
    pytest.importorskip("ray", reason="pip install '.[cluster]'")
    os.environ.update(ENVIRONMENT, RAY_worker_niceness="0")  # else whatever else runs here starves them
    machines = TwoMachines()
    yield machines
    machines.stop()


@pytest.fixture
def two_machines(ray_machines) -> TwoMachines:
    """The same, with both machines."""
    ray_machines.complete()
    return ray_machines


@pytest.fixture(scope="session")
def run_program() -> Callable[..., int]:
    """Return a function that runs a program, a module, with these flags in this process, and gives its exit status."""

    def run(program: ModuleType, *arguments: object) -> int:
        try:
            parse(["program", *map(str, arguments)], program.FLAGS)
            return program.main() or 0
        finally:
            program.FLAGS.unparse_flags()

    return run


@pytest.fixture(scope="session")
def run_apart() -> Callable[[str, str], subprocess.CompletedProcess]:
    """Evaluate a call of a function of a test file in a process of its own."""

    def run(file: str, call: str) -> subprocess.CompletedProcess:
        module = ".".join(Path(file).relative_to(ROOT).with_suffix("").parts)
        return subprocess.run([sys.executable, "-c", f"import {module} as t\nt.{call}"], capture_output=True, text=True,
                              check=False, cwd=ROOT)

    return run


@pytest.fixture(scope="session")
def files_limited_to() -> Callable[[int], AbstractContextManager[None]]:
    """Let no file grow beyond so many bytes: what a full disk is to who writes."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real slides and tiles."""
    if not DATA.is_dir():
        pytest.skip(f"no real slides in {DATA}; name their folder by SR_KERAS_TEST_DATA")
    return DATA


@pytest.fixture(scope="session")
def histology() -> np.ndarray:
    """scikit-image's colonic glands: uint8 [512, 512, 3]."""
    return immunohistochemistry()


@pytest.fixture(scope="session")
def sample_slide(tmp_path_factory) -> Path:
    """The same as a pyramidal slide, as `pipelines.sample` writes it."""
    return write_sample_slide(tmp_path_factory.mktemp("sample") / SAMPLE_NAME)


@pytest.fixture(scope="session")
def broken_slide(tmp_path_factory, sample_slide) -> Path:
    """The sample slide with one tile of level 0 overwritten: the one at (128, 128)."""
    with tifffile.TiffFile(sample_slide) as tiff:
        start = tiff.pages[0].dataoffsets[5]
    data = bytearray(sample_slide.read_bytes())
    data[start:start + 100] = b"x" * 100
    path = tmp_path_factory.mktemp("broken") / "broken.tif"
    path.write_bytes(bytes(data))
    return path


@pytest.fixture(scope="session")
def tile_folder(tmp_path_factory, histology) -> Path:
    """Two slides, each a folder of eight 128x128 PNG tiles of tissue: slide-a and slide-b."""
    root = tmp_path_factory.mktemp("tiles")
    for slide, top in (("slide-a", 0), ("slide-b", 256)):
        (root / slide).mkdir()
        for i in range(8):
            y, x = top + i // 4 * 128, i % 4 * 128
            Image.fromarray(histology[y:y + 128, x:x + 128]).save(root / slide / f"tile{i}.png")
    return root


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """An untrained generator: plain interpolation."""
    import keras

    from sr_keras.networks import generator

    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("model") / "generator.keras"
    generator(scale=4, blocks=1, filters=4).save(path)
    return path


@pytest.fixture(scope="session")
def randomised() -> Callable[[Any], Any]:
    """Give every kernel random values: an untrained generator is plain interpolation, which hides most faults."""

    from sr_keras.networks import SKIP_GAIN

    def fill(model: Any) -> Any:
        rng = np.random.default_rng(0)
        model.set_weights([rng.normal(0, 0.8 / np.sqrt(np.prod(w.shape[:-1])), w.shape) if w.ndim > 1 else w
                           for w in model.get_weights()])
        if any(layer.name == "detail" for layer in model.layers):  # under the global skip: as loud as the picture
            last = model.get_layer("last").kernel
            last.assign(last / SKIP_GAIN)
        return model

    return fill


@pytest.fixture(scope="session")
def downloads(tmp_path_factory) -> Path:
    """Where `browser` saves files."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def browser(downloads) -> Iterator[Any]:
    """Headless Chromium, driven by selenium."""
    from benchmarks.viewer import chromium

    with ExitStack() as opened:
        try:
            driven = opened.enter_context(chromium(downloads))
        except UserError as missing:
            pytest.skip(str(missing))
        yield driven
