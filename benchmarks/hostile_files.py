"""What do archives, tables and data files cost that are made to cost much, and ordinary ones of the same kinds?

    python benchmarks/hostile_files.py [--only NAME]

Makes each file and reads it in a process of its own, which has 4 GB of memory and 60 seconds; prints the bytes, the
answer, the seconds and the peak of the memory beyond what the process had before. Takes about three minutes.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_SECONDS, _BYTES = 60, 4 << 30

_READ = """
import resource, sys, time
from pathlib import Path
from diptych.errors import DiptychError
from diptych.data.formats.read import read_pairs
from diptych.training.recipe_files import make, read_yaml
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.data.archives import unpack
path = Path(sys.argv[1])
def recipe(path): return make(ContrastiveRecipe, read_yaml(path))
def archive(path): return list(unpack(path, path.parent / "out"))
formats = {".csv": "table", ".jsonl": "table", ".json": "coco"}
def pairs(path): return read_pairs(path, formats.get(path.suffix))
read = {".yaml": recipe, ".zip": archive}.get(path.suffix, pairs)
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
try:
    answer = f"{len(read(path)):,} read"
except DiptychError:
    answer = "refused"
except Exception as error:
    answer = type(error).__name__
unit = 2**20 if sys.platform == "darwin" else 2**10
peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit
print(f"{answer:>16} {time.perf_counter() - began:8.2f} {peak:8.0f}")
"""


def tar_header(name: str, kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def large_record(folder: Path, kind: bytes, mebibytes: int = 1 << 10) -> Path:
    """A packed tar whose first header is 1 GiB long."""
    with gzip.open(folder / "a.tgz", "wb", 6) as file:
        file.write(tar_header("././@LongLink", kind, mebibytes << 20))
        for _ in range(mebibytes):
            file.write(b"a" * (1 << 20))
    return folder / "a.tgz"


def zeros(folder: Path, images: int = 64) -> Path:
    """A packed tar of pictures of 32 MiB of zeros each."""
    with gzip.open(folder / "a.tgz", "wb", 6) as file:
        for at in range(images):
            file.write(tar_header(f"{at}.jpg", tarfile.REGTYPE, 32 << 20))
            for _ in range(32):
                file.write(bytes(1 << 20))
    return folder / "a.tgz"


def sparse(folder: Path, blocks: int = 524_288) -> Path:
    """A packed tar with a sparse member whose map goes on for 256 MiB."""
    with gzip.open(folder / "a.tgz", "wb", 6) as file:
        header = bytearray(tar_header("a.jpg", tarfile.GNUTYPE_SPARSE, 0))
        header[482] = 1
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:]))
        file.write(header)
        for _ in range(blocks // 1_024):
            file.write((b"00000000001\0" * 42 + b"\1" + bytes(7)) * 1_024)
    return folder / "a.tgz"


def shard(folder: Path, name: str, count: int, size: int = 20_000) -> Path:
    """An ordinary shard of pictures with captions; none of the bytes is looked at."""
    with tarfile.open(folder / name, "w:gz" if name.endswith("gz") else "w") as tar:
        for at in range(count):
            for suffix, content in (("jpg", os.urandom(size)), ("txt", b"A dog on a lawn.")):
                member = tarfile.TarInfo(f"{at:06}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return folder / name


def repeated(folder: Path, rows: int, size: int) -> Path:
    """A Parquet file whose rows all have one picture and one caption, each in a dictionary."""
    indices = pa.array([0] * rows, pa.int32())
    image = pa.DictionaryArray.from_arrays(indices, pa.array([b"x" * size]))
    caption = pa.DictionaryArray.from_arrays(indices, pa.array(["A dog."]))
    table = pa.table({"image": image, "caption": caption})
    pq.write_table(table, folder / "a.parquet", compression="zstd", store_schema=False)
    return folder / "a.parquet"


def long_list(folder: Path, count: int = 50_000_000) -> Path:
    """A Parquet file with a row of `count` captions, each nothing."""
    captions = pa.ListArray.from_arrays([0, count], pa.nulls(count, pa.string()))
    pq.write_table(pa.table({"image": ["a.jpg"], "captions": captions}), folder / "a.parquet", compression="zstd")
    return folder / "a.parquet"


def table_of_rows(folder: Path, rows: int) -> Path:
    names, captions = [f"{at:07}.jpg" for at in range(rows)], [f"Dog {at} on a lawn." for at in range(rows)]
    pq.write_table(pa.table({"image": names, "caption": captions}), folder / "a.parquet")
    return folder / "a.parquet"


def packed(folder: Path, files: int, size: int) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for at in range(files):
            archive.writestr(f"{at}.jpg", bytes(size))
    return folder / "a.zip"


def text(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content)
    return folder / name


def coco(folder: Path, images: int) -> Path:
    told = {
        "images": [{"id": at, "file_name": f"{at:012}.jpg"} for at in range(images)],
        "annotations": [
            {"image_id": at // 5, "id": at, "caption": f"A dog {at} on a lawn."} for at in range(5 * images)
        ],
    }
    return text(folder, "captions_val2014.json", json.dumps(told))


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "captions.txt")
    return folder


_LAUGHS = "a: &a [0,0,0,0,0,0,0,0,0]\n" + "".join(
    f"{chr(98 + at)}: &{chr(98 + at)} [{','.join([f'*{chr(97 + at)}'] * 9)}]\n" for at in range(8)
)

CASES: dict[str, Callable[[Path], Path]] = {
    "tgz, GNU name of 1 GiB": lambda folder: large_record(folder, tarfile.GNUTYPE_LONGNAME),
    "tgz, PAX header of 1 GiB": lambda folder: large_record(folder, tarfile.XHDTYPE),
    "tgz, 2 GiB of zeros": zeros,
    "tgz, endless sparse map": sparse,
    "tgz, 2,000 pictures": lambda folder: shard(folder, "a.tgz", 2_000),
    "tar, 20,000 pictures": lambda folder: shard(folder, "a.tar", 20_000),
    "zip, 2 GiB of zeros": lambda folder: packed(folder, 64, 32 << 20),
    "Parquet, one picture": lambda folder: repeated(folder, 64, 16 << 20),
    "Parquet, 9,000,000 rows": lambda folder: repeated(folder, 9_000_000, 1),
    "Parquet, page of 512 MiB": lambda folder: repeated(folder, 1, 512 << 20),
    "Parquet, list of 50,000,000": long_list,
    "Parquet, ordinary rows": lambda folder: table_of_rows(folder, 200_000),
    "CSV, one line of quotes": lambda folder: text(folder, "a.csv", "image,caption\na.jpg," + '"' * 19_000_000),
    "CSV, lines of quotes": lambda folder: text(folder, "a.csv", "image,caption,split\na," + '"\n",' * 4_750_000),
    "CSV, 1,000,000 columns": lambda folder: text(folder, "a.csv", "image,caption" + ",x" * 500_000 + "\na" * 1_000),
    "CSV, not UTF-8": lambda folder: _bytes(folder, "a.csv", b"image,caption\n" + b"a.jpg," + b"\xff" * 19_000_000),
    "CSV, ordinary": lambda folder: text(
        folder, "a.csv", "image,caption\n" + "".join(f"{at}.jpg,A dog {at} on a lawn.\n" for at in range(200_000))
    ),
    "pattern of 3,000,000": lambda folder: folder / "{0..3000000}.tar",
    "pattern of ten braces": lambda folder: folder / ("{a,b,c,d,e,f}" * 10 + ".tar"),
    "JSON lines, one of 64 MB": lambda folder: text(folder, "a.jsonl", '{"image":"a","caption":[' + "[]," * 21_000_000),
    "JSON, lists in lists": lambda folder: text(
        folder, "a.json", '{"images": [' + "[" * 900 + "]" * 900 + "]" + " " * 99
    ),
    "JSON, 64 MB of {}": lambda folder: text(
        folder, "captions_x.json", '{"images": [], "annotations": [{"a":[' + "{}," * 21_000_000
    ),
    "COCO, 40,000 pictures": lambda folder: coco(folder, 40_000),
    "YAML, aliases": lambda folder: text(folder, "a.yaml", _LAUGHS + "epochs: *i\n"),
    "a pipe as captions.txt": pipe,
}


def _bytes(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)  # its memory is then not this one's
    options = parser.parse_args()
    if options.make:
        print(CASES[options.make[0]](Path(options.make[1])))
        return
    print(f"{'file':28} {'bytes':>12} {'answer':>16} {'seconds':>8} {'MiB':>8}", flush=True)
    for name in (name for name in CASES if options.only in name):
        with tempfile.TemporaryDirectory() as folder:
            made = [sys.executable, __file__, "--make", name, folder]
            path = subprocess.run(made, capture_output=True, text=True, check=True).stdout.strip()
            size = sum(each.stat().st_size for each in Path(folder).iterdir())
            command = [sys.executable, "-W", "ignore", "-c", _READ, path]
            environment = {**os.environ, "DIPTYCH_CACHE": folder}
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=_SECONDS, preexec_fn=_limited, env=environment
                )
                answer = done.stdout.rstrip() or f"{'no memory' if 'MemoryError' in done.stderr else 'killed':>16}"
            except subprocess.TimeoutExpired:
                answer = f"{'no end':>16} {_SECONDS:8.2f}"
            print(f"{name:28} {size:12,} {answer}", flush=True)


if __name__ == "__main__":
    main()
