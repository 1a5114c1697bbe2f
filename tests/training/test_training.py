"""Training dual encoders: exact resume, frozen towers, gradient caching, LoRA, sweeps and settings."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml

from diptych.data.formats.read import read_pairs
from diptych.data.row_table import Captions
from diptych.errors import ConfigError, DataError
from diptych.models import builder, two_towers
from diptych.models import dual_encoder as dual
from diptych.training.batches import PairSampler
from diptych.training.caption.config import CaptionRecipe
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.contrastive.task import build_model, contrastive_task, trainable_groups
from diptych.training.contrastive.train import train
from diptych.training.match.config import MatchRecipe
from diptych.training.prompt.config import PromptRecipe
from diptych.training.recipe_files import make, to_yaml
from diptych.training.run import split_for_training
from diptych.training.sweep import run_sweep
from diptych.training.trainer import learning_rate_factor
from tests.broken import BROKEN, break_files
from tests.models.test_dual import tiny_clip  # noqa: F401 - a fixture

Make = Callable[..., ContrastiveRecipe]


def weights(out: str | Path) -> dict[str, torch.Tensor]:
    return torch.load(Path(out) / "checkpoint.pt", weights_only=True)["state"]


def assert_same_weights(one: str | Path, other: str | Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def losses(out: str | Path) -> list[float]:
    lines = (json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def step_of(checkpoint: Path) -> int:
    return json.loads(torch.load(checkpoint, weights_only=True)["numbers"])["step"] if checkpoint.exists() else 0


def test_training_lowers_the_loss_and_writes_model_card_recipe_and_log(tiny: Make) -> None:
    recipe = tiny(epochs=30, projection="mlp")
    result = train(recipe)
    assert losses(recipe.out)[-1] < 0.7 * losses(recipe.out)[0]
    model = dual.load(recipe.out, "cpu")
    assert model.encode_texts(["a red circle"]).shape == (1, 16)
    model_card = (result.model / "README.md").read_text()
    assert "R@10" in model_card
    assert f"{result.sizes['train']} training images" in model_card
    assert make(ContrastiveRecipe, yaml.safe_load((Path(recipe.out) / "recipe.yaml").read_text())) == recipe
    assert json.loads((result.model / "diptych.json").read_text())["validation"] == result.outcome.best


def test_the_saved_model_has_the_scores_of_the_best_epoch(tiny: Make) -> None:
    from diptych.evaluation.evaluators import evaluate_retrieval

    recipe = tiny(epochs=6, ema=0.9)
    result = train(recipe)
    _, val = split_for_training(read_pairs(recipe.data), recipe.val_fraction)
    scores, _ = evaluate_retrieval(dual.load(recipe.out, "cpu"), val)
    assert scores.to_dict() == pytest.approx(result.outcome.best)
    assert result.outcome.best["rsum"] == max(entry["rsum"] for entry in result.outcome.history)


def test_runs_end_with_the_same_weights_exactly_if_their_seeds_are_the_same(tiny: Make, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tiny(out=str(tmp_path / name), seed=seed, augment="strong"))
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    assert any(not torch.equal(value, weights(tmp_path / "c")[name]) for name, value in weights(tmp_path / "a").items())


def test_a_run_killed_in_mid_epoch_and_resumed_ends_like_an_uninterrupted_one(tiny: Make, tmp_path: Path) -> None:
    settings = {"epochs": 12, "augment": "strong", "ema": 0.95, "projection": "residual", "save_steps": 3}
    uninterrupted = tiny(out=str(tmp_path / "uninterrupted"), **settings)
    killed = tiny(out=str(tmp_path / "killed"), **settings)
    (tmp_path / "recipe.yaml").write_text(to_yaml(killed))
    program = """
        import sys, torch
        from diptych.training.recipe_files import make, read_yaml
        from diptych.training.contrastive.config import ContrastiveRecipe
        from diptych.training.contrastive.train import train
        train(make(ContrastiveRecipe, read_yaml(sys.argv[1])))
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "recipe.yaml")])
    checkpoint = tmp_path / "killed" / "checkpoint.pt"
    deadline = time.monotonic() + 240
    while not step_of(checkpoint) % 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert step_of(checkpoint) % 4, "the checkpoint is from the end of an epoch, not from its middle"
    train(uninterrupted)
    train(killed, resume=True)
    assert_same_weights(uninterrupted.out, killed.out)
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("uninterrupted", "killed")]
    assert logs[0] == logs[1]


