"""Downloads from a local HTTP server: interruptions, resumption, wrong content, hostile names and archives."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image

from diptych.data.archives import unpack
from diptych.data.downloads import RemoteFile, checksum, fetch
from diptych.data.formats.read import read_pairs
from diptych.data.hub_datasets import PUBLISHED, get, offer
from diptych.errors import ConfigError, DataError

CONTENT = bytes(range(256)) * 9000  # 2.2 MiB


class Server(ThreadingHTTPServer):
    """Serves `files` by path; `cuts` holds, for a path, after how many bytes each of its next answers breaks off."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cuts: dict[str, list[int]] = {}
        self.refusals: dict[str, list[int]] = {}
        self.knows_ranges = True
        self.ranges: list[str | None] = []  # of each answered GET

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def remote(self, path: str, content: bytes | None = None, kind: str = "sha256") -> RemoteFile:
        """A file of this server, with the size and checksum of `content` (what it really serves, unless given)."""
        content = self.files[path] if content is None else content
        header = b"" if kind == "sha256" else f"blob {len(content)}\0".encode()
        digest = hashlib.new("sha256" if kind == "sha256" else "sha1", header + content).hexdigest()
        return RemoteFile(f"{self.url}/{path}", path, len(content), f"{kind}:{digest}")


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path).lstrip("/") + (f"?{address.query}" if address.query else "")
        wanted = self.headers.get("Range")
        if refusals := self.server.refusals.get(path):
            self.send_error(refusals.pop(0))
            return
        if path not in self.server.files:
            self.send_error(404)
            return
        self.server.ranges.append(wanted)
        content = self.server.files[path]
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.knows_ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if path.startswith("api/") and "cursor" not in path and f"{path}?cursor=2" in self.server.files:
            self.send_header("Link", f'<{self.server.url}/{path}?cursor=2>; rel="next"')
        self.end_headers()
        cuts = self.server.cuts.get(path)
        self.wfile.write(content[start : start + cuts.pop(0)] if cuts else content[start:])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    running.files["big.bin"] = CONTENT
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def test_a_file_is_downloaded_completely_and_only_once(server: Server, tmp_path: Path) -> None:
    path = fetch(server.remote("big.bin"), tmp_path)
    assert path.read_bytes() == CONTENT
    assert fetch(server.remote("big.bin"), tmp_path) == path
    assert server.ranges == [None]
    assert [file.name for file in tmp_path.iterdir()] == ["big.bin"]


def test_an_interrupted_transfer_is_resumed_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cuts["big.bin"] = [1_000_000, 70_000]
    path = fetch(server.remote("big.bin"), tmp_path, wait=0.01)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000000-", "bytes=1070000-"]


