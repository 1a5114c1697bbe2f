"""Reading data sets: every format gives the same pairs, and common faults in real files are tolerated."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.data.doctor.inspect import inspect, usable_pairs
from diptych.data.formats.encoding import EMPTY_CELLS, split_of
from diptych.data.formats.read import FORMATS, READERS, ImagePaths, detect, read_pairs, wrong_encoding
from diptych.data.formats.shards import expand
from diptych.data.formats.tables import list_in_text
from diptych.data.pairs import Pairs, Row
from diptych.errors import ConfigError, DataError
from diptych.images.decode import Slice, decode
from diptych.runtime.atomic import new_folder
from diptych.runtime.cache import cache_dir

COLOURS = {"a.jpg": (250, 10, 10), "b.jpg": (10, 250, 10), "c.jpg": (10, 10, 250)}
CAPTIONS = {
    "a.jpg": ("A red, plain picture .", 'It says "red" twice'),
    "b.jpg": ("Green", "Ein grünes Bild 🟩"),
    "c.jpg": ("Blue | or nearly", ""),
}
SPLITS = {"a.jpg": "train", "b.jpg": "val", "c.jpg": "test"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the three pictures in `images/`."""
    made = tmp_path / "set"
    (made / "images").mkdir(parents=True)
    for name in COLOURS:
        (made / "images" / name).write_bytes(image(name))
    return made


def image(name: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), COLOURS[name]).save(buffer, "JPEG")
    return buffer.getvalue()


def colour(image: Image.Image) -> tuple[int, ...]:
    return tuple(250 if value > 128 else 10 for value in image.getpixel((8, 6)))


def seen(pairs) -> dict[tuple[int, ...], tuple[tuple[str, ...], str | None]]:
    """What was read, by the colour of the decoded picture: so that a wrong picture cannot go unnoticed."""
    return {colour(decode(row.image)): (row.captions, row.split) for row in pairs}


def expected(splits: dict[str, str | None] | None = SPLITS):
    return {COLOURS[name]: (CAPTIONS[name], (splits or {}).get(name)) for name in COLOURS}


def flat() -> list[tuple[str, int, str]]:
    return [(name, i, caption) for name, captions in CAPTIONS.items() for i, caption in enumerate(captions)]


def write_csv(path: Path, header: list[str], lines, **options) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, **options).writerows([header, *lines])
    return path


def write_split_lists(folder: Path) -> None:
    for word, name in (("train", "a.jpg"), ("dev", "b.jpg"), ("test", "c.jpg")):
        (folder / f"Flickr_8k.{word}Images.txt").write_text(f"{name}\r\n")


# Flickr


def test_kaggles_flickr8k_reads_with_the_split_lists_beside_it(folder: Path):
    write_csv(folder / "captions.txt", ["image", "caption"], [(name, text) for name, _, text in flat()])
    write_split_lists(folder)
    assert detect(folder).format == "flickr8k"
    assert seen(read_pairs(folder)) == expected()


def test_the_token_file_reads_the_same_and_is_preferred(folder: Path):
    lines = [f"{name}#{i}\t{text}\r\n" for name, i, text in flat()]
    (folder / "Flickr8k.token.txt").write_text("".join(lines), encoding="utf-8", newline="")
    write_csv(folder / "captions.txt", ["image", "caption"], [])
    write_split_lists(folder)
    assert detect(folder).format == "flickr8k-token"
    assert seen(read_pairs(folder)) == expected()


def test_an_image_outside_the_split_lists_has_no_split(folder: Path):
    (folder / "captions.txt").write_text("image,caption\na.jpg,x\nb.jpg,y\n")
    (folder / "Flickr_8k.trainImages.txt").write_text("a.jpg\n")
    assert [row.split for row in read_pairs(folder)] == ["train", None]


def test_unquoted_commas_and_quotes_that_never_close_stay_in_their_line(folder: Path):
    lines = [
        "a.jpg,A dog , a cat , and",
        'a.jpg,"Stop" says a sign, red',
        'b.jpg,"never closed',
        'c.jpg,"well, closed"',
    ]
    (folder / "captions.txt").write_text("\n".join(["image,caption", *lines]))
    assert [row.captions for row in read_pairs(folder)] == [
        ("A dog , a cat , and", '"Stop" says a sign, red'),
        ('"never closed',),
        ("well, closed",),
    ]


def test_flickr30k_reads_with_its_broken_row(folder: Path):
    (folder / "results.csv").write_text(
        "image_name| comment_number| comment\n"
        "a.jpg| 0| Two dogs | one cat .\n"
        "a.jpg| 4   A dog runs across the grass .\n"
        "b.jpg| 0| 3 men\n"
    )
    assert [row.captions for row in read_pairs(folder)] == [
        ("Two dogs | one cat .", "A dog runs across the grass ."),
        ("3 men",),
    ]


def test_an_invalid_line_is_reported_with_file_and_line_number(folder: Path):
    (folder / "x.token").write_text("a.jpg#0\tfine\nbroken\n")
    with pytest.raises(DataError, match=r"x\.token', line 2 is not"):
        read_pairs(folder)


# Tables


@pytest.mark.parametrize(
    ("name", "header", "delimiter"),
    [
        ("pairs.csv", ["image", "caption", "split"], ","),
        ("pairs.tsv", ["File Name", "title", "subset"], "\t"),
        ("pairs.csv", ["img_path", "text", "Split"], ";"),
    ],
)
def test_tables_with_named_columns_are_read(folder: Path, name: str, header: list[str], delimiter: str):
    lines = [(name, text, SPLITS[name]) for name, _, text in flat()]
    write_csv(folder / name, header, lines, delimiter=delimiter)
    assert detect(folder).format == "table"
    assert seen(read_pairs(folder)) == expected()


def test_ids_without_a_suffix_find_their_image_wherever_it_lies(folder: Path):
    (folder / "images" / "deep").mkdir()
    (folder / "images" / "c.jpg").rename(folder / "images" / "deep" / "c.JPG")
    write_csv(folder / "prompts.csv", ["imgId", "prompt"], [(name[0], text) for name, _, text in flat()])
    pairs = read_pairs(folder)
    assert pairs.image_ids == ["a", "b", "c"]
    assert seen(pairs) == expected(splits=None)


def test_an_id_that_matches_two_images_resolves_to_neither(folder: Path):
    (folder / "other").mkdir()
    (folder / "other" / "a.png").write_bytes(b"")
    write_csv(folder / "prompts.csv", ["imgId", "prompt"], [("a", "x")])
    assert not read_pairs(folder)[0].image.exists()


def test_a_caption_over_several_lines_is_one_caption(folder: Path):
    (folder / "t.csv").write_text('id,image,caption\n1,a.jpg,"one\ntwo, ""three"""\n2,b.jpg,four\n')
    assert [row.captions for row in read_pairs(folder)] == [('one\ntwo, "three"',), ("four",)]


def test_unquoted_commas_in_the_last_of_three_columns_stay(folder: Path):
    (folder / "t.csv").write_text("n,image,caption\n1,a.jpg,one, two, three\n")
    assert read_pairs(folder)[0].captions == ("one, two, three",)


def test_numbered_caption_columns_and_caption_lists_are_all_read(folder: Path):
    write_csv(folder / "t.csv", ["image", "caption_0", "caption_1", "n"], [("a.jpg", "x", "y", 1)])
    assert read_pairs(folder)[0].captions == ("x", "y")
    write_csv(folder / "t.csv", ["image", "raw", "n"], [("a.jpg", '["x", "y"]', 1), ("b.jpg", "[1] x", 1)])
    assert [row.captions for row in read_pairs(folder)] == [("x", "y"), ("[1] x",)]


def test_json_lists_and_json_lines_are_read(folder: Path):
    entries = [{"image": f"images/{name}", "caption": list(CAPTIONS[name]), "split": SPLITS[name]} for name in COLOURS]
    (folder / "list.json").write_text(json.dumps(entries))
    assert seen(read_pairs(folder)) == seen(read_pairs(folder / "list.json")) == expected()
    (folder / "lines.jsonl").write_text("\n".join(map(json.dumps, entries)))
    assert seen(read_pairs(folder / "lines.jsonl")) == expected()


