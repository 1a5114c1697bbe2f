"""Untrusted recipes, patterns and Parquet files: typed errors, and valid input that must still be read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diptych.data.formats.read import read_pairs, wrong_encoding
from diptych.data.formats.shards import expand
from diptych.data.formats.tables import records
from diptych.errors import ConfigError, DataError
from diptych.training.recipe_files import read_yaml


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{08..11}.tar", ["08.tar", "09.tar", "10.tar", "11.tar"]),
        ("{a,b}-{0..1}.tar", ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]),
        ("{3..1}.tar", []),
        ("{1..99999999999999999999}.tar", ["1..99999999999999999999.tar"]),
    ],
)
def test_patterns_expand_to_the_expected_names(pattern: str, names: list[str]) -> None:
    assert [str(path) for path in expand(pattern)] == names


def test_a_pattern_of_many_braces_is_refused() -> None:
    with pytest.raises(DataError, match="has more than 8 braces"):
        expand("{a}" * 2_000)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x]\nb: *a\n",
        "base: &b {epochs: 1}\n<<: *b\n",
        "a: " + "[" * 30_000,
        "a: 2001-99-99\n",
        "a: " + "9" * 5_000,
        "a" * 70_000,
        "a: \0",
        "- 1\n",
    ],
)
def test_a_recipe_with_aliases_or_odd_values_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"r\.yaml"):
        read_yaml(tmp_path / "r.yaml")


def test_invalid_utf8_is_decoded_in_linear_time(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"image,caption\n" + (b"a.jpg," + b"\xff" * 100_000 + b"\x81\n") * 20)
    captions = read_pairs(tmp_path / "a.csv")[0].captions
    assert captions == ("ÿ" * 100_000 + "\x81",) * 20
    assert wrong_encoding(tmp_path / "a.csv") == list(range(2, 22))


def _nested(levels: int) -> pa.Table:
    kind = pa.string()
    for _ in range(levels):
        kind = pa.struct([("a", kind)])
    return pa.table({"image": ["a.jpg"], "caption": ["x"], "other": pa.nulls(1, kind)})


def test_a_parquet_file_that_nests_columns_deeply_is_refused(tmp_path: Path) -> None:
    pq.write_table(_nested(60), tmp_path / "a.parquet", store_schema=False)
    with pytest.raises(DataError, match="nests columns more than 32 deep"):
        read_pairs(tmp_path / "a.parquet")


def test_a_parquet_page_with_a_false_size_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": ["a.jpg"], "caption": ["x"]}), tmp_path / "a.parquet", compression="zstd")
    content = (tmp_path / "a.parquet").read_bytes()
    head = content[4:8]  # type 2 (dictionary), then the unpacked size as a zigzag number of one byte
    assert head[:3] == b"\x15\x04\x15"
    huge = b"\x15\x04\x15" + b"\xfe\xff\xff\xff\x0f"  # 2 GiB - 1, in place of one byte
    (tmp_path / "a.parquet").write_bytes(content[:4] + huge + content[8:])
    with pytest.raises(DataError, match=r"a page of \d+ bytes unpacks to 2,147,483,647"):
        read_pairs(tmp_path / "a.parquet")


@pytest.fixture
def shapes() -> pa.Table:
    """Rows as data sets have them: structs of bytes, lists of captions, categories, gaps and repeated values."""
    count = 500
    images = [None if i % 50 == 7 else {"bytes": b"%d" % i * 300, "path": f"{i}.jpg"} for i in range(count)]
    return pa.table(
        {
            "image": images,
            "captions": [[f"A dog {i}.", "A dog."][: i % 3] for i in range(count)],
            "split": pa.array(["train", "test"] * 250).dictionary_encode(),
            "key": [f"{i}" for i in range(count)],
        }
    )


@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"data_page_version": "2.0", "row_group_size": 37}])
def test_parquet_rows_equal_those_of_pyarrow(tmp_path: Path, shapes: pa.Table, options: dict) -> None:
    pq.write_table(shapes, tmp_path / "a.parquet", compression="zstd", data_page_size=2_000, **options)
    assert [row for _, row in records(tmp_path / "a.parquet")] == shapes.to_pylist()
