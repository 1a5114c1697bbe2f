"""The captioning recipe: trains a captioner on images with captions."""

from __future__ import annotations

from diptych.errors import ConfigError
from diptych.runtime.progress import Progress, silent
from diptych.training.caption.config import CaptionRecipe
from diptych.training.ranges import check_settings
from diptych.training.results import CaptionTrainingResult


def train_captioner(
    recipe: CaptionRecipe, *, resume: bool = False, progress: Progress = silent
) -> CaptionTrainingResult:
    """Train a small decoder on the image patches of a frozen dual encoder, or fine-tune an encoder-decoder model.

    Writes into `recipe.out`: `model/` (for `load_captioner`), `recipe.yaml`, and a folder per phase with its log and
    checkpoint.

    Args:
        recipe: the settings.
        resume: continue an interrupted run; it ends with the weights of an uninterrupted one.
        progress: wraps the batches of each epoch.

    Raises:
        DataError: no image is usable, or too many are unusable.
        ConfigError: settings contradict each other or are out of range, `out` holds other files, or it holds a run and
            `resume` is false.
        Busy: another process trains in `out`.
        ModelError: the model cannot be loaded, or does not expose the hidden states of its patches.
    """
    _check(recipe)
    from diptych.training.run import start_run

    with start_run(recipe, resume=resume, progress=progress) as run:
        data = run.load_data()
        if _is_encoder_decoder(recipe):
            from diptych.training.caption.encoder_decoder import train_encoder_decoder as train
        else:
            from diptych.training.caption.small_decoder import train_small_decoder as train
        outcomes, scores = train(run, data)
        return CaptionTrainingResult(
            model=run.model, outcomes=outcomes, scores=scores, left_out=data.left_out, sizes=data.sizes
        )


def _is_encoder_decoder(recipe: CaptionRecipe) -> bool:
    """Whether the recipe trains an encoder-decoder model, and not a small decoder on a dual encoder."""
    from diptych.captioning.transformers_captioner import is_whole
    from diptych.models.checkpoints import model_directory

    return bool(recipe.encoder) or is_whole(model_directory(recipe.model))


def _check(recipe: CaptionRecipe) -> None:
    check_settings(recipe)
    if bool(recipe.encoder) != bool(recipe.decoder):
        raise ConfigError("an encoder needs a decoder, and a decoder an encoder; set both")
    if bool(recipe.model) == bool(recipe.encoder):
        raise ConfigError(
            "set either model (a dual encoder, a BLIP or a VisionEncoderDecoder) or encoder and decoder (vit and gpt2)"
        )
    if recipe.dim % recipe.heads:
        raise ConfigError(
            f"dim is {recipe.dim}, which is not divisible by {recipe.heads} heads; set heads to a divisor"
        )
    if recipe.reward_epochs and _is_encoder_decoder(recipe):
        raise ConfigError("self-critical training needs a small decoder on a dual encoder; set reward_epochs to 0")
    if recipe.reward_epochs and recipe.reward_samples < 2:
        raise ConfigError("reward_samples must be at least 2: the other samples of an image are the baseline of each")
