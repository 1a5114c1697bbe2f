"""The matching recipe: trains a calibrated matcher on a frozen dual encoder."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from diptych.errors import ConfigError, DataError, did_you_mean
from diptych.runtime.progress import Progress, silent
from diptych.training.match.config import MatchRecipe
from diptych.training.ranges import check_in_batch_negatives, check_settings
from diptych.training.results import MatchTrainingResult

if TYPE_CHECKING:
    from diptych.data.labelled import Labelled
    from diptych.matching.matcher import Matcher
    from diptych.models.dual_encoder import DualEncoder
    from diptych.training.match.data import EncodedPairs
    from diptych.training.match.validation import MatchValidator
    from diptych.training.run import Run, TrainingData
    from diptych.training.trainer import Outcome


def train_matcher(recipe: MatchRecipe, *, resume: bool = False, progress: Progress = silent) -> MatchTrainingResult:
    """Train the heads of a matcher one after the other on a frozen dual encoder, and calibrate them.

    Writes into `recipe.out`: `model/` (the dual encoder with the calibrated heads, `cosine` among them), `recipe.yaml`,
    and a folder per head with its log and checkpoint.

    Args:
        recipe: the settings.
        resume: continue an interrupted run; it ends with the weights of an uninterrupted one.
        progress: wraps the batches of each epoch.

    Raises:
        DataError: no image is usable, too many are unusable, or the labelled pairs have only one label.
        ConfigError: settings contradict each other or are out of range, `out` holds other files, or it holds a run and
            `resume` is false.
        Busy: another process trains in `out`.
        ModelError: the dual encoder cannot be loaded, or does not expose the hidden states that a head needs.
    """
    _check(recipe)
    from diptych.training.run import start_run

    with start_run(recipe, resume=resume, progress=progress) as run:
        return _train(run)


def _train(run: Run[MatchRecipe]) -> MatchTrainingResult:
    from diptych.matching.hubness import SHARPNESS, Banks
    from diptych.matching.storage import save_matchers
    from diptych.models import dual_encoder
    from diptych.training.match.validation import MatchValidator

    recipe = run.recipe
    encoder = dual_encoder.load(recipe.model, recipe.device)
    data, train, val = _encoded_data(run, encoder)
    sharpness = SHARPNESS * encoder.logit_scale
    banks = Banks.sample(train.images.embeddings, train.text_embeddings, sharpness, seed=recipe.seed)
    validator = MatchValidator(recipe, encoder, val, banks)
    outcomes, matchers = _train_heads(run, encoder, train, validator)
    scores = {matcher.name: validator(matcher.head) for matcher in matchers}
    with run.publish() as folder:
        encoder.save(folder, run.metadata(data, scores))
        save_matchers(matchers, folder)
    return MatchTrainingResult(
        model=run.model, outcomes=outcomes, scores=scores, left_out=data.left_out, sizes=data.sizes
    )


def _check(recipe: MatchRecipe) -> None:
    from diptych.matching.heads import HEADS

    check_settings(recipe)
    if not recipe.model:
        raise ConfigError("no dual encoder is given; set model to a training run, a directory or a hub name")
    for name in recipe.heads:
        if name not in HEADS:
            raise ConfigError(f"heads: no head is called '{name}'; {did_you_mean(name, HEADS)}")
    check_in_batch_negatives(recipe)
    if recipe.augment != "none" and recipe.views < 2:
        raise ConfigError("only the views beyond the first are augmented; set views to 2 or more, or augment to none")


def _encoded_data(run: Run[MatchRecipe], encoder: DualEncoder) -> tuple[TrainingData, EncodedPairs, EncodedPairs]:
    """The data set, and its training and validation split as the dual encoder encodes them."""
    from diptych.data.labelled import is_labelled, read_labelled_pairs
    from diptych.matching.heads import HEADS
    from diptych.training.encoded_images import Views
    from diptych.training.match.data import encode_pairs

    recipe = run.recipe
    labelled = read_labelled_pairs(recipe.data) if is_labelled(recipe.data) else None
    if labelled:
        _refuse_one_label(labelled, f"pairs of '{recipe.data}'", "add pairs with the other label")
    data = run.load_data(labelled.images if labelled else None, labelled.labels if labelled else None)
    train, val = (labelled.of(split) if labelled else None for split in (data.train, data.val))
    for part, name in ((train, "training"), (val, "validation")):
        if part is not None:
            _refuse_one_label(part, f"{name} pairs", "set val_fraction to another fraction, or add pairs")
    if labelled is None:
        _require_negatives(data)
    encode = partial(
        encode_pairs,
        encoder,
        with_states=any(getattr(HEADS[name], "needs_states", False) for name in recipe.heads),
        max_tokens=recipe.max_tokens,
        progress=run.progress,
    )
    augmented = encode(data.train, train, Views(recipe.views, recipe.augment, recipe.seed))
    return data, augmented, encode(data.val, val)


def _refuse_one_label(labelled: Labelled, name: str, step: str) -> None:
    if labelled.labels.all() or not labelled.labels.any():
        label = "match" if labelled.labels.all() else "no match"
        raise DataError(
            f"all {len(labelled):,} labelled {name} have the label '{label}', but a matcher learns from matches and "
            f"mismatches; {step}"
        )


def _require_negatives(data: TrainingData) -> None:
    """Check that there are two validation images: each is a negative of the other."""
    from diptych.data.pairs import split_position

    if len(data.val) > 1:
        return
    positions = sorted(split_position(image_id) for pairs in (data.train, data.val) for image_id in pairs.image_ids)
    fraction = math.ceil(100 * positions[1] + 0.5) / 100  # holds out the second image too
    step = f"set val_fraction to {fraction:g}, or add images" if len(positions) > 3 and fraction < 1 else "add images"
    raise DataError(
        "a matcher needs at least two validation images, each as a negative of the other, and two for training; there "
        f"are {len(data.val):,} and {len(data.train):,}: {step}"
    )


def _train_heads(
    run: Run[MatchRecipe], encoder: DualEncoder, train: EncodedPairs, validator: MatchValidator
) -> tuple[dict[str, Outcome], list[Matcher]]:
    import torch

    from diptych.matching.heads import CosineHead
    from diptych.training.checkpoint import BEST, load_weights
    from diptych.training.match.task import match_task, new_head

    recipe = run.recipe
    outcomes = {}
    matchers = [validator.matcher(CosineHead(), "cosine")]
    for name in recipe.heads:
        torch.manual_seed(recipe.seed)
        head, arguments = new_head(recipe, name, encoder)
        folder = run.out / name
        outcomes[name] = run.fit(match_task(recipe, encoder, head, train, validator, folder), phase=name)
        load_weights(head, folder / BEST)
        matchers.append(validator.matcher(head.eval(), name, arguments))
    return outcomes, matchers
