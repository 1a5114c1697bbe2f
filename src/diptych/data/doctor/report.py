"""What the doctor reports: figures, and findings with examples and a next step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from diptych.data.pairs import Pairs

Severity = Literal["error", "warning", "info"]

_FETCH = "Fetch the files again, or leave them: training drops these pictures."
_SHRINK = "Shrink the pictures, or leave them: training drops them."
_ONE_SPLIT = "Measurements are too good when a picture is in two splits: keep each in one."

# kind -> severity, what is wrong, next step; the first seven are the reasons of `ImageError`.
KINDS: dict[str, tuple[Severity, str, str]] = {
    "missing": ("error", "pictures are named but not there", "Put the files where the captions say, or give `images`."),
    "empty": ("error", "picture files have no bytes", _FETCH),
    "truncated": ("error", "pictures are cut short", _FETCH),
    "undecodable": ("error", "files are not pictures that can be decoded", _FETCH),
    "too_many_pixels": ("error", "pictures have too many pixels", _SHRINK),
    "too_many_bytes": ("error", "picture files are too large", _SHRINK),
    "unreadable": ("error", "pictures cannot be read", "Check the paths and permissions of the files."),
    "identical_across_splits": ("error", "groups of identical pictures straddle splits", _ONE_SPLIT),
    "near_identical_across_splits": (
        "warning",
        "groups of near-identical pictures straddle splits",
        f"Look at them. {_ONE_SPLIT}",
    ),
    "empty_captions": ("warning", "captions are empty", "Write or remove them; training drops them."),
    "without_captions": ("warning", "pictures have no caption", "Caption or remove them; training drops them."),
    "lost_characters": (
        "warning",
        "captions contain U+FFFD, which stands for a lost character",
        "Export the captions again, as UTF-8.",
    ),
    "wrong_encoding": (
        "warning",
        "lines of the caption files are not UTF-8 and were read as Windows-1252",
        "Save the caption file as UTF-8.",
    ),
    "suspected_mojibake": (
        "warning",
        "captions look like UTF-8 that was read as another encoding",
        "Export the captions again, as UTF-8.",
    ),
    "uncaptioned_files": (
        "info",
        "picture files are named by no caption",
        "Caption them, or leave them: they are not part of the data set.",
    ),
    "identical": (
        "info",
        "groups of identical pictures lie in one split",
        "Remove the copies: each is a false negative of the others.",
    ),
    "near_identical": (
        "info",
        "groups of near-identical pictures lie in one split",
        "Look at them; copies are false negatives of each other.",
    ),
    "shared_captions": (
        "info",
        "captions describe several pictures",
        "Write captions that tell pictures apart: a shared one has several right answers.",
    ),
}


@dataclass(frozen=True, slots=True)
class Example:
    """Where something was found: a file or picture, and what exactly."""

    file: str
    detail: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of fault: how often it occurs, the first few places, and what to do about it."""

    kind: str
    count: int
    examples: tuple[Example, ...]

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind][0]

    @property
    def what(self) -> str:
        return KINDS[self.kind][1]

    @property
    def next_step(self) -> str:
        return KINDS[self.kind][2]


@dataclass(frozen=True, slots=True)
class Spread:
    """The least, middle and greatest of some numbers; all 0 where there are none."""

    min: float
    median: float
    max: float


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of a data set as it was given, and the findings, in the order of `KINDS`.

    `bad_pictures` cannot be used: they do not decode, or have no caption.
    """

    pictures: int
    bad_pictures: int
    captions: int
    splits: dict[str, int]
    captions_per_picture: Spread
    caption_words: Spread
    findings: tuple[Finding, ...]

    @property
    def worst(self) -> Severity | None:
        """The gravest severity among the findings; None without any."""
        found = {finding.severity for finding in self.findings}
        ranks: tuple[Severity, ...] = ("error", "warning", "info")
        return next((severity for severity in ranks if severity in found), None)

    def count(self, kind: str) -> int:
        """How often a kind was found; 0 if it was not."""
        return sum(finding.count for finding in self.findings if finding.kind == kind)

    def summary(self) -> str:
        """The kinds and their counts in one line: `truncated 3, empty_captions 1`; "nothing" without findings."""
        return ", ".join(f"{finding.kind} {finding.count:,}" for finding in self.findings) or "nothing"

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        told = asdict(self)
        for entry, finding in zip(told["findings"], self.findings, strict=True):
            entry |= {"severity": finding.severity, "what": finding.what, "next_step": finding.next_step}
        return told


def describe_pairs(
    pairs: Pairs, usable: Sequence[bool], found: Mapping[str, Sequence[Example]], examples: int
) -> Report:
    """The report of a data set: its figures, and of each kind of `found` the number and the first `examples`."""
    findings = tuple(
        Finding(kind, len(found[kind]), tuple(found[kind][:examples])) for kind in KINDS if found.get(kind)
    )
    captions = pairs.captions()
    words = _spread(np.fromiter((len(caption.split()) for caption in captions), np.int64, len(captions)))
    bad, counts = len(pairs) - sum(usable), _spread(pairs.caption_counts())
    return Report(len(pairs), bad, len(captions), pairs.split_sizes, counts, words, findings)


def _spread(numbers: np.ndarray) -> Spread:
    """Of (n,) integers."""
    if not len(numbers):
        return Spread(0, 0, 0)
    middle = np.sort(numbers)[(len(numbers) - 1) // 2 : len(numbers) // 2 + 1]  # one, or two
    median = middle.mean() if len(middle) == 2 else middle[0]
    return Spread(numbers.min().item(), median.item(), numbers.max().item())
