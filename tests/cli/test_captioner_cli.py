"""`diptych caption`, run in this process: output, files, resuming and broken images."""

# ruff: noqa: F811 - parameters are fixtures of other files

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from diptych.captioning.many_images import CaptionResult
from diptych.captioning.sinks import CaptionFile, Sidecars
from diptych.captioning.strategies import Caption
from diptych.errors import DataError
from diptych.images.decode import MAX_PIXELS
from tests.broken import BROKEN, break_file, make_image
from tests.captioning.test_captioner import encoder, images, saved, writer  # noqa: F401 - fixtures
from tests.captioning.test_captioner_models import make_blip, make_vit_gpt2
from tests.cli.test_cli import Run, run  # noqa: F401 - a fixture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six images, one of them in a subfolder."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number in range(6):
        make_image(number).save(folder / ("sub" if number == 5 else ".") / f"{number}.png")
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_captions_of_one_image_are_shown_with_their_scores(run: Run, photos: Path, saved: Path) -> None:
    ended = run("caption", photos / "0.png", "--model", saved, "-k", 3, "--prefix", "a red")
    assert ended.code == 0, ended.err
    assert ended.out.count("│ a red") == 3
    assert ended.out.count("-") >= 3
    assert "score" in ended.out


def test_captions_of_a_folder_are_printed_line_by_line(run: Run, photos: Path, saved: Path) -> None:
    ended = run("caption", photos, "--model", saved, "--method", "greedy").out.splitlines()
    assert [line.split("\t")[0].rpartition("/")[2] for line in ended] == [f"{number}.png" for number in range(6)]


