"""Matching two lists of ids by name: which ids match, which have no match, and which match more than once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

EXAMPLES = 10  # names kept of each kind; the counts are complete


@dataclass(frozen=True, slots=True)
class Tally:
    """The number of some names, and the first few of them."""

    count: int = 0
    examples: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Iterable[str]) -> Tally:
        """Count names, and keep the first `EXAMPLES`."""
        count, examples = 0, list[str]()
        for name in names:
            count += 1
            if len(examples) < EXAMPLES:
                examples.append(name)
        return cls(count, tuple(examples))

    def __str__(self) -> str:
        shown = ", ".join(f"'{name}'" for name in self.examples[:3])
        return shown + (", ..." if self.count > min(3, len(self.examples)) else "")


@dataclass(frozen=True, slots=True)
class JoinReport:
    """The outcome of a join of two sides by name.

    Attributes:
        left: what the names of the left side are, in the plural: "captions of 'results.json'".
        right: the same for the right side: "images of 'coco'".
        matched: names that met exactly one partner.
        left_only: names of the left side without a partner.
        right_only: names of the right side without a partner.
        repeated: names that occur, or are hit, more than once; at most one of their partners is used.
    """

    left: str
    right: str
    matched: int = 0
    left_only: Tally = Tally()
    right_only: Tally = Tally()
    repeated: Tally = Tally()

    @property
    def is_complete(self) -> bool:
        """Whether each name met exactly one partner."""
        return not (self.left_only.count or self.right_only.count or self.repeated.count)

    def sentences(self) -> list[str]:
        """A sentence for each kind of name that did not meet exactly one partner; none for a complete join."""
        kinds = (
            (self.left_only, f"of the {self.left} have no match among the {self.right}"),
            (self.right_only, f"of the {self.right} have no match among the {self.left}"),
            (self.repeated, f"names occur more than once between the {self.left} and the {self.right}"),
        )
        return [f"{tally.count:,} {what}: {tally}" for tally, what in kinds if tally.count]

    def summary(self) -> str:
        """The join in one line: the number matched, then what was left over or repeated."""
        return "; ".join([f"{self.matched:,} of the {self.left} match the {self.right}", *self.sentences()])

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON-serialisable dict."""
        return asdict(self)


def canonical_id(value: object) -> str:
    """An id as text: `139`, `139.0`, `"139"` and `" 139.0 "` are all "139"; leading zeros are kept."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return text.split(".")[0] if _FLOAT.fullmatch(text) else text


_FLOAT = re.compile(r"\d+\.0+")
_NUMBER = re.compile(r"(?<!\d)(\d{1,18})(\.\w+)?$")  # at the end of a name; image numbers have at most 18 digits


def trailing_number(name: str) -> int | None:
    """The number at the end of a name, before its suffix: 139 for `COCO_val2014_000000000139.jpg`."""
    match = _NUMBER.search(name)
    return int(match[1]) if match else None


def match_ids(
    names: Iterable[str], ids: Iterable[str], *, left: str, right: str, aliases: Mapping[str, str] | None = None
) -> tuple[dict[str, str], JoinReport]:
    """Find the id that each name stands for.

    In this order, a name stands for the id that equals it; for the id whose alias it is; for the longest suffix of its
    path that is an id; and, if no aliases are known, a number stands for the one id whose name ends with it. Numbers
    written as text or with a decimal point are the same number. An id is given away once, exact names first: a second
    name for it is counted as repeated and left out.

    Args:
        names: the names to look up.
        ids: the known ids.
        left: what the names are, for the report.
        right: what the ids are, for the report.
        aliases: other name of an image -> its id, such as the numbers of a COCO annotation file (`Pairs.source_ids`).

    Returns:
        A mapping from name to id, and the report.
    """
    listed = list(names)
    known = _Ids(ids, aliases)
    used: dict[str, str] = {}  # id -> name
    ids_by_name: dict[str, str] = {}
    repeated = list(known.repeated)
    unmatched: list[str] = []
    for name in sorted(listed, key=lambda name: name not in known.exact):
        image_id = known.find(name)
        if image_id is None:
            unmatched.append(name)
        elif image_id in used:
            repeated.append(name)
        else:
            used[image_id], ids_by_name[name] = name, image_id
    report = JoinReport(
        left,
        right,
        len(ids_by_name),
        Tally.of(unmatched),
        Tally.of(image_id for image_id in known.exact if image_id not in used),
        Tally.of(repeated),
    )
    return {name: ids_by_name[name] for name in listed if name in ids_by_name}, report


class _Ids:
    """Look-up of ids by exact name, alias, suffix of a path, or number."""

    def __init__(self, ids: Iterable[str], aliases: Mapping[str, str] | None) -> None:
        self.exact: dict[str, None] = {}
        self.repeated: list[str] = []
        for image_id in ids:
            if image_id in self.exact:
                self.repeated.append(image_id)
            self.exact[image_id] = None
        self._aliases = {canonical_id(alias): image_id for alias, image_id in (aliases or {}).items()}
        self._canonical = {canonical_id(image_id): image_id for image_id in self.exact}
        self._numbers: dict[int, str | None] = {}
        for image_id in self.exact:
            if (number := trailing_number(image_id)) is not None:
                self._numbers[number] = None if number in self._numbers else image_id

    def find(self, name: str) -> str | None:
        """The id that a name stands for; None if there is none, or several."""
        if name in self.exact:
            return name
        plain = canonical_id(name)
        for known in (self._aliases, self._canonical):
            if plain in known and known[plain] in self.exact:
                return known[plain]
        parts = name.replace("\\", "/").split("/")
        for start in range(len(parts)):
            if (suffix := "/".join(parts[start:])) in self.exact:
                return suffix
        if not self._aliases and plain.isascii() and plain.isdecimal() and len(plain) <= 18:
            return self._numbers.get(int(plain))
        return None