def test_tables_named_by_split_form_one_data_set_and_others_do_not(folder: Path):
    for name, split in SPLITS.items():
        write_csv(folder / f"{split}.csv", ["image", "caption"], [(name, text) for text in CAPTIONS[name]])
    assert seen(read_pairs(folder)) == expected()
    write_csv(folder / "more.csv", ["image", "caption"], [("a.jpg", "x")])
    with pytest.raises(DataError, match=r"several files .*'more\.csv'.*pass the path of one"):
        read_pairs(folder)


def test_a_table_without_a_caption_column_lists_the_columns_that_it_has(folder: Path):
    path = write_csv(folder / "t.csv", ["image", "weight"], [("a.jpg", "3")])
    with pytest.raises(
        DataError,
        match=r"no caption column \(its columns: image, weight\); rename the .* to one of: caption",
    ):
        read_pairs(path, format="table")


# Text


def test_a_byte_order_mark_windows_line_ends_and_utf16_are_read(folder: Path):
    text = "image,caption\r\na.jpg,Grün\r\nb.jpg,rot\r\n"
    for encoding in ("utf-8-sig", "utf-16"):
        (folder / "captions.txt").write_bytes(text.encode(encoding))
        assert [row.captions for row in read_pairs(folder)] == [("Grün",), ("rot",)]
        assert wrong_encoding(folder / "captions.txt") == []


def test_bytes_that_are_not_utf8_are_read_as_cp1252_and_their_lines_reported(folder: Path):
    lines = [b"image,caption", "a.jpg,Grün".encode(), b"b.jpg,Gr\xfcn \x93ja\x94", b"c.jpg,\x81"]
    (folder / "captions.txt").write_bytes(b"\n".join(lines))
    assert [row.captions for row in read_pairs(folder)] == [("Grün",), ("Grün “ja”",), ("\x81",)]
    assert wrong_encoding(folder / "captions.txt") == [3, 4]


captions = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=40).filter(
    lambda text: text.strip() not in EMPTY_CELLS and list_in_text(text) is None
)
names = st.from_regex(r"[a-z0-9_]{1,8}\.jpg", fullmatch=True)
in_any_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


@in_any_folder
@given(
    st.lists(st.tuples(names, captions), min_size=1, max_size=8), st.sampled_from(["captions.txt", "t.csv", "t.tsv"])
)
def test_whatever_csv_writes_reads_back(tmp_path: Path, lines: list[tuple[str, str]], file: str):
    delimiter = "\t" if file.endswith("tsv") else ","
    path = write_csv(tmp_path / file, ["image", "caption"], lines, delimiter=delimiter)
    assert in_order(READERS["table"](path, ImagePaths(tmp_path))) == [(name, text.strip()) for name, text in lines]
    if file == "captions.txt":
        assert in_order(READERS["flickr8k"](path, ImagePaths(tmp_path))) == [
            (name, text.strip()) for name, text in lines
        ]


@in_any_folder
@given(st.lists(st.tuples(st.integers(), names, captions), min_size=1, max_size=8))
def test_whatever_csv_writes_in_three_columns_reads_back(tmp_path: Path, lines: list[tuple[int, str, str]]):
    path = write_csv(tmp_path / "t.csv", ["n", "image", "caption"], lines)
    read = in_order(READERS["table"](path, ImagePaths(tmp_path)))
    assert read == [(name, text.strip()) for _, name, text in lines]


@in_any_folder
@given(st.lists(st.tuples(names, captions.map(lambda text: text.replace("\n", " "))), min_size=1, max_size=8))
def test_token_lines_and_unquoted_lines_read_back(tmp_path: Path, lines: list[tuple[str, str]]):
    token, kaggle = tmp_path / "x.token", tmp_path / "captions.txt"
    token.write_text("".join(f"{name}#0\t{text}\n" for name, text in lines), encoding="utf-8")
    assert in_order(READERS["flickr8k-token"](token, ImagePaths(tmp_path))) == [
        (name, text.strip()) for name, text in lines
    ]
    plain = [(name, text) for name, text in lines if not text.startswith('"')]
    kaggle.write_text("image,caption\n" + "".join(f"{name},{text}\n" for name, text in plain), encoding="utf-8")
    assert in_order(READERS["flickr8k"](kaggle, ImagePaths(tmp_path))) == [(name, text.strip()) for name, text in plain]


def in_order(rows) -> list[tuple[str, str]]:
    return [(row.image_id, row.captions[0]) for row in rows]


# JSON of COCO


def test_karpathys_json_reads_with_its_splits(folder: Path):
    images = [
        {"filename": name, "split": SPLITS[name], "sentences": [{"raw": text} for text in CAPTIONS[name]]}
        for name in COLOURS
    ]
    images[0]["filepath"] = "images"
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": images, "dataset": "flickr8k"}))
    assert detect(folder).format == "karpathy"
    assert seen(read_pairs(folder)) == expected()


def test_restval_is_train(folder: Path):
    entry = {"filename": "a.jpg", "split": "restval", "sentences": [{"tokens": ["a", "b"]}]}
    (folder / "dataset.json").write_text(json.dumps({"images": [entry]}))
    row = read_pairs(folder)[0]
    assert (row.split, row.captions) == ("train", ("a b",))


def test_cocos_annotations_read_with_the_split_of_their_file_name(folder: Path):
    (folder / "annotations").mkdir()
    (folder / "images").rename(folder / "val2014")
    (folder / "train2014").mkdir()
    (folder / "val2014" / "a.jpg").rename(folder / "train2014" / "a.jpg")
    for file, chosen in {"train2014": ["a.jpg"], "val2014": ["b.jpg", "c.jpg"]}.items():
        images = [{"id": name, "file_name": name} for name in chosen]
        notes = [{"image_id": name, "caption": text} for name in chosen for text in CAPTIONS[name]]
        path = folder / "annotations" / f"captions_{file}.json"
        path.write_text(json.dumps({"info": {}, "images": images, "annotations": notes}))
    wanted = expected({"a.jpg": "train", "b.jpg": "val", "c.jpg": "val"})
    assert seen(read_pairs(folder)) == wanted
    single = read_pairs(folder / "annotations" / "captions_train2014.json", images=folder)
    assert seen(single) == {COLOURS["a.jpg"]: wanted[COLOURS["a.jpg"]]}


def test_annotations_without_captions_are_an_error(folder: Path):
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": [], "annotations": [{"image_id": 1, "bbox": []}]}))
    with pytest.raises(DataError, match=r"annotations\[0\] has no 'caption', only: bbox, image_id"):
        read_pairs(path)
    path.write_text('{"images": [')
    with pytest.raises(DataError, match="not valid JSON"):
        read_pairs(path)


# Image folders and sidecars


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_an_image_folder_reads_and_its_folders_are_the_splits(tmp_path: Path, suffix: str):
    for name, split in SPLITS.items():
        part = tmp_path / "set" / {"val": "validation"}.get(split, split)
        part.mkdir(parents=True)
        (part / "0.jpg").write_bytes(image(name))  # the same name in each
        entries = [{"file_name": "0.jpg", "text": text} for text in CAPTIONS[name]]
        if suffix == "jsonl":
            (part / "metadata.jsonl").write_text("\n".join(map(json.dumps, entries)))
        elif suffix == "csv":
            write_csv(part / "metadata.csv", ["file_name", "text"], [entry.values() for entry in entries])
        else:
            pq.write_table(pa.Table.from_pylist(entries), part / "metadata.parquet")
    assert detect(tmp_path / "set").format == "imagefolder"
    assert seen(read_pairs(tmp_path / "set")) == expected()


def test_metadata_at_the_root_and_in_a_folder_are_both_read(tmp_path: Path):
    folder = numbered(tmp_path / "set", "train/0.jpg", "test/0.jpg")
    (folder / "metadata.jsonl").write_text('{"file_name": "train/0.jpg", "text": "x"}')
    (folder / "test" / "metadata.jsonl").write_text('{"file_name": "0.jpg", "text": "y"}')
    rows = [(row.image_id, row.captions, row.split) for row in read_pairs(folder)]
    assert rows == [("train/0.jpg", ("x",), "train"), ("test/0.jpg", ("y",), "test")]


