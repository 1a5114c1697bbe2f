from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diptych.data.labelled import is_labelled, read_labelled_pairs
from diptych.data.pairs import Pairs, Row
from diptych.errors import DataError
from diptych.matching.negatives import Matches, hard_negatives, make_labelled_pairs, random_negatives

ROWS = [
    Row("a", Path("a.jpg"), ("A dog runs", "a brown dog")),
    Row("b", Path("b.jpg"), ("a  DOG runs",)),  # the same text as the first, but for case and spaces
    Row("c", Path("c.jpg"), ("a cat",)),
    Row("d", Path("d.jpg"), ("a boat",)),
]


@pytest.fixture
def matches() -> Matches:
    return Matches(Pairs.from_rows(ROWS))


def test_a_caption_describes_its_picture_and_those_with_the_same_text(matches: Matches) -> None:
    assert [matches.of(caption) for caption in range(5)] == [[0, 1], [0], [0, 1], [2], [3]]


def test_random_negatives_are_every_other_picture_equally_often(matches: Matches) -> None:
    rows = random_negatives(matches, 3000)
    for caption, others in enumerate([[2, 3], [1, 2, 3], [2, 3], [0, 1, 3], [0, 1, 2]]):
        images, counts = np.unique(rows[caption], return_counts=True)
        assert images.tolist() == others
        assert counts.min() > 0.85 * 3000 / len(others)


def test_hard_negatives_are_the_most_similar_pictures_that_are_not_known_to_match(matches: Matches) -> None:
    images = np.eye(4, dtype=np.float32)
    texts = np.array([[9, 8, 3, 2], [9, 8, 3, 2], [9, 8, 2, 3], [9, 1, 8, 2], [1, 2, 3, 9]], np.float32)
    assert hard_negatives(matches, images, texts, share=0.25)[:, 0].tolist() == [2, 1, 3, 0, 2]


def test_hard_negatives_are_drawn_from_a_share_of_the_pictures() -> None:
    pairs = Pairs.from_rows(Row(str(i), Path(f"{i}.jpg"), (f"picture {i}",)) for i in range(100))
    images = np.linspace(0, 1, 100, dtype=np.float32)[:, None]
    rows = hard_negatives(Matches(pairs), images, np.ones((100, 1), np.float32), 50, share=0.05)
    assert set(rows[0]) == {95, 96, 97, 98, 99}
    assert set(rows[99]) == {94, 95, 96, 97, 98}


def test_another_seed_draws_other_negatives_and_the_same_seed_the_same(matches: Matches) -> None:
    once, again, other = (random_negatives(matches, 50, seed=seed) for seed in (1, 1, 2))
    assert (once == again).all()
    assert (once != other).any()


def test_a_caption_that_describes_every_picture_is_refused() -> None:
    pairs = Pairs.from_rows(Row(name, Path(name), ("a picture",)) for name in ("a", "b"))
    with pytest.raises(DataError, match="describes every image"):
        random_negatives(Matches(pairs))
    with pytest.raises(DataError, match="describes every image"):
        hard_negatives(Matches(pairs), np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32))


def test_labelled_pairs_hold_each_caption_once_as_a_match_and_half_hard_negatives() -> None:
    pairs = Pairs.from_rows(Row(str(i), Path(f"{i}.jpg"), (f"one {i}", f"two {i}")) for i in range(50))
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    judged = make_labelled_pairs(pairs, vectors, vectors.repeat(2, axis=0))
    for name, chosen in judged.sets.items():
        labels = judged.labels[chosen]
        assert labels.sum() == 100, name
        assert len(labels) == 200, name
        assert (judged.rows[chosen][labels] == judged.owner[chosen][labels]).all()
        assert (judged.rows[chosen][~labels] != judged.owner[chosen][~labels]).all()
    assert len(set(judged.sets["mixture"]) & set(judged.sets["hard"]) - set(range(100))) == 50


# labelled pairs


@pytest.mark.parametrize(
    "text",
    [
        "image,caption,label\na.jpg,a dog,1\na.jpg,a cat,0\nb.jpg,a cat,1\n",
        "image\tcaption\tlabel\na.jpg\ta dog\tmatch\na.jpg\ta cat\tno-match\nb.jpg\ta cat\tMatch\n",
        '{"image": "a.jpg", "text": "a dog", "match": true}\n{"image": "a.jpg", "text": "a cat", "match": false}\n'
        '{"image": "b.jpg", "text": "a cat", "match": true}\n',
    ],
)
def test_labelled_pairs_are_read_from_every_table(text: str, tmp_path: Path) -> None:
    path = tmp_path / ("pairs.jsonl" if text.startswith("{") else "pairs.csv")
    path.write_text(text)
    labelled = read_labelled_pairs(path)
    assert labelled.texts == ["a dog", "a cat", "a cat"]
    assert labelled.rows.tolist() == [0, 0, 1]
    assert labelled.labels.tolist() == [True, False, True]
    assert is_labelled(path)
    only = labelled.of(labelled.images.where([False, True]))
    assert (only.texts, only.rows.tolist(), only.labels.tolist()) == (["a cat"], [0], [True])


def test_a_table_of_captions_is_not_taken_for_labelled_pairs(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("image,caption\na.jpg,a dog\n")
    assert not is_labelled(tmp_path / "captions.csv")
    assert not is_labelled(tmp_path)
    with pytest.raises(DataError, match=r"captions.csv', line 2 has no label"):
        read_labelled_pairs(tmp_path / "captions.csv")


def test_a_label_that_is_neither_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("image,caption,label\na.jpg,a dog,1\nb.jpg,a cat,maybe\n")
    with pytest.raises(DataError, match=r"line 3: invalid label 'maybe'"):
        read_labelled_pairs(tmp_path / "pairs.csv")
