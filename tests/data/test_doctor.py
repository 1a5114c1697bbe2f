"""The data doctor: finding faults in a data set, and dropping unusable images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from diptych.data.doctor import checks
from diptych.data.doctor.findings import repair_mojibake
from diptych.data.doctor.inspect import Report, contact_sheet, inspect, usable_pairs
from diptych.data.formats.read import detect, read_pairs
from diptych.data.pairs import Pairs, Row
from diptych.errors import DataError
from diptych.images.contact_sheet import MAT
from tests.broken import BROKEN, break_files, encoded, make_image


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))


def _good(folder: Path, count: int, split: str | None = None, first: int = 100) -> list[Row]:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(first, first + count):
        path = folder / f"good{seed}.png"
        path.write_bytes(encoded("PNG", seed))
        rows.append(Row(path.name, path, (f"picture number {seed}",), split))
    return rows


def _pairs(folder: Path, **captions: tuple[str, ...]) -> Pairs:
    """A valid image for each keyword, with these captions."""
    rows = _good(folder, len(captions))
    return Pairs.from_rows(
        Row(name, row.image, texts) for row, (name, texts) in zip(rows, captions.items(), strict=True)
    )


def _details(report: Report, kind: str) -> list[str]:
    return [example.detail for finding in report.findings if finding.kind == kind for example in finding.examples]


def test_each_broken_image_is_dropped_for_its_reason_and_the_rest_are_kept(tmp_path: Path) -> None:
    broken, good = break_files([tmp_path / f"{name}.jpg" for name in BROKEN]), _good(tmp_path, 5)
    rows = [Row(path.name, path, ("a caption",)) for path in broken]
    kept, report = usable_pairs(Pairs.from_rows([*rows[:6], *good, *rows[6:]]), max_bad_share=0.9, examples=100)
    assert kept.image_ids == [row.image_id for row in good]
    reasons = {Path(e.file): finding.kind for finding in report.findings for e in finding.examples}
    assert reasons == broken
    assert (report.images, report.bad_images) == (17, 12)
    assert report.count("truncated") == 3
    assert all(example.detail for finding in report.findings for example in finding.examples)


def test_a_image_over_the_limit_of_pixels_is_dropped(tmp_path: Path) -> None:
    rows = _good(tmp_path, 2)
    make_image(7, (80, 80)).save(tmp_path / "wide.png")
    pairs = Pairs.from_rows([*rows, Row("wide.png", tmp_path / "wide.png", ("wide",))])
    kept, report = usable_pairs(pairs, max_pixels=5_000, max_bad_share=0.5)
    assert (len(kept), report.count("too_many_pixels")) == (2, 1)
    assert len(usable_pairs(pairs)[0]) == 3


def test_empty_captions_are_dropped_and_images_left_without_any(tmp_path: Path) -> None:
    pairs = _pairs(tmp_path, a=("one", " ", "two"), b=("", "\t"), c=(), d=("three",))
    kept, report = usable_pairs(pairs, max_bad_share=0.5)
    assert [(row.image_id, row.captions) for row in kept] == [("a", ("one", "two")), ("d", ("three",))]
    assert (report.count("empty_captions"), report.count("without_captions")) == (3, 2)
    assert (report.images, report.bad_images, report.captions) == (4, 2, 6)


def test_a_sound_data_set_is_returned_unchanged(tmp_path: Path) -> None:
    pairs = Pairs.from_rows(_good(tmp_path, 3, "train"))
    kept, report = usable_pairs(pairs)
    assert list(kept) == list(pairs)
    assert (report.findings, report.worst, report.summary()) == ((), None, "nothing")


def test_too_many_bad_images_are_refused_with_reasons_files_and_a_next_step(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(b"")
    rows = [*_good(tmp_path, 3), *(Row(name, tmp_path / name, ("x",)) for name in ("cut.jpg", "gone.jpg"))]
    pairs = Pairs.from_rows(rows)
    with pytest.raises(DataError) as refusal:
        usable_pairs(pairs, max_bad_share=0.3)
    for words in ("2 of 5", "missing 1", "empty 1", "cut.jpg", "gone.jpg", "data inspect"):
        assert words in str(refusal.value)
    assert [step.parameter for step in refusal.value.steps] == ["max_bad_share"]
    assert len(usable_pairs(pairs, max_bad_share=0.4)[0]) == 3


@pytest.mark.parametrize("rows", [[], [Row("gone.jpg", Path("gone.jpg"), ("x",))]])
def test_a_data_set_without_usable_images_is_refused(rows: list[Row]) -> None:
    with pytest.raises(DataError, match="cannot be used"):
        usable_pairs(Pairs.from_rows(rows), max_bad_share=1.0)


def test_images_are_decoded_once_for_sound_and_inspect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = Pairs.from_rows(_good(tmp_path, 4))
    first = inspect(pairs)
    decoded: list[object] = []
    monkeypatch.setattr(checks, "check_image", lambda *given: decoded.append(given) or ("", "", "", 0))
    assert inspect(pairs) == first
    assert len(usable_pairs(pairs)[0]) == 4
    assert not decoded
    (tmp_path / "good100.png").write_bytes(encoded("JPEG"))
    inspect(pairs)
    assert len(decoded) == 4


def test_checks_are_not_cached_while_a_file_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "late.png"
    path.mkdir()
    pairs = Pairs.from_rows([*_good(tmp_path, 3), Row("late.png", path, ("late",))])
    assert inspect(pairs).count("unreadable") == 1
    assert not list(tmp_path.glob("cache/checks/*"))
    path.rmdir()
    path.write_bytes(encoded("PNG", 3))
    assert inspect(pairs).bad_images == 0


def test_progress_counts_every_image(tmp_path: Path) -> None:
    seen = []

    def progress(items, total, label):  # type: ignore[no-untyped-def]
        for item in items:
            seen.append((total, label))
            yield item

    inspect(Pairs.from_rows(_good(tmp_path, 3)), progress=progress)
    assert seen == [(3, "checking images")] * 3


def test_statistics_of_a_small_set_match_a_hand_count(tmp_path: Path) -> None:
    report = inspect(_pairs(tmp_path, a=("one two three", "one"), b=("one two",), c=("a b c d e f", "x", "y z")))
    assert (report.images, report.captions, report.splits) == (3, 6, {"": 3})
    assert (report.captions_per_image.min, report.captions_per_image.median) == (1, 2)
    assert (report.captions_per_image.max, report.caption_words.min) == (3, 1)
    assert (report.caption_words.median, report.caption_words.max) == (2, 6)


def test_identical_and_near_identical_images_are_grouped_by_kind_and_split(tmp_path: Path) -> None:
    train, val = _good(tmp_path, 3, "train"), _good(tmp_path, 2, "val", first=200)
    copies = []
    for name, split, data in [
        ("same_leak.png", "val", encoded("PNG", 100)),
        ("near_leak.jpg", "val", encoded("JPEG", 101)),
        ("same.png", "train", encoded("PNG", 102)),
        ("near.jpg", "val", encoded("JPEG", 200)),
    ]:
        (tmp_path / name).write_bytes(data)
        copies.append(Row(name, tmp_path / name, ("a copy",), split))
    report = inspect(Pairs.from_rows([*train, *val, *copies]))
    kinds = ("identical_across_splits", "near_identical_across_splits", "identical", "near_identical")
    assert [_details(report, kind) for kind in kinds] == [
        ["2 images: good100.png (train), same_leak.png (val)"],
        ["2 images: good101.png (train), near_leak.jpg (val)"],
        ["2 images: good102.png (train), same.png (train)"],
        ["2 images: good200.png (val), near.jpg (val)"],
    ]
    assert report.worst == "error"


def test_plain_images_of_different_colours_are_not_near_identical(tmp_path: Path) -> None:
    rows = []
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{colour}.png")
        rows.append(Row(colour, tmp_path / f"{colour}.png", (colour,)))
    assert inspect(Pairs.from_rows(rows)).findings == ()


def test_faulty_text_is_found(tmp_path: Path) -> None:
    report = inspect(_pairs(tmp_path, a=("a caf\ufffd",), b=("a cafÃ© at night",), c=("a café", "Œuvre “quoted”")))
    assert _details(report, "lost_characters") == ["a caf\ufffd"]
    assert _details(report, "suspected_mojibake") == ["a cafÃ© at night (was it: a café at night?)"]


@pytest.mark.parametrize("text", ["plain", "café", "Ünïcödé “quoted” – naïve", "一只狗", "Ñandú", "Łódź", "£5 à 10°"])
def test_text_is_suspected_exactly_when_it_was_read_as_another_encoding(text: str) -> None:
    assert repair_mojibake(text) is None
    read_as_latin = text.encode().decode("latin-1")
    assert repair_mojibake(read_as_latin) == (None if text.isascii() else text)


def test_captions_of_several_images_are_listed_most_shared_first(tmp_path: Path) -> None:
    report = inspect(_pairs(tmp_path, a=("A dog", "cat", "cat"), b=("a  dog", "cat"), c=("a dog", "bird", "bird")))
    assert _details(report, "shared_captions") == ["3 images: a dog", "2 images: cat"]
    assert _details(report, "repeated_captions") == ["2 times: cat", "2 times: bird"]


def test_image_files_that_no_caption_names_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = Pairs.from_rows(_good(tmp_path / "images", 2))
    (tmp_path / "images" / "alone.jpg").write_bytes(encoded("JPEG"))
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, Path("images")):
        report = inspect(pairs, folder=folder)
        assert report.count("uncaptioned_files") == 1
        assert report.findings[0].examples[0].file == str(tmp_path / "images" / "alone.jpg")
    assert inspect(pairs).findings == ()


def test_lines_that_are_not_utf8_are_found(tmp_path: Path) -> None:
    captions = tmp_path / "captions.txt"
    captions.write_bytes("image,caption\ngood100.png,caf\xe9\ngood101.png,bar\n".encode("latin-1"))
    report = inspect(Pairs.from_rows(_good(tmp_path, 2)), caption_files=[captions])
    assert _details(report, "wrong_encoding") == ["line 2"]


def test_a_report_is_json_serialisable(tmp_path: Path) -> None:
    rows = [*_good(tmp_path, 2), *(Row(f"gone{k}", tmp_path / f"gone{k}.jpg", ("x",)) for k in range(5))]
    report = json.loads(json.dumps(inspect(Pairs.from_rows(rows), examples=3).as_dict()))
    missing = next(finding for finding in report["findings"] if finding["kind"] == "missing")
    assert (report["images"], report["bad_images"]) == (7, 5)
    assert (missing["count"], missing["severity"], len(missing["examples"])) == (5, "error", 3)
    assert missing["examples"][0]["file"] == str(tmp_path / "gone0.jpg")
    assert missing["next_step"].endswith(".")


def test_a_contact_sheet_is_the_same_for_a_seed_and_shows_broken_images_grey(tmp_path: Path) -> None:
    good = _good(tmp_path, 6)
    pairs = Pairs.from_rows(good)
    sheet = contact_sheet(pairs, 4, seed=1, title="t", tile_size=64)
    assert sheet.tobytes() == contact_sheet(pairs, 4, seed=1, title="t", tile_size=64).tobytes()
    assert sheet.tobytes() != contact_sheet(pairs, 4, seed=2, title="t", tile_size=64).tobytes()
    broken = Pairs.from_rows([Row("gone.jpg", tmp_path / "gone.jpg", ())])
    colours = {colour: count for count, colour in contact_sheet(broken, tile_size=64).getcolors(100_000) or []}
    assert colours[MAT] > 64 * 64 * 0.8


def test_captions_that_look_like_a_list_are_found(tmp_path: Path) -> None:
    report = inspect(_pairs(tmp_path, a=("['a dog', 'a",), b=("[dog]",), c=("a 'dog'",)))
    assert _details(report, "list_captions") == ["['a dog', 'a"]


def test_files_beside_a_caption_file_that_it_does_not_name_are_found(tmp_path: Path) -> None:
    _good(tmp_path / "images", 3)
    (tmp_path / "t.csv").write_text("image,caption\ngood100.png,one\ngood101.png,two\n")
    source = detect(tmp_path / "t.csv")
    assert source.image_folder == tmp_path / "images"
    report = inspect(read_pairs(tmp_path / "t.csv"), folder=source.image_folder, caption_files=source.paths)
    assert report.count("uncaptioned_files") == 1


def test_lines_of_sidecars_and_token_files_that_are_not_utf8_are_found(tmp_path: Path) -> None:
    (row,) = _good(tmp_path, 1)
    assert isinstance(row.image, Path)
    row.image.with_suffix(".txt").write_bytes(b"caf\xe9")
    (tmp_path / "x.token").write_bytes(b"good100.png#0\tcaf\xe9\n")
    report = inspect(Pairs.from_rows([row]), caption_files=[tmp_path, tmp_path / "x.token"])
    assert _details(report, "wrong_encoding") == ["line 1", "line 1"]
