"""Which pictures may be found: typed conditions as SQL, with nothing that a value could break out of."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from diptych.errors import ConfigError
from diptych.images.paths import to_text
from diptych.images.roots import expand_home
from diptych.search.store import quoted

Shape = Literal["landscape", "portrait", "square"]
Day = datetime.date | datetime.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What a picture must be to be found; what is None does not count.

    Raises:
        ConfigError: the shape is unknown, a bound is negative, or a text has no word.
    """

    folder: str | Path | None = None
    """Pictures in this folder, or tar shard, and in all below it."""
    since: Day | None = None
    """Taken on this day or later; without a date in its EXIF, a picture counts by its file's last change."""
    until: Day | None = None
    """Taken on this day or earlier."""
    min_side: int | None = None
    """Pictures whose shorter side has at least so many pixels."""
    max_side: int | None = None
    """Pictures whose longer side has at most so many pixels."""
    min_bytes: int | None = None
    """Files of at least so many bytes."""
    max_bytes: int | None = None
    """Files of at most so many bytes."""
    shape: Shape | None = None
    """Landscape, portrait or square; a square's sides differ by at most 5%."""
    camera: str | None = None
    """Words that the camera's name holds, in any order and case."""
    caption: str | None = None
    """Words that the captions hold, in any order and case."""

    def __post_init__(self) -> None:
        if self.shape is not None and self.shape not in _SHAPES:
            raise ConfigError(f"shape is '{self.shape}'; valid: {', '.join(get_args(Shape))}")
        for name in ("min_side", "max_side", "min_bytes", "max_bytes"):
            if (bound := getattr(self, name)) is not None and bound < 0:
                raise ConfigError(f"{name} is {bound}; it must be at least 0")
        for name in ("camera", "caption"):
            if (text := getattr(self, name)) is not None and not text.split():
                raise ConfigError(f"{name} has no word; leave it out to find every {name}")

    def condition(self) -> str | None:
        """The SQL condition on the columns of the index; None if every picture may be found."""
        parts = [
            *([_in_folder(self.folder)] if self.folder is not None else []),
            *([_after(self.since)] if self.since is not None else []),
            *([f"NOT ({_after(_next(self.until))})"] if self.until is not None else []),
            *([f"width >= {self.min_side:d}", f"height >= {self.min_side:d}"] if self.min_side is not None else []),
            *([f"width <= {self.max_side:d}", f"height <= {self.max_side:d}"] if self.max_side is not None else []),
            *([f"size >= {self.min_bytes:d}"] if self.min_bytes is not None else []),
            *([f"size <= {self.max_bytes:d}"] if self.max_bytes is not None else []),
            *([_SHAPES[self.shape]] if self.shape is not None else []),
            *_has_words("camera", self.camera),
            *_has_words("caption", self.caption),
        ]
        return both(*parts)


def both(*conditions: str | None) -> str | None:
    """The condition that all of these hold; None if there is none."""
    given = [condition for condition in conditions if condition]
    return " AND ".join(f"({condition})" for condition in given) or None


_SHAPES = {
    "landscape": "width * 20 > height * 21",
    "portrait": "height * 20 > width * 21",
    "square": "width * 20 <= height * 21 AND height * 20 <= width * 21",
}


def _in_folder(folder: str | Path) -> str:
    try:
        text = to_text(Path(expand_home(folder)).resolve())
    except (OSError, RuntimeError, ValueError) as error:  # a NUL, a loop of links, longer than the system takes
        raise ConfigError(f"folder is {str(folder)[:200]!r}, which is no path; name a folder of the index") from error
    below = text if text.endswith("/") else text + "/"  # the root ends in its slash already
    return f"folder = {quoted(text)} OR starts_with(folder, {quoted(below)})"


def _has_words(column: str, text: str | None) -> list[str]:
    # contains, not LIKE: it has no wildcards to escape. Both sides are lowered by the same function.
    return [f"contains(lower({column}), lower({quoted(word)}))" for word in (text or "").split()]


def _after(moment: Day) -> str:
    """At or after the moment, which is local time as a camera's clock is."""
    if not isinstance(moment, datetime.datetime):
        moment = datetime.datetime.combine(moment, datetime.time())
    try:
        nanoseconds = min(max(int(moment.timestamp()) * 10**9, 1 - 2**63), 2**63 - 1)  # as `files.change_time`
    except (ValueError, OverflowError):  # the first and the last day of the calendar, in some time zones
        nanoseconds = 1 - 2**63 if moment.year == 1 else 2**63 - 1
    local = moment.astimezone().replace(tzinfo=None) if moment.tzinfo else moment
    taken = f"taken >= timestamp '{local.isoformat(' ', 'seconds')}'"
    return f"(taken IS NOT NULL AND {taken}) OR (taken IS NULL AND mtime >= {nanoseconds})"


def _next(moment: Day) -> Day:
    """The first moment that is past: of the next day, or the next second."""
    step = datetime.timedelta(seconds=1) if isinstance(moment, datetime.datetime) else datetime.timedelta(days=1)
    last = datetime.datetime.max.replace(tzinfo=getattr(moment, "tzinfo", None))
    try:
        return moment + step
    except OverflowError:  # nothing is past the last day of the calendar
        return last
