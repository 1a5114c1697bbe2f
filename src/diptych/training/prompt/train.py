"""The prompt recipe: trains a prompter, which predicts the embedding of an image's prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diptych.errors import ConfigError
from diptych.runtime.progress import Progress, silent
from diptych.training.prompt.config import PromptRecipe
from diptych.training.ranges import check_settings, check_stored_views
from diptych.training.results import TrainingResult

if TYPE_CHECKING:
    from diptych.data.pairs import Pairs
    from diptych.prompting.prompter import Prompter
    from diptych.training.run import Run


def train_prompter(recipe: PromptRecipe, *, resume: bool = False, progress: Progress = silent) -> TrainingResult:
    """Train a prompter.

    Writes into `recipe.out`: `model/` (the best model by validation cosine), `recipe.yaml`, `log.jsonl` and
    `checkpoint.pt` (the last state).

    Args:
        recipe: the settings.
        resume: continue an interrupted run; it ends with the weights of an uninterrupted one.
        progress: wraps the batches of each epoch.

    Raises:
        DataError, ConfigError, Busy: as `diptych.train`.
        ModelError: a tower, a dual encoder or the text encoder cannot be loaded.
    """
    _check(recipe)
    from diptych.training.prompt.task import load_best, new_prompter, prompt_task
    from diptych.training.run import start_run

    with start_run(recipe, resume=resume, progress=progress) as run:
        pairs = run.read_pairs()
        prompter = new_prompter(recipe)  # a wrong name is an error before all images are checked
        data = run.load_data(pairs)
        outcome = run.fit(prompt_task(recipe, prompter, data.train, data.val, progress))
        load_best(prompter, recipe)
        _publish(run, prompter, data.train, run.metadata(data, outcome.best))
        return TrainingResult(model=run.model, outcome=outcome, left_out=data.left_out, sizes=data.sizes)


def _publish(run: Run[PromptRecipe], prompter: Prompter, train: Pairs, metadata: dict[str, object]) -> None:
    from diptych.models import dual_encoder
    from diptych.prompting.library import PromptLibrary
    from diptych.prompting.storage import save_library, save_prompter

    recipe = run.recipe
    with run.publish() as folder:
        if recipe.model:
            dual_encoder.load(recipe.model, recipe.device).save(folder)
        save_prompter(prompter, folder, metadata=metadata)
        if recipe.library:
            prompts = list(dict.fromkeys(train.flat_captions()[0]))[: recipe.library]
            save_library(PromptLibrary.of(prompts, prompter.space, run.progress), folder)


def _check(recipe: PromptRecipe) -> None:
    check_settings(recipe)
    if not recipe.train_tower:
        check_stored_views(recipe, "not trained", example=4)
    if recipe.batch_size < 2:
        raise ConfigError("batch_size must be at least 2")
    if recipe.train_tower and recipe.model:
        raise ConfigError(
            "train_tower trains image_tower, but the dual encoder in `model` is frozen; set only one of them"
        )
