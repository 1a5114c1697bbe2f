"""Queries: weights, and their combination into one embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import diptych
from diptych.errors import ConfigError, ImageError
from diptych.search.query import Part, Query, compose, query_embedding
from tests.broken import encoded
from tests.conftest import TINY


@pytest.fixture(scope="module")
def model() -> diptych.DualEncoder:
    names = ("image_tower", "text_tower", "pretrained", "text_arguments", "image_size", "crop", "dim", "device")
    settings = {name: TINY[name] for name in names}
    return diptych.build(**settings, captions=["a red star", "a blue ring", "grass"])


def _no_rows(ids: object) -> np.ndarray:
    raise AssertionError("no row was named")


def test_parts_are_normalized_weighted_summed_and_normalized() -> None:
    vectors = np.array([[1, 0], [0, 2]], np.float32)
    assert compose(vectors, [3, -4]) == pytest.approx([0.6, -0.8])
    assert compose(vectors[:1], [5]) == pytest.approx([1, 0])


def test_parts_that_cancel_out_are_refused() -> None:
    with pytest.raises(ConfigError, match="cancel"):
        compose(np.array([[1, 0], [2, 0]], np.float32), [1, -1])


@pytest.mark.parametrize(
    ("text", "value", "weight"),
    [
        ("a dog^2", "a dog", 2.0),
        ("a dog^0.5", "a dog", 0.5),
        ("a dog", "a dog", 1.0),
        ("2^10 on a board^3", "2^10 on a board", 3.0),
        ("a smile ^^", "a smile ^^", 1.0),
        ("10:30 on a clock", "10:30 on a clock", 1.0),
        ("two\nlines^2", "two\nlines", 2.0),
    ],
)
def test_a_text_may_end_in_its_weight(text: str, value: str, weight: float) -> None:
    assert Query.of(text).parts == (Part("text", value, weight),)


def test_unwanted_parts_have_half_weight_unless_they_name_one() -> None:
    query = Query.of("a dog", unwanted=["grass", "a ball^2"], unwanted_like="a" * 32)
    assert [part.weight for part in query.parts] == [1.0, -0.5, -2.0, -0.5]
    assert query.wanted == Query.of("a dog")


def test_a_query_as_text_lists_its_parts() -> None:
    query = Query.of(["a dog^2", "snow"], image=Path("cat.jpg"), like="photos/1.jpg", unwanted="grass")
    assert str(query) == "“a dog” × 2, “snow”, like 'cat.jpg', like 'photos/1.jpg', not “grass”"


@pytest.mark.parametrize(
    "make", [lambda: Query.of("  "), lambda: Query.of(unwanted="a dog"), lambda: Query.of(), lambda: Query.of("a^0")]
)
def test_a_query_that_wants_nothing_is_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError):
        make()


def test_a_single_text_has_the_models_embedding(model: diptych.DualEncoder) -> None:
    vector = query_embedding(Query.of("a red star"), lambda: model, lambda: model, _no_rows)
    assert vector == pytest.approx(model.encode_texts(["a red star"])[0], abs=1e-6)


def test_texts_images_and_rows_are_combined_in_order(model: diptych.DualEncoder, tmp_path: Path) -> None:
    file = tmp_path / "one.png"
    file.write_bytes(encoded("PNG", 1))
    row = np.eye(model.dim, dtype=np.float32)[3]
    query = Query.of("a red star^2", image=file, like="r" * 32, unwanted="grass")
    vector = query_embedding(query, lambda: model, lambda: model, lambda ids: np.stack([row for _ in ids]))
    star, grass = model.encode_texts(["a red star", "grass"])
    image = model.encode_images([diptych.images.decode.decode(file, min_side=32)])[0]
    by_hand = 2 * star + image + row - 0.5 * grass
    assert vector == pytest.approx(by_hand / np.linalg.norm(by_hand), abs=1e-5)


def test_rows_alone_need_no_model() -> None:
    def model() -> diptych.DualEncoder:
        raise AssertionError("the model was loaded")

    row = np.array([0, 1], np.float32)
    assert query_embedding(Query.of(like="r"), model, model, lambda ids: row[None]) == pytest.approx(row)


def test_an_image_that_cannot_be_decoded_is_named(model: diptych.DualEncoder, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="gone"):
        query_embedding(Query.of(image=tmp_path / "gone.jpg"), lambda: model, lambda: model, _no_rows)
