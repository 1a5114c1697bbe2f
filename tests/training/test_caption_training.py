"""Training captioners: ten captions learnt exactly on every path, a resume that is exact, rewards that count."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diptych.captioning.captioner import load_captioner
from diptych.captioning.vocabulary import words_of
from diptych.data.formats.read import read_pairs
from diptych.errors import ConfigError, ModelError
from diptych.evaluation.metrics.cider import CiderD
from diptych.images.decode import decode
from diptych.runtime.progress import silent
from diptych.training.caption.config import CaptionRecipe
from diptych.training.caption.train import train_captioner
from tests.broken import picture
from tests.captioning.test_captioner_models import NO_DROPOUT, make_blip, make_vit_gpt2
from tests.conftest import TINY

CAPTIONS = [
    "a red star",
    "two dogs on the sea",
    "the ball of the dog is red and blue",
    "a boat",
    "three boats on a blue sea",
    "a dog runs to the left of a tree",
    "the tree is red",
    "a ball on the boat",
    "two stars and a tree on a ball",
    "a blue dog",
]


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures with a caption each, twelve times over, and once more to validate on: the best epoch is exact."""
    folder = tmp_path_factory.mktemp("lesson")
    (folder / "images").mkdir()
    lines, names = ["image,caption"], {"train": [], "dev": []}
    for number, caption in enumerate(CAPTIONS):
        for split in ("train",) * 12 + ("dev",):
            name = f"{split}{len(names[split])}.png"
            names[split].append(name)
            picture(number).save(folder / "images" / name)
            lines.append(f"{name},{caption}")
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")
    for split, of_split in names.items():
        (folder / f"Flickr_8k.{split}Images.txt").write_text("\n".join(of_split))
    return folder


@pytest.fixture(scope="module")
def encoder(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dual encoder with random weights."""
    from diptych.models import dual_encoder as dual

    torch.manual_seed(0)
    kept = ("dim", "pretrained", "text_arguments", "image_size", "crop", "device")
    settings = {name: TINY[name] for name in kept}
    captions = read_pairs(scenes).flat_captions()[0]
    folder = tmp_path_factory.mktemp("encoder")
    dual.build(TINY["image_tower"], TINY["text_tower"], captions=captions, **settings).save(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(lesson: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny BLIP and a tiny ViT-GPT2 that know the lesson's words."""
    words = sorted({word for row in read_pairs(lesson) for word in words_of(" ".join(row.captions))})
    made = {}
    for name, make in (("blip", make_blip), ("vit-gpt2", make_vit_gpt2)):
        made[name] = tmp_path_factory.mktemp(name)
        make(made[name], words, std=0.02)
    return made


EXACTLY = {
    **{"captions": 1, "batch_size": 6, "label_smoothing": 0.0, "dropout": 0.0, "feature_dropout": 0.0, "ema": 0.0},
    **{"augment": "none", "min_count": 1, "beams": 1, "weight_decay": 0.0, "device": "cpu", "max_tokens": 12},
}
SMALL = {"dim": 32, "layers": 1, "image_layers": 0, "heads": 2}
VIT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32}
PATHS: dict[str, dict[str, Any]] = {
    "a small decoder on a dual encoder": {"model": "encoder", **SMALL, "epochs": 13, "lr": 5e-3},
    "a BLIP": {"model": "blip", "epochs": 13, "lr": 8e-3},
    "a ViT-GPT2": {"model": "vit-gpt2", "epochs": 13, "lr": 8e-3},
    "a ViT and a GPT-2 of a configuration alone": {
        **{"encoder": "vit", "encoder_arguments": {**VIT, "patch_size": 8}, "epochs": 13, "lr": 5e-3},
        **{"decoder": "gpt2", "decoder_arguments": {"n_embd": 32, "n_layer": 1, "n_head": 2, **NO_DROPOUT}},
    },
}


@pytest.mark.parametrize("path", PATHS)
def test_ten_captions_are_learnt_exactly(
    path: str, lesson: Path, encoder: Path, checkpoints: dict, tmp_path: Path
) -> None:
    """With labels shifted twice, or not at all, or with a wrong start or end, none of them would be."""
    settings = dict(PATHS[path])
    if "model" in settings:
        settings["model"] = str({"encoder": encoder, **checkpoints}[settings["model"]])
    recipe = CaptionRecipe(**EXACTLY, **settings, data=str(lesson), out=str(tmp_path / "run"))
    result = train_captioner(recipe)
    assert result.sizes == {"train": 120, "val": 10}
    (log,) = (tmp_path / "run").glob("*/log.jsonl")
    assert losses_of(log)[-1] < 1.0 < losses_of(log)[0]
    captioner = load_captioner(tmp_path / "run", "cpu")
    shown = read_pairs(lesson).split("val")
    images = [decode(row.image) for row in shown]
    told = [captions[0].text for captions in captioner.caption(images, method="greedy")]
    assert told == [row.captions[0] for row in shown]