def test_splits_saved_to_disk_one_folder_down_are_read(tmp_path: Path):
    for split, name in {"train": "a.jpg", "test": "b.jpg"}.items():
        (place := tmp_path / "ds" / split).mkdir(parents=True)
        table = pa.table({"image": [image(name)], "caption": [name]})
        with pa.ipc.new_stream(str(place / "data-00000-of-00001.arrow"), table.schema) as writer:
            writer.write_table(table)
    (tmp_path / "ds" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert read_pairs(tmp_path).split_sizes == read_pairs(tmp_path / "ds").split_sizes == {"train": 1, "test": 1}


def test_sidecars_read_one_caption_a_line(tmp_path: Path):
    for name, split in SPLITS.items():
        part = tmp_path / "set" / split
        part.mkdir(parents=True)
        (part / name).write_bytes(image(name))
        (part / f"{name[0]}.txt").write_text("\n".join(CAPTIONS[name]), encoding="utf-8")
    (tmp_path / "set" / "train" / "d.jpg").touch()
    pairs = read_pairs(tmp_path / "set")
    assert pairs.image_ids == ["test/c.jpg", "train/a.jpg", "train/d.jpg", "val/b.jpg"]
    assert [row.captions for row in pairs] == [("Blue | or nearly",), CAPTIONS["a.jpg"], (), CAPTIONS["b.jpg"]]
    assert [row.split for row in pairs] == ["test", "train", "train", "val"]


# WebDataset


def write_shard(path: Path, chosen: list[str], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for i, name in enumerate(chosen):
            parts = {"jpg": image(name), "json": json.dumps({"url": "x", "caption": list(CAPTIONS[name])}).encode()}
            for suffix, data in parts.items():
                member = tarfile.TarInfo(f"./{i:05d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    (tmp_path / "shards").mkdir()
    for name, split in SPLITS.items():
        write_shard(tmp_path / "shards" / f"{split}-000.tar", [name])
    return tmp_path / "shards"


def test_shards_read_as_slices_of_the_tar_and_keys_may_repeat_between_them(shards: Path):
    pairs = read_pairs(shards)
    assert seen(pairs) == expected()
    assert sorted(pairs.image_ids) == ["test-000/00000", "train-000/00000", "val-000/00000"]
    assert all(isinstance(row.image, Slice) and row.image.path.parent == shards for row in pairs)
    assert not list(cache_dir().rglob("*.bin"))


def test_one_shard_a_glob_and_braces_read(shards: Path):
    assert len(read_pairs(shards / "val-000.tar")) == 1
    assert len(read_pairs(str(shards / "t*.tar"))) == 2
    assert len(read_pairs(f"{shards}/{{train,val}}-{{000..000}}.tar")) == 2
    with pytest.raises(DataError, match=r"train-001\.tar' does not exist"):
        read_pairs(f"{shards}/train-{{000..001}}.tar")


def test_braces_keep_their_zeros():
    assert [str(path) for path in expand("s-{008..010}.tar")] == ["s-008.tar", "s-009.tar", "s-010.tar"]
    assert [str(path) for path in expand("{a,b}{1..2}")] == ["a1", "a2", "b1", "b2"]


def test_a_compressed_shard_reads_into_the_cache(tmp_path: Path):
    path = write_shard(tmp_path / "all.tar.gz", list(COLOURS), "w:gz")
    pairs = read_pairs(path)
    assert seen(pairs) == expected(splits=None)
    assert all(row.image.path.is_relative_to(cache_dir()) for row in pairs)


def test_text_members_and_names_with_several_dots_are_one_sample(tmp_path: Path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in {"a.b/k.cls": b"3", "a.b/k.seg.png": image("a.jpg"), "a.b/k.txt": b" red \n"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    row = read_pairs(tmp_path / "x.tar")[0]
    assert (row.image_id, row.captions) == ("x/a.b/k", ("red",))


def tar_of(path: Path, names: list[str], mode: str = "w") -> Path:
    """A shard of members: images by suffix, and texts that repeat their own name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name in names:
            data = image("a.jpg") if name.endswith((".jpg", ".png")) else name.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("texts", [True, False])
def test_keys_with_a_dot_keep_every_image_and_its_own_caption(tmp_path: Path, texts: bool, mode: str):
    names = [f"v1.{i:04d}.{part}" for i in range(8) for part in (("jpg", "txt") if texts else ("jpg",))]
    pairs = read_pairs(tar_of(tmp_path / ("x.tar.gz" if "gz" in mode else "x.tar"), names, mode))
    assert pairs.image_ids == [f"x/v1.{i:04d}" for i in range(8)]
    assert [row.captions for row in pairs] == [((f"v1.{i:04d}.txt",) if texts else ()) for i in range(8)]
    assert inspect(pairs).count("dotted_keys") == 8


def test_a_caption_is_not_given_to_another_key_with_a_dot(tmp_path: Path):
    names = ["v1.0.jpg", "v1.1.jpg", "v1.0.txt", "v1.1.txt"]
    pairs = read_pairs(tar_of(tmp_path / "x.tar", names))
    assert [row.captions for row in pairs] == [(), ()]
    assert inspect(pairs).count("unused_members") == 2


def test_parts_of_one_sample_stay_one_sample_as_webdataset_has_it(tmp_path: Path):
    names = ["k.jpg", "k.seg.png", "k.txt", "m.0.jpg", "m.0.seg.png", "m.0.txt", "n.image.png", "n.mask.png", "n.txt"]
    pairs = read_pairs(tar_of(tmp_path / "x.tar", names))
    assert pairs.image_ids == ["x/k", "x/m", "x/n"]
    assert [row.captions for row in pairs] == [("k.txt",), ("m.0.txt",), ("n.txt",)]
    assert inspect(pairs).count("unused_members") == 3
    assert "k.seg.png" in inspect(pairs).findings[0].examples[0].file


def test_an_empty_text_does_not_hide_the_caption_beside_it(tmp_path: Path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, data in (("i.jpg", image("a.jpg")), ("i.txt", b"nan"), ("i.json", b'{"text": "A dog"}')):
            (member := tarfile.TarInfo(name)).size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert [row.captions for row in read_pairs(tmp_path)] == [("A dog",)]


def test_members_that_fit_no_rule_are_counted(tmp_path: Path):
    names = ["README", "a.jpg", "a.txt", "alone.txt", "b.jpg", "b.txt"]
    pairs = read_pairs(tar_of(tmp_path / "x.tar", names))
    assert pairs.image_ids == ["x/a", "x/b"]
    (finding,) = [found for found in inspect(pairs).findings if found.kind == "unused_members"]
    assert [(example.file, example.detail) for example in finding.examples] == [
        ("x.tar/README", "its name has no suffix"),
        ("x.tar/alone.txt", "no image lies beside it under this name"),
    ]


def test_the_companions_of_macos_hide_neither_images_nor_captions(tmp_path: Path, folder: Path):
    names = [part + name for name in ("a.jpg", "a.txt", "b.jpg", "b.txt") for part in ("._", "./")]
    pairs = read_pairs(tar_of(tmp_path / "x.tar", [*names, "__MACOSX/._c.jpg"]))
    assert [(row.image_id, row.captions) for row in pairs] == [("x/a", ("./a.txt",)), ("x/b", ("./b.txt",))]
    for name in COLOURS:
        (folder / "images" / name).with_suffix(".txt").write_text("plain")
        (folder / "images" / f"._{name}").write_bytes(b"\0\5\x16\7")
        (folder / "images" / f"._{name[0]}.txt").write_bytes(b"\0\5\x16\7")
    assert read_pairs(folder).image_ids == [f"images/{name}" for name in COLOURS]


def test_shards_of_one_name_in_two_folders_lose_no_image(tmp_path: Path):
    for part in ("x", "y"):
        tar_of(tmp_path / "shards" / part / "000.tar", ["0.jpg", "0.txt"])
    assert read_pairs(tmp_path / "shards").image_ids == ["x/000/0", "y/000/0"]


def test_a_truncated_shard_is_an_error_that_names_it(shards: Path):
    data = (shards / "train-000.tar").read_bytes()
    (shards / "train-000.tar").write_bytes(data[:700])
    with pytest.raises(DataError, match=r"train-000\.tar' is not a complete tar file"):
        read_pairs(shards)


# Parquet and the hub


def parquet_column(kind: str, name: str):
    return {"struct": {"bytes": image(name), "path": name}, "binary": image(name), "path": f"images/{name}"}[kind]


@pytest.mark.parametrize("kind", ["struct", "binary", "path"])
def test_parquet_reads_bytes_and_paths_and_equal_images_are_one_row(folder: Path, kind: str):
    for name, split in SPLITS.items():
        table = [{"image": parquet_column(kind, name), "caption": text, "n": 1} for text in CAPTIONS[name]]
        pq.write_table(pa.Table.from_pylist(table), folder / f"{split}-00000-of-00001.parquet")
    assert detect(folder).format == "parquet"
    assert seen(read_pairs(folder)) == expected()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [{"image": image(name), "captions": list(CAPTIONS[name])} for name in COLOURS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    return tmp_path / "pairs.parquet"


def test_a_second_read_uses_the_images_already_in_the_cache(table: Path, monkeypatch: pytest.MonkeyPatch):
    first = read_pairs(table)
    monkeypatch.setattr("diptych.data.formats.read.READERS", {})  # nothing can be read again
    second = read_pairs(table)
    assert first.table.equals(second.table)
    assert seen(second) == expected(splits=None)


def test_the_cache_may_move(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read_pairs(table)
    cache_dir().rename(tmp_path / "elsewhere")
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.setattr("diptych.data.formats.read.READERS", {})
    assert seen(read_pairs(table)) == expected(splits=None)


def test_a_changed_file_is_read_again(table: Path):
    read_pairs(table)
    pq.write_table(pa.Table.from_pylist([{"image": image("a.jpg"), "captions": ["new"]}]), table)
    assert [row.captions for row in read_pairs(table)] == [("new",)]


def test_a_failed_read_leaves_nothing_in_the_cache(table: Path, monkeypatch: pytest.MonkeyPatch):
    def fails(path, images):
        yield from FORMATS["parquet"].read(path, images)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("diptych.data.formats.read.READERS", {"parquet": fails})
        with pytest.raises(KeyboardInterrupt):
            read_pairs(table)
    assert [path for path in cache_dir().rglob("*") if path.is_file()] == []
    assert seen(read_pairs(table)) == expected(splits=None)


def test_a_new_folder_appears_whole_and_the_first_wins(tmp_path: Path):
    target = tmp_path / "kept"
    with new_folder(target) as slow:
        (slow / "a").write_text("slow")
        with new_folder(target) as fast:
            (fast / "a").write_text("fast")
            assert not target.exists()
    assert (target / "a").read_text() == "fast"
    assert [path.name for path in tmp_path.glob("*kept*")] == ["kept"]


def test_what_a_killed_process_left_is_removed_a_day_later(tmp_path: Path):
    ages = {".kept-0123abcd.diptych": 2 * 86400, ".kept-4567cdef.diptych": 60, ".kept-old": 2 * 86400}
    for name, age in ages.items():
        left = tmp_path / name
        left.mkdir()
        os.utime(left, (time.time() - age,) * 2)
    with new_folder(tmp_path / "kept"):
        pass
    assert sorted(path.name for path in tmp_path.glob(".kept-*")) == [".kept-4567cdef.diptych", ".kept-old"]
    assert not (tmp_path / "kept").exists()


def test_damaged_parquet_is_an_error_that_names_it(tmp_path: Path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"x\.parquet' is not readable Parquet"):
        read_pairs(tmp_path)


@pytest.mark.parametrize("layout", ["parquet", "imagefolder"])
def test_a_hub_data_set_streams(folder: Path, layout: str):
    pytest.importorskip("datasets")
    for name, split in SPLITS.items():
        if layout == "parquet":
            rows = [{"image": {"bytes": image(name), "path": None}, "caption": list(CAPTIONS[name])}]
            features = {
                "info": {
                    "features": {
                        "image": {"_type": "Image"},
                        "caption": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
                    }
                }
            }
            made = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps(features)})
            (folder / "data").mkdir(exist_ok=True)
            pq.write_table(made, folder / "data" / f"{split}-00000-of-00001.parquet")
        else:
            part = folder / split
            part.mkdir()
            (folder / "images" / name).rename(part / name)
            line = {"file_name": name, "caption": list(CAPTIONS[name])}
            (part / "metadata.jsonl").write_text(json.dumps(line))
    assert seen(read_pairs(folder, format="hub")) == expected()


@pytest.mark.parametrize("kind", ["dict", "single", "file"])
def test_what_datasets_saves_to_disk_is_read(tmp_path: Path, kind: str):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "captions": datasets.List(datasets.Value("string"))})
    parts = {
        SPLITS[name]: datasets.Dataset.from_list(
            [{"image": {"bytes": image(name), "path": None}, "captions": list(CAPTIONS[name])}], features=features
        )
        for name in COLOURS
    }
    if kind == "dict":
        datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    else:
        datasets.concatenate_datasets(list(parts.values())).save_to_disk(tmp_path / "set")
    source = tmp_path / "set" / "data-00000-of-00001.arrow" if kind == "file" else tmp_path / "set"
    assert detect(source).format == "arrow"
    assert seen(read_pairs(source)) == expected(SPLITS if kind == "dict" else None)


@pytest.mark.parametrize("compression", ["lz4", "zstd", None])
@pytest.mark.parametrize("kind", ["stream", "file"])
def test_an_arrow_file_is_read_unless_it_is_compressed(tmp_path: Path, kind: str, compression: str | None):
    table = pa.table({"image": [image("a.jpg")], "caption": ["x" * 1000]})
    options = pa.ipc.IpcWriteOptions(compression=compression)
    write = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with write(tmp_path / "x.arrow", table.schema, options=options) as writer:
        writer.write_table(table)
    if compression:
        with pytest.raises(DataError, match=r"x\.arrow' is compressed"):
            read_pairs(tmp_path)
    else:
        assert [row.captions for row in read_pairs(tmp_path)] == [("x" * 1000,)]


def test_arrow_columns_that_could_unpack_to_any_size_are_refused(tmp_path: Path):
    table = pa.table({"image": pa.array([image("a.jpg")]).dictionary_encode(), "caption": ["x"]})
    with pa.ipc.new_stream(tmp_path / "x.arrow", table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="'image' has the type dictionary"):
        read_pairs(tmp_path)


def test_images_that_are_files_on_the_hub_are_fetched_by_the_hub_reader_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    datasets = pytest.importorskip("datasets")
    remote = "hf://datasets/user/name/far.jpg"
    opened: list[str] = []

    def fetch(address: str, mode: str) -> io.BytesIO:
        opened.append(address)
        return io.BytesIO(image("b.jpg"))

    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    rows = [{"image": {"bytes": None, "path": remote}, "caption": "x"}]
    stream = datasets.IterableDataset.from_generator(lambda: iter(rows), features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"train": stream})
    monkeypatch.setattr("fsspec.open", fetch)
    assert seen(read_pairs("hf://user/name")) == {COLOURS["b.jpg"]: (("x",), "train")}
    assert opened == [remote]
    write_csv(folder / "t.csv", ["image", "caption"], [(remote, "x")])
    assert not read_pairs(folder)[0].image.exists()
    assert opened == [remote]


def test_hub_names_are_distinguished_from_missing_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert detect("hf://user/name").paths == detect("user/name").paths == (Path("user/name"),)
    assert detect("hf://datasets/user/name@v1").paths == (Path("user/name@v1"),)
    for path in ("data/captions.csv", "data/x.tar.gz", "/data/name", "a/b/c"):
        with pytest.raises(DataError, match="does not exist; check the path"):
            detect(path)


# Where pictures lie


@pytest.mark.parametrize("name", ["../../secret.jpg", "/etc/passwd", "images/../../secret.jpg", "..\\..\\secret.jpg"])
@pytest.mark.parametrize("file", ["captions.txt", "t.csv", "x.token"])
def test_a_name_may_not_lead_out_of_the_folder(folder: Path, name: str, file: str):
    line = {
        "captions.txt": f"image,caption\n{name},x",
        "t.csv": f"n,image,caption\n1,{name},x",
        "x.token": f"{name}#0\tx",
    }
    (folder / file).write_text(line[file])
    with pytest.raises(DataError, match=r"line \d: '.*' lies outside the image folder"):
        read_pairs(folder)


def test_absolute_paths_are_read_below_the_folder_given_for_images(folder: Path, tmp_path: Path):
    table = write_csv(tmp_path / "set" / "t.csv", ["image", "caption"], [(folder / "images" / "a.jpg", "x")])
    assert len(seen(read_pairs(table))) == 1  # inside the data set's own folder
    (tmp_path / "apart").mkdir()
    table = table.rename(tmp_path / "apart" / "t.csv")
    with pytest.raises(DataError, match="move the images into it"):
        read_pairs(table)
    assert len(seen(read_pairs(table, images=folder))) == 1


def test_a_missing_image_keeps_its_row_and_its_path(folder: Path):
    (folder / "captions.txt").write_text("image,caption\nnone.jpg,x\n")
    assert read_pairs(folder)[0].image == folder / "images" / "none.jpg"


@pytest.mark.parametrize("name", ["Images", "Flicker8k_Dataset", "flickr30k_images", "."])
def test_the_usual_image_folders_are_found(folder: Path, name: str):
    for path in list((folder / "images").iterdir()):
        (folder / name).mkdir(exist_ok=True)
        path.rename(folder / name / path.name)
    (folder / "images").rmdir()
    write_csv(folder / "captions.txt", ["image", "caption"], [(name, text) for name, _, text in flat()])
    assert seen(read_pairs(folder)) == expected(splits=None)


def test_captions_in_a_folder_beside_the_images_folder_are_found(folder: Path):
    (folder / "images").rename(folder / "Flicker8k_Dataset")
    (folder / "Flickr8k_text").mkdir()
    path = folder / "Flickr8k_text" / "Flickr8k.token.txt"
    path.write_text("a.jpg#0\tx\n")
    assert len(seen(read_pairs(folder))) == len(seen(read_pairs(path))) == 1


# Recognition


def test_an_unknown_format_offers_the_nearest_name(folder: Path):
    with pytest.raises(ConfigError, match="unknown format 'kaparthy': did you mean 'karpathy'"):
        read_pairs(folder, format="kaparthy")


def test_the_error_for_a_folder_without_captions_lists_its_files_and_the_formats(folder: Path):
    (folder / "notes.docx").touch()
    with pytest.raises(DataError, match=r"it contains 3 images, 1 \.docx.*flickr8k \(captions\.txt\)"):
        read_pairs(folder)


def test_the_error_for_an_unknown_format_quotes_the_beginning_of_the_file(folder: Path):
    (folder / "x.csv").write_text("weight;height\n1;2\n")
    with pytest.raises(DataError, match="it begins with 'weight;height'"):
        read_pairs(folder / "x.csv")


def test_a_renamed_file_is_recognised_by_its_content(folder: Path):
    (folder / "mine.txt").write_text("a.jpg#0\tx\n")
    assert detect(folder / "mine.txt").format == "flickr8k-token"


def test_a_file_with_only_a_header_is_refused(folder: Path):
    (folder / "captions.txt").write_text("image,caption\n")
    with pytest.raises(DataError, match="contains no images"):
        read_pairs(folder)


def test_a_split_is_a_whole_word_of_a_file_name_or_a_folder_inside_the_data_set():
    base = Path("/data/test")
    assert split_of(base / "captions_train2014.json", base) == "train"
    assert split_of(base / "cc3m-val-0001.tar", base) == "val"
    assert split_of(base / "training.csv", base) == "training"
    assert split_of(base / "dev" / "metadata.csv", base) == "dev"
    for name in ("trains.csv", "latest.csv", "train_and_test.csv", "captions.txt"):
        assert split_of(base / name, base) is None


@pytest.mark.parametrize(
    ("variables", "platform", "wanted"),
    [
        ({"DIPTYCH_CACHE": "/x"}, "linux", "/x"),
        ({"XDG_CACHE_HOME": "/xdg"}, "linux", "/xdg/diptych"),
        ({}, "linux", "/me/.cache/diptych"),
        ({}, "darwin", "/me/Library/Caches/diptych"),
        ({"LOCALAPPDATA": "/local"}, "win32", "/local/diptych"),
    ],
)
def test_the_cache_folder_follows_the_platform_convention(variables, platform, wanted, monkeypatch: pytest.MonkeyPatch):
    for name in ("DIPTYCH_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/me", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", platform)
    assert cache_dir() == Path(wanted)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from("abc"), st.sampled_from([None, "train"])), max_size=60),
    st.integers(1, 5),
)
def test_captions_of_one_image_are_merged_however_far_apart(rows, block):
    together: dict[int, list[str]] = {}
    splits: dict[int, str | None] = {}
    for number, caption, split in rows:
        together.setdefault(number, []).append(caption)
        splits[number] = splits.get(number) or split
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diptych.data.row_table.BLOCK", block)
        pairs = Pairs.from_rows(Row(f"{n}.jpg", Path(f"{n}.jpg"), (caption,), split) for n, caption, split in rows)
    assert [(row.image_id, row.captions, row.split) for row in pairs] == [
        (f"{number}.jpg", tuple(captions), splits[number]) for number, captions in together.items()
    ]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems keep no such names")
@pytest.mark.parametrize("format", ["sidecars", "table"])
def test_a_file_whose_name_is_not_utf8_is_left_out_counted_and_named(folder: Path, format: str) -> None:
    """The other pictures of the data set are read and used as if it were not there."""
    names = [*COLOURS, os.fsdecode(b"caf\xe9.jpg")]
    (folder / "images" / names[3]).write_bytes(image("a.jpg"))
    if format == "sidecars":
        for name in names:
            (folder / "images" / name).with_suffix(".txt").write_text("a plain picture")
    else:  # found by its stem, which JSON can spell
        table = [{"image": name.removesuffix(".jpg"), "caption": "a plain picture"} for name in names]
        (folder / "table.json").write_text(json.dumps(table), encoding="utf-8")
    pairs = read_pairs(folder)
    assert len(pairs) == 4
    kept, report = usable_pairs(pairs, max_bad_share=0.5)
    assert {colour(decode(row.image)) for row in kept} == set(COLOURS.values())
    assert (report.bad_images, report.count("missing")) == (1, 1)
    (example,) = report.findings[0].examples
    assert example.file == str(folder / "images" / r"caf\xe9.jpg")
    assert example.detail.endswith(r"caf\xe9.jpg' has a name that is not UTF-8; rename the file")
    inspect(pairs, folder=folder).summary().encode()
    assert all(e.file.encode() for found in inspect(pairs[:3], folder=folder).findings for e in found.examples)


@pytest.mark.parametrize("name", [chr(0xDCFF), chr(0xD800), chr(0xD800) + chr(0xDCFF)])
def test_an_id_with_invalid_characters_is_escaped_and_its_captions_are_merged(name: str) -> None:
    shard = Slice(Path("shard.tar"), 1, 2)
    pairs = Pairs.from_rows([Row(name, shard, (caption,), "\ud800") for caption in ("x", "y")])
    assert [(row.image, row.captions) for row in pairs] == [(shard, ("x", "y"))]
    assert pairs[0].image_id.startswith("\\x")


def test_an_image_in_two_splits_is_refused_however_far_apart_its_rows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("diptych.data.row_table.BLOCK", 1)
    rows = [Row(name, Path(name), ("x",), split) for name, split in (("a", "train"), ("b", None), ("c", None))]
    with pytest.raises(DataError, match="'a' is in split 'train' and in 'test'"):
        Pairs.from_rows([*rows, Row("a", Path("a"), ("y",), "test")])


# hostile and odd files


def karpathy(image: object) -> str:
    return json.dumps({"images": [image]})


HOSTILE = {
    "a number of thousands of digits": ("dataset.json", '{"images": [{"filename": 1%s}]}' % ("1" * 5000)),
    "one in JSON lines": ("t.jsonl", '{"image": "a.jpg", "caption": "x"}\n{"image": 1%s}\n' % ("1" * 5000)),
    "a first line nested deeply": ("t.jsonl", '{"a":' * 9000),
    "sentences that are none": ("dataset.json", karpathy({"filename": "a.jpg", "sentences": 5})),
    "a picture without a name": ("captions_x.json", '{"images": [{"id": 1, "file_name": null}], "annotations": []}'),
    "a quote that is never closed": ("t.csv", 'image,caption,split\na.jpg,"A dog,train\nb.jpg,A cat,val\n'),
    "a quote that another closes": ("t.csv", 'image,caption,split\na.jpg,"A dog,train\nb.jpg,"A cat",val\n'),
    "two columns of one name": ("t.csv", "image,caption,caption\na.jpg,x,y\n"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_nonsensical_file_is_refused_with_a_clear_message(folder: Path, kind: str) -> None:
    name, content = HOSTILE[kind]
    (folder / name).write_text(content)
    with pytest.raises(DataError):
        read_pairs(folder / name)


def test_an_unclosed_quote_is_reported_at_the_line_that_opens_it(folder: Path) -> None:
    (folder / "t.csv").write_text('image,caption,split\na.jpg,"two\nlines",train\nb.jpg,"A dog,val\nc.jpg,A cat,val\n')
    with pytest.raises(DataError, match=r"t\.csv', line 4: a quote is not closed"):
        read_pairs(folder / "t.csv")


ODD = {  # what was written, and the captions and split of a.jpg
    "sentences as plain text": (
        "dataset.json",
        karpathy({"filename": "a.jpg", "sentences": ["x", {"raw": 5}]}),
        ("x", "5"),
        None,
    ),
    "a split that is a number": ("dataset.json", karpathy({"filename": "a.jpg", "sentences": [], "split": 5}), (), "5"),
    "no sentences": ("dataset.json", karpathy({"filename": "a.jpg", "sentences": None, "split": "train"}), (), "train"),
    "ids that are lists": (
        "captions_train.json",
        '{"images": [{"id": [1], "file_name": "a.jpg"}], "annotations": [{"image_id": [1], "caption": "x"}]}',
        ("x",),
        "train",
    ),
    "a quoted header": ("t.csv", '"image","caption","split"\n"a.jpg","x, y","train"\n', ("x, y",), "train"),
    "a quoted header and semicolons": ("t.csv", '\ufeff"File Name";"Caption"\r\n"A.JPG";"x; y"\r\n', ("x; y",), None),
    "a line that ends early": ("t.csv", "image,caption,split\na.jpg\nb.jpg,y,val\n", ("",), None),
    "lines that end as on old Macs": ("t.csv", "image,caption,split\ra.jpg,x,train\rb.jpg,y,val\r", ("x",), "train"),
    "a caption of several lines": (
        "t.csv",
        'image,caption,split\r\na.jpg,"A ""big""\r\ndog",train\r\n',
        ('A "big"\r\ndog',),
        "train",
    ),
    "a path of Windows": ("t.csv", "image,caption,split\nC:\\me\\a.jpg,x,train\n", ("x",), "train"),
    "captions nested deeply": (
        "t.jsonl",
        '{"image": "a", "caption": ' + "[" * 400 + '"x"' + "]" * 400 + "}\n",
        ("x",),
        None,
    ),
    "a line separator in a caption": (
        "t.csv",
        "image,caption,split\na.jpg,one\u2028two\x0bthree,train\n",
        ("one\u2028two\x0bthree",),
        "train",
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_but_clear_files_are_read(folder: Path, kind: str) -> None:
    name, content, captions, split = ODD[kind]
    (folder / name).write_text(content, encoding="utf-8", newline="")
    first = read_pairs(folder)[0]
    assert first.image == folder / "images" / "a.jpg"
    assert (first.captions, first.split) == (captions, split)


def test_an_empty_image_cell_is_one_missing_image(folder: Path) -> None:
    pq.write_table(pa.table({"image": [image("a.jpg"), None], "caption": ["x", "y"]}), folder / "p.parquet")
    kept, report = usable_pairs(read_pairs(folder / "p.parquet"), max_bad_share=0.5)
    assert [row.captions for row in kept] == [("x",)]
    assert "p.parquet, row 1" in report.findings[0].examples[0].file


def test_parquet_whose_text_is_not_utf8_is_refused_by_name(folder: Path) -> None:
    offsets, text = pa.py_buffer(np.array([0, 2], np.int32).tobytes()), pa.py_buffer(b"\xff\xfe")
    captions = pa.StringArray.from_buffers(1, offsets, text)
    pq.write_table(pa.table({"image": [image("a.jpg")], "caption": captions}), folder / "p.parquet")
    with pytest.raises(DataError, match=r"p\.parquet' is not readable Parquet \('utf-8' codec"):
        read_pairs(folder / "p.parquet")


def test_a_name_with_a_nul_is_one_unreadable_image(folder: Path) -> None:
    table = [{"image": name, "caption": "x"} for name in ("a\0.jpg", "b.jpg", "c.jpg")]
    (folder / "t.json").write_text(json.dumps(table))
    kept, report = usable_pairs(read_pairs(folder), max_bad_share=0.5)
    assert (len(kept), report.count("unreadable")) == (2, 1)


@pytest.mark.parametrize("headers", [{"GNU.sparse.size": "z"}, {"GNU.sparse.map": "a,b"}, {"size": "9" * 25}])
def test_a_shard_with_a_hostile_header_is_refused_by_name(tmp_path: Path, headers: dict[str, str]) -> None:
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a.jpg")
        member.size, member.pax_headers = 4, headers
        tar.addfile(member, io.BytesIO(b"0123"))
    with pytest.raises(DataError, match=r"s\.tar' is not a complete tar file"):
        read_pairs(tmp_path / "s.tar")


def test_metadata_with_a_number_of_thousands_of_digits_has_no_caption(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, content in (("a.jpg", image("a.jpg")), ("a.json", b'{"caption": %s}' % (b"1" * 5000))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert [row.captions for row in read_pairs(tmp_path / "s.tar")] == [()]


# names


def numbered(folder: Path, *names: str) -> Path:
    """A data set whose images differ from each other, each below `folder`."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(list(COLOURS)[number % 3]) + bytes([number]))
    return folder


def files_of(folder: Path, names: list[str]) -> list[str | None]:
    """Which file below the folder each name of a table leads to; None: its image is missing."""
    table = [{"image": name, "caption": f"caption {name}"} for name in names]
    (folder / "t.json").write_text(json.dumps(table))
    pairs = read_pairs(folder / "t.json")
    assert pairs.image_ids == [name.replace("\\", "/") for name in names]
    return [row.image.relative_to(folder).as_posix() if row.image.exists() else None for row in pairs]


def test_a_name_with_a_folder_is_never_cut_down_to_a_bare_name(tmp_path: Path):
    """Only the folder 0000 was downloaded."""
    folder = numbered(tmp_path, "images/0000/000.jpg", "images/0000/001.jpg")
    names = [f"{part}/{i:03d}.jpg" for part in ("0000", "0001") for i in range(2)]
    assert files_of(folder, names) == ["images/0000/000.jpg", "images/0000/001.jpg", None, None]
    assert files_of(folder, names[2:]) == [None, None]
    report = inspect(read_pairs(folder / "t.json"))
    assert (report.count("missing"), report.bad_images) == (2, 2)


@pytest.mark.parametrize(
    ("files", "names", "wanted"),
    [
        (["images/a.jpg"], ["a", "a.jpg"], [None, "images/a.jpg"]),
        (["images/a.jpg"], ["A.jpg", "a"], [None, None]),
        (["images/a.jpg"], ["/old/a.jpg", "/older/a.jpg"], [None, None]),
        (["images/a.jpg"], ["https://x.org/1/a.jpg?w=2", "https://x.org/2/a.jpg"], [None, None]),
    ],
)
def test_two_names_never_share_a_file_that_one_of_them_does_not_name(
    tmp_path: Path, files: list[str], names: list[str], wanted: list[str | None]
):
    folder = numbered(tmp_path, *files)
    assert files_of(folder, names) == wanted
    report = inspect(read_pairs(folder / "t.json"))
    assert (report.count("shared_files"), report.count("missing")) == (wanted.count(None), 0)
    assert "another name leads to the only file" in report.findings[0].examples[0].detail


@pytest.mark.parametrize("name", ["1.jpg", "1", "01", "x/1.jpg"])
def test_a_name_that_fits_several_files_is_reported_once_and_as_that(tmp_path: Path, name: str):
    folder = numbered(tmp_path, "a/x/1.jpg", "b/x/1.jpg")
    write_csv(folder / "t.csv", ["image", "caption"], [(name, "x"), ("a/x/1.jpg", "y")])
    report = inspect(read_pairs(folder))
    assert (report.count("ambiguous_names"), report.count("missing"), report.bad_images) == (1, 0, 1)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("images/a.jpg", "/mnt/old/data/a.jpg"),
        ("images/0001/a.jpg", "/mnt/old/data/0001/a.jpg"),
        ("images/0001/a.jpg", "C:\\data\\0001\\a.jpg"),
        ("images/0001/a.jpg", "file:///data/0001/a.jpg"),
        ("images/0001/a.jpg", "data/0001/a.jpg"),
        ("images/deep/0001/a.jpg", "0001/a.jpg"),
        ("images/0001/A.JPG", "0001/a.jpg"),
        ("images/a.jpg", "https://example.org/x/a.jpg?width=300&v=2"),
        ("images/a b.jpg", "a%20b.jpg"),
        ("images/a b.jpg", "https://example.org/a%20b.jpg"),
        ("images/x/a%20b.jpg", "x/a b.jpg"),
        ("images/000000000000.jpg", "0.0"),
        ("images/000000000139.jpg", "139.0"),
        ("images/000000000139.jpg", "139"),
        ("images/caf\u00e9.jpg", "cafe\u0301.jpg"),
        ("images/a.jpg", "a.jpg?raw=1"),
    ],
)
def test_names_of_another_machine_or_program_find_the_one_file_that_fits(tmp_path: Path, file: str, name: str):
    assert files_of(numbered(tmp_path, file), [name]) == [file]


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["images/0000/a.jpg"], "/mnt/old/0001/a.jpg"),
        (["images/x/0001/a.jpg", "images/y/0001/a.jpg"], "0001/a.jpg"),
        (["images/1.jpg", "images/01.jpg"], "1.0"),
        (["images/0000/a.jpg"], "https://example.org/0001/a.jpg"),
    ],
)
def test_a_name_that_fits_no_single_file_is_a_missing_image(tmp_path: Path, files: list[str], name: str):
    folder = numbered(tmp_path, *files, "images/z.jpg")
    assert files_of(folder, [name, "/old/z.jpg"]) == [None, "images/z.jpg"]


