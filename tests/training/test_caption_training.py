"""Training captioners: every kind learns ten captions exactly, resumes exactly, and follows its rewards."""

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
from tests.broken import make_image
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
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images with a caption each: twelve copies for training and one for validation."""
    folder = tmp_path_factory.mktemp("dataset")
    (folder / "images").mkdir()
    lines, names = ["image,caption"], {"train": [], "dev": []}
    for number, caption in enumerate(CAPTIONS):
        for split in ("train",) * 12 + ("dev",):
            name = f"{split}{len(names[split])}.png"
            names[split].append(name)
            make_image(number).save(folder / "images" / name)
            lines.append(f"{name},{caption}")
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")
    for split, of_split in names.items():
        (folder / f"Flickr_8k.{split}Images.txt").write_text("\n".join(of_split))
    return folder


@pytest.fixture(scope="module")
def encoder(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dual encoder with random weights."""
    from diptych.models import builder

    torch.manual_seed(0)
    kept = ("dim", "pretrained", "text_arguments", "image_size", "crop", "device")
    settings = {name: TINY[name] for name in kept}
    captions = read_pairs(scenes).flat_captions()[0]
    folder = tmp_path_factory.mktemp("encoder")
    builder.build(TINY["image_tower"], TINY["text_tower"], captions=captions, **settings).save(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny BLIP and a tiny ViT-GPT2 with the words of the data set in their vocabularies."""
    words = sorted({word for row in read_pairs(dataset) for word in words_of(" ".join(row.captions))})
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
    "a ViT and a GPT-2 from configurations": {
        **{"encoder": "vit", "encoder_arguments": {**VIT, "patch_size": 8}, "epochs": 13, "lr": 5e-3},
        **{"decoder": "gpt2", "decoder_arguments": {"n_embd": 32, "n_layer": 1, "n_head": 2, **NO_DROPOUT}},
    },
}


@pytest.mark.parametrize("path", PATHS)
def test_ten_captions_are_learnt_exactly(
    path: str, dataset: Path, encoder: Path, checkpoints: dict, tmp_path: Path
) -> None:
    """Labels that are shifted twice or not at all, or a wrong start or end token, would make this fail."""
    settings = dict(PATHS[path])
    if "model" in settings:
        settings["model"] = str({"encoder": encoder, **checkpoints}[settings["model"]])
    recipe = CaptionRecipe(**EXACTLY, **settings, data=str(dataset), out=str(tmp_path / "run"))
    result = train_captioner(recipe)
    assert result.sizes == {"train": 120, "val": 10}
    (log,) = (tmp_path / "run").glob("*/log.jsonl")
    assert losses_of(log)[-1] < 1.0 < losses_of(log)[0]
    captioner = load_captioner(tmp_path / "run", "cpu")
    val = read_pairs(dataset).split("val")
    images = [decode(row.image) for row in val]
    captions = [candidates[0].text for candidates in captioner.caption(images, method="greedy")]
    assert captions == [row.captions[0] for row in val]


def losses_of(log: Path) -> list[float]:
    lines = (json.loads(line) for line in log.read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def small(dataset: Path, encoder: Path, out: Path, **settings: Any) -> CaptionRecipe:
    defaults = {"model": str(encoder), "epochs": 2, "lr": 5e-3, "ema": 0.9, "augment": "light"}
    return CaptionRecipe(**{**EXACTLY, **SMALL, **defaults, **settings}, data=str(dataset), out=str(out))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "captioner.safetensors")


class InterruptedHereError(Exception):
    """Stands for a kill in the middle of an epoch."""


def interrupting(after: int) -> Callable[..., Iterator[Any]]:
    """A progress that raises in the second epoch, after `after` batches."""

    def progress(items: Iterable[Any], total: int | None, label: str) -> Iterator[Any]:
        for index, item in enumerate(items):
            if "epoch 2/2" in label and index == after:
                raise InterruptedHereError
            yield item

    return progress


@pytest.mark.parametrize("reward_epochs", [0, 2], ids=["words", "words, then CIDEr"])
def test_an_interrupted_run_resumes_exactly(dataset: Path, encoder: Path, tmp_path: Path, reward_epochs: int) -> None:
    settings: dict[str, Any] = {"dropout": 0.2, "feature_dropout": 0.2, "save_steps": 5, "reward_epochs": reward_epochs}
    settings |= {"epochs": 1 if reward_epochs else 2}
    train_captioner(small(dataset, encoder, tmp_path / "whole", **settings))
    recipe = small(dataset, encoder, tmp_path / "killed", **settings)
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
def test_an_interrupted_run_of_an_encoder_decoder_resumes_exactly(
    dataset: Path, checkpoints: dict[str, Path], tmp_path: Path, name: str
) -> None:
    settings: dict[str, Any] = {"epochs": 2, "lr": 8e-3, "save_steps": 5, "augment": "light", "ema": 0.9}
    settings |= {**EXACTLY, "model": str(checkpoints[name]), **settings, "data": str(dataset)}
    train_captioner(CaptionRecipe(**settings, out=str(tmp_path / "whole")))
    recipe = CaptionRecipe(**settings, out=str(tmp_path / "killed"))
    with pytest.raises(InterruptedHereError):
        train_captioner(recipe, progress=interrupting(8))
    train_captioner(recipe, resume=True)
    whole, killed = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    for key, value in whole.items():
        assert torch.equal(value, killed[key]), key


def test_a_run_is_not_resumed_with_another_model_size(dataset: Path, encoder: Path, tmp_path: Path) -> None:
    train_captioner(small(dataset, encoder, tmp_path, epochs=1))
    with pytest.raises(ConfigError, match="`dim` is 64, the run has 32"):
        train_captioner(small(dataset, encoder, tmp_path, epochs=2, dim=64), resume=True)


def test_self_critical_training_of_an_encoder_decoder_is_refused(
    dataset: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    recipe = CaptionRecipe(model=str(checkpoints["blip"]), data=str(dataset), out=str(tmp_path), reward_epochs=1)
    with pytest.raises(ConfigError, match="reward_epochs"):
        train_captioner(recipe)


def test_stored_views_depend_on_which_captions_mention_a_side(dataset: Path, encoder: Path) -> None:
    from diptych.data.pairs import Pairs, Row
    from diptych.models import dual_encoder as dual
    from diptych.training.encoded_images import Views, encode_images, state_shapes

    loaded, plain = dual.load(str(encoder), "cpu"), read_pairs(dataset).split("val")
    sided = Pairs.from_rows(Row(row.image_id, row.image, ("a dog on the left",)) for row in plain)
    rows = np.arange(len(plain))
    shape, views = state_shapes(loaded)["image"], Views(2, "light")
    encoded = [encode_images(loaded, pairs, shape, views, progress=silent) for pairs in (plain, sided)]
    assert torch.equal(*(images.take(rows).states for images in encoded))
    some, other = (images.take(rows, 1).states for images in encoded)  # half of the plain ones are mirrored
    alike = [torch.equal(*pair) for pair in zip(some, other, strict=True)]
    assert any(alike)
    assert not all(alike)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_pickled_encoder_or_decoder_is_refused(dataset: Path, tmp_path: Path, part: str) -> None:
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    parts = {"encoder": "vit", "decoder": "gpt2", "encoder_arguments": VIT, part: str(tmp_path / "pickled")}
    with pytest.raises(ModelError, match="pickle"):
        train_captioner(CaptionRecipe(**parts, data=str(dataset), out=str(tmp_path / "run"), device="cpu"))


def test_self_critical_training_makes_better_samples_more_likely(dataset: Path, encoder: Path, tmp_path: Path) -> None:
    from diptych.captioning.grid_captioner import load_grid_model
    from diptych.captioning.vocabulary import END, PAD, START
    from diptych.training.caption.small_decoder import DecoderTraining
    from diptych.training.encoded_images import encode_images, state_shapes

    recipe = small(dataset, encoder, tmp_path / "run", epochs=1)
    model = load_grid_model(train_captioner(recipe).model, "cpu")
    shape = state_shapes(model.encoder)["image"]
    images = encode_images(model.encoder, read_pairs(dataset).split("train"), shape, progress=silent)
    training = DecoderTraining(recipe, model, images)
    batch = training.load((0, np.arange(12), ["a dog"] * 12))
    samples = training.sample(batch.states, batch)
    rewards = training.rewards(samples, batch.rows)  # (images, samples)
    lines = [torch.tensor([START, *tokens, END]) for of_image in samples for tokens in of_image]
    words = torch.nn.utils.rnn.pad_sequence(lines, batch_first=True, padding_value=PAD)

    @torch.no_grad()
    def preference() -> float:
        """The log-probabilities of the samples, weighted by how much better than the mean of their image they are."""
        log_probability = model.decoder(model.decoder.encode(batch.states), words[:, :-1]).log_softmax(-1)
        log_probability = log_probability.gather(2, words[:, 1:, None]).squeeze(2)
        log_probability = log_probability.masked_fill(words[:, 1:] == PAD, 0.0).sum(1)
        return float(((rewards - rewards.mean(1, keepdim=True)).flatten() * log_probability).sum())

    before = preference()
    loss = training.self_critical(batch)
    assert float(loss) == pytest.approx(-float(rewards.mean()))
    with torch.no_grad():
        for weight in model.decoder.parameters():
            weight -= 0.01 * weight.grad
    assert preference() > before


def test_the_phases_are_averaged_with_the_share_that_validates_best(dataset, encoder, tmp_path: Path) -> None:
    recipe = small(dataset, encoder, tmp_path / "run", epochs=1, reward_epochs=1)
    result = train_captioner(recipe)
    assert set(result.outcomes) == {"words", "reward"}
    shares = json.loads((tmp_path / "run" / "reward" / "shares.json").read_text())
    best = float(max(shares, key=lambda share: shares[share]))
    before, after = (load_file(tmp_path / "run" / name / "best.safetensors") for name in ("words", "reward"))
    for name, weight in weights(tmp_path / "run").items():
        torch.testing.assert_close(weight, before[name].lerp(after[name], best))
    metadata = json.loads((result.model / "diptych.json").read_text())["captioner"]
    assert metadata["validation"]["cider"] == pytest.approx(result.scores["cider"])
    assert set(metadata["habits"]) == {"length_penalty", "no_repeat"}


def test_the_saved_model_has_the_reported_score(dataset: Path, encoder: Path, tmp_path: Path) -> None:
    result = train_captioner(small(dataset, encoder, tmp_path / "run", epochs=3))
    val = read_pairs(dataset).split("val")
    captioner = load_captioner(tmp_path / "run", "cpu")
    images = [decode(row.image) for row in val]
    captions = [candidates[0].text for candidates in captioner.caption(images, beams=1)]
    cider = CiderD([[words_of(text) for text in row.captions] for row in val])
    assert cider([words_of(text) for text in captions]).mean() == pytest.approx(result.scores["cider"], abs=1e-4)


def test_an_unreadable_image_is_left_out_and_counted(dataset: Path, encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    shutil.copytree(dataset, folder)
    (folder / "images" / "train7.png").write_bytes(b"no picture")
    result = train_captioner(small(folder, encoder, tmp_path / "run", epochs=1))
    assert result.sizes["train"] == 119
    assert result.left_out.bad_images == 1


@pytest.mark.parametrize(
    ("settings", "message"),
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
    dataset: Path, tmp_path: Path, settings: dict, message: str
) -> None:
    recipe = CaptionRecipe(**{"data": str(dataset), "model": "mini", "out": str(tmp_path / "run"), **settings})
    with pytest.raises(ConfigError, match=message):
        train_captioner(recipe)


def test_a_missing_encoder_is_named_in_the_error(dataset: Path, tmp_path: Path) -> None:
    settings = {"encoder": str(tmp_path / "nothing"), "decoder": "gpt2", "data": str(dataset)}
    with pytest.raises(ModelError, match="nothing"):
        train_captioner(CaptionRecipe(**settings, out=str(tmp_path / "run")))


def test_the_end_token_is_a_target_although_gpt2_pads_with_it(checkpoints: dict[str, Path]) -> None:
    from diptych.captioning.transformers_captioner import load_transformers_model
    from diptych.training.caption.encoder_decoder import token_rows

    model = load_transformers_model(checkpoints["vit-gpt2"], "cpu")
    assert model.start == model.end == 0
    tokens, mask = token_rows(model, ["a boat", "a ball on the boat"], 10)
    assert tokens[0].tolist()[3:] == [0, 0, 0, 0]
    assert mask.sum(1).tolist() == [3, 6]
    assert tokens[0, 1:][mask[0]][-1] == model.end
