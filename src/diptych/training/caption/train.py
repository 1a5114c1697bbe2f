"""The captioning recipe: from captioned pictures to a model that writes captions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.errors import ConfigError
from diptych.runtime.progress import Progress, silent
from diptych.training.contrastive.train import split_for_training
from diptych.training.ranges import check_limits

if TYPE_CHECKING:
    from diptych.data.doctor.inspect import Report
    from diptych.data.pairs import Pairs
    from diptych.training.run_folder import Run
    from diptych.training.trainer import Outcome
from diptych.training.caption.config import CaptionRecipe


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
    from diptych.training.run_folder import owned_run

    _check(recipe)
    with owned_run(recipe, resume=resume) as run:
        return _train(run, recipe, progress)


def _train(run: Run, recipe: CaptionRecipe, progress: Progress) -> CaptionTraining:
    train, val, left_out = _parts(recipe, progress)
    if _is_whole(recipe):
        from diptych.training.caption.whole import train_whole as train_kind
    else:
        from diptych.training.caption.grid import train_grid as train_kind
    outcomes, scores = train_kind(run, train, val, progress)
    return CaptionTraining(run.model, outcomes, scores, left_out, {"train": len(train), "val": len(val)})


def _is_whole(recipe: CaptionRecipe) -> bool:
    """Whether an encoder and a decoder are trained together, and not a small decoder on a dual encoder."""
    from diptych.captioning.transformers_captioner import is_whole
    from diptych.models.checkpoints import model_directory

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
    from diptych.data.doctor.inspect import sound
    from diptych.data.formats.read import read_pairs

    pairs = read_pairs(recipe.data, recipe.format)
    pairs, left_out = sound(pairs, max_bad_share=recipe.max_bad_share, progress=progress)
    captioned = pairs.where(len(row.captions) > 0 for row in pairs)
    return *split_for_training(captioned, recipe.val_fraction), left_out