def test_urls_without_a_file_are_said_to_be_urls(tmp_path: Path):
    folder = numbered(tmp_path, "images/a.jpg")
    files_of(folder, ["https://example.org/b.jpg?w=1"])
    report = inspect(read_pairs(folder / "t.json"))
    assert (report.count("remote_names"), report.count("missing"), report.bad_images) == (1, 0, 1)


# tables of other programs


@pytest.mark.parametrize(
    "cell",
    ['["a dog", "it\'s red"]', "['a dog', \"it's red\"]", "['a dog'\n \"it's red\"]", '[ "a dog" , "it\'s red" ]'],
)
@pytest.mark.parametrize("file", ["captions.txt", "t.csv", "t.tsv"])
def test_the_text_of_a_list_is_its_captions(folder: Path, cell: str, file: str):
    write_csv(folder / file, ["image", "caption"], [("a.jpg", cell)], delimiter="\t" if "tsv" in file else ",")
    assert read_pairs(folder)[0].captions == ("a dog", "it's red")


@pytest.mark.parametrize(
    "cell", ["[1] x", "[dog]", "['a' + 'b']", "['a", "[1, 2]", "['a'] ['b']", "('a')", "{}", "(a, b)"]
)
def test_brackets_that_are_no_list_stay_a_caption(folder: Path, cell: str):
    write_csv(folder / "t.csv", ["image", "caption"], [("a.jpg", cell)])
    assert read_pairs(folder)[0].captions == (cell,)


