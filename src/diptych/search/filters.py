"""Filters: conditions on the images of an index, as SQL that no value can break out of."""

from __future__ import annotations

import calendar
import datetime
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from diptych.errors import ConfigError
from diptych.images.paths import texts_of
from diptych.search.store import quoted

Shape = Literal["landscape", "portrait", "square"]

_YEAR_OR_MONTH = re.compile(r"(\d{4})(?:-(\d{2}))?")
_DAY_OR_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d:\d\d)?)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Conditions that an image must meet to be found; None means no condition.

    Dates given as text are parsed by `parse_day` and are `datetime.date` or `datetime.datetime` afterwards.

    Raises:
        ConfigError: a date or the shape is not valid, a bound is negative, or a text has no words.
    """

    folder: str | Path | None = None
    """Only images in this folder or tar shard, at any depth."""
    since: str | datetime.date | None = None
    """Taken on or after this date (2021, 2021-05, 2021-05-17, or with a time, 2021-05-17T12:30), according to EXIF or,
    without it, the file's modification time."""
    until: str | datetime.date | None = None
    """Taken on or before this date; a year or month includes its last day."""
    min_side: int | None = None
    """Minimum length of the shorter side, in pixels."""
    max_side: int | None = None
    """Maximum length of the longer side, in pixels."""
    min_bytes: int | None = None
    """Minimum file size, in bytes."""
    max_bytes: int | None = None
    """Maximum file size, in bytes."""
    shape: Shape | None = None
    """Orientation: landscape, portrait or square (sides that differ by at most 5%)."""
    camera: str | None = None
    """Words in the camera's name, in any order, ignoring case."""
    caption: str | None = None
    """Words in the captions, in any order, ignoring case."""

    def __post_init__(self) -> None:
        if isinstance(self.since, str):
            object.__setattr__(self, "since", parse_day(self.since))
        if isinstance(self.until, str):
            object.__setattr__(self, "until", parse_day(self.until, end=True))
        for name in ("since", "until"):
            if not isinstance(day := getattr(self, name), datetime.date | None):
                raise ConfigError(
                    f"{name} is {day!r}; write a date as text, such as '2021-05-17', or pass a `datetime.date`"
                )
        if self.shape is not None and self.shape not in _SHAPES:
            raise ConfigError(f"shape is '{self.shape}'; valid: {', '.join(get_args(Shape))}")
        for name in ("min_side", "max_side", "min_bytes", "max_bytes"):
            if (bound := getattr(self, name)) is not None and bound < 0:
                raise ConfigError(f"{name} is {bound}; it must be at least 0")
        for name in ("camera", "caption"):
            if (text := getattr(self, name)) is not None and not text.split():
                raise ConfigError(f"{name} has no words; leave it out to find every {name}")

    def condition(self) -> str | None:
        """The SQL condition on the columns of the index; None if there is none.

        Raises:
            ConfigError: `folder` is not a path.
        """
        parts = [
            *([_in_folder(self.folder)] if self.folder is not None else []),
            *([_at_or_after(_day(self.since))] if self.since is not None else []),
            *([f"NOT ({_at_or_after(_next(_day(self.until, end=True)))})"] if self.until is not None else []),
            *([f"width >= {self.min_side:d}", f"height >= {self.min_side:d}"] if self.min_side is not None else []),
            *([f"width <= {self.max_side:d}", f"height <= {self.max_side:d}"] if self.max_side is not None else []),
            *([f"size >= {self.min_bytes:d}"] if self.min_bytes is not None else []),
            *([f"size <= {self.max_bytes:d}"] if self.max_bytes is not None else []),
            *([_SHAPES[self.shape]] if self.shape is not None else []),
            *_has_words("camera", self.camera),
            *_has_words("caption", self.caption),
        ]
        return both(*parts)


