"""Damaged files of every format (empty, garbage, truncated, corrupted) give rows or a typed error."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diptych.captioning.caption_files import one_each, read_caption_file
from diptych.data.archives import unpack
from diptych.data.formats.json_values import entries
from diptych.data.formats.read import read_pairs
from diptych.data.labelled import is_labelled, read_labelled_pairs
from diptych.errors import ConfigError, DataError
from diptych.training.recipe_files import read_yaml

ROWS = [{"image": f"{i}.jpg", "caption": f'A "dog", {i}', "label": "1"} for i in range(4)]
COCO = {
    "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(3)],
    "annotations": [{"image_id": i, "caption": f"A dog {i}"} for i in range(3)],
}
KARPATHY = {"images": [{"filename": f"{i}.jpg", "split": "val", "sentences": [{"raw": "A dog"}]} for i in range(3)]}


def _tar(mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.PAX_FORMAT) as tar:
        for name, content in (("a.jpg", b"123"), ("a.json", b'{"caption": "x"}'), ("ü" * 120 + ".jpg", b"456")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _parquet(**options: str) -> bytes:
    buffer = io.BytesIO()
    captions = [["a dog", "a cat"], [], ["x"], None]
    pq.write_table(pa.table({"image": [b"1", b"2", None, b"4"], "captions": captions}), buffer, **options)
    return buffer.getvalue()


def _arrow() -> bytes:
    buffer = io.BytesIO()
    images = [{"bytes": b"1", "path": None}, {"bytes": None, "path": "b.jpg"}, None]
    table = pa.table({"image": images, "captions": [["a dog", "a cat"], [], ["x"]], "label": [1, 2, None]})
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", b"123" * 50)
        archive.writestr("b.json", b"{}")
    return buffer.getvalue()


def _read(path: Path) -> object:
    formats = {
        ".csv": "table",
        ".tsv": "table",
        ".jsonl": "table",
        ".tar": "webdataset",
        ".tgz": "webdataset",
        ".token": "flickr8k-token",
    }
    named = {"captions.txt": "flickr8k", "results.csv": "flickr30k", "coco.json": "coco", "karpathy.json": "karpathy"}
    return read_pairs(path, named.get(path.name) or formats.get(path.suffix))


def _labelled(path: Path) -> object:
    return is_labelled(path) and read_labelled_pairs(path)


def _captions(path: Path) -> object:
    captions = read_caption_file(path)
    return one_each(captions, [*captions, "COCO_1.jpg"], path)


FILES: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "a.csv": (b"image,caption,split\n" + b'a.jpg,"A ""dog"", x",train\n' * 3, _read),
    "a.tsv": (b"image\tcaption\n" + b"a.jpg\tA dog\n" * 3, _read),
    "a.jsonl": ("\n".join(map(json.dumps, ROWS)).encode(), _read),
    "a.json": (json.dumps(ROWS).encode(), _read),
    "coco.json": (json.dumps(COCO).encode(), _read),
    "karpathy.json": (json.dumps(KARPATHY).encode(), _read),
    "captions.txt": (b"image,caption\n" + b'a.jpg,"A dog\nb.jpg,x\n', _read),
    "a.token": (b"a.jpg#0\tA dog\nb.jpg#1\tA cat\n", _read),
    "results.csv": (b"image_name| comment_number| comment\na.jpg| 0| A dog\n", _read),
    "a.tar": (_tar("w"), _read),
    "a.tgz": (_tar("w:gz"), _read),
    "a.parquet": (_parquet(), _read),
    "zstd.parquet": (_parquet(compression="zstd", data_page_version="2.0"), _read),
    "a.arrow": (_arrow(), _read),
    "bare.csv": (b'a.jpg,"A ""dog"", x"\nb.jpg,[\'a\', "b"]\n', _read),
    "byname.json": (b'{"a.jpg": "A dog", "b.jpg": ["x", {"raw": "y"}], "c.jpg": {"caption": "z"}}', _read),
    "a.zip": (_zip(), lambda path: list(unpack(path, path.parent / "out"))),
    "a.yaml": (b"epochs: 3\nbatch: [1, 2]\nname: {a: 2001-01-01}\n", read_yaml),
    "labelled.csv": (b"image,caption,label\na.jpg,x,1\nb.jpg,y,no\n", _labelled),
    "labelled.jsonl": ("\n".join(map(json.dumps, ROWS)).encode(), _labelled),
    "result.json": (
        json.dumps([{"image_id": 1, "caption": "x"}, {"image_id": 12, "caption": "y"}]).encode(),
        _captions,
    ),
    "named.json": (b'{"1.jpg": "a dog", "2.jpg": ["a cat"]}', _captions),
}

_SEEDS = st.lists(
    st.one_of(
        st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
        st.tuples(st.just("set"), st.floats(0, 1), st.integers(0, 255)),
        st.tuples(
            st.just("put"), st.floats(0, 1), st.sampled_from([b'"', b"[" * 30, b"9" * 40, b"\0", b"\xff\xfe", b"\n"])
        ),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_a_typed_error_that_names_it_or_is_read(tmp_path: Path, name: str) -> None:
    content, read = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    read(path)

    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(_SEEDS)
    def damaged(changes: list) -> None:
        changed = bytearray(content)
        for kind, where, value in changes:
            offset = int(where * len(changed))
            if kind == "cut":
                del changed[offset:]
            elif kind == "set":
                changed[offset : offset + 1] = bytes([value])
            else:
                changed[offset:offset] = value
        _is_read_or_refused(path, bytes(changed), read)

    damaged()


@pytest.mark.parametrize("name", FILES)
def test_an_empty_file_and_garbage_are_typed_errors_that_name_the_file(tmp_path: Path, name: str) -> None:
    _, read = FILES[name]
    for content in (b"", b"\0" * 2_000, b"PAR1" * 30, b"\xff\xfe\0", b"[" * 20_000, b'{"images": ' * 900, b"9" * 9_000):
        _is_read_or_refused(tmp_path / name, content, read)


def _is_read_or_refused(path: Path, content: bytes, read: Callable[[Path], object]) -> None:
    path.write_bytes(content)
    message = path.name
    try:
        read(path)
    except (DataError, ConfigError) as error:
        message = str(error)
    expected = (path.name, "out of the folder", "contains no images", "invalid classes", "image '")
    assert any(words in message for words in expected), message


@pytest.mark.parametrize("levels", [400, 900, 5_000, 100_000])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "coco.json", "karpathy.json", "named.json", "a.csv"])
def test_captions_nested_deeply_are_read_or_refused_by_name(tmp_path: Path, name: str, levels: int) -> None:
    lists, objects = "[" * levels + '"x"' + "]" * levels, '{"raw":' * levels + "1" + "}" * levels
    for caption in (lists, objects):
        forms = {
            "a.jsonl": f'{{"image": "a.jpg", "caption": {caption}}}',
            "a.json": f'[{{"image": "a.jpg", "caption": {caption}}}]',
            "coco.json": f'{{"images": [{{"id": 1, "file_name": "a.jpg"}}], "annotations": '
            f'[{{"image_id": 1, "caption": {caption}}}]}}',
            "karpathy.json": f'{{"images": [{{"filename": "a.jpg", "sentences": [{caption}]}}]}}',
            "named.json": f'{{"a.jpg": {caption}}}',
            "a.csv": 'image,caption,split\na.jpg,"' + caption.replace('"', '""') + '",val\n',
        }
        _is_read_or_refused(tmp_path / name, forms[name].encode(), FILES[name][1])


@pytest.mark.parametrize(
    "text", ["9" * 5_000, "1e999", "NaN", "-Infinity", "[1,2]", "{}", "null", '"\\ud800"', "1e-999"]
)
@pytest.mark.parametrize("name", ["a.jsonl", "coco.json", "result.json"])
def test_odd_ids_and_captions_are_read_or_refused_by_name(tmp_path: Path, name: str, text: str) -> None:
    forms = {
        "a.jsonl": f'{{"image": {text}, "caption": {text}, "split": {text}, "key": {text}}}',
        "coco.json": f'{{"images": [{{"id": {text}, "file_name": {text}}}], "annotations": '
        f'[{{"image_id": {text}, "caption": {text}}}]}}',
        "result.json": f'[{{"image_id": {text}, "caption": {text}}}]',
    }
    _is_read_or_refused(tmp_path / name, forms[name].encode(), FILES[name][1])


def test_a_long_digit_string_as_an_id_is_read_quickly(tmp_path: Path) -> None:
    name = "1" * 200_000
    (tmp_path / "r.jsonl").write_text(json.dumps({"image": name, "caption": "x"}))
    captions = read_caption_file(tmp_path / "r.jsonl")
    assert one_each(captions, [name, name + "!"], "r.jsonl") == {name: "x"}


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=9)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.one_of(st.lists(_JSON, max_size=5), st.dictionaries(st.text(max_size=5), _JSON, max_size=5)), st.integers(1, 7)
)
def test_incremental_json_parsing_equals_json_loads(
    tmp_path_factory: pytest.TempPathFactory, value: list | dict, step: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "pieces.json"
    path.write_text(json.dumps(value, ensure_ascii=False, indent=step % 2), "utf-8", errors="replace")
    expected = json.loads(path.read_text("utf-8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diptych.data.formats.json_values._STEP", step)
        parsed = list(entries(path))
        nested = {"first": expected, "images": [expected, 12.5], "last": expected}
        path.write_text(json.dumps(nested), "utf-8")
        inside = [entry for _, entry in entries(path, "images")]
    assert parsed == (list(expected.items()) if isinstance(expected, dict) else list(enumerate(expected)))
    assert inside == [expected, 12.5]
