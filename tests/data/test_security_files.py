"""Files built to exhaust memory or disk: each is refused by name before it does harm."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from diptych.data.archives import unpack
from diptych.data.classes import read_classes
from diptych.data.containers import image_at
from diptych.data.doctor.inspect import inspect
from diptych.data.formats.read import read_pairs, wrong_encoding
from diptych.data.formats.tables import records
from diptych.errors import ConfigError, DataError
from diptych.prompting.library import read_prompts
from diptych.runtime.files import MAX_RECORD, RATIO_ALLOWANCE, open_file
from diptych.training.recipe_files import read_yaml

_SPEC = importlib.util.spec_from_file_location(
    "hostile_files", Path(__file__).parents[2] / "benchmarks" / "hostile_files.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
make = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make)

# Reads each path in a process of its own, in at most 1.5 GiB and 20 seconds: what it answers, and the MiB it took.
_READ = """
import json, os, resource, signal, sys
import diptych.data.formats.tables
from diptych.errors import DataError
from diptych.data.formats.read import read_pairs
unit = 2**20 if sys.platform == "darwin" else 2**10
for path in sys.stdin.read().splitlines():
    reads, writes = os.pipe()
    if not os.fork():
        signal.alarm(20)
        if sys.platform == "linux":
            size = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + (3 << 29)
            resource.setrlimit(resource.RLIMIT_AS, (size, size))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            format = {".csv": "table", ".jsonl": "table", ".json": "coco"}.get(os.path.splitext(path)[1])
            answer = f"{len(read_pairs(path, format))} read"
        except (DataError, MemoryError) as error:
            answer = f"{type(error).__name__}: {error}"
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit
        os.write(writes, json.dumps([answer, peak]).encode())
        os._exit(0)
    os.close(writes)
    with open(reads) as answer:
        print(answer.read() or json.dumps(["killed", 0]), flush=True)
    os.wait()
