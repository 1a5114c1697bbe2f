"""Sample data that needs no download: the sample library of photographs, and scenes drawn by diptych itself.

Both come in the layout of Flickr8k: pictures in `images/`, their captions in `captions.txt`.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from PIL import Image

from diptych.data.samples.drawing import render
from diptych.data.samples.photographs import QUERIES, photographs
from diptych.data.samples.scenes import captions, imagine
from diptych.errors import ConfigError, DataError
from diptych.runtime.atomic import write_bytes
from diptych.runtime.files import TextFile
from diptych.runtime.progress import Progress, silent

__all__ = ["QUERIES", "draw_scenes", "photographs"]

_RECIPE = 1  # raise it when the drawing changes, so that older pictures are drawn again
_HEADER = ["image", "caption"]


def draw_scenes(out: Path, count: int = 600, size: int = 128, seed: int = 0, *, progress: Progress = silent) -> Path:
    """Draw `count` scenes of `size` x `size` pixels into `out/images`, with five captions each in `out/captions.txt`.

    Scene i depends on `seed` and i alone, whatever `count` is. Pictures that are there already are kept, so a killed
    draw goes on where it stopped; the captions are written last. Returns `out`, for `read_pairs`.

    Raises:
        ConfigError: `count` or `size` is too small.
        DataError: `out` holds the captions of another data set.
    """
    if count < 1 or size < 16:
        raise ConfigError(f"count is {count} and size {size}; draw at least 1 scene, of at least 16 pixels")
    out = Path(out)
    told = out / "captions.txt"
    _refuse_to_overwrite(told)
    (out / "images").mkdir(parents=True, exist_ok=True)
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(_HEADER)
    for index in progress(range(count), count, "drawing scenes"):
        scene, name = imagine(seed, index), f"scene-{seed}-{index:05}.jpg"
        mark = f"diptych scene {_RECIPE} {seed} {index} {size}".encode()
        path = out / "images" / name
        if _mark_of(path) != mark:
            encoded = io.BytesIO()
            render(scene, size).save(encoded, "JPEG", quality=92, subsampling=0, comment=mark)
            write_bytes(path, encoded.getvalue())
        writer.writerows((name, caption) for caption in captions(scene))
    write_bytes(told, lines.getvalue().encode())
    return out


def _refuse_to_overwrite(told: Path) -> None:
    if told.exists():
        with TextFile(told, "utf-8", "replace") as file:
            if not (file.readline().strip() == ",".join(_HEADER) and file.readline().startswith("scene-")):
                raise DataError(f"'{told}' holds captions that diptych did not draw; choose another folder")


def _mark_of(path: Path) -> bytes | None:
    """The comment by which a drawn picture says what it is; None if there is no such picture."""
    try:
        with Image.open(path) as image:
            return image.info.get("comment")
    except OSError:
        return None
