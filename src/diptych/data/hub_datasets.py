"""PUBLISHED: data sets that others publish on the Hugging Face hub, made readable for `read_pairs`."""

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
from urllib.parse import quote

from diptych.data.archives import unpack
from diptych.data.downloads import RemoteFile, fetch, read_answer
from diptych.data.formats.json_values import entries, parse
from diptych.errors import ConfigError, DataError, did_you_mean
from diptych.runtime.atomic import new_file, write_text
from diptych.runtime.files import TextFile
from diptych.runtime.progress import Progress, silent

ENDPOINT = "https://huggingface.co"
_RECORD = "LICENCE.txt"


@dataclass(frozen=True)
class Published:
    """A data set on the hub: its repository, which of its files are fetched, and on what terms it may be used."""

    what: str
    repository: str
    files: tuple[str, ...]  # patterns of paths in the repository
    licence: str
    terms: str  # where the terms stand
    finish: Callable[[Path, list[Path], Progress], None] | None = None  # what makes it readable


@dataclass(frozen=True)
class Offer:
    """What would be fetched: told before a byte of it is, so that somebody can agree."""

    name: str
    published: Published
    files: list[RemoteFile]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


def offer(name: str, *, parts: int = 1, endpoint: str | None = None) -> Offer:
    """Ask the hub for the files of a published data set, their sizes and checksums.

    `parts` is how many numbered archives are taken of a set that comes in many (`diffusiondb`: 1,000 pictures each).
    `endpoint` is another address of the hub, as the environment variable HF_ENDPOINT is.

    Raises:
        ConfigError: no data set has that name.
        DataError: the hub cannot be reached, or no longer has these files.
    """
    if name not in PUBLISHED:
        raise ConfigError(f"no published data set is called '{name}'; {did_you_mean(name, PUBLISHED)}")
    published = PUBLISHED[name]
    base = f"{(endpoint or os.environ.get('HF_ENDPOINT') or ENDPOINT).rstrip('/')}"
    found = []
    patterns = [each for pattern in published.files for each in _numbered(pattern, parts)]
    for folder in dict.fromkeys(pattern.rpartition("/")[0] for pattern in patterns):
        mine = [pattern for pattern in patterns if pattern.rpartition("/")[0] == folder]
        found += [file for file in _listed(base, published, folder) if _matches(file.path, mine)]
    for pattern in patterns:
        if not any(fnmatch.fnmatch(file.path, pattern) for file in found):
            raise DataError(
                f"'{published.repository}' has no file '{pattern}' any more; "
                f"look at {base}/datasets/{published.repository}"
            )
    return Offer(name, published, found)


def get(offered: Offer, out: str | Path, *, progress: Progress = silent) -> Path:
    """Fetch what was offered into `out`, finish it for `read_pairs`, and write the terms beside it.

    Files that are there are kept, and what was cut is gone on with. The caller has shown the licence before.

    Raises:
        DataError: a file cannot be fetched, or arrived damaged.
    """
    out = Path(out)
    fetched = [fetch(file, out, progress=progress) for file in offered.files]
    if offered.published.finish:
        offered.published.finish(out, fetched, progress)
    told = f"{offered.published.what}\n{offered.published.licence}\n{offered.published.terms}\n"
    write_text(out / _RECORD, told)
    return out


def _numbered(pattern: str, parts: int) -> list[str]:
    """`part-{}.zip` as the first `parts` archives; any other pattern as it is."""
    if "{}" not in pattern:
        return [pattern]
    if parts < 1:
        raise ConfigError(f"parts is {parts}; take at least 1")
    return [pattern.replace("{}", f"{number:06}") for number in range(1, parts + 1)]


def _matches(path: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)


def _listed(base: str, published: Published, folder: str) -> list[RemoteFile]:
    """The files of one folder of a repository, page by page."""
    where = f"{base}/api/datasets/{published.repository}/tree/main" + (f"/{quote(folder)}" if folder else "")
    files: list[RemoteFile] = []
    page: str | None = where
    for _ in range(_MAX_PAGES):
        if not page:
            return files
        try:
            content, headers = read_answer(page, _MAX_PAGE)
            listed = parse(content, f"the answer of '{page}'")
            page = _next_page(headers.get("Link"), base)
            files += [_remote(base, published, entry) for entry in listed if entry.get("type") == "file"]
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DataError(f"the hub does not answer at '{where}' ({error}); check the network") from error
        except (AttributeError, LookupError, TypeError) as error:
            raise DataError(f"'{where}' does not answer as the hub does; check HF_ENDPOINT") from error
    raise DataError(f"'{where}' answers with more than {_MAX_PAGES} pages; check HF_ENDPOINT")


_MAX_PAGE, _MAX_PAGES = 8 << 20, 100  # bytes of an answer, which lists 1,000 files in some 300 kB, and answers


def _next_page(link: str | None, base: str) -> str | None:
    found = re.search(r'<([^>]+)>;\s*rel="next"', link or "")
    return found[1] if found and found[1].startswith(f"{base}/") else None


def _remote(base: str, published: Published, entry: dict) -> RemoteFile:
    large = entry.get("lfs")
    told = f"sha256:{large['oid']}" if large else f"git:{entry['oid']}"
    url = f"{base}/datasets/{published.repository}/resolve/main/{quote(entry['path'])}"
    return RemoteFile(url, entry["path"], int(large["size"] if large else entry["size"]), told)


# What makes a fetched set readable.


def _unpack_pictures(out: Path, fetched: list[Path], progress: Progress) -> None:
    """Pictures of every archive into `images/`."""
    for archive in (path for path in fetched if path.suffix == ".zip"):
        for _ in unpack(archive, out / "images", progress=progress):
            pass


def _diffusiondb(out: Path, fetched: list[Path], progress: Progress) -> None:
    """Pictures into `images/`, and the prompts that lie beside them as JSON into `prompts.csv`, beside those there."""
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
    """The prompts of parts that were fetched before."""
    if not table.exists():
        return {}
    with TextFile(table, "utf-8", "strict", "") as file:
        try:
            return {row[0]: row[1] for row in islice(csv.reader(file), 1, None) if len(row) == 2}
        except (csv.Error, ValueError) as error:
            raise DataError(f"'{table}' is there and is no table of prompts ({error}); move it away") from error


def _prompts_of(part: Path) -> dict[str, str]:
    """What a part's JSON says: the prompt of each picture by its file's name."""
    try:
        return {str(name): str(entry["p"]) for name, entry in entries(part) if entry.get("p")}
    except (AttributeError, TypeError, RecursionError) as error:
        raise DataError(f"'{part}' is not the JSON of prompts that was expected ({error}); fetch it again") from error


_FLICKR = (
    "for non-commercial research and education only; the photographs belong to their authors on Flickr, whose terms "
    "hold (https://www.flickr.com/help/terms)"
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
        _unpack_pictures,
    ),
    "coco-captions": Published(
        "COCO captions 2017, validation: 5,000 photographs with five captions each, as Parquet (Chen et al. 2015)",
        "lmms-lab/COCO-Caption2017",
        ("data/val-*.parquet",),
        "captions CC BY 4.0; the photographs belong to their authors on Flickr, whose terms hold",
        "https://cocodataset.org/#termsofuse",
    ),
    "diffusiondb": Published(
        "DiffusionDB: pictures by Stable Diffusion and the prompts that made them, 1,000 a part (Wang et al. 2023)",
        "poloclub/diffusiondb",
        ("images/part-{}.zip",),
        "CC0 1.0; the prompts are those of real users and may offend",
        "https://poloclub.github.io/diffusiondb",
        _diffusiondb,
    ),
}
