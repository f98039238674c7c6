# SPDX-License-Identifier: Apache-2.0
r"""Super-resolve a picture on a server.

    sr-keras client --server=grpc://localhost:8500 --model_name=demo --input=picture.png --output=large.png
    sr-keras client --server=https://sr.example.org --model_name=demo --auth_header_file=token.txt \
        --input=picture.png --output=large.png
    sr-keras client --server=http://localhost:8501 --model_name=demo --check

Input: a picture, or the finest level of a slide. Output: .png or .jpg. Large pictures are sent in tiles that overlap by
--halo, so there are no seams. The authorisation header ("Bearer TOKEN") is read from a file or from
SR_KERAS_AUTH_HEADER.

Exit status: 0 for success, 2 for an error.
"""
from __future__ import annotations

import io
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from pipelines import console
from pipelines.errors import SlideError, require
from pipelines.files import atomic_path, check_writable
from pipelines.options import GIVEN, Options, basic, flags_of, read, within
from pipelines.slide import open_slide
from sr_keras.client.connection import SuperResolutionClient
from sr_keras.client.protocol import ClientOptions, unreadable

AUTH_VARIABLE = "SR_KERAS_AUTH_HEADER"
JPEG_QUALITY = 95
JPEG_LONGEST_SIDE = 65500


@dataclass(frozen=True)
class RequestOptions(Options):
    """What is asked of which server."""

    server: str = basic(None, "grpc://HOST:8500 or http://HOST:8501; grpcs:// or https:// for TLS", "", GIVEN)
    model_name: str = basic(None, "The model's name on the server", "", GIVEN)
    model_version: int | None = basic(None, "The model's version", "the newest if left out")
    check: bool = basic(False, "Only report whether the model is ready")
    input: str | None = basic(None, "A picture or slide")
    output: str | None = basic(None, "A .png or .jpg to write")
    overwrite: bool = basic(False, "Replace an existing file")
    quality: int | None = basic(None, "Quality of a .jpg, 1 to 100", f"{JPEG_QUALITY} if left out", within(1, 100))
    auth_header_file: str | None = basic(None, "File with the Authorization header", f"${AUTH_VARIABLE} if left out")


FLAGS = flags_of(RequestOptions, ClientOptions)


def main() -> int:
    """Check paths, then send the picture."""
    read(FLAGS, RequestOptions)
    for name in () if FLAGS.check else ("input", "output"):
        require(bool(FLAGS[name].value), name, "be given", f"add --{name}=...", FLAGS[name].value)
    if not FLAGS.check:
        _check_paths(Path(FLAGS.input), Path(FLAGS.output))
    with _client() as client:
        if FLAGS.check:
            states = ", ".join(f"version {version} {state}" for version, state in sorted(client.health().items()))
            print(f"{client.server}: {client.model_name} {states}")
            return 0
        started = time.monotonic()
        lr, profile = _read(Path(FLAGS.input), client)
        with tqdm(desc="tiles", unit="tile") as bar:
            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            sr = client.super_resolve(lr, progress=show)
    _write(sr, Path(FLAGS.output), FLAGS.quality or JPEG_QUALITY, profile)
    print(f"{FLAGS.output}: {lr.shape[1]}x{lr.shape[0]} -> {sr.shape[1]}x{sr.shape[0]} pixels by {client.model_name} "
          f"at {client.server} in {time.monotonic() - started:.1f} s")
    return 0


def _client() -> SuperResolutionClient:
    if FLAGS.server.startswith("grpc"):
        console.import_tensorflow()  # the API's messages import it
    options = read(FLAGS, ClientOptions, auth_header=read_auth_header(FLAGS.auth_header_file))
    return SuperResolutionClient(FLAGS.server, FLAGS.model_name, model_version=FLAGS.model_version, **vars(options))


def read_auth_header(path: str | None) -> str | None:
    """Return the header in a file, else in the environment, else None."""
    if path is None:
        return os.environ.get(AUTH_VARIABLE) or None
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise unreadable("auth_header_file", path, error) from error


def _check_paths(source: Path, target: Path) -> None:
    """Check that files can be read and written, before anything is sent."""
    require(source.is_file(), "input", "name a picture or slide", "check the spelling", str(source))
    with open_slide(source):
        pass
    require(target.suffix.lower() in (".png", ".jpg", ".jpeg"), "output", "end in .png or .jpg", "name another",
            str(target))
    require(FLAGS.quality is None or target.suffix.lower() != ".png", "quality",
            "be left out for a .png, which loses nothing", "name a .jpg for it", FLAGS.quality)
    require(not (target.exists() and target.samefile(source)), "output", "be another file than the input",
            "name another", str(target))
    require(FLAGS.overwrite or not target.exists(), "output", "be new", "name another, or add --overwrite",
            str(target))
    check_writable("output", [target])


def _read(source: Path, client: SuperResolutionClient) -> tuple[np.ndarray, bytes | None]:
    """Return the pixels of a picture, whose size is checked before they are decoded, and its colour profile."""
    with open_slide(source) as slide:
        width, height = slide.dimensions
        client.check_size(height, width)
        longest = client.scale * max(width, height)
        require(Path(FLAGS.output).suffix.lower() == ".png" or longest <= JPEG_LONGEST_SIDE, "output",
                f"be .png: JPEG has {JPEG_LONGEST_SIDE} pixels a side at most", "name another",
                f"{FLAGS.output} of {longest}")
        try:
            profile = slide.icc_profile
        except SlideError as error:
            print(f"warning: {error}: the output has none", file=sys.stderr)
            profile = None
        return slide.read_region(0, 0, 0, width, height), profile


def _write(sr: np.ndarray, target: Path, quality: int, profile: bytes | None) -> None:
    file = io.BytesIO()  # in memory first: on a full disk PIL leaves half a JPEG and reports nothing
    kind = "PNG" if target.suffix.lower() == ".png" else "JPEG"
    # A PNG takes no notice of quality and subsampling.
    Image.fromarray(sr).save(file, kind, quality=quality, subsampling=0, icc_profile=profile)
    with atomic_path(target) as temporary:
        temporary.write_bytes(file.getbuffer())


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
