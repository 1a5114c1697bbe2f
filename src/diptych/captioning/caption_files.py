"""Caption files: captions by people or by any model, read by image id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from diptych.data.formats.json_values import entries, is_object
from diptych.data.formats.read import detect, read_pairs
from diptych.data.formats.tables import Columns, caption_list, records
from diptych.data.joins import canonical_id, match_ids
from diptych.data.pairs import Pairs, Row
from diptych.errors import DataError


def read_caption_file(path: str | Path) -> dict[str, list[str]]:
    """The captions of each image, in the file's order.

    The file is a JSON object (`{"1.jpg": "a dog", ...}`, or with lists of captions), COCO's list of results
    (`[{"image_id": ..., "caption": ...}, ...]`), an annotation file of COCO or Karpathy's, or a table with columns for
    image and caption (CSV, TSV, JSON lines), such as the output of `diptych caption`. Rows with an error instead of a
    caption are skipped.

    Raises:
        DataError: The file or a column is missing, or it holds no caption.
    """
    path = _existing(path)
    rows: Iterable[tuple[int | str, object]]
    if (annotated := _annotations(path)) is not None:
        rows = ((row.image_id, list(row.captions)) for row in annotated)
    elif path.suffix.lower() == ".json" and is_object(path):
        rows = entries(path)
    else:
        rows = _rows(path)
    captions: dict[str, list[str]] = {}
    for name, texts in rows:
        captions.setdefault(str(name), []).extend(caption_list(texts))
    if not captions:
        raise DataError(f"'{path}' contains no captions; it needs an image and a caption on each line")
    return captions


def read_references(path: str | Path) -> Pairs:
    """The images and references of a file that `read_caption_file` reads; images without a caption are left out.

    Of COCO's and Karpathy's annotation files the numbers of the images are kept too (`Pairs.source_ids`), so that
    results which name images by number find them.

    Raises:
        DataError: The file or a column is missing, or it holds no caption.
    """
    path = _existing(path)
    if (annotated := _annotations(path)) is None:
        captions = read_caption_file(path)
        return Pairs.from_rows(Row(name, Path(name), tuple(texts)) for name, texts in captions.items())
    captioned = annotated.where(count > 0 for count in annotated.caption_counts())
    if not len(captioned):
        raise DataError(
            f"'{path}' contains no captions; give the annotation file with captions, such as captions_val2014.json"
        )
    return captioned


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise DataError(f"'{path}' does not exist; check the path")
    return path


def _annotations(path: Path) -> Pairs | None:
    """The pairs of an annotation file of COCO or Karpathy's; None for any other file."""
    if path.suffix.lower() != ".json" or not is_object(path):
        return None
    try:
        kind = detect(path).format
    except DataError:  # an object from id to captions is no data set
        return None
    return read_pairs(path, kind) if kind in ("coco", "karpathy") else None


def _rows(path: Path) -> Iterable[tuple[str, list[str]]]:
    columns: Columns | None = None
    for where, record in records(path):
        if record.get("error"):
            continue
        columns = columns or Columns.find(record, where)
        name = record.get(columns.image_id) if columns.image_id else None
        yield (
            canonical_id(record.get(columns.image) if name is None else name),
            [text for column in columns.captions for text in caption_list(record.get(column))],
        )


def one_each(
    captions: Mapping[str, list[str]],
    image_ids: Iterable[str],
    source: str | Path,
    *,
    aliases: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """One caption for each image id; names that stand for no id are kept as they are.

    The names in a file need not be ids: see `diptych.data.joins.match_ids`.

    Args:
        captions: The captions by the names in the file.
        image_ids: The ids of the images.
        source: The file, for messages.
        aliases: Other name of an image to its id: the numbers in COCO's annotations (`Pairs.source_ids`). Without them
            a number stands for the one id whose name ends with it (`COCO_val2014_000000000139.jpg`).

    Raises:
        DataError: An image has several captions.
    """
    matched, report = match_ids(
        captions, ids := list(image_ids), left=f"captions of '{source}'", right="images", aliases=aliases
    )
    several = next((name for name, texts in captions.items() if len(texts) != 1), None)
    if several is None and report.repeated.count:
        several = report.repeated.examples[0]
    if several is not None:
        (name,) = match_ids([several], ids, left="", right="", aliases=aliases)[0].values() or (several,)
        raise DataError(f"'{source}' has several captions for '{name}'; keep the one that is to be scored")
    return {matched.get(name, name): texts[0] for name, texts in captions.items()}
