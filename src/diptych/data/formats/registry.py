"""`FORMATS`: the registry of data set formats. A new format needs a reader function and an entry here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from diptych.data.formats.coco import read_coco, read_karpathy
from diptych.data.formats.delimited import column_names, headerless_delimiter
from diptych.data.formats.flickr import read_captions, read_results, read_token
from diptych.data.formats.image_paths import ImagePaths
from diptych.data.formats.shards import SHARD_SUFFIXES, read_shard, read_sidecars
from diptych.data.formats.tables import Columns, read_hub, read_imagefolder, read_parquet, read_table
from diptych.data.pairs import Row
from diptych.errors import DataError
from diptych.images.suffixes import is_image_file

Reader = Callable[[Path, ImagePaths], Iterator[Row]]


@dataclass(frozen=True, slots=True)
class Format:
    """A data set format: its reader, and how it is detected."""

    read: Reader  # yields the rows of one file
    files: tuple[str, ...] = ()  # glob patterns of its file names, most specific first
    holds: Callable[[str], bool] | None = None  # tests the beginning of a file; None: the name is sufficient
    many: bool = False  # whether a data set may consist of several files
    has_images: bool = False  # whether the files embed the images


def _is_karpathy(head: str) -> bool:
    return head.lstrip().startswith("{") and '"sentences"' in head


def _is_coco(head: str) -> bool:
    return head.lstrip().startswith("{") and ('"images"' in head or '"annotations"' in head)


def _is_token(head: str) -> bool:
    return re.match(r"[^\t\n]+#\d+\t", head) is not None


def name_in_object(head: str) -> str:
    """The first name of a JSON object whose first value may be captions: text, a list, an object or null; else ""."""
    match = re.match(r'\s*\{\s*"([^"\n]+)"\s*:\s*(?:["\[{]|null\b)', head)
    return match[1] if match else ""


def _is_table(head: str) -> bool:
    """Whether a file begins like a table: with a header, an image name and a caption, or a JSON list or object."""
    if re.match(r"\s*\[\s*\{", head):
        return True
    if is_image_file(name_in_object(head)):
        return True
    header = head.partition("\n")[0]
    if headerless_delimiter(header):
        return True
    try:
        Columns.find(json.loads(header) if header.startswith("{") else column_names(header), "")
    except (DataError, ValueError, RecursionError):
        return False
    return True


# Detection order within a folder: formats with the most information (splits, all captions) first. Of Flickr8k's two
# files, the token file comes first because it is unambiguous.
FORMATS: dict[str, Format] = {
    "arrow": Format(read_parquet, ("data-*.arrow", "*.arrow"), many=True, has_images=True),
    "karpathy": Format(read_karpathy, ("dataset*.json", "*.json"), _is_karpathy),
    "coco": Format(read_coco, ("captions_*.json", "*.json"), _is_coco, many=True),
    "flickr8k-token": Format(read_token, ("*.token.txt", "*.token"), _is_token),
    "flickr8k": Format(read_captions, ("captions.txt",), lambda head: head.startswith("image,caption")),
    "flickr30k": Format(read_results, ("results.csv",), lambda head: head.startswith("image_name|")),
    "imagefolder": Format(read_imagefolder, ("metadata.jsonl", "metadata.csv", "metadata.parquet"), many=True),
    "webdataset": Format(read_shard, tuple(f"*{suffix}" for suffix in SHARD_SUFFIXES), many=True, has_images=True),
    "parquet": Format(read_parquet, ("*.parquet",), many=True, has_images=True),
    "table": Format(read_table, ("*.csv", "*.tsv", "*.jsonl", "*.json", "*.txt"), _is_table),
    "sidecars": Format(read_sidecars),
    "hub": Format(read_hub, has_images=True),
}
READERS: dict[str, Reader] = {name: entry.read for name, entry in FORMATS.items()}
