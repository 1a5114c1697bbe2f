"""Exclusions of an index: patterns are remembered with it, and what they leave out leaves the index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diptych.errors import DataError, NextStep
from diptych.images.exclusions import Exclusions
from diptych.images.roots import is_inside
from diptych.search.prune import LargeLoss, remove_excluded
from diptych.search.store import Store


def exclusions_of(store: Store, root: Path, patterns: Sequence[str] = (), *, reset: bool = False) -> Exclusions:
    """The exclusions that hold below a folder: those that the index remembers, and `patterns`; nothing is written.

    With `reset`, what is remembered for the folder, for folders in it, and for those that contain it is left out.

    Raises:
        ConfigError: a pattern is not valid.
    """
    return Exclusions(
        {folder: given for folder, given in _merged(store, root, patterns, reset).items() if _overlap(folder, root)}
    )


def exclude_below(
    store: Store, root: Path, patterns: Sequence[str] = (), *, reset: bool = False, large_loss: LargeLoss = "refuse"
) -> tuple[Exclusions, int]:
    """`exclusions_of`, remembered from now on, and the number of rows that were removed. The caller holds the lock.

    Raises:
        ConfigError: a pattern is not valid, or there are too many.
        DataError: `root` itself is excluded, or most rows below it would be and `large_loss` is "refuse".
    """
    exclusions, removed = exclusions_of(store, root, patterns, reset=reset), 0
    if exclusions.excludes_below(str(root), is_folder=True):
        raise DataError(
            f"'{root}' is left out by a pattern that the index remembers",
            steps=[NextStep("forget the patterns", "reset_exclude")],
        )
    if (merged := _merged(store, root, patterns, reset)) != store.exclusions:
        removed = remove_excluded(store, root, exclusions, large_loss)
        store.record_exclusions(merged)
    return exclusions, removed


def _merged(store: Store, root: Path, patterns: Sequence[str], reset: bool) -> dict[str, tuple[str, ...]]:
    remembered = {folder: given for folder, given in store.exclusions.items() if not (reset and _overlap(folder, root))}
    own = tuple(dict.fromkeys([*remembered.get(str(root), ()), *patterns]))
    return {**remembered, str(root): own} if own else remembered


def _overlap(folder: str, root: Path) -> bool:
    """Whether one of two folders contains the other."""
    return is_inside(folder, [str(root)]) or is_inside(str(root), [folder])