def parse_day(text: str, *, end: bool = False) -> datetime.date:
    """Parse an ISO 8601 date (`2021`, `2021-05`, `2021-05-17`) or time (`2021-05-17T12:30`, seconds and zone optional).

    A year or month is its first day, or its last one with `end`. A time gives a `datetime.datetime`; without a zone
    it is local time, as a camera's clock is. Years are 0001 to 9999.

    Raises:
        ConfigError: the text is not such a date.
    """
    try:
        if match := _YEAR_OR_MONTH.fullmatch(text):
            year = int(match[1])
            month = int(match[2]) if match[2] else 12 if end else 1
            first = datetime.date(year, month, 1)
            return first.replace(day=calendar.monthrange(year, month)[1]) if end else first
        if _DAY_OR_TIME.fullmatch(text):
            parser = datetime.date if len(text) == len("2021-05-17") else datetime.datetime
            return parser.fromisoformat(text)
    except ValueError as error:  # 2021-02-30, 0000-01-01, 25 o'clock
        raise ConfigError(f"'{text}' is not a date ({error}); check year, month, day and time") from error
    raise ConfigError(
        f"'{text[:100]}' is not an ISO 8601 date; write a day as 2021-05-17, a month as 2021-05, a year as 2021, or a "
        "time as 2021-05-17T12:30"
    )


def both(*conditions: str | None) -> str | None:
    """The SQL condition that all of these hold; None if there is none."""
    given = [condition for condition in conditions if condition]
    return " AND ".join(f"({condition})" for condition in given) or None


_SHAPES = {
    "landscape": "width * 20 > height * 21",
    "portrait": "height * 20 > width * 21",
    "square": "width * 20 <= height * 21 AND height * 20 <= width * 21",
}


def _in_folder(folder: str | Path) -> str:
    try:
        texts = texts_of(folder)
    except (OSError, RuntimeError, ValueError) as error:  # a NUL, a loop of links, longer than the system takes
        raise ConfigError(
            f"folder is {str(folder)[:200]!r}, which is not a path; name a folder of the index"
        ) from error
    below = [text if text.endswith("/") else text + "/" for text in texts]  # the root ends in its slash already
    return " OR ".join(
        f"folder = {quoted(text)} OR starts_with(folder, {quoted(prefix)})"
        for text, prefix in zip(texts, below, strict=True)
    )


def _has_words(column: str, text: str | None) -> list[str]:
    # contains, not LIKE: it has no wildcards to escape. Both sides are lowered by the same function.
    return [f"contains(lower({column}), lower({quoted(word)}))" for word in (text or "").split()]


def _day(value: str | datetime.date, *, end: bool = False) -> datetime.date:
    return parse_day(value, end=end) if isinstance(value, str) else value


def _at_or_after(day: datetime.date) -> str:
    """The condition that an image was taken at or after a day's first moment, or a time."""
    moment = day if isinstance(day, datetime.datetime) else datetime.datetime.combine(day, datetime.time())
    try:
        nanoseconds = min(max(int(moment.timestamp()) * 10**9, 1 - 2**63), 2**63 - 1)  # as `walk.change_time`
    except (ValueError, OverflowError, OSError):  # the first and the last day of the calendar, in some time zones
        nanoseconds = 1 - 2**63 if moment.year == 1 else 2**63 - 1
    taken = f"taken >= timestamp '{_local(moment).isoformat(' ', 'seconds')}'"
    return f"(taken IS NOT NULL AND {taken}) OR (taken IS NULL AND mtime >= {nanoseconds})"


def _local(moment: datetime.datetime) -> datetime.datetime:
    """The moment as local time without a zone; the calendar's first and last day keep their date."""
    if moment.tzinfo is None:
        return moment
    try:
        return moment.astimezone().replace(tzinfo=None)
    except (ValueError, OverflowError, OSError):
        return moment.replace(tzinfo=None)


def _next(day: datetime.date) -> datetime.date:
    """The first moment after a day or time: the next day, or the next second."""
    is_time = isinstance(day, datetime.datetime)
    try:
        return day + (datetime.timedelta(seconds=1) if is_time else datetime.timedelta(days=1))
    except OverflowError:  # nothing comes after the last day of the calendar
        return datetime.datetime.max.replace(tzinfo=getattr(day, "tzinfo", None))
