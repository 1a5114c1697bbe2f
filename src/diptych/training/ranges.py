"""The range of every numeric setting of every recipe, checked before a run begins."""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Any

from diptych.errors import ConfigError

Number = int | float
_HUGE = 1_000_000_000

LIMITS: dict[str, tuple[Number, Number]] = {  # setting -> smallest and largest value
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
    "lr": (0.0, 100.0),
    "lr_head": (0.0, 100.0),
    "lr_image": (0.0, 100.0),
    "lr_text": (0.0, 100.0),
    "lr_tower": (0.0, 100.0),
    "reward_lr": (0.0, 100.0),
    "warmup": (0.0, 1.0),
    "weight_decay": (0.0, 100.0),
    "max_grad_norm": (1e-6, 1e9),
    "ema": (0.0, 0.999_999),
    "patience": (0, _HUGE),
    "save_steps": (1, _HUGE),
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
_ARGUMENT = 10_000_000  # of an architecture's arguments, which bear the names of their library


def check_limits(recipe: Any) -> None:
    """Refuse settings outside their range, and what is no finite number.

    Raises:
        ConfigError: there is one; the message names it and its range.
    """
    for name, value in dataclasses.asdict(recipe).items():
        if isinstance(value, dict):
            for argument, number in value.items():
                _check(f"{name}.{argument}", number, (-_ARGUMENT, _ARGUMENT))
        elif name in LIMITS:
            _check(name, value, LIMITS[name])


def numeric_settings(recipe: type) -> set[str]:
    """The names of a recipe's settings that are numbers, or a number or nothing."""
    hints = typing.get_type_hints(recipe)
    return {name for name, hint in hints.items() if hint in (int, float, int | None, float | None)}


def _check(name: str, value: Any, limits: tuple[Number, Number]) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return  # None, or a setting of another type: a list of heads
    low, high = limits
    if not math.isfinite(value) or not low <= value <= high:
        raise ConfigError(f"{name} is {value}; it must be at least {low:,} and at most {high:,}")
