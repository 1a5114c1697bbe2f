"""The valid range of every numeric setting of the recipes."""

from __future__ import annotations

import dataclasses
import math
import typing

from diptych.errors import ConfigError
from diptych.training.run_settings import RunSettings

Number = int | float
_HUGE = 1_000_000_000

LIMITS: dict[str, tuple[Number, Number]] = {  # setting -> (minimum, maximum), both inclusive
    "val_fraction": (0.0, 0.99),
    "max_bad_share": (0.0, 1.0),
    "image_size": (8, 4096),
    "max_length": (1, 100_000),
    "dim": (1, 16_384),
    "hidden": (1, 65_536),
    "layers": (1, 128),
    "image_layers": (0, 128),
    "heads": (1, 256),
    "dropout": (0.0, 0.99),
    "feature_dropout": (0.0, 0.99),
    "lora_rank": (0, 4096),
    "head_epochs": (0, 1_000_000),
    "reward_epochs": (0, 1_000_000),
    "epochs": (1, 1_000_000),
    "max_steps": (1, _HUGE),
    "batch_size": (1, 1_000_000),
    "chunk_size": (1, 1_000_000),
    "views": (1, 1000),
    **dict.fromkeys(("lr", "lr_head", "lr_image", "lr_text", "lr_tower", "reward_lr"), (0.0, 100.0)),
    "warmup": (0.0, 1.0),
    "weight_decay": (0.0, 100.0),
    "max_grad_norm": (1e-6, 1e9),
    "ema": (0.0, 0.999_999),
    "patience": (0, _HUGE),
    "save_steps": (1, _HUGE),
    "save_minutes": (0.0, 1e6),
    "seed": (0, 2**63 - 1),
    "workers": (1, 1024),
    "label_smoothing": (0.0, 0.99),
    "logit_scale": (1e-3, 1000.0),
    "max_tokens": (1, 4096),
    "captions": (1, 1000),
    "min_count": (1, _HUGE),
    "reward_samples": (1, 1000),
    "beams": (1, 256),
    "hard": (0, 10_000),
    "hard_share": (1e-6, 0.999_999),
    "hard_mixture": (0.0, 1.0),
    "prior": (1e-6, 0.999_999),
    "contrast": (0.0, 1e6),
    "binary": (0.0, 1e6),
    "contrast_scale": (1e-3, 1e6),
    "library": (0, _HUGE),
}
_ARGUMENT_LIMIT = 10_000_000  # absolute value of the architecture arguments, whose names belong to other libraries


def check_settings(recipe: RunSettings) -> None:
    """Check that a recipe names a data set and that its numbers are in range.

    Raises:
        ConfigError: `data` is empty, or a number is out of range.
    """
    if not recipe.data:
        raise ConfigError("no data set is given; set data to a folder, a file or a hub name")
    check_limits(recipe)


def check_stored_views(recipe: RunSettings, tower: str, example: int) -> None:
    """Check that an augmented recipe stores several views of each image if image features are computed only once.

    Args:
        recipe: the settings.
        tower: why they are computed once: the image tower is "frozen", say.
        example: a number of views to suggest.

    Raises:
        ConfigError: the images are augmented, but only one view of each is stored.
    """
    if recipe.augment != "none" and recipe.views < 2:
        raise ConfigError(
            f"the image tower is {tower}, so its features are computed once and augmentation would have no effect; "
            f"set views to the number of stored views per image (for example {example}), or augment to none"
        )


def check_in_batch_negatives(recipe: RunSettings) -> None:
    """Check that every pair of a batch has a negative in it.

    Raises:
        ConfigError: `batch_size` is below 2.
    """
    if recipe.batch_size < 2:
        raise ConfigError("batch_size must be at least 2: the pairs of a batch are each other's negatives")


def check_limits(recipe: RunSettings) -> None:
    """Check that the numeric settings of a recipe are finite and within `LIMITS`.

    Raises:
        ConfigError: one is not; the message gives its name, value and range.
    """
    for name, value in dataclasses.asdict(recipe).items():
        if isinstance(value, dict):
            for argument, number in value.items():
                _check(f"{name}.{argument}", number, (-_ARGUMENT_LIMIT, _ARGUMENT_LIMIT))
        elif name in LIMITS:
            _check(name, value, LIMITS[name])


def numeric_settings(recipe: type[RunSettings]) -> set[str]:
    """The names of the settings of a recipe class whose type is a number or an optional number."""
    hints = typing.get_type_hints(recipe)
    return {name for name, hint in hints.items() if hint in (int, float, int | None, float | None)}


def _check(name: str, value: object, limits: tuple[Number, Number]) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return  # None, or not a number
    low, high = limits
    if not math.isfinite(value) or not low <= value <= high:
        raise ConfigError(f"{name} is {value}; it must be at least {low:,} and at most {high:,}")
