"""Tables in and out of `diptych match` and `diptych score`, and output for programs."""

from __future__ import annotations

import csv
import json
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from diptych.cli import main
from diptych.matching.match_table import MatchTable, free_name, merge_columns, merge_rows, read_match_table


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two images."""
    for name, color in (("red.png", "red"), ("blue.png", "blue")):
        Image.new("RGB", (32, 32), color).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Even:
    """A matcher that gives every pair the same probability."""

    encoder = SimpleNamespace(image_size=32)

    def predict(self, images: list[object], texts: list[str], prior: float | None = None) -> list[float]:
        return [0.25] * len(images)


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


@pytest.fixture
def even(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.matching.matcher.load_matcher", lambda *_, **__: Even())


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_the_other_columns_of_a_table_are_kept_in_order(folder: Path, even: None) -> None:
    lines = ["id,caption,image,note", '7,a red square,red.png,"first, of two"', "8,a blue square,blue.png,=1+1"]
    (folder / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    assert run("match", "--pairs", "pairs.csv", "--output", "new/out.csv") == 0
    assert rows_of(folder / "new" / "out.csv") == [
        ["id", "caption", "image", "note", "probability"],
        ["7", "a red square", "red.png", "first, of two", "0.2500"],
        ["8", "a blue square", "blue.png", "=1+1", "0.2500"],
    ]


def test_a_column_with_the_name_of_the_result_is_kept(folder: Path, even: None) -> None:
    (folder / "pairs.csv").write_text("image,caption,probability\nred.png,red,0.9\n")
    assert run("match", "--pairs", "pairs.csv", "--output", "out.csv") == 0
    assert rows_of(folder / "out.csv") == [
        ["image", "caption", "probability", "probability_2"],
        ["red.png", "red", "0.9", "0.2500"],
    ]


def test_json_lines_keep_columns_that_only_some_lines_have_and_nested_values_as_json(folder: Path) -> None:
    lines = [
        {"image": "red.png", "seed": 3, "caption": ["red", "a square"], "extra": {"a": [1]}},
        {"image": "blue.png", "caption": "blue", "done": True},
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    table = read_match_table(folder / "pairs.jsonl")
    assert table.columns == ("image", "seed", "caption", "extra", "done")
    assert list(table.rows()) == [
        {"image": "red.png", "seed": "3", "caption": "red", "extra": '{"a": [1]}', "done": ""},
        {"image": "red.png", "seed": "3", "caption": "a square", "extra": '{"a": [1]}', "done": ""},
        {"image": "blue.png", "seed": "", "caption": "blue", "extra": "", "done": "True"},
    ]


def test_of_several_caption_columns_each_gives_a_pair_in_the_place_of_the_first(folder: Path) -> None:
    (folder / "pairs.csv").write_text("image,caption_1,caption_2,split\nred.png,red,a square,test\n")
    table = read_match_table(folder / "pairs.csv")
    assert table.columns == ("image", "caption_1", "split")
    assert [row["caption_1"] for row in table.rows()] == ["red", "a square"]


def test_a_parquet_table_keeps_columns_that_a_data_set_would_not_read(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"image": ["red.png"], "caption": ["red"], "width": [32]})
    pq.write_table(table, folder / "pairs.parquet")
    read = read_match_table(folder / "pairs.parquet")
    assert list(read.rows()) == [{"image": "red.png", "caption": "red", "width": "32"}]


def test_several_tables_share_the_names_of_the_first_for_image_and_text() -> None:
    first = MatchTable(["a"], [Path("a")], ["x"], [{"image": "a", "n": 1}], "image", "prompt", ("image", "prompt", "n"))
    other = MatchTable(["b"], [Path("b")], ["y"], [{"imgId": "b"}], "imgId", "caption", ("caption", "imgId"))
    assert merge_columns([first, other]) == ("image", "prompt", "n")
    assert list(merge_rows([first, other])) == [
        {"image": "a", "prompt": "x", "n": "1"},
        {"prompt": "y", "image": "b"},
    ]
    assert free_name("n", merge_columns([first, other])) == "n_2"


def test_score_keeps_the_other_columns_of_every_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("diptych.models.dual_encoder.load", lambda *_: None)
    monkeypatch.setattr(
        "diptych.evaluation.prompts.score_images", lambda _, table, progress: np.full(len(table.texts), 0.5)
    )
    (folder / "a.csv").write_text("seed,image,prompt\n1,red.png,red\n")
    (folder / "b.csv").write_text("imgId,prompt,model\nblue.png,blue,m\n")
    assert run("score", "a.csv", "b.csv", "--output", "out.csv", "--json") == 0
    assert rows_of(folder / "out.csv") == [
        ["table", "seed", "image", "prompt", "model", "score"],
        ["a.csv", "1", "red.png", "red", "", "0.5000"],
        ["b.csv", "", "blue.png", "blue", "m", "0.5000"],
    ]
    rows = json.loads(capsys.readouterr().out)
    assert [(row["table"], row["images"], row["mean"]) for row in rows] == [("a.csv", 1, 0.5), ("b.csv", 1, 0.5)]


def test_pairs_without_a_picture_are_counted_by_reason_and_a_table_without_any_fails(
    folder: Path, even: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    lines = ["image,caption", "red.png,red", "gone.png,a cat", "broken.png,a dog", "blue.png,"]
    (folder / "pairs.csv").write_text("\n".join(lines))
    assert run("match", "--pairs", "pairs.csv", "--output", "out.csv") == 0
    error = capsys.readouterr().err
    assert "3 of 4 pairs of 'pairs.csv' have no probability" in error
    for reason in ("missing 1 (such as 'gone.png')", "undecodable 1 (such as 'broken.png')", "no text 1"):
        assert reason in error
    (folder / "none.csv").write_text("image,caption\ngone.png,a cat\n")
    assert run("match", "--pairs", "none.csv", "--output", "none-out.csv") == 1
    assert "1 of 1 pairs of 'none.csv' have no probability: missing 1" in capsys.readouterr().err
    assert not (folder / "none-out.csv").exists()


def test_match_prints_json_for_texts_and_for_tables(
    folder: Path, even: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("match", "red.png", "red", "blue", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {"text": "red", "probability": 0.25},
        {"text": "blue", "probability": 0.25},
    ]
    (folder / "pairs.csv").write_text("image,caption,n\nred.png,red,1\ngone.png,a,2\n")
    assert run("match", "--pairs", "pairs.csv", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {"image": "red.png", "caption": "red", "n": "1", "probability": 0.25},
        {"image": "gone.png", "caption": "a", "n": "2", "probability": None},
    ]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_names_that_a_terminal_cannot_encode_end_no_command(
    folder: Path, even: None, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    name = "smile 😀 ł.png"
    Image.new("RGB", (32, 32), "red").save(folder / name)
    (folder / "pairs.csv").write_text(f"image,caption\n{name},a smile 😀\n", encoding="utf-8")

    def printed(*words: str) -> bytes:
        stream = TextIOWrapper(BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        assert run(*words) == 0
        stream.flush()
        return stream.buffer.getvalue()  # type: ignore[attr-defined]

    table = printed("match", name, "a smile 😀").decode(encoding)
    assert ("😀" if encoding == "utf-8" else r"\U0001f600") in table
    assert json.loads(printed("match", name, "😀", "--json").decode(encoding))[0]["text"] == "😀"
    assert name in printed("match", "--pairs", "pairs.csv").decode("utf-8")
    assert json.loads(printed("match", "--pairs", "pairs.csv", "--json").decode(encoding))[0]["image"] == name
    report = printed("data", "inspect", "pairs.csv").decode(encoding)
    assert "images" in report
    assert json.loads(printed("data", "inspect", "pairs.csv", "--json").decode(encoding))["images"] == 1


def test_the_reader_of_a_pipe_may_stop_at_any_time() -> None:
    import subprocess

    code = "import sys; sys.argv[1:] = ['--help']; from diptych.cli import main; main()"
    for words in (["--help"], ["--version"], ["data", "get"]):
        command = [sys.executable, "-c", code.replace("['--help']", repr(words))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            error = process.stderr.read()
        assert (process.returncode, error) == (141, b""), words