@pytest.mark.parametrize(
    ("cell", "captions"),
    [
        ("[]", ()),
        ("[nan]", ("",)),
        ('["a dog", null]', ("a dog", "")),
        ("['a dog', None]", ("a dog", "")),
        ("('a dog', 'a cat')", ("a dog", "a cat")),
        ("('a dog',)", ("a dog",)),
        ('{"a dog","a cat"}', ("a dog", "a cat")),
        ("array(['a dog'], dtype=object)", ("a dog",)),
        ("array(['a dog', nan,\n       'dtype=x'], dtype='<U5')", ("a dog", "", "dtype=x")),
    ],
)
def test_every_clear_spelling_of_a_list_is_read_as_its_captions(folder: Path, cell: str, captions: tuple[str, ...]):
    write_csv(folder / "t.csv", ["image", "caption"], [("a.jpg", cell)])
    pairs = read_pairs(folder)
    assert pairs[0].captions == captions
    assert inspect(pairs).count("list_captions") == 0


@pytest.mark.parametrize("cell", ["[a dog, a cat]", "[1, 2]", "{'en': 'a dog'}", "['a', 'it's b']"])
def test_a_list_whose_captions_are_unclear_is_reported(folder: Path, cell: str):
    write_csv(folder / "t.csv", ["image", "caption"], [("a.jpg", cell)])
    assert inspect(read_pairs(folder)).count("list_captions") == 1


