"""What adding to an index did: how many pictures came, stayed and went, and which files were skipped and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diptych.images.skipped import Skipped
from diptych.runtime.atomic import write_text


@dataclass(frozen=True, slots=True)
class Added:
    """What one `Index.add` or `Index.prune` did, in pictures.

    `new` were embedded; `copied` have the content of another picture and took its vector, `renamed` that of one which
    is no longer there; `changed` have new content or a new caption; `unchanged` cost no more than a look at the file.
    `gone` are in the index but no longer in the source, and were kept; `pruned` were taken out: what is gone, if that
    was asked for, and what a renaming that was cut off had left.
    """

    new: int = 0
    unchanged: int = 0
    renamed: int = 0
    copied: int = 0
    changed: int = 0
    gone: int = 0
    pruned: int = 0
    embedded: int = 0
    skipped: Sequence[Skipped] = ()
    seconds: float = 0.0

    @property
    def pictures(self) -> int:
        """How many pictures of the source are in the index now."""
        return self.new + self.unchanged + self.renamed + self.copied + self.changed

    @property
    def pictures_per_second(self) -> float:
        """Pictures looked at, a second."""
        return (self.pictures + len(self.skipped)) / self.seconds if self.seconds else 0.0

    @property
    def reasons(self) -> dict[str, int]:
        """How many files were skipped for each reason, the most frequent first."""
        return dict(Counter(each.reason for each in self.skipped).most_common())

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it, every skipped file included."""
        derived = {"pictures": self.pictures, "pictures_per_second": round(self.pictures_per_second, 1)}
        return {**asdict(self), **derived, "reasons": self.reasons}

    def summary(self) -> str:
        """One line for people: what is not zero."""
        counts = {name: getattr(self, name) for name in ("new", "changed", "renamed", "copied", "unchanged")}
        counts |= {"pruned": self.pruned, "no longer there": self.gone, "skipped": len(self.skipped)}
        return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "nothing to index"


def write_skipped(file: Path, skipped: Sequence[Skipped]) -> None:
    """Keep the list of skipped files in `file`, as JSON, replaced whole."""
    write_text(file, json.dumps([asdict(each) for each in skipped], indent=1, ensure_ascii=False) + "\n")
