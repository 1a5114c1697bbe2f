"""How long work reports its progress: a function that wraps an iterable. The library stays silent unless given one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """Wraps an iterable of `total` items and shows how far it is consumed."""

    def __call__(self, items: Iterable[Item], total: int | None, label: str) -> Iterable[Item]: ...


def silent(items: Iterable[Item], total: int | None, label: str) -> Iterable[Item]:
    return items
