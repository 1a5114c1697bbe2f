"""Readers of published compositional benchmarks in their original format: Winoground and SugarCrepe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.formats.encoding import open_text
from diptych.data.formats.json_values import entries, parse
from diptych.data.formats.read import ImagePaths
from diptych.data.pairs import Pairs, Row
from diptych.errors import DataError, NextStep
from diptych.evaluation.compositional.checks import Checks, Quads

SUGARCREPE_KINDS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")


def read_published(source: str | Path, *, images: Path | None = None) -> Checks | Quads:
    """Read Winoground (a folder with `examples.jsonl`) or SugarCrepe (JSON files by kind).

    Args:
        source: the folder, or a file of it.
        images: folder of the images; by default they are looked for around the files.

    Raises:
        DataError: it is neither, or an example or image is missing.
    """
    path = Path(source)
    if path.suffix == ".jsonl" or (path / "examples.jsonl").exists():
        return read_winoground(path, images=images)
    if path.suffix == ".json" or any((path / f"{kind}.json").exists() for kind in SUGARCREPE_KINDS):
        return read_sugarcrepe(path, images=images)
    raise DataError(
        f"'{path}' holds neither Winoground (examples.jsonl) nor SugarCrepe (such as swap_obj.json); pass the folder "
        "of one of them",
        steps=[NextStep("or have the checks made from your own captions", "data")],
    )


def read_winoground(source: str | Path, *, images: Path | None = None) -> Quads:
    """Read Winoground (Thrush et al. 2022): `examples.jsonl` or its folder.

    Each line has `caption_0`, `caption_1`, `image_0`, `image_1` (file names, with or without `.png`) and
    `collapsed_tag` (Object, Relation, Both) or `tag`.

    Args:
        source: the file or folder.
        images: folder of the images; by default they are looked for beside the file and in `images/`.

    Raises:
        DataError: a line lacks a field, or an image is missing; the message names the line.
    """
    file = _file(source, "examples.jsonl")
    rows: list[Row] = []
    tags: list[str] = []
    folders = ImagePaths(images) if images else ImagePaths.around(file.parent, file.parent)
    for number, line in _lines(file):
        if line.strip():
            example = _fields(parse(line, f"{file}:{number}"), f"{file}:{number}", *_WINOGROUND)
            tags.append(str(example.get("collapsed_tag") or example.get("tag") or "untagged"))
            for side in ("0", "1"):
                path = _image_path(folders, str(example[f"image_{side}"]), f"{file}:{number}")
                rows.append(Row(f"{len(tags) - 1}-{side}", path, (str(example[f"caption_{side}"]),)))
    if not tags:
        raise DataError(f"'{file}' has no examples")
    return Quads(Pairs.from_rows(rows), tuple(tags))


def read_sugarcrepe(source: str | Path, *, images: Path | None = None) -> Checks:
    """Read SugarCrepe (Hsieh et al. 2023): one of its JSON files, such as `swap_obj.json`, or their folder.

    Each file has an object of examples by number, or a list of them, with `filename` (of COCO's val2017), `caption` and
    `negative_caption`. The name of the file is the kind of change.

    Args:
        source: the file or folder.
        images: folder of the images; by default they are looked for around the files.

    Raises:
        DataError: there is no such file, an example lacks a field, or an image is missing.
    """
    path = Path(source)
    files = (
        [path] if path.is_file() else [file for kind in SUGARCREPE_KINDS if (file := path / f"{kind}.json").exists()]
    )
    if not files:
        raise DataError(f"'{path}' has none of {', '.join(f'{kind}.json' for kind in SUGARCREPE_KINDS)}")
    folders = ImagePaths(images) if images else ImagePaths.around(files[0].parent, files[0].parent)
    examples = [(file.stem, example, where) for file in files for example, where in _examples(file)]
    row_of: dict[str, int] = {}
    rows: list[Row] = []
    for _, example, where in examples:
        name = str(example["filename"])
        if name not in row_of:
            row_of[name] = len(row_of)
            rows.append(Row(name, _image_path(folders, name, where), (str(example["caption"]),)))
    return Checks(
        Pairs.from_rows(rows),
        np.array([row_of[str(example["filename"])] for _, example, _ in examples], np.int64),
        [str(example["caption"]) for _, example, _ in examples],
        [str(example["negative_caption"]) for _, example, _ in examples],
        np.array([kind for kind, _, _ in examples]),
    )


Example = dict[str, Any]
"""A parsed example of a benchmark, of which the fields that are read are known to be there."""

_WINOGROUND = ("caption_0", "caption_1", "image_0", "image_1")


def _examples(file: Path) -> Iterator[tuple[Example, str]]:
    for number, example in entries(file):
        where = f"{file}, example {number}"
        yield _fields(example, where, "filename", "caption", "negative_caption"), where


def _file(source: str | Path, name: str) -> Path:
    path = Path(source)
    return path / name if path.is_dir() else path


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    try:
        with open_text(file) as lines:
            yield from enumerate(lines, 1)
    except OSError as error:
        raise DataError(f"cannot read '{file}' ({error}); pass the original file") from error


def _fields(example: object, where: str, *names: str) -> Example:
    if not isinstance(example, dict) or (missing := [name for name in names if not example.get(name)]):
        lacks = ", ".join(missing) if isinstance(example, dict) else "all fields, since it is not an object"
        raise DataError(f"{where} lacks {lacks}; an example needs {', '.join(names)}")
    return example


def _image_path(folders: ImagePaths, name: str, where: str) -> Path:
    path = folders.find(name, where)
    if not path.is_file():
        raise DataError(
            f"{where}: there is no image '{name}' in '{folders.folders[0]}'",
            steps=[NextStep("name the folder of the images", "images")],
        )
    return path
