"""Report of an addition to an index: how many images were added, kept and removed, and which files were skipped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diptych.images.skipped import Skipped
from diptych.images.suffixes import describe_unread
from diptych.runtime.atomic import write_text


@dataclass(frozen=True, slots=True)
class AddReport:
    """What one `Index.add` or `Index.prune` did, in numbers of images.

    `new` paths have new content; `copied` ones have the content of another image and took its embedding, `renamed`
    ones that of an image whose file is gone; `changed` ones have new content or a new caption; `unchanged` ones cost a
    stat call. `gone` have no file any more, and were kept; `pruned` were removed. `unreachable` were kept because they
    lie in `unreachable_folders`, whose drive may be off. `excluded` were removed because a pattern leaves them out;
    `unmatched` are the patterns that matched nothing. `rebased` got a new path because the library had been moved with
    its index. `embedded` is how many went through the model, `seconds` how long it took. `unread` counts the files of a
    folder that have the suffix of no image that is read, by suffix in lower case.
    """

    new: int = 0
    unchanged: int = 0
    renamed: int = 0
    copied: int = 0
    changed: int = 0
    gone: int = 0
    pruned: int = 0
    unreachable: int = 0
    excluded: int = 0
    rebased: int = 0
    embedded: int = 0
    skipped: Sequence[Skipped] = ()
    seconds: float = 0.0
    unreachable_folders: Sequence[str] = ()
    unmatched: Sequence[str] = ()
    unread: Mapping[str, int] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """How many images of the source are in the index now."""
        return self.new + self.unchanged + self.renamed + self.copied + self.changed

    @property
    def images_per_second(self) -> float:
        """Images per second, skipped ones included."""
        return (self.images + len(self.skipped)) / self.seconds if self.seconds else 0.0

    @property
    def reasons(self) -> dict[str, int]:
        """How many files were skipped for each reason, most frequent first."""
        return dict(Counter(skip.reason for skip in self.skipped).most_common())

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it, with every skipped file."""
        derived = {"images": self.images, "images_per_second": round(self.images_per_second, 1)}
        return {**asdict(self), **derived, "reasons": self.reasons}

    def summary(self) -> str:
        """The counts that are not zero, in one line of text."""
        counts = {name: getattr(self, name) for name in ("new", "changed", "renamed", "copied", "unchanged")}
        counts |= {"moved with the library": self.rebased, "excluded": self.excluded, "pruned": self.pruned}
        counts |= {"no longer there": self.gone, "out of reach": self.unreachable, "skipped": len(self.skipped)}
        return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "no images found"

    def unread_summary(self) -> str:
        """The RAW photographs, videos and other images that are not read, in one line; empty if there are none.

        All other files are named too if there was nothing to index.
        """
        return describe_unread(self.unread, others=not self.images)


def write_skipped(file: Path, skipped: Sequence[Skipped]) -> None:
    """Write the list of skipped files to `file` as JSON, atomically."""
    write_text(file, json.dumps([asdict(skip) for skip in skipped], indent=1, ensure_ascii=False) + "\n")