def test_a_later_run_resumes_a_partial_download(server: Server, tmp_path: Path) -> None:
    (tmp_path / "big.bin.part").write_bytes(CONTENT[:500_000])
    assert fetch(server.remote("big.bin"), tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=500000-"]


def test_without_range_support_the_file_is_sent_from_the_beginning(server: Server, tmp_path: Path) -> None:
    server.knows_ranges = False
    server.cuts["big.bin"] = [1_000_000]
    assert fetch(server.remote("big.bin"), tmp_path, wait=0.01).read_bytes() == CONTENT
    assert len(server.ranges) == 2


def test_a_connection_that_always_breaks_ends_with_a_next_step(server: Server, tmp_path: Path) -> None:
    server.cuts["big.bin"] = [1000, *[0] * 20]
    with pytest.raises(DataError, match=r"after 1,000 of 2,304,000 bytes, 5 times in a row.*run the command again"):
        fetch(server.remote("big.bin"), tmp_path, wait=0.001)
    assert (tmp_path / "big.bin.part").stat().st_size == 1000
    assert not (tmp_path / "big.bin").exists()


def test_a_wrong_checksum_is_refused_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    remote = server.remote("big.bin", CONTENT[:-1] + b"x")
    with pytest.raises(DataError, match=r"has the checksum sha256:.*and was deleted"):
        fetch(remote, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_part_is_found_by_the_checksum(server: Server, tmp_path: Path) -> None:
    (tmp_path / "big.bin.part").write_bytes(b"x" * 500_000)
    with pytest.raises(DataError, match="checksum"):
        fetch(server.remote("big.bin"), tmp_path)
    assert fetch(server.remote("big.bin"), tmp_path).read_bytes() == CONTENT


def test_a_file_of_another_content_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "big.bin").write_bytes(b"y" * len(CONTENT))
    assert fetch(server.remote("big.bin"), tmp_path).read_bytes() == CONTENT


def test_bytes_beyond_the_announced_size_are_not_kept(server: Server, tmp_path: Path) -> None:
    short = CONTENT[:300]
    assert fetch(server.remote("big.bin", short), tmp_path).read_bytes() == short


def test_an_empty_file_is_downloaded(server: Server, tmp_path: Path) -> None:
    server.files["empty.txt"] = b""
    assert fetch(server.remote("empty.txt"), tmp_path).read_bytes() == b""


def test_git_checksums_are_supported(server: Server, tmp_path: Path) -> None:
    server.files["small.txt"] = b"hello\n"
    remote = server.remote("small.txt", kind="git")
    assert remote.checksum == "git:ce013625030ba8dba906f756967f9e9ca394464a"  # `echo hello | git hash-object --stdin`
    assert checksum(fetch(remote, tmp_path), "git:") == remote.checksum


def test_a_busy_server_is_retried_and_a_missing_file_is_not(server: Server, tmp_path: Path) -> None:
    server.refusals["big.bin"] = [503, 429]
    assert fetch(server.remote("big.bin"), tmp_path, wait=0.001).read_bytes() == CONTENT
    gone = RemoteFile(f"{server.url}/gone.bin", "gone.bin", 5, "sha256:0")
    with pytest.raises(DataError, match="returned status 404: it was moved or removed"):
        fetch(gone, tmp_path, wait=60)


@pytest.mark.parametrize("path", ["../x.jpg", "/etc/x", "a/../../x", "a\\..\\x", "C:x", ""])
def test_a_name_that_leads_out_of_the_folder_is_refused(server: Server, tmp_path: Path, path: str) -> None:
    with pytest.raises(DataError, match="leads out of the folder"):
        fetch(RemoteFile(f"{server.url}/big.bin", path, 5, "sha256:0"), tmp_path / "inside")


def test_only_web_addresses_are_opened(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    with pytest.raises(DataError, match="is not an HTTP or HTTPS URL"):
        fetch(RemoteFile((tmp_path / "secret").as_uri(), "x", 1, "sha256:0"), tmp_path / "out")


# archives


def image(shade: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 80, 80)).save(sink, "PNG")
    return sink.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return sink.getvalue()


def test_an_archive_unpacks_only_images_and_under_their_base_names(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(
        zipped({"../../evil.png": image(1), "in/b.png": image(2), "run.py": b"x", "__MACOSX/._b.png": b"x"})
    )
    names = sorted(path.name for path in unpack(tmp_path / "a.zip", tmp_path / "out"))
    assert names == ["b.png", "evil.png"]
    assert {path.name for path in tmp_path.rglob("*.p*")} == {"b.png", "evil.png"}
    assert {path.parent for path in tmp_path.rglob("*.png")} == {tmp_path / "out"}


def test_an_archive_that_is_too_large_damaged_or_ambiguous_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped({"a.png": image(1)}))
    with pytest.raises(DataError, match="the limit is 10"):
        list(unpack(archive, tmp_path / "out", max_bytes=10))
    archive.write_bytes(archive.read_bytes()[:40])
    with pytest.raises(DataError, match="cannot be unpacked"):
        list(unpack(archive, tmp_path / "out"))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.json", b'{"a": 1}' * 200)
    data = bytearray(archive.read_bytes())
    data[30 + len("a.json")] = 0xFF  # the first block is of a kind that there is not
    archive.write_bytes(data)
    with pytest.raises(DataError, match="cannot be unpacked"):
        list(unpack(archive, tmp_path / "out"))
    archive.write_bytes(zipped({"a/x.png": image(1), "b/x.png": image(2)}))
    with pytest.raises(DataError, match=r"two files called 'x.png'"):
        list(unpack(archive, tmp_path / "out"))


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_is_reported_for_every_compression_method(tmp_path: Path, kind: int) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", kind) as packed:
        packed.writestr("a.json", os.urandom(300))
    data = bytearray(archive.read_bytes())
    data[55:100] = b"\xff" * 45
    archive.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.zip' cannot be unpacked"):
        list(unpack(archive, tmp_path / "out"))


def test_names_that_are_too_long_or_differ_only_in_case_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped({"ü.png": image(1)}).replace("ü.png".encode(), b"\xff\xfe.png"))
    with pytest.raises(DataError, match=r"cannot be unpacked .*utf-8"):
        list(unpack(archive, tmp_path / "out"))
    archive.write_bytes(zipped({"a" * 300 + ".png": image(1)}))
    with pytest.raises(DataError, match="file name of more than 240 bytes"):
        list(unpack(archive, tmp_path / "out"))
    archive.write_bytes(zipped({"a.png": image(1), "A.PNG": image(2)}))
    with pytest.raises(DataError, match=r"two files called 'A\.PNG'"):
        list(unpack(archive, tmp_path / "out"))
    archive.write_bytes(zipped({"a.png:stream.png": image(1)}))
    assert list(unpack(archive, tmp_path / "out")) == []


