"""Skipped files, each with the reason why it was not read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was skipped.

    `reason` is one of `ImageError`'s (`outside`: outside the folders that may be read), or `not_a_vector` or
    `repeated`; `detail` is a sentence.
    """

    path: str
    reason: str
    detail: str

    def __post_init__(self) -> None:
        """Replace lone surrogates in `detail`, by which Python decodes bytes that are not UTF-8, by `?`."""
        object.__setattr__(self, "detail", self.detail.encode("utf-8", "replace").decode())