"""

HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a GNU name of 64 MiB": (
        lambda to: make.large_record(to, tarfile.GNUTYPE_LONGNAME, 64),
        "the limit is 1,048,576",
    ),
    "a GNU link of 64 MiB": (
        lambda to: make.large_record(to, tarfile.GNUTYPE_LONGLINK, 64),
        "the limit is 1,048,576",
    ),
    "a PAX header of 64 MiB": (lambda to: make.large_record(to, tarfile.XHDTYPE, 64), "the limit is 1,048,576"),
    "a global header of 64 MiB": (lambda to: make.large_record(to, tarfile.XGLTYPE, 64), "the limit is 1,048,576"),
    "a sparse map without end": (lambda to: make.sparse(to, 65_536), "is sparse"),
    "a packed tar of zeros": (lambda to: make.zeros(to, 4), "unpacks to more than"),
    "a picture in 64 rows": (lambda to: make.repeated(to, 64, 16 << 20), "unpacks to more than"),
    "a page of 128 MiB": (lambda to: make.repeated(to, 1, 128 << 20), r"a page of [\d,]+ bytes unpacks to 134,217,7"),
    "rows without bytes": (lambda to: make.repeated(to, 2_000_000, 1), "declares 2,000,000 rows"),
    "a row of 5,000,000 captions": (lambda to: make.long_list(to, 5_000_000), "5,000,000 values in 1 rows"),
    "a line of quotes": (
        lambda to: make.text(to, "a.csv", "image,caption\na.jpg," + '"' * 19_000_000),
        "line 2 is longer than 1,048,576 characters",
    ),
    "a record of quotes": (
        lambda to: make.text(to, "a.csv", "image,caption,split\na," + '"\n",' * 2_000_000),
        "line 2: the record has more than 1,048,576 characters",
    ),
    "a header of columns": (
        lambda to: make.text(to, "a.csv", "image,caption" + ",x" * 500_000 + "\na" * 1_000),
        "has 500,002 columns, the limit is 4,096",
    ),
    "a line of JSON": (
        lambda to: make.text(to, "a.jsonl", '{"image": "a", "caption": [' + "[]," * 5_000_000),
        "line 1 is longer",
    ),
    "an entry of JSON": (
        lambda to: make.text(to, "captions_x.json", '{"images": [], "annotations": [{"a": [' + "{}," * 5_000_000),
        "has more than 1,048,576 characters",
    ),
    "a passed entry of JSON": (
        lambda to: make.text(to, "captions_x.json", '{"info": {"a": [' + "{}," * 5_000_000 + '"images"'),
        "has more than 1,048,576 characters",
    ),
    "3,000,000 shards": (lambda to: to / "{0..3000000}.tar", "names more than 300,000 files"),
    "shards by multiplication": (lambda to: to / ("{a,b,c,d,e,f,g,h,i,j}" * 7 + ".tar"), "names more than 300,000"),
    "shards by wildcards": (lambda to: to / "{0..9999}*.tar", "names more than 1,000 files"),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float]]:
    """What reading each hostile file answers, and the MiB that it took."""
    paths = [str(make(tmp_path_factory.mktemp("hostile"))) for make, _ in HOSTILE.values()]
    environment = {**os.environ, "DIPTYCH_CACHE": str(tmp_path_factory.mktemp("cache"))}
    command = [sys.executable, "-c", _READ]
    done = subprocess.run(
        command, input="\n".join(paths), capture_output=True, text=True, timeout=500, check=True, env=environment
    )
    return dict(zip(HOSTILE, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_resource_exhausting_file_is_refused_with_the_limit_it_exceeds(
    answers: dict[str, tuple[str, float]], name: str
) -> None:
    answer, peak = answers[name]
    assert re.search(f"^DataError: .*{HOSTILE[name][1]}", answer), answer
    assert peak < 180, f"{peak:.0f} MiB"


# Regular files alone


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(path))


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


ODD: dict[str, Callable[[Path], None]] = {
    "a pipe": _pipe,
    "a socket": _socket,
    "a device": _device,
    "a folder": Path.mkdir,
}
READERS: dict[str, Callable[[Path], object]] = {
    "captions.txt": read_pairs,
    "captions.csv": read_pairs,
    "captions.json": lambda path: list(records(path)),
    "captions.jsonl": lambda path: list(records(path)),
    "captions.parquet": lambda path: list(records(path)),
    "shard.tar": read_pairs,
    "shard.tgz": read_pairs,
    "prompts.txt": read_prompts,
    "prompts.csv": read_prompts,
    "classes.txt": read_classes,
    "recipe.yaml": read_yaml,
    "a.zip": lambda path: list(unpack(path, path.parent / "out")),
    "any": open_file,
    "wrong.txt": wrong_encoding,
}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.timeout(20)
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", READERS)
def test_what_is_not_a_regular_file_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, odd: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ODD[odd](tmp_path / name)
    with pytest.raises((DataError, ConfigError)):
        READERS[name](tmp_path / name)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.timeout(20)
@pytest.mark.parametrize("odd", ODD)
def test_a_folder_with_an_odd_file_beside_its_captions_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ODD[odd](tmp_path / "captions.txt")
    with pytest.raises(DataError, match="no captions found"):
        read_pairs(tmp_path)
    (tmp_path / "a.csv").write_text("image,caption\na.jpg,A dog.\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    pairs = read_pairs(tmp_path)
    assert pairs[0].captions == ("A dog.",)
    assert inspect(pairs, folder=tmp_path, caption_files=[tmp_path / "captions.txt"]).images == 1


# Names and members of archives


def _shard(path: Path, *members: tarfile.TarInfo, mode: str = "w") -> Path:
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size) if member.isreg() else None)
    return path


def _member(name: str, length: int = 3, kind: bytes = tarfile.REGTYPE, **headers: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.pax_headers, member.linkname = kind, length, headers, "/etc/passwd"
    return member


@pytest.mark.parametrize("name", ["../../x.jpg", "a/../../x.jpg", "x" * 5_000 + ".jpg"])
def test_an_unsafe_member_name_in_a_shard_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"a\.tar' is not a complete tar file \(the name '"):
        read_pairs(_shard(tmp_path / "a.tar", _member(name)))


def test_links_devices_and_folders_in_a_shard_are_skipped(tmp_path: Path) -> None:
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    odd = [_member(f"{i}.jpg", 0, kind) for i, kind in enumerate(kinds)]
    for mode, name in (("w", "a.tar"), ("w:gz", "b.tgz")):
        pairs = read_pairs(_shard(tmp_path / name, *odd, _member("x.jpg"), mode=mode))
        assert [row.image_id for row in pairs] == [f"{name[0]}/x"]


@pytest.mark.parametrize("size", ["9" * 25, "-1", "99999999", "1" * 5_000])
def test_a_member_larger_than_its_shard_is_refused(tmp_path: Path, size: str) -> None:
    for mode, name in (("w", "a.tar"), ("w:gz", "a.tgz")):
        with pytest.raises(DataError, match=rf"{name}' is not a complete tar file"):
            read_pairs(_shard(tmp_path / name, _member("x.jpg", 3, **{"size": size}), mode=mode))


def test_texts_in_a_shard_are_limited_to_the_record_size(tmp_path: Path) -> None:
    shard = _shard(tmp_path / "a.tar", _member("x.jpg"), _member("x.txt", MAX_RECORD))
    assert len(read_pairs(shard)[0].captions[0]) == MAX_RECORD
    with pytest.raises(DataError, match=r"a\.tar': the text 'x\.txt' has 1,048,577 bytes, the limit is 1,048,576"):
        read_pairs(_shard(tmp_path / "a.tar", _member("x.jpg"), _member("x.txt", MAX_RECORD + 1)))


def test_long_names_of_every_format_are_read(tmp_path: Path) -> None:
    name = "/".join(["ordner" * 10] * 8) + "/bild-ü.jpg"
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "a.tar", "w", format=format) as tar:
            tar.addfile(_member(name), io.BytesIO(b"123"))
            tar.addfile(_member("short.jpg"), io.BytesIO(b"456"))
        assert [row.image_id for row in read_pairs(tmp_path / "a.tar")] == [f"a/{name[:-4]}", "a/short"]
        assert image_at(f"{tmp_path}/a.tar/{name}").size == 3


def _zip(path: Path, *names: str, content: bytes = b"", method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, content)
    return path


def test_an_archive_unpacks_to_at_most_a_hundred_times_its_size(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", *(f"{i}.jpg" for i in range(3)), content=bytes(RATIO_ALLOWANCE // 2))
    with pytest.raises(DataError, match=r"a\.zip' unpacks to 100,663,296 bytes, the limit is \d+.* unpack it yourself"):
        list(unpack(path, tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())


def test_overlapping_entries_of_an_archive_are_refused(tmp_path: Path) -> None:
    content = bytearray(_zip(tmp_path / "a.zip", "a.jpg", "b.jpg", content=os.urandom(500)).read_bytes())
    second = content.rindex(b"PK\1\2")
    content[second + 42 : second + 46] = struct.pack("<I", 0)  # its bytes begin where those of the first do
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip' has overlapping entries"):
        list(unpack(tmp_path / "a.zip", tmp_path / "out"))


def test_an_archive_packed_by_lzma_is_refused(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", "a.jpg", content=b"x", method=zipfile.ZIP_LZMA)
    with pytest.raises(DataError, match=r"method 14; supported: stored, deflate, bzip2\); unpack it yourself"):
        list(unpack(path, tmp_path / "out"))


def test_a_central_directory_of_more_than_16_mib_is_refused(tmp_path: Path) -> None:
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 17 << 20, 0, 0)
    (tmp_path / "a.zip").write_bytes(bytes(17 << 20) + end)
    with pytest.raises(DataError, match=r"a\.zip' has a central directory of more than 16,777,216 bytes"):
        list(unpack(tmp_path / "a.zip", tmp_path / "out"))


def test_a_packed_shard_of_any_size_is_streamed(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.tgz", "wb", 1) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for i in range(8):
            content = os.urandom(1 << 20)
            member = _member(f"{i}.jpg", len(content))
            tar.addfile(member, io.BytesIO(content))
    assert len(read_pairs(tmp_path / "a.tgz")) == 8
