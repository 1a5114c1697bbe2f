"""The contrastive recipe: trains a dual encoder on images with captions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from diptych.errors import ConfigError
from diptych.runtime.progress import Progress, silent
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.ranges import check_in_batch_negatives, check_settings, check_stored_views
from diptych.training.results import TrainingResult

if TYPE_CHECKING:
    from diptych.models.dual_encoder import DualEncoder
    from diptych.training.run import Run, TrainingData
    from diptych.training.trainer import Outcome


def train(recipe: ContrastiveRecipe, *, resume: bool = False, progress: Progress = silent) -> TrainingResult:
    """Train a dual encoder.

    Writes into `recipe.out`: `model/` (the best model by validation rsum, with a model card), `recipe.yaml`,
    `log.jsonl` and `checkpoint.pt` (the last state).

    Args:
        recipe: the settings.
        resume: continue an interrupted run; it ends with the weights of an uninterrupted one.
        progress: wraps the batches of each epoch.

    Raises:
        DataError: no image is usable, or more than `max_bad_share` are unusable.
        ConfigError: settings contradict each other or are out of range, `out` holds other files, or it holds a run and
            `resume` is false.
        Busy: another process trains in `out`.
        ModelError: a tower or model cannot be loaded.
    """
    _check(recipe)
    from diptych.training.contrastive.task import build_model, needs_captions
    from diptych.training.run import start_run

    with start_run(recipe, resume=resume, progress=progress) as run:
        pairs = run.read_pairs()
        model = None if needs_captions(recipe) else build_model(recipe)  # fails before all images are checked
        data = run.load_data(pairs)
        model = model or build_model(recipe, data.train.flat_captions()[0])
        if recipe.head_epochs:
            recipe, model = _train_heads(run, model, data)
        outcome = _fit(run, recipe, model, data)
        return TrainingResult(model=run.model, outcome=outcome, left_out=data.left_out, sizes=data.sizes)


def _fit(
    run: Run[ContrastiveRecipe], recipe: ContrastiveRecipe, model: DualEncoder, data: TrainingData, phase: str = ""
) -> Outcome:
    """Train a model and publish it whenever its validation scores are the best so far."""
    from diptych.training.contrastive.task import contrastive_task
    from diptych.training.model_card import model_card

    def save(model: DualEncoder, scores: dict[str, float]) -> None:
        with run.publish(phase) as folder:
            model_card_text = model_card(run.recipe, data.sizes, scores, run.changes)
            model.save(folder, run.metadata(data, scores), model_card_text)

    task = contrastive_task(recipe, model, data.train, data.val, run.progress, save)
    return run.fit(task, phase=phase, settings=recipe)


def _train_heads(
    run: Run[ContrastiveRecipe], model: DualEncoder, data: TrainingData
) -> tuple[ContrastiveRecipe, DualEncoder]:
    """Train the heads on frozen towers (linear probing, then fine-tuning, Kumar et al. 2022).

    Returns:
        The recipe that continues from the best model, and that model.
    """
    from diptych.training.contrastive.task import build_model

    recipe = run.recipe
    frozen = replace(
        recipe,
        epochs=recipe.head_epochs,
        freeze=["image", "text"],
        batch_size=max(recipe.batch_size, 256),
        augment="none",
        views=1,
        lora_rank=0,
        chunk_size=None,
        max_steps=None,
    )
    _fit(run, frozen, model, data, phase="heads")
    tuned = replace(recipe, start=str(run.out / "heads" / "model"), head_epochs=0)
    return tuned, build_model(tuned)


def _check(recipe: ContrastiveRecipe) -> None:
    check_settings(recipe)
    if "image" in recipe.freeze:
        check_stored_views(recipe, "frozen", example=8)
    check_in_batch_negatives(recipe)
    if recipe.head_epochs and recipe.start:
        raise ConfigError(
            "head_epochs trains new heads, but the model in `start` has trained ones; set only one of them"
        )
