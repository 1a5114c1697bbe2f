"""COCO captions as JSON: Karpathy's split files and the original annotation files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from diptych.data.formats.encoding import caption_text, clean, split_of
from diptych.data.formats.image_paths import ImagePaths
from diptych.data.formats.json_values import entries
from diptych.data.joins import JoinReport, Tally, canonical_id
from diptych.data.pairs import Row
from diptych.errors import DataError


def read_karpathy(path: Path, images: ImagePaths) -> Iterator[Row]:
    """Read `dataset_coco.json` or `dataset_flickr8k.json`: images with filename, filepath, split and sentences."""
    for where, image in _entries(path, "images"):
        name, folder = clean(_value(image, "filename", where)), clean(image.get("filepath"))
        sentences = image.get("sentences") or []
        if not isinstance(sentences, list):
            raise DataError(f"{where} has no list 'sentences'; is this a caption file of this format?")
        image_path = images.find(f"{folder}/{name}" if folder else name, where)
        number = image.get("cocoid")
        yield Row(
            name,
            image_path,
            tuple(map(_sentence, sentences)),
            clean(image.get("split")) or None,
            None if number is None else canonical_id(number),
        )


def _sentence(sentence: object) -> str:
    """A caption in Karpathy's format: the raw text, or else its tokens joined."""
    if not isinstance(sentence, dict):
        return caption_text(sentence)
    tokens = sentence.get("tokens")
    return caption_text(sentence.get("raw") or " ".join(map(clean, tokens if isinstance(tokens, list) else ())))


def read_coco(path: Path, images: ImagePaths) -> Iterator[Row]:
    """Read `captions_train2014.json`: separate lists of images and annotations; the file name gives the split."""
    captions: dict[str, list[str]] = {}
    for where, annotation in _entries(path, "annotations"):
        captions.setdefault(_id(annotation, "image_id", where), []).append(
            caption_text(_value(annotation, "caption", where))
        )
    numbers: dict[str, None] = {}
    repeated: list[str] = []
    for where, image in _entries(path, "images"):
        name = clean(_value(image, "file_name", where))
        number = _id(image, "id", where)
        if number in numbers:
            repeated.append(number)
        numbers[number] = None
        texts = tuple(captions.get(number, ()))
        yield Row(name, images.find(name, where), texts, split_of(path, images.base), number)
    orphans = Tally.of(number for number in captions if number not in numbers)
    left, right = f"image ids of the captions in '{path.name}'", "its images"
    images.notes.add_join(JoinReport(left, right, left_only=orphans, repeated=Tally.of(repeated)))


def _entries(path: Path, key: str) -> Iterator[tuple[str, dict[str, object]]]:
    for index, entry in entries(path, key):
        if not isinstance(entry, dict):
            raise DataError(f"'{path}' has no list of objects '{key}'; is this a caption file of this format?")
        yield f"'{path}', {key}[{index}]", entry


def _id(entry: dict[str, object], key: str, where: str) -> str:
    value = _value(entry, key, where)
    return canonical_id(value if isinstance(value, float) else clean(value))  # "1" and 1 are the same image


def _value(entry: dict[str, object], key: str, where: str) -> object:
    if key not in entry:
        raise DataError(f"{where} has no '{key}', only: {', '.join(sorted(entry))}; is this a caption file?")
    return entry[key]
