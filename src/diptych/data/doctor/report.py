"""The doctor's report: statistics of a data set, and findings with examples and a next step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from diptych.data.pairs import Pairs
from diptych.data.reading_notes import Example

Severity = Literal["error", "warning", "info"]

_FETCH = "Download the files again, or leave them: training drops these images."
_SHRINK = "Resize the images, or leave them: training drops them."
_ONE_SPLIT = "An image in two splits makes metrics too optimistic: keep each image in one split."

# kind -> severity, description, next step; the first seven kinds are the values of `ImageError.reason`.
KINDS: dict[str, tuple[Severity, str, str]] = {
    "missing": ("error", "image files do not exist", "Check the image folder, and the names in the captions."),
    "empty": ("error", "image files are empty", _FETCH),
    "truncated": ("error", "image files are truncated", _FETCH),
    "undecodable": ("error", "files cannot be decoded as images", _FETCH),
    "too_many_pixels": ("error", "images have too many pixels", _SHRINK),
    "too_many_bytes": ("error", "image files are too large", _SHRINK),
    "unreadable": ("error", "image files cannot be read", "Check the paths and permissions of the files."),
    "identical_across_splits": ("error", "groups of identical images span several splits", _ONE_SPLIT),
    "near_identical_across_splits": (
        "warning",
        "groups of near-identical images span several splits",
        f"Review them. {_ONE_SPLIT}",
    ),
    "shared_files": (
        "error",
        "image names were not used: without their exact file they would share one with another name",
        "Download the missing images, or write names that say which file is meant.",
    ),
    "ambiguous_names": (
        "error",
        "image names fit several files, so none was used",
        "Write the names with their folder, as in `a/1.jpg`.",
    ),
    "conflicting_ids": (
        "error",
        "rows have the id of an earlier row and another image, which was not read",
        "Give each image an id of its own.",
    ),
    "remote_names": (
        "error",
        "image names are URLs without a file beside the captions",
        "Download the images first; diptych does not fetch them.",
    ),
    "dotted_keys": (
        "warning",
        "samples have a dot in their key, and WebDataset would merge them; each image was read on its own",
        "Write the shards again without dots in the keys.",
    ),
    "unused_members": (
        "warning",
        "members of shards belong to no image",
        "Check their names: the parts of a sample lie side by side, and their names agree up to the first dot.",
    ),
    "unmatched": (
        "warning",
        "names were left over when two lists were joined",
        "Check that both lists are complete and spell the names in the same way.",
    ),
    "repeated": (
        "warning",
        "names occur twice where each must occur once",
        "Keep one of them: only one can be used.",
    ),
    "contradictory_labels": (
        "error",
        "pairs are labelled both as a match and as none",
        "Decide on one label for each pair.",
    ),
    "without_split": (
        "warning",
        "images are in none of the split lists",
        "Add them to a list, or leave them: they are in no split.",
    ),
    "unread_columns": (
        "info",
        "columns of the caption files seem to hold captions and were not read",
        "Number the columns of one family, as caption_1 and caption_2, to read them all; or leave them.",
    ),
    "changed_columns": (
        "info",
        "entries have their captions under another name than the first",
        "Check them, or give all entries the same names.",
    ),
    "list_captions": (
        "warning",
        "captions look like a list written as text",
        'Write the captions as a JSON list, ["a", "b"], or one a line.',
    ),
    "empty_captions": ("warning", "captions are empty", "Fill in or remove them; training drops them."),
    "without_captions": (
        "warning",
        "images have no caption",
        "Caption or remove them; training drops them.",
    ),
    "lost_characters": (
        "warning",
        "captions contain U+FFFD, the replacement for an undecodable character",
        "Export the captions again, as UTF-8.",
    ),
    "wrong_encoding": (
        "warning",
        "lines of the caption files are not UTF-8 and were read as Windows-1252",
        "Save the caption file as UTF-8.",
    ),
    "suspected_mojibake": (
        "warning",
        "captions look like UTF-8 that was decoded as another encoding",
        "Export the captions again, as UTF-8.",
    ),
    "uncaptioned_files": (
        "info",
        "image files have no caption",
        "Add captions, or leave them: they are not part of the data set.",
    ),
    "identical": (
        "info",
        "groups of identical images within one split",
        "Remove the duplicates: they act as false negatives for each other.",
    ),
    "near_identical": (
        "info",
        "groups of near-identical images within one split",
        "Review them; duplicates act as false negatives for each other.",
    ),
    "repeated_captions": (
        "info",
        "captions occur more than once for one image",
        "Remove the repetitions: a repeated caption counts more than the others.",
    ),
    "shared_captions": (
        "info",
        "captions are shared by several images",
        "Write distinguishing captions: a shared caption has several correct images.",
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of fault: the number of occurrences, and the first few as examples."""

    kind: str
    count: int
    examples: tuple[Example, ...]

    @property
    def severity(self) -> Severity:
        """The severity of this kind of finding."""
        return KINDS[self.kind][0]

    @property
    def what(self) -> str:
        """A description of the fault."""
        return KINDS[self.kind][1]

    @property
    def next_step(self) -> str:
        """What to do about it."""
        return KINDS[self.kind][2]


