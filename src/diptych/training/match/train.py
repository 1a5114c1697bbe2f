"""The matching recipe: from a dual encoder and captioned or labelled pictures to a calibrated matcher."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.errors import ConfigError, did_you_mean
from diptych.runtime.progress import Progress, silent
from diptych.training.contrastive.train import split_for_training
from diptych.training.ranges import check_limits

if TYPE_CHECKING:
    from diptych.data.doctor.inspect import Report
    from diptych.matching.matcher import Matcher
    from diptych.models.dual_encoder import DualEncoder
    from diptych.training.match.data import Part
    from diptych.training.match.validation import Check
    from diptych.training.run_folder import Run
    from diptych.training.trainer import Outcome
from diptych.training.match.config import MatchRecipe


@dataclass
class MatchTraining:
    """A finished run: where its model lies, how each head's training went, and its validation scores."""

    model: Path
    outcomes: dict[str, Outcome]
    scores: dict[str, dict[str, float]]
    left_out: Report
    sizes: dict[str, int]


def train_matcher(recipe: MatchRecipe, *, resume: bool = False, progress: Progress = silent) -> MatchTraining:
    """Train the heads one after another on what the frozen dual encoder makes of the data, and calibrate them.

    Leaves in `recipe.out`: `model/` (the dual encoder with its calibrated heads, and `cosine` beside them),
    `recipe.yaml`, and a folder for each head with its log and checkpoint, from which `resume` goes on exactly.

    Raises:
        DataError: no usable picture, too many that cannot be used, or labelled pairs of one label alone.
        ConfigError: settings contradict each other or are out of range, `out` holds other files, or a run already and
            `resume` was not asked for.
        Busy: another process trains in `out`.
        ModelError: the dual encoder cannot be loaded, or does not show what a head needs.
    """
    from diptych.training.run_folder import owned_run

    _check(recipe)
    with owned_run(recipe, resume=resume) as run:
        return _train(run, recipe, progress)


def _train(run: Run, recipe: MatchRecipe, progress: Progress) -> MatchTraining:
    from diptych.matching.hubness import SHARPNESS, Banks
    from diptych.matching.storage import save_matchers
    from diptych.models import dual_encoder as dual
    from diptych.training.match.validation import Check

    encoder = dual.load(recipe.model, recipe.device)
    train, val, left_out = _parts(recipe, encoder, progress)
    banks = Banks.sample(train.image_vectors, train.text_vectors, SHARPNESS * encoder.logit_scale, seed=recipe.seed)
    check = Check(recipe, encoder, val, banks)
    outcomes, matchers = _heads(run, encoder, train, check, progress)
    scores = {matcher.name: check(matcher.head) for matcher in matchers}
    sizes = {"train": len(train.pairs), "val": len(val.pairs)}
    with run.publishing() as fresh:
        encoder.save(fresh, {"recipe": asdict(recipe), "pictures": sizes, "validation": scores})
        save_matchers(matchers, fresh)
    return MatchTraining(run.model, outcomes, scores, left_out, sizes)


def _check(recipe: MatchRecipe) -> None:
    from diptych.matching.heads import HEADS

    if not recipe.data:
        raise ConfigError("no data set is given; set data to a folder, a file or a hub name")
    if not recipe.model:
        raise ConfigError("no dual encoder is given; set model to a training run, a directory or a hub name")
    check_limits(recipe)
    for name in recipe.heads:
        if name not in HEADS:
            raise ConfigError(f"heads: no head is called '{name}'; {did_you_mean(name, HEADS)}")
    if recipe.batch_size < 2:
        raise ConfigError("batch_size must be at least 2: the other pairs of a batch are its negatives")
    if recipe.augment != "none" and recipe.views < 2:
        raise ConfigError("augmented pictures are views beyond the first; set views to 2 or more, or augment to none")
    for name in ("prior", "hard_share"):
        if not 0 < getattr(recipe, name) < 1:
            raise ConfigError(f"{name} is {getattr(recipe, name)}; it must be above 0 and below 1")


def _parts(recipe: MatchRecipe, encoder: DualEncoder, progress: Progress) -> tuple[Part, Part, Report]:
    from diptych.data.doctor.inspect import sound
    from diptych.data.formats.read import read_pairs
    from diptych.data.labelled import is_labelled, read_labelled_pairs
    from diptych.matching.heads import HEADS
    from diptych.training.match.data import store_part

    labelled = read_labelled_pairs(recipe.data) if is_labelled(recipe.data) else None
    pairs, left_out = sound(
        labelled.pictures if labelled else read_pairs(recipe.data, recipe.format),
        max_bad_share=recipe.max_bad_share,
        progress=progress,
    )
    train, val = split_for_training(pairs, recipe.val_fraction)
    shared: dict[str, Any] = {
        "with_states": any(HEADS[name].needs_states for name in recipe.heads),
        "max_tokens": recipe.max_tokens,
        "progress": progress,
    }
    views: dict[str, Any] = {"augment": recipe.augment, "views": recipe.views, "seed": recipe.seed}
    return (
        store_part(encoder, train, labelled.of(train) if labelled else None, **shared, **views),
        store_part(encoder, val, labelled.of(val) if labelled else None, **shared),
        left_out,
    )


def _heads(
    run: Run, encoder: DualEncoder, train: Part, check: Check, progress: Progress
) -> tuple[dict[str, Outcome], list[Matcher]]:
    import torch

    from diptych.matching.heads import CosineHead
    from diptych.training.match.task import BEST, match_task, new_head
    from diptych.training.trainer import Schedule, Trainer, read_weights

    recipe: MatchRecipe = run.recipe
    outcomes = {}
    matchers = [check.matcher(CosineHead(), "cosine")]
    settings = {name: getattr(recipe, name) for name in Schedule.__dataclass_fields__ if hasattr(recipe, name)}
    for name in recipe.heads:
        torch.manual_seed(recipe.seed)
        head, arguments = new_head(recipe, name, encoder)
        folder = run.out / name
        task = match_task(recipe, encoder, head, train, check, folder)
        trainer = Trainer(task, Schedule(**settings, metric="score"), folder, progress, run.record)
        outcomes[name] = trainer.fit(resume=True)
        head.load_state_dict(read_weights(folder / BEST))
        matchers.append(check.matcher(head.eval(), name, arguments))
    return outcomes, matchers
