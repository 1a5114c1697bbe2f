"""Synthetic scenes: deterministic rendering and correct captions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from diptych.data.formats.read import read_pairs
from diptych.data.samples.drawing import PARTS, render
from diptych.data.samples.library import draw_scenes
from diptych.data.samples.scenes import BACKDROPS, COLOURS, SHAPES, Scene, Thing, captions, imagine, place, relation
from diptych.errors import ConfigError, DataError
from diptych.images.decode import decode

SCENES = [imagine(seed, index) for seed in (0, 1) for index in range(300)]


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_drawn_set_reads_as_pairs_with_five_captions_each(tmp_path: Path) -> None:
    pairs = read_pairs(draw_scenes(tmp_path / "set", count=6, size=32))
    assert [len(row.captions) for row in pairs] == [5] * 6
    assert [row.captions for row in pairs] == [captions(imagine(0, index)) for index in range(6)]
    assert {decode(row.image).size for row in pairs} == {(32, 32)}


def test_an_image_does_not_depend_on_how_many_are_drawn(tmp_path: Path) -> None:
    few = _contents(draw_scenes(tmp_path / "few", count=3, size=32) / "images")
    many = _contents(draw_scenes(tmp_path / "many", count=5, size=32) / "images")
    assert len(few) == 3
    assert few.items() <= many.items()


def test_another_seed_draws_other_scenes_under_other_names(tmp_path: Path) -> None:
    first = _contents(draw_scenes(tmp_path / "a", count=3, size=32, seed=0) / "images")
    second = _contents(draw_scenes(tmp_path / "b", count=3, size=32, seed=1) / "images")
    assert not first.keys() & second.keys()
    assert not set(first.values()) & set(second.values())


def test_drawing_again_keeps_intact_images_and_replaces_others(tmp_path: Path) -> None:
    out = draw_scenes(tmp_path, count=3, size=32)
    fresh = _contents(out)
    first, second, third = sorted((out / "images").iterdir())
    os.utime(first, (1, 1))
    second.write_bytes(b"half a pict")
    third.unlink()
    draw_scenes(out, count=3, size=32)
    assert _contents(out) == fresh
    assert first.stat().st_mtime == 1


def test_drawing_in_another_size_replaces_the_images(tmp_path: Path) -> None:
    draw_scenes(tmp_path, count=2, size=32)
    assert {decode(row.image).size for row in read_pairs(draw_scenes(tmp_path, count=2, size=48))} == {(48, 48)}


def test_an_interrupted_draw_leaves_complete_images_and_resumes(tmp_path: Path) -> None:
    code = (
        f"from diptych.data.samples.library import draw_scenes; draw_scenes({str(tmp_path)!r}, count=100000, size=32)"
    )
    drawing = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("images/scene*.jpg"))) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    drawing.kill()
    drawing.wait()
    drawn = sorted(tmp_path.glob("images/scene*.jpg"))
    assert len(drawn) >= 20
    assert not (tmp_path / "captions.txt").exists()
    assert {decode(path).size for path in drawn} == {(32, 32)}
    assert len(read_pairs(draw_scenes(tmp_path, count=5, size=32))) == 5


def test_captions_of_another_data_set_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("image,caption\nmine.jpg,my dog\n")
    with pytest.raises(DataError, match="another folder"):
        draw_scenes(tmp_path, count=1)
    assert (tmp_path / "captions.txt").read_text() == "image,caption\nmine.jpg,my dog\n"


@pytest.mark.parametrize("wrong", [{"count": 0}, {"size": 8}])
def test_a_count_or_size_that_is_too_small_is_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="the minimum is"):
        draw_scenes(tmp_path, **wrong)


def test_every_shape_and_backdrop_looks_different() -> None:
    assert PARTS.keys() == set(SHAPES)
    shapes = [render(Scene("x", "cream plain", (Thing(s, "red", "large", 0.5, 0.5),)), 32) for s in SHAPES]
    backdrops = [render(Scene("x", backdrop, ()), 32) for backdrop in BACKDROPS]
    assert len({image.tobytes() for image in shapes + backdrops}) == len(SHAPES) + len(BACKDROPS)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_thing_has_its_colour_at_its_place(colour: str) -> None:
    image = render(Scene("x", "mint dots", (Thing("square", colour, "small", 0.25, 0.7),)), 64)
    around = np.asarray(image, int)[42:47, 14:19].reshape(-1, 3).mean(axis=0)
    distances = {name: float(np.abs(around - value).sum()) for name, value in COLOURS.items()}
    assert min(distances, key=distances.__getitem__) == colour


def test_things_of_a_scene_differ_in_shape_and_colour_and_lie_inside() -> None:
    for scene in SCENES:
        assert len({thing.shape for thing in scene.things}) == len({t.colour for t in scene.things}) > 1
        assert all(0.2 < value < 0.8 for thing in scene.things for value in (thing.x, thing.y))


def test_captions_of_a_scene_differ_and_name_two_things_or_more() -> None:
    for scene in SCENES:
        texts = captions(scene)
        assert len({caption.casefold() for caption in texts}) == 5
        for caption in texts:
            assert sum(f"{thing.colour} {thing.shape}" in caption for thing in scene.things) >= 2


def test_relations_and_places_by_hand() -> None:
    left, right = Thing("star", "red", "small", 0.2, 0.5), Thing("fish", "blue", "large", 0.8, 0.6)
    below = Thing("ring", "pink", "small", 0.3, 0.9)
    assert (relation(left, right), relation(right, left)) == ("to the left of", "to the right of")
    assert (relation(left, below), relation(below, left)) == ("above", "below")
    middle, corner = Thing("moon", "red", "small", 0.5, 0.5), Thing("moon", "red", "small", 0.8, 0.2)
    assert [place(thing) for thing in (left, below, middle, corner)] == [
        *("on the left", "in the bottom left corner", "in the middle", "in the top right corner")
    ]


def test_whatever_a_caption_says_is_true_of_the_scene() -> None:
    claims = 0
    for scene in SCENES:
        things = {f"{thing.colour} {thing.shape}": thing for thing in scene.things}
        phrases = {phrase for backdrop, phrase in BACKDROPS.items() if backdrop != scene.backdrop}
        for caption in captions(scene):
            named = re.findall(rf"(small |large )?\b({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b", caption.lower())
            assert named
            for size, colour, shape in named:
                assert size.strip() in ("", things[f"{colour} {shape}"].size)
            for side in ("to the left of", "to the right of", "above", "below"):
                if f" {side} " in caption:
                    before, after = caption.lower().split(f" {side} ")
                    first = next(thing for name, thing in things.items() if before.removesuffix(" is").endswith(name))
                    second = min((name for name in things if name in after), key=lambda name: after.index(name))
                    assert _stands(first, side, things[second])
                    claims += 1
            assert not any(f"{phrase}." in caption or caption.endswith(phrase) for phrase in phrases)
            if number := re.match("(Two|Three|Four) things", caption):
                assert {"Two": 2, "Three": 3, "Four": 4}[number[1]] == len(things)
    assert claims > 500


def _stands(first: Thing, side: str, second: Thing) -> bool:
    return {
        "to the left of": first.x < second.x - 0.1,
        "to the right of": first.x > second.x + 0.1,
        "above": first.y < second.y - 0.1,
        "below": first.y > second.y + 0.1,
    }[side]


def test_few_captions_describe_two_scenes() -> None:
    texts = [caption for index in range(100) for caption in captions(imagine(0, index))]
    assert len(set(texts)) > 0.98 * len(texts)