def test_an_existing_run_is_not_overwritten(tiny: Make) -> None:
    train(tiny(epochs=1))
    with pytest.raises(ConfigError, match="already holds a run"):
        train(tiny(epochs=1))


def test_frozen_towers_do_not_change_and_their_features_are_computed_once(tiny: Make, tmp_path: Path) -> None:
    labels: list[str] = []

    def progress(items, total, label):
        labels.append((label, total))
        return items

    start = tiny(out=str(tmp_path / "start"), epochs=1)
    train(start)
    for name in ("first", "second"):
        settings = {"start": str(tmp_path / "start"), "freeze": ["image", "text"], "epochs": 2}
        train(tiny(out=str(tmp_path / name), **settings), progress=progress)
    before, after = dual.load(tmp_path / "start", "cpu"), dual.load(tmp_path / "first", "cpu")
    for modality in two_towers.MODALITIES:
        for name, weight in before.tower_parameters(modality).items():
            assert torch.equal(weight, after.tower_parameters(modality)[name]), name
    assert not torch.equal(before.head("image")[0].linear.weight, after.head("image")[0].linear.weight)
    features = [total for label, total in labels if "features" in label]
    assert features[:4] != [0, 0, 0, 0]
    assert features[4:] == [0, 0, 0, 0]


def test_stored_features_give_the_embeddings_of_the_live_model(tiny: Make) -> None:
    recipe = tiny(freeze=["image", "text"])
    train_pairs, val = split_for_training(read_pairs(recipe.data), recipe.val_fraction)
    stored, live = (
        contrastive_task(of, build_model(of, train_pairs.flat_captions()[0]), train_pairs, val)
        for of in (recipe, tiny(freeze=["image.conv1"]))
    )
    for task in (stored, live):
        task.set_mode(False)
    assert stored.validate()["t2i_mean_rank"] == pytest.approx(live.validate()["t2i_mean_rank"], rel=0.05)
    batch = next(iter(stored.batches(0, 0)))
    other = next(iter(live.batches(0, 0)))
    assert float(stored.backward(batch)) == pytest.approx(float(live.backward(other)), rel=2e-3)


def test_a_frozen_image_tower_with_one_view_refuses_augmentation(tiny: Make) -> None:
    with pytest.raises(ConfigError, match="set views"):
        train(tiny(freeze=["image"], augment="light"))


def test_stored_views_differ_and_the_first_is_not_augmented(tiny: Make) -> None:
    from diptych.training.batches import store_image_features

    recipe = tiny()
    pairs = read_pairs(recipe.data)
    model = builder.build("timm/test_resnet", "distilbert", pretrained=False, captions=["a"], dim=8, device="cpu",
                       text_arguments=recipe.text_arguments, image_size=32)  # fmt: skip
    stored = store_image_features(model, pairs, pairs, augment="light", views=3, seed=0)
    assert stored.train.shape[:2] == (48, 3)
    np.testing.assert_allclose(stored.train[:, 0], stored.val[:, 0], atol=2e-2)
    assert np.abs(stored.train[:, 1] - stored.train[:, 2]).max() > 0.01