# published sets, as the hub lists them


def publish(server: Server, name: str, files: dict[str, bytes], pages: int = 1) -> None:
    """The hub's answers for a repository: its tree, in pages, and its files; those above 200 bytes are LFS."""
    repository = PUBLISHED[name].repository
    for folder in {path.rpartition("/")[0] for path in files}:
        entries = []
        for path, content in files.items():
            if path.rpartition("/")[0] == folder:
                blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
                entry: dict = {"type": "file", "oid": blob, "size": len(content), "path": path}
                if len(content) > 200:
                    large = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
                    entry |= {"oid": "0" * 40, "lfs": large}
                entries.append(entry)
        tree = f"api/datasets/{repository}/tree/main" + (f"/{folder}" if folder else "")
        half = len(entries) // pages
        server.files[tree] = json.dumps([{"type": "directory", "path": "x"}, *entries[:half]]).encode()
        if pages == 2:
            server.files[f"{tree}?cursor=2"] = json.dumps(entries[half:]).encode()
    for path, content in files.items():
        server.files[f"datasets/{repository}/resolve/main/{path}"] = content


def diffusiondb_part(numbers: range) -> bytes:
    prompts = {f"{n}.png": {"p": f'a "red", cat\nnumber {n}', "se": 1} for n in numbers}
    images = {f"{n}.png": image(n) for n in numbers}
    return zipped({**images, "part-000001.json": json.dumps(prompts).encode()})


def test_diffusiondb_is_prepared_as_images_with_prompts(server: Server, tmp_path: Path) -> None:
    parts = {
        "images/part-000001.zip": diffusiondb_part(range(3)),
        "images/part-000002.zip": diffusiondb_part(range(3, 5)),
    }
    publish(server, "diffusiondb", parts, pages=2)
    one, both = (offer("diffusiondb", parts=parts, endpoint=server.url) for parts in (1, 2))
    assert [file.path for file in one.files] == ["images/part-000001.zip"]
    assert both.size == sum(len(content) for content in parts.values())
    server.cuts["datasets/poloclub/diffusiondb/resolve/main/images/part-000002.zip"] = [100]
    pairs = read_pairs(get(both, tmp_path / "db"))
    assert len(pairs) == 5
    assert pairs[4].captions == ('a "red", cat\nnumber 4',)
    assert pairs[4].image == tmp_path / "db" / "images" / "4.png"
    assert "CC0" in (tmp_path / "db" / "LICENCE.txt").read_text()


@pytest.mark.parametrize("answer", ["[1]", "5", '[{"type": "file"}]', '[{"type": "file", "path": "x", "oid": null}]'])
def test_a_server_that_is_not_a_hub_is_an_error(server: Server, answer: str) -> None:
    publish(server, "diffusiondb", {"images/part-000001.zip": b""})
    server.files["api/datasets/poloclub/diffusiondb/tree/main/images"] = answer.encode()
    with pytest.raises(DataError, match="does not respond like the hub"):
        offer("diffusiondb", endpoint=server.url)


def test_downloading_fewer_parts_later_loses_nothing(server: Server, tmp_path: Path) -> None:
    parts = {f"images/part-{n:06}.zip": diffusiondb_part(range(3 * n, 3 * n + 3)) for n in (1, 2)}
    publish(server, "diffusiondb", parts)
    for count in (2, 1):
        pairs = read_pairs(get(offer("diffusiondb", parts=count, endpoint=server.url), tmp_path))
        assert [row.captions for row in pairs] == [(f'a "red", cat\nnumber {n}',) for n in range(3, 9)]
    assert [file.name for file in tmp_path.glob("prompts*")] == ["prompts.csv"]


