# SPDX-License-Identifier: Apache-2.0
"""Colour profiles (ICC): whether one can be carried from a file to what is made of it. No pixel is converted by it."""
from __future__ import annotations

import io
from pathlib import Path

from PIL import ImageCms

from pipelines.errors import SlideError
from pipelines.readers import limits


def check_profile(path: Path, profile: bytes) -> None:
    """Refuse a profile that is damaged (empty if it cannot be read), too large to be written, or not for RGB.

    Raises:
        SlideError: It is one of these.
    """
    if len(profile) > limits.LARGEST_CARRIED_PROFILE:
        raise SlideError(f"{path}: has a colour profile of {len(profile):,} bytes, more than "
                         f"{limits.LARGEST_CARRIED_PROFILE:,}")
    try:
        if int.from_bytes(profile[:4], "big") > len(profile):  # its own size
            raise OSError("it is cut off")
        read = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        kind = read.profile.xcolor_space.strip()
        if kind == "RGB":
            ImageCms.buildTransform(read, ImageCms.createProfile("sRGB"), "RGB", "RGB")  # reads its tables
    except (OSError, ImageCms.PyCMSError) as error:
        raise SlideError(f"{path}: has a damaged colour profile ({error})") from error
    if kind != "RGB":
        raise SlideError(f"{path}: has a colour profile for {kind}, and its pixels are read as RGB")
