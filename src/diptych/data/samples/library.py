"""Sample data without a download: photographs from installed packages, and synthetic scenes.

Both use the layout of Flickr8k: images in `images/`, captions in `captions.txt`.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from PIL import Image

from diptych.data.samples.drawing import render
from diptych.data.samples.photographs import QUERIES, photographs
from diptych.data.samples.scenes import captions, series
from diptych.errors import ConfigError, DataError
from diptych.runtime.atomic import write_bytes
from diptych.runtime.files import TextFile
from diptych.runtime.progress import Progress, silent

__all__ = ["QUERIES", "draw_scenes", "photographs"]

_RECIPE = 1  # increase when the rendering changes, so that older images are drawn again
_HEADER = ["image", "caption"]


def draw_scenes(out: Path, count: int = 600, size: int = 128, seed: int = 0, *, progress: Progress = silent) -> Path:
    """Draw `count` scenes of `size` x `size` pixels into `out/images`, with five captions each in `out/captions.txt`.

    Scene i depends only on `seed` and i, not on `count`. Existing images are kept, so an interrupted run can be
    resumed; the captions are written last. Returns `out`, for `read_pairs`.

    Raises:
        ConfigError: `count` or `size` is too small.
        DataError: `out` contains the captions of another data set.
    """
    if count < 1 or size < 16:
        raise ConfigError(f"count is {count} and size is {size}; the minimum is 1 scene of 16 pixels")
    out = Path(out)
    captions_file = out / "captions.txt"
    _check_overwrite(captions_file)
    (out / "images").mkdir(parents=True, exist_ok=True)
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(_HEADER)
    for index, name, scene in progress(series(seed, count), count, "drawing scenes"):
        comment = f"diptych scene {_RECIPE} {seed} {index} {size}".encode()
        path = out / "images" / f"{name}.jpg"
        if _comment_of(path) != comment:
            encoded = io.BytesIO()
            render(scene, size).save(encoded, "JPEG", quality=92, subsampling=0, comment=comment)
            write_bytes(path, encoded.getvalue())
        writer.writerows((path.name, caption) for caption in captions(scene))
    write_bytes(captions_file, lines.getvalue().encode())
    return out


def _check_overwrite(path: Path) -> None:
    """Refuse to overwrite captions that `draw_scenes` did not write."""
    if path.exists():
        with TextFile(path, "utf-8", "replace") as file:
            if not (file.readline().strip() == ",".join(_HEADER) and file.readline().startswith("scene-")):
                raise DataError(f"'{path}' contains captions that diptych did not write; choose another folder")


def _comment_of(path: Path) -> bytes | None:
    """The JPEG comment, which identifies the scene; None if the image does not exist or has no comment."""
    try:
        with Image.open(path) as image:
            return image.info.get("comment")
    except OSError:
        return None
