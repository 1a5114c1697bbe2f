"""The captioning recipe: from captioned pictures to a model that writes captions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diptych.errors import ConfigError
from diptych.progress import Progress, silent
from diptych.recipes.contrastive import split_for_training
from diptych.recipes.limits import check_limits

if TYPE_CHECKING:
    from diptych.doctor import Report
    from diptych.pairs import Pairs
    from diptych.recipes.run import Run
    from diptych.trainer import Outcome


@dataclass
class CaptionRecipe:
    """Every setting of a captioner's training."""

    data: str = ""
    """Data set with captions: a folder, a file or a hub name."""
    out: str = "runs/caption"
    """Folder for the model, the log and the checkpoints."""
    format: str | None = None
    """Format of the data set; recognised by itself when not given."""
    val_fraction: float | None = None
    """Share of the training pictures held out, by a hash of their ids, to choose the best epoch; when not given, the
    data set's own `val` split, or a tenth. Use the one that the dual encoder was trained with."""
    max_bad_share: float = 0.1
    """Stop when more than this share of the pictures cannot be used."""

    model: str = ""
    """What it stands on: a dual encoder, which stays as it is and gets a small decoder; or a BLIP or
    VisionEncoderDecoder checkpoint, which is fine-tuned as a whole."""
    encoder: str = ""
    """Instead of a model: an image encoder, by its directory or hub name, or its type alone (vit) without weights."""
    decoder: str = ""
    """The language model beside that encoder, by directory or hub name, or its type alone (gpt2) without weights."""
    encoder_arguments: dict[str, Any] = field(default_factory=dict)
    """Settings of an encoder that is named by its type."""
    decoder_arguments: dict[str, Any] = field(default_factory=dict)
    """Settings of a decoder that is named by its type."""
    freeze_encoder: bool = False
    """Keep the image encoder of a whole model as it is."""

    dim: int = 256
    """Width of the small decoder."""
    layers: int = 3
    """Layers of the small decoder."""
    image_layers: int = 1
    """Layers in which the patches look at one another before the small decoder reads them."""
    heads: int = 8
    """Attention heads of the small decoder; they divide `dim`."""
    hidden: int = 2
    """Width of its hidden layers, as a multiple of `dim`."""
    dropout: float = 0.2
    """Dropout in the small decoder."""
    feature_dropout: float = 0.2
    """Dropout on the patches that it reads."""
    min_count: int = 5
    """The small decoder's words stand at least so many times in the training captions."""
    augment: Literal["none", "light", "strong"] = "light"
    """Picture augmentation: `light` crops and mirrors, `strong` changes colours too."""
    views: int = 3
    """Stored views of each picture, as it is and augmented, for the small decoder; epochs take turns."""

    max_tokens: int = 24
    """Longest caption to learn, in words or tokens; longer ones are cut."""
    captions: int = 5
    """Captions of each picture in a batch."""
    label_smoothing: float = 0.1
    """Share of the probability that is spread over all words."""
    epochs: int = 15
    """Passes over the pictures."""
    max_steps: int | None = None
    """Stop after this many steps."""
    batch_size: int = 64
    """Pictures in a batch."""
    lr: float = 5e-4
    """Peak learning rate."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises; it then falls by half a cosine."""
    weight_decay: float = 0.05
    """AdamW's weight decay; biases and norms are spared."""
    max_grad_norm: float = 1.0
    """Longest gradient."""
    ema: float = 0.99
    """Decay of the weights' moving average, which is then validated and kept; 0 for none."""
    patience: int = 0
    """Stop after this many epochs without a better validation; 0 never stops early."""
    reward_epochs: int = 0
    """Passes of self-critical training on CIDEr after that, for the small decoder (Rennie et al. 2017)."""
    reward_lr: float = 5e-5
    """Peak learning rate of self-critical training."""
    reward_samples: int = 5
    """Captions drawn of each picture in self-critical training; each is judged against the others."""

    beams: int = 3
    """Beams of the validation, which chooses the best epoch by CIDEr."""
    save_steps: int = 200
    """Steps between checkpoints, beside the one at each epoch's end."""
    seed: int = 0
    """Seed of every random choice."""
    device: str = "auto"
    """Device: auto, cpu, cuda, mps."""
    workers: int | None = None
    """Threads that read pictures or stored features; one for each core when not given."""
    tensorboard: bool = False
    """Write TensorBoard logs too."""


