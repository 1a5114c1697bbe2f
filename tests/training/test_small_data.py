"""Sets that are too small or too uniform: training works, or says beforehand what is missing and what to do."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diptych.errors import DataError
from diptych.training.caption.config import CaptionRecipe
from diptych.training.caption.train import train_captioner
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.contrastive.train import train
from diptych.training.match.config import MatchRecipe
from diptych.training.match.train import train_matcher
from diptych.training.prompt.config import PromptRecipe
from diptych.training.prompt.train import train_prompter
from tests.broken import make_image
from tests.model_directories import make_dual, make_text_encoder

KINDS = ("contrastive", "match", "caption", "prompt")


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[..., Any]]:
    """The training of each kind of model by a tiny recipe."""
    folder = tmp_path_factory.mktemp("models")
    encoder, text = str(make_dual(folder / "encoder")), str(make_text_encoder(folder / "text"))
    decoder = {"dim": 16, "heads": 2, "layers": 1, "image_layers": 0, "views": 1, "augment": "none", "beams": 1}
    return {
        "contrastive": lambda **settings: train(ContrastiveRecipe(start=encoder, **settings)),
        "match": lambda **settings: train_matcher(MatchRecipe(model=encoder, heads=["pair"], **settings)),
        "caption": lambda **settings: train_captioner(CaptionRecipe(model=encoder, **decoder, **settings)),
        "prompt": lambda **settings: train_prompter(PromptRecipe(model=encoder, text_encoder=text, **settings)),
    }


def write_data(
    folder: Path, count: int, seed: int = 0, caption: Callable[[int], str] = "a thing number {}".format
) -> str:
    """Images with random names and a table of captions."""
    folder.mkdir()
    names = random.Random(seed)
    lines = ["file_name,caption"]
    for number in range(count):
        name = f"{names.randrange(10**9)}.png"
        make_image(number).save(folder / name)
        lines.append(f"{name},{caption(number)}")
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    return str(folder)


def settings(data: str, out: Path, **more: Any) -> dict[str, Any]:
    return {"data": data, "out": str(out), "epochs": 1, "device": "cpu", **more}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_images_are_refused_with_the_numbers(
    kind: str, count: int, trainers: dict[str, Callable[..., Any]], tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data", count)
    with pytest.raises(DataError, match=r"training needs at least three usable images.*\. Add images") as error:
        trainers[kind](**settings(data, tmp_path / "run"))
    assert "--split" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["contrastive", "caption", "prompt"])
@pytest.mark.parametrize("count", [3, 5, 10])
def test_three_images_are_enough_whatever_their_names(
    kind: str, count: int, trainers: dict[str, Callable[..., Any]], tmp_path: Path
) -> None:
    for seed in range(3):
        data = write_data(tmp_path / f"data{seed}", count, seed)
        more = {"min_count": 1} if kind == "caption" else {}
        sizes = trainers[kind](**settings(data, tmp_path / f"run{seed}", **more)).sizes
        assert (sizes["train"] + sizes["val"], sizes["val"] > 0) == (count, True)


@pytest.mark.parametrize("seed", range(3))
def test_a_matcher_that_lacks_a_second_validation_image_names_the_fraction_that_holds_it_out(
    seed: int, trainers: dict[str, Callable[..., Any]], tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data", 10, seed)
    with pytest.raises(DataError, match=r"needs at least two validation images.* set val_fraction to \d") as error:
        trainers["match"](**settings(data, tmp_path / "run"))
    fraction = float(str(error.value).partition("set val_fraction to ")[2].split(",")[0])
    sizes = trainers["match"](**settings(data, tmp_path / "run", val_fraction=fraction)).sizes
    assert sizes["val"] >= 2


def test_a_matcher_on_three_images_says_that_it_needs_more(
    trainers: dict[str, Callable[..., Any]], tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data", 3)
    with pytest.raises(DataError, match=r"at least two validation images.*: add images$"):
        trainers["match"](**settings(data, tmp_path / "run"))


@pytest.mark.parametrize("kind", KINDS)
def test_captions_that_are_all_the_same_are_refused_before_the_work(
    kind: str, trainers: dict[str, Callable[..., Any]], tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data", 12, caption=lambda number: ("A  photo", "a photo ")[number % 2])
    with pytest.raises(DataError, match="all captions of the 12 images are 'a photo', so there is nothing to learn"):
        trainers[kind](**settings(data, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_captions_without_a_word_that_is_frequent_enough_are_refused(
    trainers: dict[str, Callable[..., Any]], tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data", 8, caption="thing{}".format)
    with pytest.raises(DataError, match=r"no word occurs 5 times in the captions of the .* set min_count to 1"):
        trainers["caption"](**settings(data, tmp_path / "run"))


@pytest.mark.parametrize("label", [0, 1])
def test_labels_that_are_all_the_same_are_refused_before_the_work(
    label: int, trainers: dict[str, Callable[..., Any]], tmp_path: Path
) -> None:
    folder = Path(write_data(tmp_path / "data", 8))
    rows = (folder / "captions.csv").read_text().splitlines()[1:]
    (folder / "captions.csv").write_text("\n".join(["image,caption,label", *(f"{row},{label}" for row in rows)]))
    with pytest.raises(DataError, match=r"all 8 labelled pairs of .* have the label '(no )?match'"):
        trainers["match"](**settings(str(folder / "captions.csv"), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_labels_that_are_all_the_same_in_one_part_are_refused_with_the_part(
    trainers: dict[str, Callable[..., Any]], tmp_path: Path
) -> None:
    from diptych.data.pairs import split_position

    folder = Path(write_data(tmp_path / "data", 20))
    names = sorted((path.name for path in folder.glob("*.png")), key=split_position)
    first = names[0]  # the image that is held out first
    rows = [f"{name},a thing,{int(name != first)}" for name in names]
    (folder / "captions.csv").write_text("\n".join(["image,caption,label", *rows]))
    with pytest.raises(DataError, match=r"labelled (training|validation) pairs have the label"):
        trainers["match"](**settings(str(folder / "captions.csv"), tmp_path / "run"))
