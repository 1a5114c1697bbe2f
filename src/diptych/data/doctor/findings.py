"""The doctor's checks: each function takes a data set or its image checks, and returns examples by kind of fault."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from diptych.data.formats.image_paths import image_files, is_ambiguous_path, is_remote
from diptych.data.formats.read import wrong_encoding
from diptych.data.pairs import Pairs, Row
from diptych.data.reading_notes import Example
from diptych.images.decode import describe, readable_text
from diptych.images.near_duplicates import DISTANCE, candidate_pairs, groups_around_first
from diptych.images.pixel_comparison import PixelComparison

ExamplesByKind = dict[str, list[Example]]

_TEXT_FILES = frozenset({".txt", ".csv", ".tsv", ".json", ".jsonl", ".token"})
# A list or an object as text, or the beginning of a list of strings; where the strings were clear, they were read.
_LIST_AS_TEXT = re.compile(r"\s*(?:\[\s*['\"]|\(\s*['\"].*\)\s*$|\[.*,.*\]\s*$|\{.*\}\s*$|array\(.*\)\s*$)", re.DOTALL)
_BLOCK = 1024  # rows converted to Python objects at a time
_SHOWN = 6  # ids listed for a group of duplicates or a shared caption


def broken_images(pairs: Pairs, checks: pa.Table) -> ExamplesByKind:
    """Images that cannot be decoded, by `ImageError.reason`.

    An image without a file is left out where the reader noted the reason: its name is ambiguous, or a URL.
    """
    by_kind: ExamplesByKind = defaultdict(list)
    for index, (reason, detail) in enumerate(_columns(checks, "reason", "detail")):
        if reason and not (reason == "missing" and _has_noted_reason(pairs[index])):
            by_kind[reason].append(Example(describe(pairs[index].image).strip("'"), detail))
    return by_kind


def _has_noted_reason(row: Row) -> bool:
    """Whether the reader noted why the image of a row has no file."""
    return isinstance(row.image, Path) and (is_ambiguous_path(row.image) or is_remote(row.image_id))


def usable_rows(pairs: Pairs, checks: pa.Table) -> list[bool]:
    """For each row, whether its image decodes and has a non-empty caption."""
    captions = pairs.values("captions")
    return [
        not reason and any(caption.strip() for caption in row)
        for (reason,), row in zip(_columns(checks, "reason"), captions, strict=True)
    ]


def missing_captions(pairs: Pairs) -> ExamplesByKind:
    """Empty captions, and images without a non-empty caption."""
    by_kind: ExamplesByKind = {"empty_captions": [], "without_captions": []}
    for image_id, captions in zip(pairs.values("image_id"), pairs.values("captions"), strict=True):
        written = sum(1 for caption in captions if caption.strip())
        by_kind["empty_captions"] += [Example(image_id, "an empty caption")] * (len(captions) - written)
        if not written:
            by_kind["without_captions"].append(Example(image_id, "no caption"))
    return by_kind


def caption_faults(pairs: Pairs) -> ExamplesByKind:
    """Missing captions, replacement characters, mojibake, lists as text, and captions that occur more than once."""
    by_kind: ExamplesByKind = defaultdict(list, missing_captions(pairs))
    owners: dict[str, list[str]] = defaultdict(list)
    for image_id, captions in zip(pairs.values("image_id"), pairs.values("captions"), strict=True):
        written = [caption for caption in captions if caption.strip()]
        for caption in written:
            if "\ufffd" in caption:
                by_kind["lost_characters"].append(Example(image_id, caption))
            if _LIST_AS_TEXT.match(caption):
                by_kind["list_captions"].append(Example(image_id, caption))
            if repaired := repair_mojibake(caption):
                by_kind["suspected_mojibake"].append(Example(image_id, f"{caption} (was it: {repaired}?)"))
        counts = Counter(" ".join(caption.casefold().split()) for caption in written)
        for plain, count in counts.items():
            owners[plain].append(image_id)
            if count > 1:
                by_kind["repeated_captions"].append(Example(image_id, f"{count} times: {plain}"))
    shared = sorted(((plain, ids) for plain, ids in owners.items() if len(ids) > 1), key=lambda pair: -len(pair[1]))
    by_kind["shared_captions"] = [Example(_listed(ids), f"{len(ids)} images: {plain}") for plain, ids in shared]
    return by_kind


def repair_mojibake(caption: str) -> str | None:
    """The repaired caption, if it contains UTF-8 decoded as Windows-1252 or Latin-1 ("cafÃ©"); otherwise None."""
    repaired = re.sub(r"[^\x00-\x7f]+", lambda run: _as_utf8(run[0]), caption)
    return repaired if repaired != caption else None


def _as_utf8(run: str) -> str:
    for encoding in ("cp1252", "latin-1"):
        try:
            return run.encode(encoding).decode()
        except UnicodeError:
            continue
    return run


def copies(pairs: Pairs, checks: pa.Table, distance: int = DISTANCE) -> ExamplesByKind:
    """Groups of identical (same bytes) and near-identical images, within one split and across splits.

    An image is near-identical to the first of its group: their perceptual hashes differ in at most `distance` bits, and
    their pixels agree (see `images.near_duplicates.same_image`). Images with uninformative hashes, such as plain
    colours, are ignored.
    """
    splits = pairs.table.column("split").to_pylist()
    same: dict[str, list[int]] = defaultdict(list)
    for index, (reason, content) in enumerate(_columns(checks, "reason", "content")):
        if not reason:
            same[content].append(index)
    firsts = np.array([indices[0] for indices in same.values()], np.int64)
    hashes = np.asarray(checks.column("perceptual"), np.uint64)[firsts]
    contents = checks.column("content").to_pylist()
    is_same = PixelComparison(contents, lambda row: pairs[row].image)
    near = (
        list(chain.from_iterable(same[contents[row]] for row in group))
        for group in groups_around_first(firsts[candidate_pairs(hashes, distance)].tolist(), is_same)
    )
    return {
        **_by_split(pairs, splits, "identical", (group for group in same.values() if len(group) > 1)),
        **_by_split(pairs, splits, "near_identical", near),
    }


def _by_split(pairs: Pairs, splits: Sequence[str | None], kind: str, groups: Iterable[list[int]]) -> ExamplesByKind:
    by_kind: ExamplesByKind = {kind: [], f"{kind}_across_splits": []}
    ids = pairs.table.column("image_id")
    for group in groups:
        crosses = len({splits[index] for index in group}) > 1
        named = [f"{ids[index].as_py()} ({splits[index] or 'no split'})" for index in group]
        by_kind[f"{kind}_across_splits" if crosses else kind].append(
            Example(ids[group[0]].as_py(), f"{len(group)} images: {_listed(named)}")
        )
    return by_kind


def uncaptioned_files(pairs: Pairs, folder: str | Path) -> ExamplesByKind:
    """Image files in a folder that belong to no row."""
    named = set(pairs.values("path"))
    files = map(readable_text, map(str, image_files(Path(os.path.abspath(folder)))))  # noqa: PTH100 (as the readers make theirs)
    return {"uncaptioned_files": [Example(file, "no caption") for file in files if file not in named]}


def wrong_lines(caption_files: Iterable[str | Path]) -> ExamplesByKind:
    """Lines of text caption files that are not valid UTF-8; of a folder, those of the texts beside its images."""
    return {
        "wrong_encoding": [
            Example(readable_text(str(path)), f"line {number}")
            for source in map(Path, caption_files)
            for path in (_sidecars(source) if source.is_dir() else [source])
            if path.is_file() and path.suffix.lower() in _TEXT_FILES
            for number in wrong_encoding(path)
        ]
    }


def _sidecars(folder: Path) -> Iterator[Path]:
    return (path.with_suffix(".txt") for path in image_files(folder))


def merged(*parts: ExamplesByKind) -> ExamplesByKind:
    """The examples of all parts, concatenated by kind."""
    whole: ExamplesByKind = defaultdict(list)
    for part in parts:
        for kind, examples in part.items():
            whole[kind] += examples
    return whole


def _columns(table: pa.Table, *names: str) -> Iterator[tuple[str, ...]]:
    for block in table.select(names).to_batches(_BLOCK):
        yield from zip(*(column.to_pylist() for column in block.columns), strict=True)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