@pytest.mark.parametrize(
    "header",
    [
        ("image", "caption", "caption2"),
        ("filename", "caption", "caption_2"),
        ("filename", "Caption", "Caption.1"),
        ("image", "text_0", "text_1"),
    ],
)
def test_numbered_columns_are_captions_beside_one_without_a_number(folder: Path, header: tuple[str, ...]):
    (folder / "t.jsonl").write_text(json.dumps(dict(zip(header, ("a.jpg", "x", "y"), strict=True))))
    assert read_pairs(folder)[0].captions == ("x", "y")
    (folder / "t.jsonl").unlink()
    write_csv(folder / "t.csv", list(header), [("a.jpg", "x", "y")])
    pairs = read_pairs(folder)
    assert pairs[0].captions == ("x", "y")
    assert inspect(pairs).count("unread_columns") == 0


@pytest.mark.parametrize("file", ["t.csv", "t.parquet", "metadata.csv"])
def test_a_caption_column_that_is_not_read_is_reported(folder: Path, file: str):
    row = {"file_name": "images/a.jpg", "text": "x", "caption": "y", "alt_caption": "z", "width": "5"}
    if file == "t.parquet":
        pq.write_table(pa.Table.from_pylist([row]), folder / file)
    else:
        write_csv(folder / file, list(row), [tuple(row.values())])
    pairs = read_pairs(folder)
    assert pairs[0].captions == ("y",)
    (finding,) = (finding for finding in inspect(pairs).findings if finding.kind == "unread_columns")
    assert finding.count == 2
    details = [example.detail for example in finding.examples]
    assert details == ["'text', beside 'caption'", "'alt_caption', beside 'caption'"]


