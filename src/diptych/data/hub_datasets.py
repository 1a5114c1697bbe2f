"""Published data sets on the Hugging Face hub: listing, downloading, and preparing them for `read_pairs`."""

from __future__ import annotations

import csv
import fnmatch
import http.client
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from diptych.data.archives import unpack
from diptych.data.downloads import RemoteFile, fetch, read_response
from diptych.data.formats.json_values import entries, parse
from diptych.errors import ConfigError, DataError, did_you_mean
from diptych.runtime.atomic import new_file, write_text
from diptych.runtime.files import TextFile
from diptych.runtime.progress import Progress, silent

ENDPOINT = "https://huggingface.co"
_RECORD = "LICENCE.txt"


@dataclass(frozen=True)
class Published:
    """A data set on the hub: its repository, the files to download, and its licence."""

    description: str
    repository: str
    files: tuple[str, ...]  # glob patterns of paths in the repository
    licence: str
    terms: str  # URL of the terms of use
    finish: Callable[[Path, list[Path], Progress], None] | None = None  # prepares the files for `read_pairs`


@dataclass(frozen=True)
class Offer:
    """The files that a download would fetch, known beforehand so that the user can agree to size and licence."""

    name: str
    published: Published
    files: list[RemoteFile]

    @property
    def size(self) -> int:
        """Total size in bytes."""
        return sum(file.size for file in self.files)


def offer(name: str, *, parts: int = 1, endpoint: str | None = None) -> Offer:
    """List the files of a published data set on the hub, with sizes and checksums.

    `parts` is the number of archives to take of a data set that comes in numbered parts (`diffusiondb`: 1,000 images
    each). `endpoint` overrides the hub's URL, as the environment variable HF_ENDPOINT does.

    Raises:
        ConfigError: the name is unknown.
        DataError: the hub cannot be reached, or no longer has these files.
    """
    if name not in PUBLISHED:
        raise ConfigError(f"unknown published data set '{name}'; {did_you_mean(name, PUBLISHED)}")
    published = PUBLISHED[name]
    base = f"{(endpoint or os.environ.get('HF_ENDPOINT') or ENDPOINT).rstrip('/')}"
    files: list[RemoteFile] = []
    patterns = [numbered for pattern in published.files for numbered in _numbered(pattern, parts)]
    for folder in dict.fromkeys(pattern.rpartition("/")[0] for pattern in patterns):
        here = [pattern for pattern in patterns if pattern.rpartition("/")[0] == folder]
        files += [file for file in _listed(base, published, folder) if _matches(file.path, here)]
    for pattern in patterns:
        if not any(fnmatch.fnmatch(file.path, pattern) for file in files):
            raise DataError(
                f"'{published.repository}' no longer has a file '{pattern}'; see {base}/datasets/{published.repository}"
            )
    return Offer(name, published, files)


def get(offered: Offer, out: str | Path, *, progress: Progress = silent) -> Path:
    """Download the files of an offer into `out`, prepare them for `read_pairs`, and write the licence beside them.

    Existing files are kept and partial downloads resumed. Showing the licence first is up to the caller.

    Raises:
        DataError: a file cannot be downloaded, or is damaged.
    """
    out = Path(out)
    fetched = [fetch(file, out, progress=progress) for file in offered.files]
    if offered.published.finish:
        offered.published.finish(out, fetched, progress)
    notice = f"{offered.published.description}\n{offered.published.licence}\n{offered.published.terms}\n"
    write_text(out / _RECORD, notice)
    return out


def _numbered(pattern: str, parts: int) -> list[str]:
    """`part-{}.zip` expanded to the first `parts` archives; any other pattern unchanged."""
    if "{}" not in pattern:
        return [pattern]
    if parts < 1:
        raise ConfigError(f"parts is {parts}; it must be at least 1")
    return [pattern.replace("{}", f"{number:06}") for number in range(1, parts + 1)]


def _matches(path: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)


def _listed(base: str, published: Published, folder: str) -> list[RemoteFile]:
    """The files of one folder of a repository, read page by page."""
    where = f"{base}/api/datasets/{published.repository}/tree/main" + (f"/{quote(folder)}" if folder else "")
    files: list[RemoteFile] = []
    page: str | None = where
    for _ in range(_MAX_PAGES):
        if not page:
            return files
        try:
            content, headers = read_response(page, _MAX_PAGE)
            listed = parse(content, f"the response of '{page}'")
            page = _next_page(headers.get("Link"), base)
            files += [_remote(base, published, entry) for entry in listed if entry.get("type") == "file"]
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DataError(f"the hub does not respond at '{where}' ({error}); check the network") from error
        except (AttributeError, LookupError, TypeError) as error:
            raise DataError(f"'{where}' does not respond like the hub; check HF_ENDPOINT") from error
    raise DataError(f"'{where}' returned more than {_MAX_PAGES} pages; check HF_ENDPOINT")


