"""Copies, duplicates and themes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

import diptych
from diptych.errors import ConfigError
from diptych.images.decode import decode, perceptual_hash
from diptych.images.roots import Roots
from diptych.search.clusters import find_themes
from diptych.search.copies import copy_groups, only_first
from diptych.search.dedupe import find_duplicates
from diptych.search.index import Index
from diptych.search.vocabulary import vocabulary
from tests.libraries import index_of

pytest.importorskip("lancedb")

TELLING = 0x0F0F_F0F0_33CC_55AA  # half of its bits are set


def agree(first: int, second: int) -> bool:
    """Pixels that agree, whichever rows are compared."""
    return True


def test_equal_bytes_are_copies_whatever_hashes_and_embeddings_are() -> None:
    embeddings = np.eye(3, dtype=np.float32)
    assert copy_groups(["a", "b", "a"], [None, TELLING, 0], embeddings, agree) == [[0, 2]]


def test_near_hashes_are_copies_only_if_embeddings_and_pixels_agree() -> None:
    embeddings = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    rows = ["a", "b", "c"], [TELLING, TELLING ^ 0b11, TELLING], embeddings
    assert copy_groups(*rows, agree) == [[0, 1]]
    assert copy_groups(*rows, lambda first, second: False) == []


def test_a_chain_of_small_changes_makes_no_group() -> None:
    hashes = [TELLING ^ (2 ** (4 * step) - 1) for step in range(4)]
    embeddings = np.ones((4, 1), np.float32)
    assert copy_groups(["a", "b", "c", "d"], hashes, embeddings, agree) == [[0, 1], [2, 3]]


def test_files_equal_to_a_copy_are_in_its_group() -> None:
    hashes = [TELLING, TELLING ^ 1, TELLING, TELLING ^ 1]
    assert copy_groups(["a", "b", "a", "b"], hashes, np.ones((4, 1), np.float32), agree) == [[0, 1, 2, 3]]


def test_pixels_are_compared_once_for_each_candidate_and_never_for_equal_files() -> None:
    compared: list[tuple[int, int]] = []
    copy_groups(
        ["a", "b", "a", "c"],
        [TELLING] * 4,
        np.ones((4, 1), np.float32),
        lambda first, second: compared.append((first, second)) or True,
    )
    assert compared == [(0, 1), (0, 3)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 7), max_size=24), st.lists(st.integers(0, 9), min_size=24, max_size=24), st.integers(1, 8)
)
def test_the_first_hits_are_folded_as_if_all_were_compared(images: list[int], files: list[int], rows: int) -> None:
    contents = [f"{image}-{file}" for image, file in zip(images, files, strict=False)]
    hashes = [TELLING ^ image % 3 for image in images]
    embeddings = np.ones((len(images), 1), np.float32)

    def is_same(first: int, second: int) -> bool:
        return images[first] == images[second]

    def shown(groups: list[list[int]]) -> list[int]:
        folded = {row for group in groups for row in group[1:]}
        return [row for row in range(len(images)) if row not in folded][:rows]

    few = copy_groups(contents, hashes, embeddings, only_first(is_same, rows, contents))
    whole = copy_groups(contents, hashes, embeddings, is_same)
    assert shown(few) == shown(whole)
    first = set(shown(few))
    assert [group for group in few if group[0] in first] == [group for group in whole if group[0] in first]


def test_plain_images_are_not_copies_by_their_hash() -> None:
    assert copy_groups(["a", "b"], [0, 0], np.ones((2, 1), np.float32), agree) == []
    assert copy_groups(["", ""], [None, None], np.ones((2, 1), np.float32), agree) == []
    assert copy_groups([], [], np.empty((0, 4), np.float32), agree) == []


def test_groups_of_many_pairs_equal_those_of_comparing_all() -> None:
    generator = np.random.default_rng(0)
    bases = generator.integers(0, 2**63, 40, dtype=np.uint64)
    hashes = [int(base) ^ (1 << int(bit)) for base in bases for bit in generator.integers(0, 63, 3)]
    embeddings = np.repeat(np.eye(40, dtype=np.float32), 3, axis=0)
    groups = copy_groups([str(row) for row in range(120)], hashes, embeddings, agree)
    assert groups == [[3 * base, 3 * base + 1, 3 * base + 2] for base in range(40)]


def test_the_image_with_most_pixels_is_kept_then_the_photograph_then_the_least_compressed(tmp_path: Path) -> None:
    base = {"vector": [1, 0], "phash": TELLING, "mtime": 10}
    sizes = {"small": 100, "compressed": 200, "newer": 200, "photograph": 200, "best": 200}
    for name, width in sizes.items():
        gradient(width).save(tmp_path / f"{name}.png")
    (tmp_path / "best-again-under-a-longer-name.png").write_bytes((tmp_path / "best.png").read_bytes())
    gradient(200).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "other.png")
    rows = [
        {**base, "path": "small", "width": 100, "height": 50, "size": 900},
        {**base, "path": "compressed", "width": 200, "height": 100, "size": 500},
        {**base, "path": "newer", "width": 200, "height": 100, "size": 800, "mtime": 20},
        {**base, "path": "photograph", "width": 200, "height": 100, "size": 400, "camera": "Canon EOS 5D"},
        {**base, "path": "best", "width": 200, "height": 100, "size": 800, "hash": "same"},
        {**base, "path": "best-again-under-a-longer-name", "width": 200, "height": 100, "size": 800, "hash": "same"},
        {**base, "path": "other", "width": 200, "height": 100},
    ]
    paths = [{**row, "path": f"{tmp_path}/{row['path']}.png"} for row in rows]
    index = index_of(tmp_path / "index", paths)
    index.readable = Roots([tmp_path])
    (group,) = find_duplicates(index)
    assert Path(group.keep.path).stem == "photograph"
    assert [Path(copy.path).stem for copy in group.others] == [
        *("best", "best-again-under-a-longer-name", "newer", "compressed", "small"),
    ]
    assert group.spare_bytes == 800 + 800 + 800 + 500 + 900


def test_images_that_cannot_be_read_are_not_called_duplicates(tmp_path: Path) -> None:
    rows = [{"path": f"/off/{name}", "vector": [1, 0], "phash": TELLING} for name in "ab"]
    assert find_duplicates(index_of(tmp_path / "index", rows)) == []
    equal = [{**row, "hash": "same"} for row in rows]
    assert len(find_duplicates(index_of(tmp_path / "equal", equal))) == 1


def gradient(width: int) -> Image.Image:
    """An image that is darker on the left, with a disc."""
    greys = np.tile(np.linspace(40, 220, width, dtype=np.uint8), (width // 2, 1))
    image = Image.fromarray(greys).convert("RGB")
    ImageDraw.Draw(image).ellipse((width // 8, width // 8, width // 4, width // 4), (200, 40, 40))
    return image


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
