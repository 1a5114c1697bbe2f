"""Convert one name, or a sequence of names, to a tuple of names."""

from __future__ import annotations

from collections.abc import Iterable


def as_names(names: str | Iterable[str] | None) -> tuple[str, ...]:
    """None, one name or several as a tuple, so that no string is taken for a sequence of letters."""
    return (names,) if isinstance(names, str) else tuple(names or ())
