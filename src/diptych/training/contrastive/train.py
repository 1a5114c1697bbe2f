"""The contrastive recipe: trains a dual encoder on images with captions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from diptych.errors import ConfigError
from diptych.runtime.progress import Progress, silent
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.ranges import check_settings
from diptych.training.results import TrainingResult


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
    from diptych.training.contrastive.task import contrastive_task
    from diptych.training.run import start_run

    with start_run(recipe, resume=resume, progress=progress) as run:
        data = run.load_data()
        if recipe.head_epochs:
            run = replace(run, recipe=_train_heads(recipe, resume, progress))
        outcome = run.fit(contrastive_task(run.recipe, data.train, data.val, progress))
        return TrainingResult(model=run.model, outcome=outcome, left_out=data.left_out, sizes=data.sizes)


def _check(recipe: ContrastiveRecipe) -> None:
    check_settings(recipe)
    if "image" in recipe.freeze and recipe.augment != "none" and recipe.views < 2:
        raise ConfigError(
            "the image tower is frozen, so its features are computed once and augmentation would have no effect; "
            "set views to the number of stored views per image (for example 8), or augment to none"
        )
    if recipe.batch_size < 2:
        raise ConfigError("batch_size must be at least 2: the pairs of a batch are each other's negatives")
    if recipe.head_epochs and recipe.start:
        raise ConfigError(
            "head_epochs trains new heads, but the model in `start` has trained ones; set only one of them"
        )


def _train_heads(recipe: ContrastiveRecipe, resume: bool, progress: Progress) -> ContrastiveRecipe:
    """Train the heads on frozen towers (linear probing, then fine-tuning, Kumar et al. 2022).

    Returns the recipe that continues from this model.
    """
    out = Path(recipe.out) / "heads"
    frozen = replace(
        recipe,
        out=str(out),
        epochs=recipe.head_epochs,
        head_epochs=0,
        freeze=["image", "text"],
        batch_size=max(recipe.batch_size, 256),
        augment="none",
        views=1,
        lora_rank=0,
        chunk_size=None,
        max_steps=None,
    )
    train(frozen, resume=resume, progress=progress)
    return replace(recipe, start=str(out / "model"), head_epochs=0)
