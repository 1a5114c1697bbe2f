"""A small set of pictures and the prompts that made them, drawn by diptych itself."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from diptych.data.samples.drawing import render
from diptych.data.samples.scenes import captions, imagine
from diptych.errors import ConfigError, DataError
from diptych.runtime.atomic import write_text
from diptych.runtime.files import open_file
from diptych.runtime.progress import Progress, silent

_HEADER = ["imgId", "prompt"]


def draw_prompts(
    out: str | Path, count: int = 400, size: int = 128, seed: int = 0, *, progress: Progress = silent
) -> Path:
    """Draw `count` pictures of `size` x `size` pixels into `out/images` and write `out/prompts.csv` (`imgId,prompt`).

    The ids are the names of the pictures without their endings, and some prompts hold commas, quotes and newlines: what
    such files look like elsewhere. A picture depends on `seed` and its number alone. Returns `out`, for `read_pairs`.

    Raises:
        ConfigError: `count` or `size` is too small.
        DataError: `out` holds other prompts already.
    """
    if count < 1 or size < 16:
        raise ConfigError(f"count is {count} and size {size}; draw at least 1 picture, of at least 16 pixels")
    out = Path(out)
    told = out / "prompts.csv"
    if told.exists():
        with open_file(told) as file:
            if b"scene-" not in file.read(200):
                raise DataError(f"'{told}' holds prompts that diptych did not draw; choose another folder")
    (out / "images").mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_HEADER)
    for index in progress(range(count), count, "drawing prompts"):
        scene, name = imagine(seed, index), f"scene-{seed}-{index:05}"
        render(scene, size).save(out / "images" / f"{name}.png", optimize=False)
        writer.writerow((name, _prompt(captions(scene, 1)[0], index)))
    write_text(told, table.getvalue())
    return out


def _prompt(caption: str, index: int) -> str:
    """The caption as people write prompts: plain, with a manner after it, quoted, or over two lines."""
    plain = caption.rstrip(".")
    return (plain, f"{plain}, flat illustration, bold colours", f'sticker sheet, "{plain}"', f"{plain}\nwhite outline")[
        index % 4
    ]