def test_malformed_prompt_files_are_refused_by_name(server: Server, tmp_path: Path) -> None:
    publish(server, "diffusiondb", {"images/part-000001.zip": zipped({"part-000001.json": b'{"1.png": "a cat"}'})})
    with pytest.raises(DataError, match=r"part-000001\.json' does not have the expected JSON form"):
        get(offer("diffusiondb", endpoint=server.url), tmp_path)
    publish(server, "diffusiondb", {"images/part-000001.zip": diffusiondb_part(range(2))})
    (tmp_path / "prompts.csv").write_bytes(b"imgId,prompt\n\xff,x\n")
    with pytest.raises(DataError, match=r"prompts\.csv' exists and is not a table of prompts"):
        get(offer("diffusiondb", endpoint=server.url), tmp_path)


def test_flickr30k_is_prepared_with_five_captions_and_splits(server: Server, tmp_path: Path) -> None:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(("raw", "sentids", "split", "filename", "img_id"))
    for n, split in enumerate(("train", "val", "test")):
        captions = json.dumps([f"dog {n}, caption {k}" for k in range(5)])
        writer.writerow((captions, "[0, 1, 2, 3, 4]", split, f"{n}.png", n))
    files = {
        "flickr30k-images.zip": zipped({f"flickr30k-images/{n}.png": image(n) for n in range(3)}),
        "flickr_annotations_30k.csv": table.getvalue().encode(),
    }
    publish(server, "flickr30k", {**files, "README.md": b"never fetched"})
    pairs = read_pairs(get(offer("flickr30k", endpoint=server.url), tmp_path))
    assert pairs.split_sizes == {"train": 1, "val": 1, "test": 1}
    assert pairs[1].captions == tuple(f"dog 1, caption {k}" for k in range(5))
    assert all(Path(row.image).is_file() for row in pairs)  # type: ignore[arg-type]
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize(("name", "captions"), [("flickr8k", None), ("coco-captions", "answer")])
def test_parquet_data_sets_are_read_without_preparation(
    server: Server, tmp_path: Path, name: str, captions: str | None
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict = {"image": [{"bytes": image(n), "path": f"{n}.png"} for n in range(2)]}
    if captions:
        columns |= {"question": ["Describe it."] * 2, captions: [["a dog", "one dog"], ["a cat", "one cat"]]}
    else:
        columns |= {f"caption_{k}": [f"dog {k}", f"cat {k}"] for k in range(5)}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    publish(server, name, {"data/val-00000-of-00001.parquet": sink.getvalue()})
    pairs = read_pairs(get(offer(name, endpoint=server.url), tmp_path))
    assert len(pairs) == 2
    assert pairs[1].captions == (("a cat", "one cat") if captions else tuple(f"cat {k}" for k in range(5)))


def test_a_repository_without_the_expected_files_is_an_error(server: Server) -> None:
    publish(server, "flickr30k", {"README.md": b"moved"})
    with pytest.raises(DataError, match=r"no longer has a file 'flickr30k-images\.zip'"):
        offer("flickr30k", endpoint=server.url)


def test_an_unreachable_hub_and_an_unknown_name_are_errors() -> None:
    with pytest.raises(DataError, match="the hub does not respond"):
        offer("flickr8k", endpoint="http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="did you mean 'flickr8k'"):
        offer("flickr9k")


def test_every_published_data_set_has_a_licence_and_a_url_of_its_terms() -> None:
    for dataset in PUBLISHED.values():
        assert dataset.licence
        assert dataset.terms.startswith("https://")


def test_the_command_shows_size_and_licence_and_downloads_nothing_without_consent(
    server: Server, tmp_path: Path
) -> None:
    publish(server, "diffusiondb", {"images/part-000001.zip": diffusiondb_part(range(2))})
    command = [sys.executable, "-m", "diptych", "data", "get", "diffusiondb", "--out", str(tmp_path / "db")]
    settings = {**os.environ, "HF_ENDPOINT": server.url}

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *flags], capture_output=True, text=True, env=settings, timeout=120, stdin=subprocess.DEVNULL
        )

    refused = run()
    assert refused.returncode == 1
    assert "CC0 1.0" in refused.stdout
    assert "1 file, 0.0 MB" in refused.stdout
    assert "--accept-licence" in refused.stderr
    assert not (tmp_path / "db").exists()
    agreed = run("--accept-licence")
    assert agreed.returncode == 0, agreed.stderr
    assert len(read_pairs(tmp_path / "db")) == 2
