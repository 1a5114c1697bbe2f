"""FORMATS: every format of data set that diptych reads. A new one is a function and a line here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from diptych.data.formats.coco import read_coco, read_karpathy
from diptych.data.formats.delimited import column_names
from diptych.data.formats.flickr import read_captions, read_results, read_token
from diptych.data.formats.image_paths import Pictures
from diptych.data.formats.shards import SHARD_SUFFIXES, read_shard, read_sidecars
from diptych.data.formats.tables import Columns, read_hub, read_imagefolder, read_parquet, read_table
from diptych.data.pairs import Row
from diptych.errors import DataError

Reader = Callable[[Path, Pictures], Iterator[Row]]


@dataclass(frozen=True, slots=True)
class Format:
    """How a format is read and recognised."""

    read: Reader  # yields the rows of one file
    files: tuple[str, ...] = ()  # its file names in a data set's folder, the surest first
    holds: Callable[[str], bool] | None = None  # whether a file with this beginning is one; None: the name says it
    many: bool = False  # whether one data set is commonly spread over several files
    has_pictures: bool = False  # whether the files hold the pictures themselves


def _is_karpathy(head: str) -> bool:
    return head.lstrip().startswith("{") and '"sentences"' in head


def _is_coco(head: str) -> bool:
    return head.lstrip().startswith("{") and ('"images"' in head or '"annotations"' in head)


def _is_token(head: str) -> bool:
    return re.match(r"[^\t\n]+#\d+\t", head) is not None


def _is_table(head: str) -> bool:
    header = head.partition("\n")[0]
    try:
        Columns.find(json.loads(header) if header.startswith("{") else column_names(header), "")
    except (DataError, ValueError, RecursionError):
        return re.match(r"\s*\[\s*\{", head) is not None
    return True


# In the order in which they are looked for in a folder: what knows most (splits, all captions) comes first, and of
# Flickr8k's two files the one in which no caption can be mistaken.
FORMATS: dict[str, Format] = {
    "karpathy": Format(read_karpathy, ("dataset*.json", "*.json"), _is_karpathy),
    "coco": Format(read_coco, ("captions_*.json", "*.json"), _is_coco, many=True),
    "flickr8k-token": Format(read_token, ("*.token.txt", "*.token"), _is_token),
    "flickr8k": Format(read_captions, ("captions.txt",), lambda head: head.startswith("image,caption")),
    "flickr30k": Format(read_results, ("results.csv",), lambda head: head.startswith("image_name|")),
    "imagefolder": Format(read_imagefolder, ("metadata.jsonl", "metadata.csv", "metadata.parquet"), many=True),
    "webdataset": Format(read_shard, tuple(f"*{suffix}" for suffix in SHARD_SUFFIXES), many=True, has_pictures=True),
    "parquet": Format(read_parquet, ("*.parquet",), many=True, has_pictures=True),
    "table": Format(read_table, ("*.csv", "*.tsv", "*.jsonl", "*.json", "*.txt"), _is_table),
    "sidecars": Format(read_sidecars),
    "hub": Format(read_hub, has_pictures=True),
}
READERS: dict[str, Reader] = {name: each.read for name, each in FORMATS.items()}
