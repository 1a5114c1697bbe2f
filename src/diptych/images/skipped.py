"""Files that were skipped, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is not in the index; `reason`: one of `ImageError`'s, or `not_a_vector` or `repeated`.

    `outside`: it lies outside the folders that may be read.
    """

    path: str
    reason: str
    detail: str

    def __post_init__(self) -> None:
        """Bytes of a name that are not UTF-8 are lone surrogates in Python, which no file or answer can hold: `?`."""
        object.__setattr__(self, "detail", self.detail.encode("utf-8", "replace").decode())
