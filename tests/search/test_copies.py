"""Copies, duplicates and themes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import diptych
from diptych.errors import ConfigError
from diptych.images.decode import decode, perceptual_hash
from diptych.search.clusters import find_themes
from diptych.search.copies import copy_groups
from diptych.search.dedupe import find_duplicates
from diptych.search.index import Index
from diptych.search.vocabulary import vocabulary
from tests.libraries import index_of

pytest.importorskip("lancedb")

TELLING = 0x0F0F_F0F0_33CC_55AA  # half of its bits are set


def test_equal_bytes_are_copies_whatever_hashes_and_embeddings_are() -> None:
    vectors = np.eye(3, dtype=np.float32)
    assert copy_groups(["a", "b", "a"], [None, TELLING, 0], vectors) == [[0, 2]]


def test_near_hashes_are_copies_only_if_the_embeddings_agree() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    assert copy_groups(["a", "b", "c"], [TELLING, TELLING ^ 0b11, TELLING], vectors) == [[0, 1]]


def test_chains_of_copies_make_one_group() -> None:
    hashes = [TELLING, TELLING ^ 0b1111, TELLING ^ 0b1111_1111]
    assert copy_groups(["a", "b", "c"], hashes, np.ones((3, 1), np.float32)) == [[0, 1, 2]]


def test_plain_images_are_not_copies_by_their_hash() -> None:
    assert copy_groups(["a", "b"], [0, 0], np.ones((2, 1), np.float32)) == []
    assert copy_groups(["", ""], [None, None], np.ones((2, 1), np.float32)) == []
    assert copy_groups([], [], np.empty((0, 4), np.float32)) == []


def test_groups_of_many_pairs_equal_those_of_comparing_all() -> None:
    generator = np.random.default_rng(0)
    bases = generator.integers(0, 2**63, 40, dtype=np.uint64)
    hashes = [int(base) ^ (1 << int(bit)) for base in bases for bit in generator.integers(0, 63, 3)]
    vectors = np.repeat(np.eye(40, dtype=np.float32), 3, axis=0)
    groups = copy_groups([str(at) for at in range(120)], hashes, vectors)
    slow = {
        (i, j)
        for i in range(120)
        for j in range(i)
        if (hashes[i] ^ hashes[j]).bit_count() <= 4 and float(vectors[i] @ vectors[j]) >= 0.9
    }
    assert len(groups) == 40
    assert {(i, j) for group in groups for i in group for j in group if j < i} >= slow


def test_the_picture_with_most_pixels_is_kept_then_the_least_compressed_then_the_oldest(tmp_path: Path) -> None:
    base = {"vector": [1, 0], "phash": TELLING, "mtime": 10}
    rows = [
        {**base, "path": "/p/small", "width": 100, "height": 100, "size": 900},
        {**base, "path": "/p/compressed", "width": 200, "height": 100, "size": 500},
        {**base, "path": "/p/newer", "width": 200, "height": 100, "size": 800, "mtime": 20},
        {**base, "path": "/p/best", "width": 200, "height": 100, "size": 800, "hash": "same"},
        {**base, "path": "/p/best-again-under-a-longer-name", "width": 200, "height": 100, "size": 800, "hash": "same"},
        {**base, "path": "/p/other", "vector": [0, 1]},
    ]
    (group,) = find_duplicates(index_of(tmp_path / "index", rows))
    assert group.keep.path == "/p/best"
    assert [copy.path.rpartition("/")[2] for copy in group.others] == [
        *("best-again-under-a-longer-name", "newer", "compressed", "small"),
    ]
    assert [copy.identical for copy in group.others] == [True, False, False, False]
    assert group.spare_bytes == 800 + 800 + 500 + 900


def test_an_empty_index_has_no_duplicates_and_no_themes(tmp_path: Path) -> None:
    index = index_of(tmp_path / "index", [{"path": "/p/0", "vector": [1, 0]}])
    index.store.delete([index.store.table.search().to_list()[0]["id"]])
    assert find_duplicates(index) == []
    assert find_themes(index) == []


def test_a_photograph_saved_again_smaller_is_a_duplicate(scenes: Path, tmp_path: Path) -> None:
    images = sorted(scenes.rglob("*.png")) or sorted(scenes.rglob("*.jpg"))
    image = next(image for path in images if _tells(image := decode(path)))
    library = tmp_path / "library"
    library.mkdir()
    image.resize((256, 256)).save(library / "big.png")
    image.resize((128, 128)).save(library / "small.jpg", quality=70)
    model = diptych.build("timm/test_resnet", pretrained=False, image_size=32, text_arguments=_TEXT, captions=["a"])
    index = Index(library, model)
    index.add(library)
    (group,) = find_duplicates(index)
    assert (Path(group.keep.path).name, [Path(copy.path).name for copy in group.others]) == ("big.png", ["small.jpg"])


_TEXT = {"dim": 128, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}


def _tells(image) -> bool:  # type: ignore[no-untyped-def]
    return 8 <= perceptual_hash(image).bit_count() <= 56


@pytest.fixture(scope="module")
def model() -> diptych.DualEncoder:
    torch.manual_seed(0)
    return diptych.build(
        "timm/test_resnet", pretrained=False, image_size=32, text_arguments=_TEXT, captions=list(vocabulary()), dim=64
    )


def test_themes_are_the_clusters_of_the_index_with_their_names(model: diptych.DualEncoder, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    words = {"a dog": 12, "a birthday cake": 8, "the northern lights": 5}
    middles = model.encode_texts(list(words))
    centred = middles - middles.mean(axis=0)  # an untrained model's texts lie close together
    rows = [
        {"path": f"/{word}/{at}", "vector": middle + 0.001 * generator.standard_normal(model.dim)}
        for word, middle in zip(words, centred, strict=True)
        for at in range(words[word])
    ]
    index = index_of(tmp_path / "index", rows, model)
    themes = find_themes(index, 3)
    assert [len(theme.paths) for theme in themes] == [12, 8, 5]
    assert all(len({path.split("/")[1] for path in theme.paths}) == 1 for theme in themes)
    assert [theme.paths for theme in find_themes(index, 3)] == [theme.paths for theme in themes]
    assert [theme.name.split(", ")[0] for theme in themes] == ["dog", "birthday cake", "northern lights"]
    assert find_themes(index, where="path = 'none'") == []
    assert sum(len(theme.paths) for theme in find_themes(index, 100)) == 25
    with pytest.raises(ConfigError, match="groups"):
        find_themes(index, 0)
