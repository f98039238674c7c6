# SPDX-License-Identifier: Apache-2.0
"""What a format of model files is: how files are written, opened, and compared with Keras.

Each format has a module of its own that defines one `Format`; `sr_keras.formats` lists them. These modules import
TensorFlow only when they convert, so the list can be read quickly and files can be opened without it.
"""
from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipelines.console import import_optional
from sr_keras.model.runtimes import INT8_PSNR_DB
from sr_keras.model.tiles import Pixels

if TYPE_CHECKING:
    import keras

    from sr_keras.model.loading import LoadedGenerator


@dataclass(frozen=True)
class Tolerance:
    """How much a file may differ from Keras.

    Attributes:
        max_difference: Largest difference in [0, 1], beyond the rounding to 8 bits.
        min_psnr_db: Used where that is None: the PSNR of the 8-bit pictures against those of Keras.
    """

    max_difference: float | None = None
    min_psnr_db: float = 0.0

    def allows(self, max_difference: float, psnr_db: float) -> bool:
        """Whether these numbers are within the tolerance; NaN is not."""
        if self.max_difference is None:
            return psnr_db >= self.min_psnr_db
        return max_difference <= self.max_difference

    def __str__(self) -> str:
        if self.max_difference is None:
            return f"PSNR >= {self.min_psnr_db:g} dB"
        return f"max difference <= {self.max_difference:g}"


FLOAT32, FLOAT16, INT8 = Tolerance(1e-4), Tolerance(1e-2), Tolerance(min_psnr_db=INT8_PSNR_DB)


class Source:
    """A generator to convert. What only some formats need is loaded or computed on first use.

    Args:
        load: Loads the generator as a Keras model; raises UserError where only a SavedModel exists.
        load_samples: Reads the pictures that calibrate int8, lr uint8 [B, h, w, 3].
        facts: What a file says about the model, for JSON.
        load_any: Loads it in any form; as a Keras model if left out.
    """

    def __init__(self, load: Callable[[], keras.Model], load_samples: Callable[[], np.ndarray],
                 facts: dict[str, Any] | None = None, load_any: Callable[[], LoadedGenerator] | None = None) -> None:
        self._load, self._load_samples, self.facts, self._load_any = load, load_samples, facts, load_any

    @cached_property
    def network(self) -> keras.Model:
        """The generator as a Keras model."""
        return self._load()

    @cached_property
    def generator(self) -> keras.Model | LoadedGenerator:
        """The generator, in any form."""
        return self._load_any() if self._load_any else self.network

    @cached_property
    def samples(self) -> np.ndarray:
        """The pictures that calibrate int8."""
        return self._load_samples()

    @cached_property
    def onnx(self) -> bytes:
        """The generator as a float32 .onnx."""
        from sr_keras.formats.onnx import convert_onnx

        return convert_onnx(self.generator, facts=self.facts)


class Written(NamedTuple):
    """A file that was written, to be compared with Keras.

    Attributes:
        file: Its path in the version's folder.
        label: Its name in tables.
        package: The distribution whose version is recorded.
        open: Opens it.
    """

    file: str
    label: str
    package: str
    open: Callable[[], Pixels]


@dataclass(frozen=True)
class Format:
    """A format of model files.

    Attributes:
        name: As in --formats.
        tolerances: By precision, in the order of tables.
        file: Path of a file in NAME/VERSION, with {precision}; "" is the folder itself.
        packages: What must be installed to write it, beside the base installation.
        extra: The extra of sr_keras that installs them.
        runtime: Modules that run it.
        convert: Writes the files of a precision into a version's folder and yields each.
        open: Opens a file with a number of threads.
        after: Formats whose files must be written before.
        missing: Says in a line why files can't be run here; None where they can.
        device: Says what computes, "CPU" or "GPU".
    """

    name: str
    tolerances: Mapping[str, Tolerance]
    file: str
    packages: tuple[str, ...]
    extra: str
    runtime: tuple[str, ...]
    convert: Callable[[Source, str, Path], Iterator[Written]]
    open: Callable[[Path, int], Pixels]
    after: tuple[str, ...] = ()
    missing: Callable[[], str | None] = lambda: None
    device: Callable[[], str] = lambda: "CPU"

    def path(self, folder: Path, precision: str) -> Path:
        """Return the path of the file of a precision in a version's folder."""
        return folder / self.file.format(precision=precision)

    def chosen(self, precisions: Container[str]) -> list[str]:
        """Return those of its precisions that are among `precisions`; a single one is always taken."""
        return [name for name in self.tolerances if name in precisions or len(self.tolerances) == 1]

    def check_installed(self) -> None:
        """Check that files can be written.

        Raises:
            UserError: A package is not installed; the message names the extra.
        """
        for package in self.packages:
            import_optional(package, self.extra)


def write_file(path: Path, content: bytes) -> None:
    """Write a file of a version, and its folder where that is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def tensorflow_device() -> str:
    """Return what TensorFlow computes on."""
    import tensorflow as tf

    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