def test_lines_whose_captions_have_another_name_are_read_and_reported(folder: Path):
    lines = [
        {"image": "a.jpg", "caption": "x"},
        {"image": "b.jpg", "text": "y"},
        {"image": "c.jpg"},
        {"image": "a.jpg", "text": "z", "caption": "w", "caption_2": "v", "split": "train"},
    ]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pairs = read_pairs(folder)
    assert [row.captions for row in pairs] == [("x", "w", "v"), ("y",), ("",)]
    assert pairs[0].split == "train"
    report = inspect(pairs)
    assert (report.count("changed_columns"), report.count("unread_columns")) == (1, 1)


def test_a_row_without_an_image_name_is_one_missing_image(folder: Path):
    write_csv(folder / "t.csv", ["image", "caption"], [("a.jpg", "x"), (" ", "y"), ("b.jpg", "z")])
    pairs = read_pairs(folder)
    assert [row.captions for row in pairs] == [("x",), ("y",), ("z",)]
    assert inspect(pairs).count("missing") == 1


def test_a_null_in_an_object_by_name_is_no_caption(folder: Path):
    (folder / "t.json").write_text('{"a.jpg": null, "b.jpg": "x", "c.jpg": null}')
    pairs = read_pairs(folder)
    assert [row.captions for row in pairs] == [(), ("x",), ()]
    assert inspect(pairs).count("without_captions") == 2