@dataclass(frozen=True, slots=True)
class Spread:
    """Minimum, median and maximum of a sample; all 0 for an empty one."""

    min: float
    median: float
    max: float


@dataclass(frozen=True, slots=True)
class Report:
    """Statistics of a data set, and its findings in the order of `KINDS`.

    `bad_images` is the number of images that cannot be decoded or have no caption.
    """

    images: int
    bad_images: int
    captions: int
    splits: dict[str, int]
    captions_per_image: Spread
    caption_words: Spread
    findings: tuple[Finding, ...]

    @property
    def worst(self) -> Severity | None:
        """The highest severity among the findings; None without findings."""
        severities = {finding.severity for finding in self.findings}
        ranks: tuple[Severity, ...] = ("error", "warning", "info")
        return next((severity for severity in ranks if severity in severities), None)

    def count(self, kind: str) -> int:
        """The number of findings of a kind."""
        return sum(finding.count for finding in self.findings if finding.kind == kind)

    def summary(self) -> str:
        """The kinds and their counts in one line: `truncated 3, empty_captions 1`; "nothing" without findings."""
        return ", ".join(f"{finding.kind} {finding.count:,}" for finding in self.findings) or "nothing"

    def as_dict(self) -> dict[str, Any]:
        """The report as a JSON-serialisable dict."""
        report = asdict(self)
        for entry, finding in zip(report["findings"], self.findings, strict=True):
            entry |= {"severity": finding.severity, "what": finding.what, "next_step": finding.next_step}
        return report


def describe_pairs(
    pairs: Pairs, usable: Sequence[bool], by_kind: Mapping[str, Sequence[Example]], examples: int
) -> Report:
    """Build the report: statistics, and the findings: those in `by_kind`, and the notes taken while `pairs` was read.

    Of each kind, the report has the count and the first `examples` examples.
    """
    notes = pairs.notes
    findings = tuple(
        Finding(
            kind,
            len(by_kind.get(kind, ())) + notes.counts.get(kind, 0),
            (*by_kind.get(kind, ()), *notes.examples.get(kind, ()))[:examples],
        )
        for kind in KINDS
        if by_kind.get(kind) or kind in notes.counts
    )
    captions = pairs.captions()
    words = _spread(np.fromiter((len(caption.split()) for caption in captions), np.int64, len(captions)))
    bad, counts = len(pairs) - sum(usable), _spread(pairs.caption_counts())
    return Report(len(pairs), bad, len(captions), pairs.split_sizes, counts, words, findings)


def _spread(numbers: np.ndarray) -> Spread:
    """Minimum, median and maximum of (n,) integers."""
    if not len(numbers):
        return Spread(0, 0, 0)
    middle = np.sort(numbers)[(len(numbers) - 1) // 2 : len(numbers) // 2 + 1]  # one, or two
    median = middle.mean() if len(middle) == 2 else middle[0]
    return Spread(numbers.min().item(), median.item(), numbers.max().item())