def losses_of(log: Path) -> list[float]:
    lines = (json.loads(line) for line in log.read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def small(lesson: Path, encoder: Path, out: Path, **settings: Any) -> CaptionRecipe:
    own = {"model": str(encoder), "epochs": 2, "lr": 5e-3, "ema": 0.9, "augment": "light"}
    return CaptionRecipe(**{**EXACTLY, **SMALL, **own, **settings}, data=str(lesson), out=str(out))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "captioner.safetensors")


class InterruptedHereError(Exception):
    """What a kill in the middle of an epoch is, to the run."""


def interrupting(after: int) -> Callable[..., Iterator[Any]]:
    """A progress that breaks off in the last epoch, when so many of its batches are done."""

    def progress(items: Iterable[Any], total: int | None, label: str) -> Iterator[Any]:
        for at, item in enumerate(items):
            if "epoch 2/2" in label and at == after:
                raise InterruptedHereError
            yield item

    return progress


@pytest.mark.parametrize("reward_epochs", [0, 2], ids=["words", "words, then CIDEr"])
def test_a_run_that_was_killed_goes_on_exactly(lesson: Path, encoder: Path, tmp_path: Path, reward_epochs: int) -> None:
    settings: dict[str, Any] = {"dropout": 0.2, "feature_dropout": 0.2, "save_steps": 5, "reward_epochs": reward_epochs}
    settings |= {"epochs": 1 if reward_epochs else 2}
    train_captioner(small(lesson, encoder, tmp_path / "whole", **settings))
    recipe = small(lesson, encoder, tmp_path / "killed", **settings)
    with pytest.raises(InterruptedHereError):
        train_captioner(recipe, progress=interrupting(8))
    with pytest.raises(ConfigError, match="resume it"):
        train_captioner(recipe)
    train_captioner(recipe, resume=True)
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    for name, value in whole.items():
        assert torch.equal(value, killed[name]), name


@pytest.mark.parametrize("name", ["blip", "vit-gpt2"])
def test_a_whole_model_that_was_killed_in_training_goes_on_exactly(
    lesson: Path, checkpoints: dict[str, Path], tmp_path: Path, name: str
) -> None:
    settings: dict[str, Any] = {"epochs": 2, "lr": 8e-3, "save_steps": 5, "augment": "light", "ema": 0.9}
    told = {**EXACTLY, "model": str(checkpoints[name]), **settings, "data": str(lesson)}
    train_captioner(CaptionRecipe(**told, out=str(tmp_path / "whole")))
    recipe = CaptionRecipe(**told, out=str(tmp_path / "killed"))
    with pytest.raises(InterruptedHereError):
        train_captioner(recipe, progress=interrupting(8))
    train_captioner(recipe, resume=True)
    whole, killed = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    for key, value in whole.items():
        assert torch.equal(value, killed[key]), key


def test_a_run_is_not_gone_on_with_in_another_size(lesson: Path, encoder: Path, tmp_path: Path) -> None:
    train_captioner(small(lesson, encoder, tmp_path, epochs=1))
    with pytest.raises(ConfigError, match="of another recipe"):
        train_captioner(small(lesson, encoder, tmp_path, epochs=2, dim=64), resume=True)