def test_a_table_of_a_name_and_three_captions_is_read(folder: Path):
    write_csv(folder / "t.csv", ["filename", "Caption1", "Caption2", "Caption3"], [("a.jpg", "x", "y, z", "w")])
    assert read_pairs(folder)[0].captions == ("x", "y, z", "w")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "a.jpg,A dog, a cat\nb.jpg,Two\n"),
        ("t.csv", '"a.jpg","A dog, a cat"\n"b.jpg","Two"\n'),
        ("t.tsv", "a.jpg\tA dog, a cat\nb.jpg\tTwo\n"),
        ("mine.txt", "a.jpg|A dog, a cat\nb.jpg|Two\n"),
        ("t.json", '{"a.jpg": "A dog, a cat", "b.jpg": "Two"}'),
        ("t.json", '{"a.jpg": ["A dog, a cat"], "b.jpg": {"caption": "Two"}}'),
    ],
)
def test_tables_without_a_header_and_objects_by_name_are_read(folder: Path, name: str, text: str):
    (folder / name).write_text(text)
    assert detect(folder).format == detect(folder / name).format == "table"
    assert [(row.image_id, row.captions) for row in read_pairs(folder)] == [
        ("a.jpg", ("A dog, a cat",)),
        ("b.jpg", ("Two",)),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.json", '{"a": ["A dog, a cat"], "b": "Two"}'),
        ("t.json", '{"a": null, "b": {"captions": ["Two"]}}'),
        ("t.json", '{"1": ["A dog"], "2.0": "Two"}'),
        ("t.csv", '1,"A dog, a cat"\n2,Two\n'),
        ("t.tsv", "01\tA dog\n02\tTwo\n"),
    ],
)
def test_names_without_a_suffix_are_recognised_by_the_images_they_name(folder: Path, name: str, text: str):
    (folder / name).write_text(text)
    if "1" in text:
        for number, image_name in enumerate(("a.jpg", "b.jpg"), 1):
            (folder / "images" / image_name).rename(folder / "images" / f"{number:02}.jpg")
    assert detect(folder).format == detect(folder / name).format == "table"
    pairs = read_pairs(folder)
    assert [row.image.exists() for row in pairs] == [True, True]
    assert pairs[1].captions == ("Two",)


def test_a_json_file_whose_names_are_no_images_is_no_caption_file(folder: Path):
    (folder / "classes.json").write_text('{"0": "tench", "1": "goldfish"}')
    with pytest.raises(DataError, match="no captions found") as error:
        read_pairs(folder)
    assert [step.parameter for step in error.value.steps] == ["format"]
    for name in COLOURS:
        (folder / "images" / name).with_suffix(".txt").write_text("x")
    (folder / "images" / "a.jpg").rename(folder / "images" / "0.jpg")
    assert detect(folder).format == "sidecars"


def test_a_table_without_a_header_and_with_unclear_columns_is_refused_for_that_reason(folder: Path):
    (folder / "t.csv").write_text("a.jpg,0,A dog\nb.jpg,1,A cat\n")
    with pytest.raises(DataError, match="no header line and 3 columns; add a first line that names them"):
        read_pairs(folder)


def test_json_by_column_is_refused_for_that_reason(folder: Path):
    (folder / "t.json").write_text('{"image": {"0": "a.jpg"}, "caption": {"0": "x"}}')
    with pytest.raises(DataError, match="write the file as a list of objects"):
        read_pairs(folder / "t.json", format="table")


@pytest.mark.parametrize("cells", [("nan", "NaN", "<NA>"), ("None", "null", "N/A"), ("NULL", "n/a", " None ")])
@pytest.mark.parametrize("format", ["table", "coco", "sidecars"])
def test_what_programs_write_for_an_empty_cell_is_no_caption(folder: Path, cells: tuple[str, ...], format: str):
    if format == "table":
        write_csv(folder / "t.csv", ["image", "caption"], list(zip(COLOURS, cells, strict=True)))
    elif format == "coco":
        images = [{"id": number, "file_name": name} for number, name in enumerate(COLOURS)]
        notes = [{"image_id": number, "caption": cell} for number, cell in enumerate(cells)]
        (folder / "captions_train.json").write_text(json.dumps({"images": images, "annotations": notes}))
    else:
        for name, cell in zip(COLOURS, cells, strict=True):
            (folder / "images" / name).with_suffix(".txt").write_text(cell)
    pairs = read_pairs(folder)
    assert [row.captions for row in pairs] == [("",), ("",), ("",)]
    assert inspect(pairs).count("without_captions") == 3


# splits and joins


@pytest.mark.parametrize("file", ["metadata.jsonl", "t.csv", "sidecars"])
def test_folders_in_the_names_are_the_splits(tmp_path: Path, file: str):
    names = [f"{split}/cats/{i}.jpg" for split in ("train", "test", "validation") for i in range(2)]
    folder = numbered(tmp_path / "set", *names)
    if file == "sidecars":
        for name in names:
            (folder / name).with_suffix(".txt").write_text("x")
    elif file == "t.csv":
        write_csv(folder / file, ["file_name", "text"], [(name, "x") for name in names])
    else:
        (folder / file).write_text("\n".join(json.dumps({"file_name": name, "text": "x"}) for name in names))
    assert read_pairs(folder).split_sizes == {"train": 2, "test": 2, "val": 2}


def test_a_class_of_trains_is_not_a_split(tmp_path: Path):
    folder = numbered(tmp_path, "train/1.jpg", "plane/1.jpg")
    write_csv(folder / "t.csv", ["image", "caption"], [("train/1.jpg", "x"), ("plane/1.jpg", "y")])
    assert read_pairs(folder).split_sizes == {"": 2}


def test_split_lists_that_do_not_fit_the_captions_are_reported(folder: Path):
    write_csv(folder / "captions.txt", ["image", "caption"], [(name, "x") for name in COLOURS])
    (folder / "Flickr_8k.trainImages.txt").write_text("a.jpg\ngone.jpg\n")
    (folder / "Flickr_8k.testImages.txt").write_text("a.jpg\n")
    (folder / "._Flickr_8k.devImages.txt").write_text("b.jpg\n")
    report = inspect(read_pairs(folder))
    assert [report.count(kind) for kind in ("unmatched", "repeated", "without_split")] == [1, 1, 2]


def test_captions_of_coco_without_an_image_and_images_listed_twice_are_reported(folder: Path):
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    notes = [{"image_id": number, "caption": "x"} for number in (1, 2, 3)]
    (folder / "captions_train.json").write_text(json.dumps({"images": images, "annotations": notes}))
    report = inspect(read_pairs(folder))
    assert (report.count("unmatched"), report.count("repeated")) == (1, 1)


def test_rows_of_one_id_with_different_images_are_reported(tmp_path: Path):
    rows = [{"image": image(name), "image_id": 7, "caption": name} for name in COLOURS]
    rows[1]["image"] += b"\0"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    for _ in range(2):  # the second time from the cache
        assert inspect(read_pairs(tmp_path)).count("conflicting_ids") == 1
