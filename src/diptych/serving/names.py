"""Names: one or several, given as a string or as a sequence of strings."""

from __future__ import annotations

from collections.abc import Iterable


def as_names(names: str | Iterable[str] | None) -> tuple[str, ...]:
    """None, one name or several as a tuple, so that no string is taken for a sequence of letters."""
    return (names,) if isinstance(names, str) else tuple(names or ())