def test_whole_models_have_no_self_critical_training(
    lesson: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    recipe = CaptionRecipe(model=str(checkpoints["blip"]), data=str(lesson), out=str(tmp_path), reward_epochs=1)
    with pytest.raises(ConfigError, match="reward_epochs"):
        train_captioner(recipe)


def test_views_are_kept_by_which_captions_speak_of_a_side(lesson: Path, encoder: Path) -> None:
    from diptych.data.pairs import Pairs, Row
    from diptych.models import dual_encoder as dual
    from diptych.training.caption.data import store_part

    loaded, plain = dual.load(str(encoder), "cpu"), read_pairs(lesson).split("val")
    sided = Pairs.from_rows(Row(row.image_id, row.image, ("a dog on the left",)) for row in plain)
    rows = np.arange(len(plain))
    parts = [store_part(loaded, pairs, augment="light", views=2, progress=silent) for pairs in (plain, sided)]
    assert torch.equal(*(part.images(rows).states for part in parts))
    some, other = (part.images(rows, 1).states for part in parts)  # half of the plain ones are mirrored
    alike = [torch.equal(*pair) for pair in zip(some, other, strict=True)]
    assert any(alike)
    assert not all(alike)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_an_encoder_or_a_decoder_that_would_be_unpickled_is_refused(lesson: Path, tmp_path: Path, part: str) -> None:
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    parts = {"encoder": "vit", "decoder": "gpt2", "encoder_arguments": VIT, part: str(tmp_path / "pickled")}
    with pytest.raises(ModelError, match="pickle"):
        train_captioner(CaptionRecipe(**parts, data=str(lesson), out=str(tmp_path / "run"), device="cpu"))


def test_self_critical_training_makes_better_draws_likelier(lesson: Path, encoder: Path, tmp_path: Path) -> None:
    from diptych.captioning.grid_captioner import load_grid_model
    from diptych.captioning.vocabulary import END, PAD, START
    from diptych.training.caption.data import store_part
    from diptych.training.caption.grid import Lessons

    recipe = small(lesson, encoder, tmp_path / "run", epochs=1)
    writer = load_grid_model(train_captioner(recipe).model, "cpu")
    part = store_part(writer.encoder, read_pairs(lesson).split("train"), progress=silent)
    lessons = Lessons(recipe, writer, part)
    batch = lessons.load((0, np.arange(12), ["a dog"] * 12))
    drawn = lessons.drawn(batch.states, batch)
    rewards = lessons.rewards(drawn, batch.rows)  # (pictures, samples)
    lines = [torch.tensor([START, *tokens, END]) for of_one in drawn for tokens in of_one]
    words = torch.nn.utils.rnn.pad_sequence(lines, batch_first=True, padding_value=PAD)

    @torch.no_grad()
    def of_better_ones() -> float:
        """How much likelier the better captions of a picture are than its worse ones."""
        known = writer.decoder(writer.decoder.encode(batch.states), words[:, :-1]).log_softmax(-1)
        known = known.gather(2, words[:, 1:, None]).squeeze(2).masked_fill(words[:, 1:] == PAD, 0.0).sum(1)
        return float(((rewards - rewards.mean(1, keepdim=True)).flatten() * known).sum())

    before = of_better_ones()
    loss = lessons.reward(batch)
    assert float(loss) == pytest.approx(-float(rewards.mean()))
    with torch.no_grad():
        for weight in writer.decoder.parameters():
            weight -= 0.01 * weight.grad
    assert of_better_ones() > before


def test_a_run_with_a_second_phase_keeps_the_average_that_validation_prefers(lesson, encoder, tmp_path: Path) -> None:
    recipe = small(lesson, encoder, tmp_path / "run", epochs=1, reward_epochs=1)
    result = train_captioner(recipe)
    assert set(result.outcomes) == {"words", "reward"}
    shares = json.loads((tmp_path / "run" / "reward" / "shares.json").read_text())
    best = float(max(shares, key=lambda share: shares[share]))
    before, after = (load_file(tmp_path / "run" / name / "best.safetensors") for name in ("words", "reward"))
    for name, weight in weights(tmp_path / "run").items():
        torch.testing.assert_close(weight, before[name].lerp(after[name], best))
    told = json.loads((result.model / "diptych.json").read_text())["captioner"]
    assert told["validation"]["cider"] == pytest.approx(result.scores["cider"])
    assert set(told["habits"]) == {"length_penalty", "no_repeat"}


def test_what_was_kept_scores_what_was_told(lesson: Path, encoder: Path, tmp_path: Path) -> None:
    result = train_captioner(small(lesson, encoder, tmp_path / "run", epochs=3))
    val = read_pairs(lesson).split("val")
    captioner = load_captioner(tmp_path / "run", "cpu")
    told = [captions[0].text for captions in captioner.caption([decode(row.image) for row in val], beams=1)]
    judge = CiderD([[words_of(text) for text in row.captions] for row in val])
    assert judge([words_of(text) for text in told]).mean() == pytest.approx(result.scores["cider"], abs=1e-4)


def test_a_picture_that_cannot_be_read_is_left_out_and_told(lesson: Path, encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lesson"
    shutil.copytree(lesson, folder)
    (folder / "images" / "train7.png").write_bytes(b"no picture")
    result = train_captioner(small(folder, encoder, tmp_path / "run", epochs=1))
    assert result.sizes["train"] == 119
    assert result.left_out.bad_pictures == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"data": ""}, "no data set"),
        ({"model": ""}, "set either model"),
        ({"encoder": "vit", "decoder": "gpt2"}, "set either model"),
        ({"model": "", "encoder": "vit"}, "needs a decoder"),
        ({"dim": 32, "heads": 5}, "divisor"),
        ({"captions": 0}, "captions is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"reward_epochs": 1, "reward_samples": 1}, "at least 2"),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_refused(
    lesson: Path, tmp_path: Path, settings: dict, said: str
) -> None:
    recipe = CaptionRecipe(**{"data": str(lesson), "model": "mini", "out": str(tmp_path / "run"), **settings})
    with pytest.raises(ConfigError, match=said):
        train_captioner(recipe)


def test_an_encoder_or_a_decoder_that_is_not_there_is_named(lesson: Path, tmp_path: Path) -> None:
    told = {"encoder": str(tmp_path / "nothing"), "decoder": "gpt2", "data": str(lesson), "out": str(tmp_path / "run")}
    with pytest.raises(ModelError, match="nothing"):
        train_captioner(CaptionRecipe(**told))


def test_the_ends_of_captions_are_learnt_though_gpt2_pads_with_the_same_token(checkpoints: dict[str, Path]) -> None:
    from diptych.captioning.transformers_captioner import load_transformers_model
    from diptych.training.caption.whole import token_rows

    writer = load_transformers_model(checkpoints["vit-gpt2"], "cpu")
    assert writer.start == writer.end == 0
    tokens, spoken = token_rows(writer, ["a boat", "a ball on the boat"], 10)
    assert tokens[0].tolist()[3:] == [0, 0, 0, 0]
    assert spoken.sum(1).tolist() == [3, 6]
    assert tokens[0, 1:][spoken[0]][-1] == writer.end
