"""`diptych caption`, run in this process: what it prints and writes, and what it says of broken pictures."""

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
from tests.broken import BROKEN, break_file, picture
from tests.captioning.test_captioner import encoder, pictures, saved, writer  # noqa: F401 - fixtures
from tests.captioning.test_captioner_models import make_blip, make_vit_gpt2
from tests.cli.test_cli import Run, run  # noqa: F401 - a fixture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six pictures, one of them in a folder of its own."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number in range(6):
        picture(number).save(folder / ("sub" if number == 5 else ".") / f"{number}.png")
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_pictures_captions_are_shown_with_their_scores(run: Run, photos: Path, saved: Path) -> None:  # noqa: F811
    told = run("caption", photos / "0.png", "--model", saved, "-k", 3, "--prefix", "a red")
    assert told.code == 0, told.err
    assert told.out.count("│ a red") == 3
    assert told.out.count("-") >= 3
    assert "score" in told.out


def test_a_folders_captions_are_shown_line_by_line(run: Run, photos: Path, saved: Path) -> None:  # noqa: F811
    told = run("caption", photos, "--model", saved, "--method", "greedy").out.splitlines()
    assert [line.split("\t")[0].rpartition("/")[2] for line in told] == [f"{number}.png" for number in range(6)]


@pytest.mark.parametrize(("suffix", "method"), [(".jsonl", "nucleus"), (".csv", "beam")])
def test_a_run_that_was_cut_off_goes_on_and_ends_as_a_whole_one(
    run: Run,  # noqa: F811
    photos: Path,
    saved: Path,  # noqa: F811
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
    assert "have captions already" in again.out
    assert cut.read_bytes() == text
    assert "0 images captioned" in run(*words, cut).out
    assert cut.read_bytes() == text


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_run_goes_on_whatever_ends_a_line_in_a_name_or_a_caption(tmp_path: Path, suffix: str) -> None:
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
def test_a_file_of_somebody_else_is_refused_and_stays(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="no captions of an earlier run"):
        CaptionFile(tmp_path / name)
    assert (tmp_path / name).read_text() == text


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_wherever_a_run_was_cut_off_its_file_is_gone_on_with(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c{suffix}"
    written = [CaptionResult(f"{name}.png", [Caption("a {dog}", -1.0)]) for name in "ab"]
    CaptionFile(path).write(written)
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        sink = CaptionFile(path)
        sink.write(each for each in written if not sink.done(each.path))
        assert path.read_bytes() == whole, cut


def test_files_tell_path_caption_and_score(run: Run, photos: Path, saved: Path, tmp_path: Path) -> None:  # noqa: F811
    run("caption", photos, "--model", saved, "-k", 2, "--output", tmp_path / "c.jsonl")
    run("caption", photos, "--model", saved, "-k", 2, "--output", tmp_path / "c.csv")
    table = list(csv.DictReader(io.StringIO((tmp_path / "c.csv").read_text("utf-8"))))
    flat = [
        (line["image"], str(rank), each["text"], str(each["score"]))
        for line in lines(tmp_path / "c.jsonl")
        for rank, each in enumerate(line["captions"], 1)
    ]
    assert [(row["image"], row["rank"], row["caption"], row["score"]) for row in table] == flat
    assert len(flat) == 12
    assert float(flat[0][3]) < 0


def test_text_files_lie_beside_the_pictures_and_those_that_are_there_stay(
    run: Run,  # noqa: F811
    photos: Path,
    saved: Path,  # noqa: F811
) -> None:
    (photos / "1.txt").write_text("my own words\n")
    told = run("caption", photos, "--model", saved, "--sidecar")
    assert "5 images captioned" in told.out
    assert (photos / "1.txt").read_text() == "my own words\n"
    assert (photos / "sub" / "5.txt").read_text().strip()
    assert {path.suffix for path in photos.rglob("*") if path.is_file()} == {".png", ".txt"}


def test_of_two_pictures_with_one_text_file_the_first_has_it(run: Run, photos: Path, saved: Path) -> None:  # noqa: F811
    picture(9).save(photos / "0.jpg")
    run("caption", photos / "0.png", "--model", saved, "--sidecar", "--prefix", "a zeppelin")
    written = (photos / "0.txt").read_text()
    Sidecars().write([CaptionResult(str(photos / "0.jpg"), [Caption("another", -1.0)])])
    assert (photos / "0.txt").read_text() == written


def test_a_text_file_that_cannot_be_written_is_named(run: Run, photos: Path, saved: Path) -> None:  # noqa: F811
    (photos / ".0.txt.tmp").mkdir()
    told = run("caption", photos, "--model", saved, "--sidecar")
    assert told.code == 1
    assert "0.txt'" in told.err
    assert "use --out" in told.err


def test_the_pictures_of_a_tar_are_captioned(run: Run, photos: Path, saved: Path, tmp_path: Path) -> None:  # noqa: F811
    shard = tmp_path / "shard-0.tar"
    with tarfile.open(shard, "w") as tar:
        for number in range(3):
            tar.add(photos / f"{number}.png", f"{number}.png")
    told = run("caption", shard, "--model", saved, "--output", tmp_path / "c.jsonl")
    assert told.code == 0, told.err
    assert [line["image"].rpartition("/")[2] for line in lines(tmp_path / "c.jsonl")] == ["0.png", "1.png", "2.png"]
    refused = run("caption", shard, "--model", saved, "--sidecar")
    assert refused.code == 1
    assert "use --out" in refused.err


def test_an_indexs_captions_become_searchable_text(run: Run, photos: Path, saved: Path) -> None:  # noqa: F811
    pytest.importorskip("lancedb")
    from diptych.search.filters import Filters
    from diptych.search.index import Index

    assert run("index", photos, "--model", saved).code == 0
    picture(5).save(photos / "sub" / "gone.png")
    run("index", photos)
    (photos / "sub" / "gone.png").unlink()
    told = run("caption", "--index", photos, "--model", saved, "--prefix", "a zeppelin")
    assert told.code == 0, told.err
    assert "6 images captioned" in told.out
    assert "missing 1" in told.out
    index = Index(photos)
    found = index.search("a star", filters=Filters(caption="Zeppelin"), keep=None)
    assert len(found.hits) == 6
    assert all("a zeppelin" in (hit.caption or "") for hit in found.hits)
    assert index.store.table.count_rows("caption LIKE '%zeppelin%'") == 6
    assert "0 images captioned" in run("caption", "--index", photos, "--model", saved).out
    assert "6 images captioned" in run("caption", "--index", photos, "--model", saved, "--overwrite").out
    assert index.store.table.count_rows("caption LIKE '%zeppelin%'") == 0


def test_broken_pictures_are_named_with_their_reason_and_the_others_are_captioned(
    run: Run,  # noqa: F811
    photos: Path,
    saved: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    reasons = {}
    for number, way in enumerate(way for way in BROKEN if BROKEN[way][0] is not None):
        path = photos / f"broken{number}.jpg"
        reasons[str(path)] = break_file(path, way)
    told = run("caption", photos, "--model", saved, "--output", tmp_path / "c.jsonl")
    found = {line["image"]: line.get("error") for line in lines(tmp_path / "c.jsonl")}
    assert {path: reason for path, reason in found.items() if reason} == reasons
    assert sum(not reason for reason in found.values()) == 6
    assert f"{len(reasons)} images without a caption" in told.out
    one = run("caption", next(iter(reasons)), "--model", saved)
    assert one.code == 1
    assert "broken0.jpg" in one.err


def test_pictures_that_a_data_set_names_but_lacks_are_told(run: Run, photos: Path, saved: Path, tmp_path: Path) -> None:  # noqa: F811
    (photos / "captions.csv").write_text("image,caption\n0.png,a star\nnowhere.png,a ship\n")
    words = ("caption", photos / "captions.csv", "--model", saved)
    for _ in range(2):
        told = run(*words, "--output", tmp_path / "c.jsonl")
        assert told.code == 0, told.err
        found = {line["image"].rpartition("/")[2]: line.get("error") for line in lines(tmp_path / "c.jsonl")}
        assert found == {"0.png": None, "nowhere.png": "missing"}
        assert len(lines(tmp_path / "c.jsonl")) == 2
    assert "1 images without a caption: missing 1" in run(*words).out
    assert "1 images without a caption: missing 1" in run(*words, "--sidecar").out


@pytest.mark.parametrize("make", [make_blip, make_vit_gpt2])
def test_models_of_transformers_write_to_every_place(
    run: Run,  # noqa: F811
    photos: Path,
    saved: Path,  # noqa: F811
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
    colours = picture(1, (64, 48))
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


def test_unusual_pictures_have_captions_and_a_huge_one_an_error_that_says_the_limit(
    run: Run,  # noqa: F811
    saved: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    folder = tmp_path / "unusual"
    folder.mkdir()
    for name, image in unusual().items():
        image.save(folder / name)
    frames = [picture(number) for number in range(3)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "animated.webp", save_all=True, append_images=frames[1:])
    run("caption", folder, "--model", saved, "--output", tmp_path / "c.jsonl")
    told = lines(tmp_path / "c.jsonl")
    assert len(told) == len(unusual()) + 2
    assert all(line.get("captions") for line in told)
    break_file(tmp_path / "huge.png", "bomb")
    huge = run("caption", tmp_path / "huge.png", "--model", saved)
    assert huge.code == 1
    assert f"{MAX_PIXELS:,}" in huge.err


def test_given_captions_are_ranked_with_probabilities(run: Run, photos: Path, saved: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "candidates.txt").write_text("a red star\n\na dog\nblue boats\nün café\n", "cp1252")
    words = ("--model", saved, "--candidates", tmp_path / "candidates.txt")
    told = run("caption", photos / "0.png", *words)
    assert all(text in told.out for text in ("probability", "a red star", "a dog", "blue boats"))
    run("caption", photos, *words, "--template", "a photo of {}", "--output", tmp_path / "c.jsonl")
    for line in lines(tmp_path / "c.jsonl"):
        assert sum(each["probability"] for each in line["captions"]) == pytest.approx(1, abs=1e-3)


def test_beside_a_picture_the_likeliest_candidate_alone_is_written(
    run: Run,  # noqa: F811
    photos: Path,
    saved: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    (tmp_path / "candidates.txt").write_text("a red star\na dog\nblue boats\n")
    words = ("caption", photos, "--model", saved, "--candidates", tmp_path / "candidates.txt", "--sidecar")
    assert run(*words).code == 0
    assert len((photos / "0.txt").read_text().splitlines()) == 1


def test_the_best_captions_of_one_split_alone_are_kept(run: Run, scenes: Path, saved: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "c.jsonl"
    told = run("caption", scenes, "--split", "val", "--model", saved, "-k", 3, "--keep", 1, "--output", out)
    assert told.code == 0, told.err
    from diptych.data.formats.read import read_pairs

    assert len(lines(out)) == len(read_pairs(scenes).with_val().split("val"))
    assert all(len(line["captions"]) == 1 for line in lines(out))


@pytest.mark.parametrize(
    ("words", "said"),
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
def test_what_cannot_be_done_is_refused(run: Run, photos: Path, saved: Path, words: tuple, said: str) -> None:  # noqa: F811
    named = [{"photos": photos, "photo": photos / "0.png"}.get(word, word) for word in words]
    told = run("caption", *named, "--model", saved)
    assert told.code == 1
    assert said in told.err


@pytest.mark.parametrize("flag", ["--keep", "-k"])
def test_a_count_below_one_is_refused_by_the_name_of_its_flag(run: Run, photos: Path, flag: str) -> None:  # noqa: F811
    ended = run("caption", photos, flag, "0")
    assert ended.code == 2
    assert f"for {flag}" in " ".join(ended.err.split())