@pytest.mark.parametrize(("suffix", "method"), [(".jsonl", "nucleus"), (".csv", "beam")])
def test_an_interrupted_run_continues_and_ends_like_an_uninterrupted_one(
    run: Run,
    photos: Path,
    saved: Path,
    tmp_path: Path,
    suffix: str,
    method: str,
) -> None:
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    words = ("caption", photos, "--model", saved, "--method", method, "--batch-size", 2, "--output")
    assert "6 images captioned" in run(*words, whole).out
    text = whole.read_bytes()
    cut.write_bytes(text[: len(text) // 2])  # in the middle of a line
    again = run(*words, cut)
    assert "were done by an earlier run" in again.out
    assert cut.read_bytes() == text
    assert "all 6 images were done by an earlier run" in run(*words, cut).out
    assert cut.read_bytes() == text


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_run_continues_with_unicode_line_separators_in_names_and_captions(tmp_path: Path, suffix: str) -> None:
    written = [CaptionResult("a\u2028b.png", [Caption("one\u0085two", -1.0)]), CaptionResult("c.png", reason="empty")]
    CaptionFile(tmp_path / f"c{suffix}").write(written)
    (tmp_path / f"c{suffix}").open("a").write("\n")  # somebody's editor
    again = CaptionFile(tmp_path / f"c{suffix}")
    assert [again.done(path) for path in ("a\u2028b.png", "c.png", "d.png")] == [True, True, False]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.jsonl", '{"image": "a.jpg", "caption": "a dog"}'),
        ("c.jsonl", '{"image": "a.jpg", "caption": "a dog"}\n'),
        ("c.jsonl", "[1]\n"),
        ("c.jsonl", "some notes"),
        ("c.csv", "image,caption"),
        ("c.csv", "image,caption\na.jpg,a dog\n"),
    ],
)
def test_a_file_that_diptych_did_not_write_is_refused_and_left_unchanged(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="no captions of an earlier run"):
        CaptionFile(tmp_path / name)
    assert (tmp_path / name).read_text() == text


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_file_that_was_cut_off_anywhere_is_continued(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c{suffix}"
    written = [CaptionResult(f"{name}.png", [Caption("a {dog}", -1.0)]) for name in "ab"]
    CaptionFile(path).write(written)
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        sink = CaptionFile(path)
        sink.write(row for row in written if not sink.done(row.path))
        assert path.read_bytes() == whole, cut


def test_files_contain_path_caption_and_score(run: Run, photos: Path, saved: Path, tmp_path: Path) -> None:
    run("caption", photos, "--model", saved, "-k", 2, "--output", tmp_path / "c.jsonl")
    run("caption", photos, "--model", saved, "-k", 2, "--output", tmp_path / "c.csv")
    table = list(csv.DictReader(io.StringIO((tmp_path / "c.csv").read_text("utf-8"))))
    flat = [
        (line["image"], str(rank), row["text"], str(row["score"]))
        for line in lines(tmp_path / "c.jsonl")
        for rank, row in enumerate(line["captions"], 1)
    ]
    assert [(row["image"], row["rank"], row["caption"], row["score"]) for row in table] == flat
    assert len(flat) == 12
    assert float(flat[0][3]) < 0


def test_sidecar_files_are_next_to_the_images_and_existing_ones_are_kept(
    run: Run,
    photos: Path,
    saved: Path,
) -> None:
    (photos / "1.txt").write_text("my own words\n")
    ended = run("caption", photos, "--model", saved, "--sidecar")
    assert "5 images captioned" in ended.out
    assert (photos / "1.txt").read_text() == "my own words\n"
    assert (photos / "sub" / "5.txt").read_text().strip()
    assert {path.suffix for path in photos.rglob("*") if path.is_file()} == {".png", ".txt"}


def test_the_first_of_two_images_with_the_same_sidecar_file_keeps_it(run: Run, photos: Path, saved: Path) -> None:
    make_image(9).save(photos / "0.jpg")
    run("caption", photos / "0.png", "--model", saved, "--sidecar", "--prefix", "a zeppelin")
    written = (photos / "0.txt").read_text()
    Sidecars().write([CaptionResult(str(photos / "0.jpg"), [Caption("another", -1.0)])])
    assert (photos / "0.txt").read_text() == written


def test_a_sidecar_file_that_cannot_be_written_is_named(
    run: Run, photos: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("diptych.captioning.sinks.write_text", refuse)
    ended = run("caption", photos, "--model", saved, "--sidecar")
    assert ended.code == 1
    assert "0.txt'" in ended.err
    assert "(--output)" in ended.err


def test_images_in_a_tar_file_are_captioned(run: Run, photos: Path, saved: Path, tmp_path: Path) -> None:
    shard = tmp_path / "shard-0.tar"
    with tarfile.open(shard, "w") as tar:
        for number in range(3):
            tar.add(photos / f"{number}.png", f"{number}.png")
    ended = run("caption", shard, "--model", saved, "--output", tmp_path / "c.jsonl")
    assert ended.code == 0, ended.err
    assert [line["image"].rpartition("/")[2] for line in lines(tmp_path / "c.jsonl")] == ["0.png", "1.png", "2.png"]
    refused = run("caption", shard, "--model", saved, "--sidecar")
    assert refused.code == 1
    assert "(--output)" in refused.err


def test_captions_stored_in_an_index_are_searchable(run: Run, photos: Path, saved: Path) -> None:
    pytest.importorskip("lancedb")
    from diptych.search.filters import Filters
    from diptych.search.index import Index

    assert run("index", photos, "--model", saved).code == 0
    make_image(5).save(photos / "sub" / "gone.png")
    run("index", photos)
    (photos / "sub" / "gone.png").unlink()
    ended = run("caption", "--index", photos, "--model", saved, "--prefix", "a zeppelin")
    assert ended.code == 0, ended.err
    assert "6 images captioned" in ended.out
    assert "missing 1" in ended.err
    index = Index(photos)
    found = index.search("a star", filters=Filters(caption="Zeppelin"), keep=None)
    assert len(found.hits) == 6
    assert all("a zeppelin" in (hit.caption or "") for hit in found.hits)
    assert index.store.table.count_rows("caption LIKE '%zeppelin%'") == 6
    assert "0 images captioned" in run("caption", "--index", photos, "--model", saved).out
    assert "6 images captioned" in run("caption", "--index", photos, "--model", saved, "--overwrite").out
    assert index.store.table.count_rows("caption LIKE '%zeppelin%'") == 0


def test_broken_images_are_reported_with_the_reason_and_the_others_are_captioned(
    run: Run,
    photos: Path,
    saved: Path,
    tmp_path: Path,
) -> None:
    reasons = {}
    for number, way in enumerate(way for way in BROKEN if BROKEN[way][0] is not None):
        path = photos / f"broken{number}.jpg"
        reasons[str(path)] = break_file(path, way)
    ended = run("caption", photos, "--model", saved, "--output", tmp_path / "c.jsonl")
    found = {line["image"]: line.get("error") for line in lines(tmp_path / "c.jsonl")}
    assert {path: reason for path, reason in found.items() if reason} == reasons
    assert sum(not reason for reason in found.values()) == 6
    assert f"{len(reasons)} of " in ended.err
    assert "images have no caption: undecodable 5" in ended.err
    one = run("caption", next(iter(reasons)), "--model", saved)
    assert one.code == 1
    assert "broken0.jpg" in one.err


def test_missing_images_of_a_data_set_are_reported(run: Run, photos: Path, saved: Path, tmp_path: Path) -> None:
    (photos / "captions.csv").write_text("image,caption\n0.png,a star\nnowhere.png,a ship\n")
    words = ("caption", photos / "captions.csv", "--model", saved)
    for _ in range(2):
        ended = run(*words, "--output", tmp_path / "c.jsonl")
        assert ended.code == 0, ended.err
        found = {line["image"].rpartition("/")[2]: line.get("error") for line in lines(tmp_path / "c.jsonl")}
        assert found == {"0.png": None, "nowhere.png": "missing"}
        assert len(lines(tmp_path / "c.jsonl")) == 2
    assert "1 of 2 images have no caption: missing 1" in run(*words).err
    assert "1 of 2 images have no caption: missing 1" in run(*words, "--sidecar").err


@pytest.mark.parametrize("make", [make_blip, make_vit_gpt2])
def test_transformers_models_write_to_every_destination(
    run: Run,
    photos: Path,
    saved: Path,
    tmp_path: Path,
    make: Callable[[Path], None],
) -> None:
    pytest.importorskip("lancedb")
    make(tmp_path / "model")
    words = ("--model", tmp_path / "model", "--max-tokens", 6)
    shard, out = tmp_path / "shard-0.tar", tmp_path / "c.jsonl"
    with tarfile.open(shard, "w") as tar:
        tar.add(photos / "0.png", "0.png")
    assert "6 images captioned" in run("caption", photos, *words, "--output", out).out
    assert "a red" in run("caption", shard, *words, "--prefix", "a red").out
    assert "6 images captioned" in run("caption", photos, *words, "--sidecar").out
    assert run("index", photos, "--model", saved).code == 0
    assert "6 images captioned" in run("caption", "--index", photos, *words).out
    chosen = run("caption", photos / "0.png", *words, "--choose", "--matcher", "mini")
    assert chosen.code == 0, chosen.err
    assert "confidence" in chosen.out


def unusual() -> dict[str, Image.Image]:
    colours = make_image(1, (64, 48))
    return {
        "grey.png": colours.convert("L"),
        "sixteen.png": colours.convert("L").convert("I;16"),
        "black-and-white.png": colours.convert("1"),
        "transparent.png": colours.convert("RGBA"),
        "palette.gif": colours.convert("P"),
        "inks.jpg": colours.convert("CMYK"),
        "one-pixel.png": colours.crop((0, 0, 1, 1)),
        "wide.png": colours.resize((3000, 2)),
    }


def test_unusual_images_are_captioned_and_a_huge_one_is_refused_with_the_limit(
    run: Run,
    saved: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "unusual"
    folder.mkdir()
    for name, image in unusual().items():
        image.save(folder / name)
    frames = [make_image(number) for number in range(3)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "animated.webp", save_all=True, append_images=frames[1:])
    run("caption", folder, "--model", saved, "--output", tmp_path / "c.jsonl")
    ended = lines(tmp_path / "c.jsonl")
    assert len(ended) == len(unusual()) + 2
    assert all(line.get("captions") for line in ended)
    break_file(tmp_path / "huge.png", "bomb")
    huge = run("caption", tmp_path / "huge.png", "--model", saved)
    assert huge.code == 1
    assert f"{MAX_PIXELS:,}" in huge.err


def test_given_captions_are_ranked_with_probabilities(run: Run, photos: Path, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "candidates.txt").write_text("a red star\n\na dog\nblue boats\nün café\n", "cp1252")
    words = ("--model", saved, "--candidates", tmp_path / "candidates.txt")
    ended = run("caption", photos / "0.png", *words)
    assert all(text in ended.out for text in ("probability", "a red star", "a dog", "blue boats"))
    run("caption", photos, *words, "--template", "a photo of {}", "--output", tmp_path / "c.jsonl")
    for line in lines(tmp_path / "c.jsonl"):
        assert sum(row["probability"] for row in line["captions"]) == pytest.approx(1, abs=1e-3)


def test_only_the_likeliest_candidate_is_written_to_a_sidecar_file(
    run: Run,
    photos: Path,
    saved: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "candidates.txt").write_text("a red star\na dog\nblue boats\n")
    words = ("caption", photos, "--model", saved, "--candidates", tmp_path / "candidates.txt", "--sidecar")
    assert run(*words).code == 0
    assert len((photos / "0.txt").read_text().splitlines()) == 1


def test_only_the_best_captions_of_the_given_split_are_written(
    run: Run, scenes: Path, saved: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c.jsonl"
    ended = run("caption", scenes, "--split", "val", "--model", saved, "-k", 3, "--keep", 1, "--output", out)
    assert ended.code == 0, ended.err
    from diptych.data.formats.read import read_pairs

    assert len(lines(out)) == len(read_pairs(scenes).with_val().split("val"))
    assert all(len(line["captions"]) == 1 for line in lines(out))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give either a source"),
        (("photo.jpg", "--index", "photos"), "or --index"),
        (("nowhere.jpg",), "nowhere.jpg"),
        (("photos", "--output", "captions.docx"), "captions.docx"),
        (("photos", "--candidates", "nowhere.txt"), "nowhere.txt"),
        (("photos", "--method", "greedy", "-k", "2"), "one caption"),
        (("photos", "--choose"), "matcher"),
        (("photos", "--sidecar", "--output", "c.jsonl"), "one place"),
        (("--index", "photos", "--split", "val"), "--split cannot be combined with --index"),
        (("photos", "--overwrite"), "--overwrite requires --index"),
        (("photos", "--template", "a {}"), "--template requires --candidates"),
        (
            ("photos", "--candidates", "c.txt", "--choose", "--prefix", "a"),
            "--choose and --prefix cannot be combined",
        ),
        (("photo", "--split", "val"), "--split requires a data set"),
    ],
    ids=str,
)
def test_contradictory_flags_are_refused(run: Run, photos: Path, saved: Path, words: tuple, message: str) -> None:
    (photos.parent / "c.txt").write_text("a cat\n")
    places = {"photos": photos, "photo": photos / "0.png", "c.txt": photos.parent / "c.txt"}
    ended = run("caption", *(places.get(word, word) for word in words), "--model", saved)
    assert ended.code == 1
    assert message in ended.err


@pytest.mark.parametrize("flag", ["--keep", "-k"])
def test_a_count_below_one_is_refused_by_the_name_of_its_flag(run: Run, photos: Path, flag: str) -> None:
    ended = run("caption", photos, flag, "0")
    assert ended.code == 2
    assert f"for {flag}" in " ".join(ended.err.split())
