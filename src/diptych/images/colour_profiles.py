"""Colour profiles: from the colour space of an embedded ICC profile to sRGB, by LittleCMS."""

from __future__ import annotations

import functools
import io
import itertools
from typing import Literal

import numpy as np
from PIL import Image, ImageCms

from diptych.images.formats import DECODER_ERRORS
from diptych.images.headers import MAX_PROFILE_BYTES

Space = Literal["GRAY", "RGB", "CMYK"]

_MODES: dict[Space, str] = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
_CLASSES = (b"scnr", b"mntr", b"prtr", b"spac")  # not device links, abstract or named colours
_SAME = 2  # levels of 255 by which a profile may differ from sRGB and count as sRGB


def colour_space(profile: object) -> Space | None:
    """The colour space that a profile describes, read from its header; None if it is not a profile of colours."""
    if not isinstance(profile, bytes) or not 128 <= len(profile) <= MAX_PROFILE_BYTES:
        return None
    if profile[36:40] != b"acsp" or profile[12:16] not in _CLASSES:
        return None
    name = profile[16:20].decode("latin-1").strip()
    return next((space for space in _MODES if space == name), None)


@functools.lru_cache(maxsize=16)
def to_srgb(profile: bytes, space: Space) -> ImageCms.ImageCmsTransform | None:
    """The transform from a profile to sRGB, relative colorimetric with black point compensation.

    Takes images of mode L, RGB or CMYK, by `space`. None if the profile is sRGB already, so that most images cost
    nothing, or if it is damaged. A transform may be used by many threads at once.
    """
    mode = _MODES[space]
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        return None if space != "CMYK" and _is_identity(transform, mode) else transform
    except (ImageCms.PyCMSError, *DECODER_ERRORS):
        return None


def _is_identity(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform changes no colour of a coarse grid by more than `_SAME` levels."""
    levels = range(0, 256, 15)
    colours = np.array(list(itertools.product(levels, repeat=3) if mode == "RGB" else [[v] * 3 for v in range(256)]))
    image = Image.fromarray(colours.astype(np.uint8)[None]).convert(mode)  # (1, colours)
    changed = np.asarray(ImageCms.applyTransform(image, transform), int)[0]
    return bool(np.abs(changed - colours).max() <= _SAME)
