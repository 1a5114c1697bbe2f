"""What every page has: its dress, errors as sentences, and how long an answer took."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st

from diptych.errors import DiptychError
from diptych.images.skipped import Skipped
from diptych.runtime.progress import Progress
from diptych.runtime.quoting import escaped, printable

Made = TypeVar("Made")

_HERE = Path(__file__).parent
_DRAW_SECONDS = 0.1
_PUNCTUATION = re.compile(r"[\\`*_{}\[\]()#+\-!|<>~$:.&=]")
_FOUND_LATER = re.compile(r":(?=[\w+-]+[:/])|:(?=//)|\bwww(?=\.)|@(?=[\w-]+\.)", re.IGNORECASE)


def dress(title: str = "diptych") -> None:
    """Title, logo and style of the page; call it first in a script."""
    st.set_page_config(page_title=title, page_icon=str(_HERE / "logo.svg"), layout="wide")
    st.logo(_HERE / "logo.svg", size="large")
    st.html(_HERE / "style.css")


@contextmanager
def told() -> Iterator[None]:
    """Show an error that diptych or a file names as a sentence, and let the rest of the page stand."""
    try:
        yield
    except DiptychError as error:
        show_error(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        show_error(f"'{error.filename}': {error.strerror}")


def show_error(message: str) -> None:
    st.error(plain(message[:1].upper() + message[1:]) + ("" if message.endswith((".", "?", "!")) else "."))


def note(message: str) -> None:
    """Something that is not there, and what would bring it."""
    st.info(plain(message))


def plain(text: object) -> str:
    """Text that Streamlit's Markdown shows as it is, on one line.

    Emoji and icon codes, addresses and e-mail addresses are looked for in the finished text, where a backslash is gone;
    a word joiner, which shows nothing, keeps them from being found.
    """
    return _PUNCTUATION.sub(r"\\\g<0>", _FOUND_LATER.sub("\\g<0>\u2060", printable(text).strip()))


def pictures(count: int) -> str:
    """So many pictures, in words."""
    return "1 picture" if count == 1 else f"{count:,} pictures"


def bar(share: float, label: str) -> str:
    """A share in [0, 1] as a bar, in HTML; `label` is what a screen reader says."""
    return (
        f'<div class="d-bar" role="img" aria-label="{escaped(label)}">'
        f'<span style="width:{100 * min(max(share, 0.0), 1.0):.1f}%"></span></div>'
    )


@contextmanager
def watched() -> Iterator[Progress]:
    """A progress that draws itself on the page: how far, how fast, and how many files were skipped."""
    place = st.empty()

    def drawn(items: Iterable[Any], total: int | None, label: str) -> Iterator[Any]:
        began = shown = time.perf_counter()
        skipped = 0
        for done, item in enumerate(items, 1):
            yield item
            skipped += isinstance(item, Skipped)
            now = time.perf_counter()
            if now - shown > _DRAW_SECONDS or done == total:
                place.progress(done / total if total else 0.0, _how_far(done, total, now - began, skipped))
                shown = now

    try:
        yield drawn
    finally:
        place.empty()


def _how_far(done: int, total: int | None, seconds: float, skipped: int) -> str:
    left = f", {(total - done) * seconds / done:,.0f} s left" if total and done < total else ""
    told = f"{f'{done:,} of {pictures(total)}' if total else pictures(done)}, {done / seconds:,.0f} a second{left}"
    return f"{told}, {skipped:,} skipped" if skipped else told


def kept(key: str, token: object, make: Callable[[], Made]) -> Made:
    """What was made for this visitor, as long as `token` is the same: a touch of the page makes nothing anew."""
    held: tuple[object, Made] | None = st.session_state.get(key)
    if held is None or held[0] != token:
        held = st.session_state[key] = (token, make())
    return held[1]


@dataclass
class Timing:
    """How long something took."""

    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{1000 * self.seconds:.0f} ms" if self.seconds < 1 else f"{self.seconds:.1f} s"


@contextmanager
def timed(doing: str) -> Iterator[Timing]:
    """Show a spinner that says what is being done and for how long, and take the time."""
    timing, began = Timing(), time.perf_counter()
    with st.spinner(doing, show_time=True):
        yield timing
    timing.seconds = time.perf_counter() - began
