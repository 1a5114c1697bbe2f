"""A small synthetic data set of images with prompts."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from diptych.data.samples.drawing import render
from diptych.data.samples.scenes import captions, series
from diptych.errors import ConfigError, DataError
from diptych.runtime.atomic import write_text
from diptych.runtime.files import open_file
from diptych.runtime.progress import Progress, silent

_HEADER = ["imgId", "prompt"]


def draw_prompts(
    out: str | Path, count: int = 400, size: int = 128, seed: int = 0, *, progress: Progress = silent
) -> Path:
    """Draw `count` images of `size` x `size` pixels into `out/images`, and write `out/prompts.csv` (`imgId,prompt`).

    As in published files of this kind, ids are file names without suffix, and some prompts contain commas, quotes and
    newlines. Each image depends only on `seed` and its number. Returns `out`, for `read_pairs`.

    Raises:
        ConfigError: `count` or `size` is too small.
        DataError: `out` already contains other prompts.
    """
    if count < 1 or size < 16:
        raise ConfigError(f"count is {count} and size is {size}; the minimum is 1 image of 16 pixels")
    out = Path(out)
    prompts_file = out / "prompts.csv"
    if prompts_file.exists():
        with open_file(prompts_file) as file:
            if b"scene-" not in file.read(200):
                raise DataError(f"'{prompts_file}' contains prompts that diptych did not write; choose another folder")
    (out / "images").mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_HEADER)
    for index, name, scene in progress(series(seed, count), count, "drawing prompts"):
        render(scene, size).save(out / "images" / f"{name}.png", optimize=False)
        writer.writerow((name, _prompt(captions(scene, 1)[0], index)))
    write_text(prompts_file, table.getvalue())
    return out


def _prompt(caption: str, index: int) -> str:
    """Turn a caption into a prompt: plain, with a style suffix, quoted, or over two lines."""
    plain = caption.rstrip(".")
    return (plain, f"{plain}, flat illustration, bold colours", f'sticker sheet, "{plain}"', f"{plain}\nwhite outline")[
        index % 4
    ]
