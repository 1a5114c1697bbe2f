"""The prompt recipe: from pictures with prompts to a prompter, which predicts a picture's prompt as a vector."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.errors import ConfigError
from diptych.runtime.progress import Progress, silent
from diptych.training.contrastive.train import split_for_training
from diptych.training.ranges import check_limits

if TYPE_CHECKING:
    from diptych.data.doctor.inspect import Report
    from diptych.data.pairs import Pairs
    from diptych.prompting.prompter import Prompter
    from diptych.training.run_folder import Run
    from diptych.training.trainer import Outcome
from diptych.training.prompt.config import PromptRecipe


@dataclass
class PromptTraining:
    """A finished run: where its model lies, how it went, and what of the data was left out."""

    model: Path
    outcome: Outcome
    left_out: Report
    sizes: dict[str, int]


def train_prompter(recipe: PromptRecipe, *, resume: bool = False, progress: Progress = silent) -> PromptTraining:
    """Train a prompter and leave in `recipe.out`: `model/` (the best by validation cosine), `recipe.yaml`, `log.jsonl`
    and `checkpoint.pt`, from which `resume` goes on exactly.

    Raises:
        DataError: no usable picture, or more than `max_bad_share` cannot be used.
        ConfigError: settings contradict each other or are out of range, `out` holds other files, or a run already and
            `resume` was not asked for.
        Busy: another process trains in `out`.
        ModelError: a tower, a dual encoder or the text encoder cannot be loaded.
    """
    from diptych.training.run_folder import owned_run

    _check(recipe)
    with owned_run(recipe, resume=resume) as run:
        return _train(run, recipe, resume, progress)


def _train(run: Run, recipe: PromptRecipe, resume: bool, progress: Progress) -> PromptTraining:
    from diptych.data.doctor.inspect import sound
    from diptych.data.formats.read import read_pairs
    from diptych.training.prompt.task import BEST, new_prompter, prompt_task
    from diptych.training.trainer import Schedule, Trainer

    pairs, left_out = sound(
        read_pairs(recipe.data, recipe.format), max_bad_share=recipe.max_bad_share, progress=progress
    )
    train_pairs, val_pairs = split_for_training(pairs, recipe.val_fraction)
    prompter = new_prompter(recipe)
    task = prompt_task(recipe, prompter, train_pairs, val_pairs, progress)
    settings = {name: getattr(recipe, name) for name in Schedule.__dataclass_fields__ if hasattr(recipe, name)}
    outcome = Trainer(task, Schedule(**settings, metric="cosine"), run.out, progress, run.record).fit(resume)
    sizes = {"train": len(train_pairs), "val": len(val_pairs)}
    _keep(run, prompter, run.out / BEST, train_pairs, {"pictures": sizes, "validation": outcome.best}, progress)
    return PromptTraining(run.model, outcome, left_out, sizes)


def _keep(run: Run, prompter: Prompter, best: Path, train: Pairs, told: dict[str, Any], progress: Progress) -> None:
    """Publish the model with its best weights."""
    from diptych.models import dual_encoder as dual
    from diptych.prompting.library import PromptLibrary
    from diptych.prompting.storage import save_library, save_prompter
    from diptych.training.prompt.task import load_best

    recipe: PromptRecipe = run.recipe
    load_best(prompter, recipe, best)
    with run.publishing() as fresh:
        if recipe.model:
            dual.load(recipe.model, recipe.device).save(fresh)
        save_prompter(prompter, fresh, card={"recipe": asdict(recipe), **told})
        if recipe.library:
            prompts = list(dict.fromkeys(train.flat_captions()[0]))[: recipe.library]
            save_library(PromptLibrary.of(prompts, prompter.space, progress), fresh)


def _check(recipe: PromptRecipe) -> None:
    if not recipe.data:
        raise ConfigError("no data set is given; set data to a folder, a file or a hub name")
    check_limits(recipe)
    if not recipe.train_tower and recipe.augment != "none" and recipe.views < 2:
        raise ConfigError(
            "the image tower is not trained, so its features are computed once and augmentation would never be seen; "
            "set views to the number of stored views of each picture (4, say), or augment to none"
        )
    if recipe.batch_size < 2:
        raise ConfigError("batch_size must be at least 2")
    if recipe.train_tower and recipe.model:
        raise ConfigError("train_tower trains an image_tower; a dual encoder given as model stays as it is: drop one")
