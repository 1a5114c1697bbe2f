"""Retrieval ranks against loops in exact integers, worked matrices, and the field's own full-matrix argsort."""

from __future__ import annotations

import doctest
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from diptych.data.pairs import Pairs, Row
from diptych.errors import DataError
from diptych.evaluation.evaluators import RetrievalEvaluator, evaluate_retrieval
from diptych.evaluation.metrics import retrieval
from diptych.evaluation.metrics.retrieval import retrieval_metrics, retrieval_ranks, scores_from_ranks


def with_scores(similarity: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of pictures and captions whose inner products are `similarity` (pictures, captions)."""
    columns = np.array(similarity).T  # (captions, pictures)
    rest = np.sqrt(1 - (columns**2).sum(axis=1))
    return np.eye(columns.shape[1], sum(columns.shape)), np.hstack([columns, np.diag(rest)])


def random_unit(rows: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def slow_ranks(images: np.ndarray, texts: np.ndarray, index: list[int]) -> tuple[list[int], list[int]]:
    """Ranks from loops over scores in Python's integers, the embeddings rounded to multiples of 2**-26."""

    def integers(vectors: np.ndarray) -> list[list[int]]:
        return [[round(Fraction(float(value)) * 2**26) for value in vector] for vector in vectors]

    def score(image: list[int], text: list[int]) -> int:
        return sum(a * b for a, b in zip(image, text, strict=True))

    images, texts = integers(images), integers(texts)
    scores = [[score(image, text) for text in texts] for image in images]
    image_to_text = []
    for picture, row in enumerate(scores):
        own = [row[caption] for caption in range(len(texts)) if index[caption] == picture]
        others = [row[caption] for caption in range(len(texts)) if index[caption] != picture]
        if own:
            image_to_text.append(1 + sum(other >= max(own) for other in others))
    text_to_image = []
    for caption, picture in enumerate(index):
        others = [scores[other][caption] for other in range(len(images)) if other != picture]
        text_to_image.append(1 + sum(other >= scores[picture][caption] for other in others))
    return image_to_text, text_to_image


@st.composite
def tied_embeddings(draw):
    """Few directions, so that equal vectors and equal scores abound; pictures with any number of captions, or none."""
    directions = random_unit(draw(st.integers(1, 4)), draw(st.integers(1, 5)), seed=draw(st.integers(0, 99)))
    pictures, captions = draw(st.integers(1, 7)), draw(st.integers(1, 12))
    choose = st.integers(0, len(directions) - 1)
    images = directions[draw(st.lists(choose, min_size=pictures, max_size=pictures))]
    texts = directions[draw(st.lists(choose, min_size=captions, max_size=captions))]
    index = draw(st.lists(st.integers(0, pictures - 1), min_size=captions, max_size=captions))
    return images, texts, index


@settings(deadline=None, max_examples=100)
@given(data=tied_embeddings(), block=st.integers(1, 8))
def test_ranks_equal_the_loop_with_any_ties_and_block_size(data, block):
    images, texts, index = data
    ranks = retrieval_ranks(images, texts, np.array(index), block=block)
    assert (ranks.image_to_text.tolist(), ranks.text_to_image.tolist()) == slow_ranks(images, texts, index)
    assert ranks.images.tolist() == sorted(set(index))


def test_recall_equals_the_full_matrix_argsort_without_ties():
    images = random_unit(60, 16, seed=1)
    index = np.random.default_rng(2).permutation(np.repeat(np.arange(60), 5))
    texts = images[index] + 1.5 * random_unit(300, 16, seed=3)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    similarity = images.astype(float) @ texts.T.astype(float)
    own = index[np.argsort(-similarity, axis=1)] == np.arange(60)[:, None]  # (pictures, places)
    hits = np.argsort(-similarity.T, axis=1) == index[:, None]
    scores = retrieval_metrics(images, texts, index, block=37)
    for k in (1, 5, 10):
        assert scores.image_to_text.recall[k] == pytest.approx(100 * own[:, :k].any(axis=1).mean())
        assert scores.text_to_image.recall[k] == pytest.approx(100 * hits[:, :k].any(axis=1).mean())
    assert 0 < scores.image_to_text.recall[1] < 100  # neither side is trivial
    assert scores.text_to_image.mean_rank == pytest.approx(1 + hits.argmax(axis=1).mean())


def test_ranks_and_scores_of_a_matrix_worked_out_by_hand():
    # Captions 0 and 1 are of picture 0, 2 of picture 1, 3 of picture 2.
    images, texts = with_scores(
        [
            [0.50, 0.75, 0.25, 0.00],  # best own is caption 1, first
            [0.25, 0.00, 0.50, 0.75],  # caption 3 stands before caption 2: second
            [0.75, 0.50, 0.25, 0.25],  # captions 0 and 1 stand before caption 3, and 2 ties with it: fourth
        ]
    )
    ranks = retrieval_ranks(images, texts, np.array([0, 0, 1, 2]))
    assert ranks.image_to_text.tolist() == [1, 2, 4]
    assert ranks.text_to_image.tolist() == [2, 1, 1, 2]
    scores = scores_from_ranks(ranks, ks=(1, 2))
    assert scores.to_dict() == pytest.approx(
        {
            "i2t_r@1": 100 / 3,
            "i2t_r@2": 200 / 3,
            "i2t_median_rank": 2,
            "i2t_mean_rank": 7 / 3,
            "i2t_mrr": (1 + 1 / 2 + 1 / 4) / 3,
            "i2t_queries": 3,
            "t2i_r@1": 50,
            "t2i_r@2": 100,
            "t2i_median_rank": 1.5,
            "t2i_mean_rank": 1.5,
            "t2i_mrr": 0.75,
            "t2i_queries": 4,
            "rsum": 250,
        }
    )
    assert list(scores.to_dict())[:2] == ["i2t_r@1", "i2t_r@2"]
    assert [row["direction"] for row in scores.rows()] == ["image to text", "text to image"]
    assert [row["r@1"] for row in scores.rows()] == pytest.approx([100 / 3, 50])


def test_other_captions_of_the_image_are_never_ranked_before_its_best():
    images, texts = with_scores([[0.5, 0.5, 0.25, 0.5], [0.0, 0.0, 0.5, 0.0]])
    ranks = retrieval_ranks(images, texts, np.array([0, 0, 1, 0]))
    assert ranks.image_to_text.tolist() == [1, 1]


@pytest.mark.parametrize("dim", [3, 96, 511])
@pytest.mark.parametrize("block", [17, 64, 1024])
def test_a_model_with_one_embedding_for_everything_ranks_last_everywhere(dim, block):
    vector = random_unit(1, dim, seed=dim)
    index = np.repeat(np.arange(70), 3)
    ranks = retrieval_ranks(vector.repeat(70, axis=0), vector.repeat(210, axis=0), index, block)
    assert set(ranks.image_to_text.tolist()) == {1 + 210 - 3}
    assert set(ranks.text_to_image.tolist()) == {70}
    assert scores_from_ranks(ranks).rsum == 0


def test_a_perfect_model_reaches_the_maximum_rsum():
    images = random_unit(40, 32, seed=4)
    index = np.repeat(np.arange(40), 2)
    scores = retrieval_metrics(images, images[index], index, block=7)
    assert scores.rsum == 600
    assert scores.image_to_text.mrr == scores.text_to_image.mrr == 1
    assert scores.image_to_text.median_rank == scores.text_to_image.mean_rank == 1


def test_an_image_without_captions_is_a_candidate_but_not_a_query():
    images, texts = with_scores([[0.25, 0.0], [0.5, 0.0], [0.0, 0.75]])
    ranks = retrieval_ranks(images, texts, np.array([0, 2]))
    assert ranks.images.tolist() == [0, 2]
    assert ranks.image_to_text.tolist() == [1, 1]
    assert ranks.text_to_image.tolist() == [2, 1]  # picture 1 scores above picture 0, caption 0's own


@pytest.mark.parametrize("block", [1, 13, 64, 1000])
def test_the_block_size_changes_no_rank_of_float32_embeddings(block):
    images, index = random_unit(50, 48, seed=5), np.arange(150) % 50
    texts = random_unit(150, 48, seed=6)
    texts[75:] = texts[:75]  # every caption twice, so that ties must survive the cut
    whole, cut = retrieval_ranks(images, texts, index, block=200), retrieval_ranks(images, texts, index, block=block)
    assert np.array_equal(whole.image_to_text, cut.image_to_text)
    assert np.array_equal(whole.text_to_image, cut.text_to_image)


def test_no_tensor_is_larger_than_a_block_or_a_column_of_the_embeddings():
    pictures, captions, dim, block = 150, 450, 8, 32
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and not func.is_view and result is not args[0]:
                largest = max(largest, result.numel())
            return result

    images, texts = random_unit(pictures, dim, seed=7), random_unit(captions, dim, seed=8)
    with Watch():
        retrieval_ranks(images, texts, np.arange(captions) % pictures, block)
    assert block * block <= largest <= max(block * block, block * dim, captions)


def test_half_precision_tensors_and_read_only_arrays_rank_like_their_values():
    images, texts = (
        torch.from_numpy(random_unit(20, 8, seed=9)).bfloat16(),
        torch.from_numpy(random_unit(40, 8, seed=10)),
    )
    index = np.arange(40) // 2
    frozen = images.float().numpy()
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a, b = retrieval_ranks(images, texts, index), retrieval_ranks(frozen, texts.numpy(), index)
    assert np.array_equal(a.image_to_text, b.image_to_text)
    assert np.array_equal(a.text_to_image, b.text_to_image)


@pytest.mark.parametrize(
    ("value", "fault"), [(np.nan, "NaN or infinity"), (np.inf, "NaN or infinity"), (7.0, "norm 7")]
)
@pytest.mark.parametrize("side", ["image", "text"])
def test_a_row_that_is_not_a_unit_vector_is_named(side, value, fault):
    embeddings = {"image": np.eye(4), "text": np.eye(4)}
    embeddings[side][2, 2] = value
    with pytest.raises(ValueError, match=f"row 2 of the {side} embeddings .*{fault}"):
        retrieval_ranks(embeddings["image"], embeddings["text"], np.arange(4))


@pytest.mark.parametrize(
    ("images", "texts", "index", "message"),
    [
        (np.zeros((0, 2)), np.eye(2), np.arange(2), "not empty"),
        (np.eye(2), np.zeros((0, 2)), np.arange(0), "not empty"),
        (np.eye(2), np.eye(3), np.arange(3), "dimensions"),
        (np.eye(2), np.eye(2), np.arange(3), "image_index"),
        (np.eye(2), np.eye(2), np.array([0.0, 1.0]), "image_index"),
        (np.eye(2), np.eye(2), np.array([0, 2]), "there are 2 images"),
        (np.eye(2), np.eye(2), np.array([-1, 0]), "there are 2 images"),
    ],
)
def test_invalid_embeddings_and_indices_are_refused(images, texts, index, message):
    with pytest.raises(ValueError, match=message):
        retrieval_ranks(images, texts, index)


def test_a_block_or_a_k_below_one_is_refused():
    with pytest.raises(ValueError, match="block"):
        retrieval_ranks(np.eye(2), np.eye(2), np.arange(2), block=0)
    for ks in ((), (0, 5)):
        with pytest.raises(ValueError, match="ks"):
            retrieval_metrics(np.eye(2), np.eye(2), np.arange(2), ks=ks)


def three_pictures() -> Pairs:
    captions = {"a": ("a cat", "a black cat"), "b": (), "c": ("a boat",)}
    return Pairs.from_rows(Row(name, Path(f"{name}.jpg"), texts) for name, texts in captions.items())


def test_the_evaluator_scores_captions_against_the_images_that_they_describe():
    evaluator = RetrievalEvaluator(three_pictures(), ks=(1, 2))
    assert evaluator.captions == ["a cat", "a black cat", "a boat"]
    scores = evaluator(np.eye(3), np.eye(3)[[0, 1, 2]])  # "a black cat" points at picture b
    assert scores.text_to_image.recall == pytest.approx({1: 200 / 3, 2: 200 / 3})
    assert scores.image_to_text.recall == {1: 100, 2: 100}
    assert scores.image_to_text.queries == 2


def test_the_evaluator_refuses_pairs_without_captions_and_embeddings_of_other_rows():
    with pytest.raises(DataError, match="none of the 1 images"):
        RetrievalEvaluator(three_pictures()[1:2])
    with pytest.raises(ValueError, match="3 images and 3 captions"):
        RetrievalEvaluator(three_pictures())(np.eye(2, 3), np.eye(3))


def test_the_worked_examples_hold():
    outcome = doctest.testmod(retrieval)
    assert outcome.attempted >= 4
    assert outcome.failed == 0


def test_captions_that_are_all_the_same_text_are_refused_before_images_are_read() -> None:
    pairs = Pairs.from_rows(Row(f"{place}.jpg", Path("nowhere.jpg"), ("a photo",)) for place in range(3))
    with pytest.raises(DataError, match="all captions of the 3 images are 'a photo'"):
        evaluate_retrieval(None, pairs)  # type: ignore[arg-type]