_MAX_PAGE, _MAX_PAGES = 8 << 20, 100  # bytes of a response (1,000 files take about 300 kB), and responses


def _next_page(link: str | None, base: str) -> str | None:
    match = re.search(r'<([^>]+)>;\s*rel="next"', link or "")
    return match[1] if match and match[1].startswith(f"{base}/") else None


def _remote(base: str, published: Published, entry: dict[str, Any]) -> RemoteFile:
    large = entry.get("lfs")
    checksum = f"sha256:{large['oid']}" if large else f"git:{entry['oid']}"
    url = f"{base}/datasets/{published.repository}/resolve/main/{quote(entry['path'])}"
    return RemoteFile(url, entry["path"], int(large["size"] if large else entry["size"]), checksum)


# Preparing downloaded files.


def _unpack_images(out: Path, fetched: list[Path], progress: Progress) -> None:
    """Unpack the images of every archive into `images/`."""
    for archive in (path for path in fetched if path.suffix == ".zip"):
        for _ in unpack(archive, out / "images", progress=progress):
            pass


def _diffusiondb(out: Path, fetched: list[Path], progress: Progress) -> None:
    """Unpack the images into `images/`, and add their prompts, stored as JSON, to `prompts.csv`."""
    table = out / "prompts.csv"
    prompts = _known_prompts(table)
    for archive in fetched:
        for path in unpack(archive, out / "images", progress=progress):
            if path.suffix == ".json":
                prompts |= _prompts_of(path)
                path.unlink()
    with new_file(table) as fresh, fresh.open("w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("imgId", "prompt"))
        writer.writerows(sorted(prompts.items()))


def _known_prompts(table: Path) -> dict[str, str]:
    """The prompts of parts that were downloaded before."""
    if not table.exists():
        return {}
    with TextFile(table, "utf-8", "strict", "") as file:
        try:
            return {row[0]: row[1] for row in islice(csv.reader(file), 1, None) if len(row) == 2}
        except (csv.Error, ValueError) as error:
            raise DataError(f"'{table}' exists and is not a table of prompts ({error}); move it away") from error


def _prompts_of(part: Path) -> dict[str, str]:
    """The prompt of each image of a part, by file name."""
    try:
        return {str(name): str(entry["p"]) for name, entry in entries(part) if entry.get("p")}
    except (AttributeError, TypeError, RecursionError) as error:
        raise DataError(f"'{part}' does not have the expected JSON form ({error}); download it again") from error


_FLICKR = (
    "for non-commercial research and education only; the photographs belong to their authors on Flickr, whose terms "
    "apply (https://www.flickr.com/help/terms)"
)

PUBLISHED: dict[str, Published] = {
    "flickr8k": Published(
        "Flickr8k: 8,000 photographs with five captions each, as Parquet (Hodosh, Young and Hockenmaier 2013)",
        "jxie/flickr8k",
        ("data/*.parquet",),
        _FLICKR,
        "https://hockenmaier.cs.illinois.edu/8k-pictures.html",
    ),
    "flickr30k": Published(
        "Flickr30k: 31,000 photographs with five captions each (Young, Lai, Hodosh and Hockenmaier 2014)",
        "nlphuji/flickr30k",
        ("flickr30k-images.zip", "flickr_annotations_30k.csv"),
        _FLICKR,
        "https://shannon.cs.illinois.edu/DenotationGraph/",
        _unpack_images,
    ),
    "coco-captions": Published(
        "COCO captions 2017, validation: 5,000 photographs with five captions each, as Parquet (Chen et al. 2015)",
        "lmms-lab/COCO-Caption2017",
        ("data/val-*.parquet",),
        "captions CC BY 4.0; the photographs belong to their authors on Flickr, whose terms apply",
        "https://cocodataset.org/#termsofuse",
    ),
    "diffusiondb": Published(
        "DiffusionDB: Stable Diffusion images and their prompts, 1,000 a part (Wang et al. 2023)",
        "poloclub/diffusiondb",
        ("images/part-{}.zip",),
        "CC0 1.0; the prompts are those of real users and may offend",
        "https://poloclub.github.io/diffusiondb",
        _diffusiondb,
    ),
}
