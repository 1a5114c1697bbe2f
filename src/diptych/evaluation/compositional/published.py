"""Readers of the published compositional sets, as their authors give them out: Winoground and SugarCrepe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.formats.encoding import open_text
from diptych.data.formats.json_values import entries, parse
from diptych.data.formats.read import Pictures
from diptych.data.pairs import Pairs, Row
from diptych.errors import DataError
from diptych.evaluation.compositional.checks import Checks, Quads

SUGARCREPE_KINDS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")


def read_published(source: str | Path, *, images: Path | None = None) -> Checks | Quads:
    """Winoground where there is an `examples.jsonl`, else SugarCrepe.

    Raises:
        DataError: it is neither.
    """
    path = Path(source)
    if path.suffix == ".jsonl" or (path / "examples.jsonl").exists():
        return read_winoground(path, images=images)
    if path.suffix == ".json" or any((path / f"{kind}.json").exists() for kind in SUGARCREPE_KINDS):
        return read_sugarcrepe(path, images=images)
    raise DataError(
        f"'{path}' holds neither Winoground (examples.jsonl) nor SugarCrepe (such as swap_obj.json); pass the folder "
        "in which one of them lies, or --data for checks that are made of your own captions"
    )


def read_winoground(source: str | Path, *, images: Path | None = None) -> Quads:
    """Winoground (Thrush et al. 2022): `examples.jsonl`, or its folder, with the pictures beside it or in `images/`.

    A line has `caption_0`, `caption_1`, `image_0`, `image_1` (a file's name, with or without `.png`) and
    `collapsed_tag` (Object, Relation, Both), or `tag`.

    Raises:
        DataError: a line lacks one of these, or a picture is not there; the message names the line.
    """
    file = _file(source, "examples.jsonl")
    rows: list[Row] = []
    tags: list[str] = []
    pictures = Pictures(images) if images else Pictures.around(file.parent, file.parent)
    for number, line in _lines(file):
        if line.strip():
            example = _fields(parse(line, f"{file}:{number}"), f"{file}:{number}", *_WINOGROUND)
            tags.append(str(example.get("collapsed_tag") or example.get("tag") or "untagged"))
            for side in ("0", "1"):
                place = _found(pictures, str(example[f"image_{side}"]), f"{file}:{number}")
                rows.append(Row(f"{len(tags) - 1}-{side}", place, (str(example[f"caption_{side}"]),)))
    if not tags:
        raise DataError(f"'{file}' holds no example")
    return Quads(Pairs.from_rows(rows), tuple(tags))


def read_sugarcrepe(source: str | Path, *, images: Path | None = None) -> Checks:
    """SugarCrepe (Hsieh et al. 2023): `swap_obj.json` and the like, or their folder; a file's name is its kind.

    Each holds an object of examples by number, or a list of them, with `filename` (of COCO's val2017), `caption` and
    `negative_caption`. The pictures lie in `images`, or around the files.

    Raises:
        DataError: there is no such file, an example lacks one of these, or a picture is not there.
    """
    path = Path(source)
    files = (
        [path] if path.is_file() else [file for kind in SUGARCREPE_KINDS if (file := path / f"{kind}.json").exists()]
    )
    if not files:
        raise DataError(f"'{path}' has none of {', '.join(f'{kind}.json' for kind in SUGARCREPE_KINDS)}")
    pictures = Pictures(images) if images else Pictures.around(files[0].parent, files[0].parent)
    found = [(file.stem, example, where) for file in files for example, where in _examples(file)]
    places: dict[str, int] = {}
    rows: list[Row] = []
    for _, example, where in found:
        name = str(example["filename"])
        if name not in places:
            places[name] = len(places)
            rows.append(Row(name, _found(pictures, name, where), (str(example["caption"]),)))
    return Checks(
        Pairs.from_rows(rows),
        np.array([places[str(example["filename"])] for _, example, _ in found], np.int64),
        [str(example["caption"]) for _, example, _ in found],
        [str(example["negative_caption"]) for _, example, _ in found],
        np.array([kind for kind, _, _ in found]),
    )


_WINOGROUND = ("caption_0", "caption_1", "image_0", "image_1")


def _examples(file: Path) -> Iterator[tuple[dict[str, Any], str]]:
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
        raise DataError(f"cannot read '{file}' ({error}); pass the file as its authors give it out") from error


def _fields(example: Any, where: str, *names: str) -> dict[str, Any]:
    if not isinstance(example, dict) or (missing := [name for name in names if not example.get(name)]):
        lacks = ", ".join(missing) if isinstance(example, dict) else "everything: it is no object"
        raise DataError(f"{where} lacks {lacks}; an example has {', '.join(names)}")
    return example


def _found(pictures: Pictures, name: str, where: str) -> Path:
    path = pictures.find(name, where)
    if not path.is_file():
        raise DataError(
            f"{where}: there is no picture '{name}' in {pictures.folders[0]}; name its folder with --images"
        )
    return path