@dataclass
class CaptionTraining:
    """A finished run: where its model lies, how each phase of training went, and its validation scores."""

    model: Path
    outcomes: dict[str, Outcome]
    scores: dict[str, float]
    left_out: Report
    sizes: dict[str, int]


def train_captioner(recipe: CaptionRecipe, *, resume: bool = False, progress: Progress = silent) -> CaptionTraining:
    """Train a captioner: a small decoder on a dual encoder's patches, or a whole encoder and decoder.

    Leaves in `recipe.out`: `model/` (what `load_captioner` reads), `recipe.yaml`, and a folder for each phase with its
    log and checkpoint, from which `resume` goes on exactly.

    Raises:
        DataError: no usable picture, or too many that cannot be used.
        ConfigError: settings contradict each other or are out of range, `out` holds other files, or a run already and
            `resume` was not asked for.
        Busy: another process trains in `out`.
        ModelError: the model cannot be loaded, or does not show its patches.
    """
    from diptych.recipes.run import owned_run

    _check(recipe)
    with owned_run(recipe, resume=resume) as run:
        return _train(run, recipe, progress)


def _train(run: Run, recipe: CaptionRecipe, progress: Progress) -> CaptionTraining:
    train, val, left_out = _parts(recipe, progress)
    if _is_whole(recipe):
        from diptych.recipes.caption_whole import train_whole as train_kind
    else:
        from diptych.recipes.caption_grid import train_grid as train_kind
    outcomes, scores = train_kind(run, train, val, progress)
    return CaptionTraining(run.model, outcomes, scores, left_out, {"train": len(train), "val": len(val)})


def _is_whole(recipe: CaptionRecipe) -> bool:
    """Whether an encoder and a decoder are trained together, and not a small decoder on a dual encoder."""
    from diptych.captions.models import is_whole
    from diptych.checkpoints import model_directory

    return bool(recipe.encoder) or is_whole(model_directory(recipe.model))


def _check(recipe: CaptionRecipe) -> None:
    if not recipe.data:
        raise ConfigError("no data set is given; set data to a folder, a file or a hub name")
    if bool(recipe.encoder) != bool(recipe.decoder):
        raise ConfigError("an encoder needs a decoder beside it, and a decoder an encoder; set both")
    if bool(recipe.model) == bool(recipe.encoder):
        raise ConfigError(
            "set either model (a dual encoder, a BLIP or a VisionEncoderDecoder) or encoder and decoder (vit and gpt2)"
        )
    check_limits(recipe)
    if recipe.dim % recipe.heads:
        raise ConfigError(f"dim is {recipe.dim}, which {recipe.heads} heads do not divide; set heads to a divisor")
    if recipe.reward_epochs and _is_whole(recipe):
        raise ConfigError("only a small decoder on a dual encoder is trained on CIDEr itself; leave out reward_epochs")
    if recipe.reward_epochs and recipe.reward_samples < 2:
        raise ConfigError("reward_samples must be at least 2: each caption is judged against the picture's others")


def _parts(recipe: CaptionRecipe, progress: Progress) -> tuple[Pairs, Pairs, Report]:
    from diptych.doctor import sound
    from diptych.formats import read_pairs

    pairs = read_pairs(recipe.data, recipe.format)
    pairs, left_out = sound(pairs, max_bad_share=recipe.max_bad_share, progress=progress)
    captioned = pairs.where(len(row.captions) > 0 for row in pairs)
    return *split_for_training(captioned, recipe.val_fraction), left_out
