"""Reading notes: what a reader of a data set noticed and no row shows, by kind of finding."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from diptych.data.joins import EXAMPLES, JoinReport, Tally
from diptych.images.decode import readable_text


@dataclass(frozen=True, slots=True)
class Example:
    """One occurrence of a finding: the file or image id, and a detail."""

    file: str
    detail: str


@dataclass
class ReadingNotes:
    """Counts and first examples of what was noticed while a data set was read, by kind (see `doctor.report.KINDS`).

    Attributes:
        counts: number of occurrences of each kind.
        examples: the first `EXAMPLES` of each kind.
        guessed: the image files that were found by something other than their exact name; see `ImagePaths`.
        outside: the first name that leads out of the image folders and was not found below them, as an error message.
        relocated: how many absolute paths of another machine were found below the image folders.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)
    guessed: set[str] = field(default_factory=set)
    outside: str | None = None
    relocated: int = 0

    def add(self, kind: str, file: str, detail: str) -> None:
        """Count one occurrence of `kind`."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if len(kept := self.examples.setdefault(kind, [])) < EXAMPLES:
            kept.append(Example(readable_text(file), readable_text(detail)))

    def add_join(self, report: JoinReport) -> None:
        """Count the names that a join left over, and those that it met more than once."""
        parts: tuple[tuple[str, Tally, str], ...] = (
            ("unmatched", report.left_only, f"one of the {report.left}; not among the {report.right}"),
            ("unmatched", report.right_only, f"one of the {report.right}; not among the {report.left}"),
            ("repeated", report.repeated, f"occurs more than once between the {report.left} and the {report.right}"),
        )
        for kind, tally, detail in parts:
            for name in tally.examples:
                self.add(kind, name, detail)
            if more := tally.count - len(tally.examples):
                self.counts[kind] += more

    def to_json(self) -> str:
        """Counts and examples as JSON, for the metadata of a table."""
        examples = {kind: [asdict(example) for example in kept] for kind, kept in self.examples.items()}
        return json.dumps({"counts": self.counts, "examples": examples})

    @classmethod
    def from_json(cls, text: str | bytes) -> ReadingNotes:
        """The notes that `to_json` wrote."""
        stored = json.loads(text)
        examples = {kind: [Example(**example) for example in kept] for kind, kept in stored["examples"].items()}
        return cls(stored["counts"], examples)