def test_gradient_caching_gives_the_gradients_of_the_whole_batch(tiny: Make) -> None:
    gradients = []
    for chunk in (None, 3):
        recipe = tiny(chunk_size=chunk, dropout=0.0, text_arguments={**tiny().text_arguments, "dropout": 0.0,
                      "attention_dropout": 0.0}, batch_norm=False)  # fmt: skip
        pairs = split_for_training(read_pairs(recipe.data), recipe.val_fraction)
        task = contrastive_task(recipe, build_model(recipe, pairs[0].flat_captions()[0]), *pairs)
        task.set_mode(True)
        task.backward(next(iter(task.batches(0, 0))))
        gradients.append([p.grad.clone() for p in task.module.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    for whole, chunked in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, chunked, atol=1e-5, rtol=1e-3)


def test_each_epoch_takes_another_caption_of_an_image_until_all_have_been_used(scenes: Path) -> None:
    pairs = read_pairs(scenes)
    sampler = PairSampler(pairs, 48, seed=0)
    used = [dict(zip(rows, captions, strict=True)) for epoch in range(5) for _, rows, captions in sampler(epoch, 0)]
    for row in range(48):
        assert sorted(captions[row] for captions in used) == list(range(row * 5, row * 5 + 5))


def test_a_resumed_epoch_continues_with_the_remaining_batches(scenes: Path) -> None:
    sampler = PairSampler(read_pairs(scenes), 10, seed=3)
    whole, rest = list(sampler(2, 0)), list(sampler(2, 3))
    assert len(whole) == 4
    for one, other in zip(whole[3:], rest, strict=True):
        np.testing.assert_array_equal(one[1], other[1])
        np.testing.assert_array_equal(one[2], other[2])


def test_captions_that_differ_only_in_case_and_spaces_have_the_same_id(scenes: Path) -> None:
    sampler = PairSampler(read_pairs(scenes), 10, seed=3)
    sampler.captions = Captions(pa.array(["A dog.", "a  dog.", "a cat."]))
    ids = sampler.caption_ids(np.array([0, 1, 2])).tolist()
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("objective", ["info_nce", "sigmoid"])
def test_both_objectives_train_and_save_their_scale_and_bias(tiny: Make, objective: str) -> None:
    recipe = tiny(objective=objective, epochs=2)
    train(recipe)
    metadata = json.loads((Path(recipe.out) / "model" / "diptych.json").read_text())
    assert (metadata["logit_bias"] != 0) == (objective == "sigmoid")
    assert dual.load(recipe.out, "cpu").logit_scale == metadata["logit_scale"]


def test_freezing_by_prefix_freezes_exactly_these_weights(tiny: Make) -> None:
    recipe = tiny(freeze=["image.conv1", "text.embeddings"])
    model = builder.build("timm/test_resnet", "distilbert", pretrained=False, captions=["a"], dim=8, device="cpu",
                       text_arguments=recipe.text_arguments)  # fmt: skip
    trainable_groups(recipe, model)
    named = model.tower_parameters("image") | model.tower_parameters("text")
    frozen = {name for name, weight in named.items() if not weight.requires_grad}
    assert frozen == {name for name in named if name.startswith(("image.conv1.", "text.embeddings."))}


def test_freezing_unknown_weights_is_refused(tiny: Make) -> None:
    with pytest.raises(ConfigError, match=r"image\.conv9"):
        train(tiny(freeze=["image.conv9"]))
    with pytest.raises(ConfigError, match="did you mean 'image'"):
        train(tiny(freeze=["images"]))


@pytest.mark.parametrize(
    ("settings", "unchanged"), [({}, ""), ({"freeze": ["image"]}, "image"), ({"lora_rank": 2}, "both")]
)
def test_a_pretrained_clip_is_fine_tuned_in_full_with_a_frozen_tower_or_by_lora(
    tiny: Make,
    tiny_clip: Path,  # noqa: F811
    settings: dict,
    unchanged: str,
) -> None:
    recipe = tiny(start=str(tiny_clip), epochs=2, **settings)
    train(recipe)
    before, after = dual.load(tiny_clip, "cpu"), dual.load(recipe.out, "cpu")
    changed = {}
    for modality in two_towers.MODALITIES:
        pairs = zip(before.tower_parameters(modality).items(), after.tower_parameters(modality).values(), strict=True)
        changed[modality] = {name for (name, old), new in pairs if not torch.equal(old, new)}
    assert changed["text"]
    assert bool(changed["image"]) == (unchanged != "image")
    if unchanged == "both":  # LoRA: only the layers that the adapters were merged into
        assert all("self_attn" in name for names in changed.values() for name in names)


def test_lora_on_a_convolutional_tower_is_refused(tiny: Make) -> None:
    with pytest.raises(ConfigError, match="no attention layers"):
        train(tiny(lora_rank=2))


def test_heads_are_trained_on_stored_features_before_the_towers(tiny: Make) -> None:
    recipe = tiny(head_epochs=2, epochs=1)
    train(recipe)
    heads = dual.load(Path(recipe.out) / "heads", "cpu")
    final = dual.load(recipe.out, "cpu")
    moved = [not torch.equal(a, b) for a, b in zip(heads.tower_parameters("image").values(),
             final.tower_parameters("image").values(), strict=True)]  # fmt: skip
    assert any(moved)
    assert make(ContrastiveRecipe, yaml.safe_load((Path(recipe.out) / "recipe.yaml").read_text())) == recipe


def test_early_stopping_ends_a_run_that_no_longer_improves(tiny: Make) -> None:
    outcome = train(tiny(epochs=50, patience=2, lr_head=0, lr_image=0, lr_text=0, batch_norm=False)).outcome
    assert outcome.stopped_early
    assert outcome.best_epoch == 0
    assert len(outcome.history) == 3


def test_batch_norm_statistics_are_updated_only_for_randomly_initialized_towers(tiny: Make, tmp_path: Path) -> None:
    fresh = tiny(out=str(tmp_path / "fresh"), epochs=1)
    train(fresh)
    train(tiny(out=str(tmp_path / "tuned"), start=fresh.out, epochs=1))
    before, after = weights(fresh.out), weights(tmp_path / "tuned")
    means = [name for name in before if name.endswith("running_mean")]
    model = {k: v for k, v in dual.load(fresh.out, "cpu").model.state_dict().items() if k.endswith("running_mean")}
    assert means
    assert any(value.abs().max() > 0 for value in model.values())
    for name in means:
        assert torch.equal(after[name], model[name.removeprefix("buffer:model.")])


def test_broken_images_are_left_out_and_counted_and_do_not_stop_training(
    tiny: Make, scenes: Path, tmp_path: Path
) -> None:
    from diptych.data.samples.library import draw_scenes

    data = draw_scenes(tmp_path / "data", count=100, size=32)
    break_files(sorted((data / "images").iterdir())[: len(BROKEN)])
    result = train(tiny(data=str(data), epochs=1, max_bad_share=0.2))
    assert result.left_out.bad_images == len(BROKEN)
    assert sum(result.sizes.values()) == 100 - len(BROKEN)
    with pytest.raises(DataError, match="max_bad_share"):
        train(tiny(data=str(data), epochs=1, out=str(tmp_path / "other"), max_bad_share=0.01))


def test_a_sweep_trains_every_combination_once_and_resumes(tiny: Make, tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("lr_head: [0.001, 0.01]\nprojection: [linear, mlp]\n")
    recipe = tiny(epochs=1, freeze=["image", "text"])
    rows = run_sweep(recipe, grid)
    assert {(row["lr_head"], row["projection"]) for row in rows} == {
        (rate, head) for rate in ("0.001", "0.01") for head in ("linear", "mlp")
    }
    sums = [float(row["rsum"]) for row in rows]
    assert sums == sorted(sums, reverse=True)
    stamp = (Path(recipe.out) / "lr_head=0.01_projection=mlp" / "checkpoint.pt").stat().st_mtime_ns
    assert run_sweep(recipe, grid) == rows
    assert (Path(recipe.out) / "lr_head=0.01_projection=mlp" / "checkpoint.pt").stat().st_mtime_ns == stamp
    grid.write_text("learning: [1]\n")
    with pytest.raises(ConfigError, match="no setting is called 'learning'"):
        run_sweep(recipe, grid)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"epochs": "three"}, "must be int"),
        ({"epochs": True}, "must be int"),
        ({"freeze": "image"}, "must be list"),
        ({"objective": "triplet"}, "one of 'info_nce', 'sigmoid'"),
    ],
)
def test_unknown_settings_and_wrong_types_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(ContrastiveRecipe, settings)


def test_the_learning_rate_warms_up_linearly_and_decays_along_a_half_cosine_to_zero() -> None:
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)


def test_every_configuration_in_the_repository_is_valid() -> None:
    files = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
    assert files
    recipes = {"match": MatchRecipe, "prompt": PromptRecipe, "caption": CaptionRecipe}  # by the last word of the name
    for file in files:
        make(recipes.get(file.stem.split("_")[-1], ContrastiveRecipe), yaml.safe_load(file.read_text()))
