"""Progress bars, timed spinners, and results cached for a visitor's session."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import streamlit as st

from diptych.images.skipped import Skipped
from diptych.runtime.progress import Progress
from diptych.serving.app.layout import image_count

Item = TypeVar("Item")
Value = TypeVar("Value")

_REDRAW_SECONDS = 0.1


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A `Progress` shown as a bar on the page: items done, rate, time left, and the number of skipped files."""
    place = st.empty()

    def track(items: Iterable[Item], total: int | None, label: str) -> Iterator[Item]:  # noqa: ARG001 - a `Progress`
        began = drawn = time.perf_counter()
        skipped = 0
        for done, item in enumerate(items, 1):
            yield item
            skipped += isinstance(item, Skipped)
            now = time.perf_counter()
            if now - drawn > _REDRAW_SECONDS or done == total:
                place.progress(done / total if total else 0.0, _progress_text(done, total, now - began, skipped))
                drawn = now

    try:
        yield track
    finally:
        place.empty()


def _progress_text(done: int, total: int | None, seconds: float, skipped: int) -> str:
    parts = [f"{done:,} of {image_count(total)}" if total else image_count(done)]
    parts.append(f"{done / seconds:,.0f} per second")
    if total and done < total:
        parts.append(f"{(total - done) * seconds / done:,.0f} s left")
    if skipped:
        parts.append(f"{skipped:,} skipped")
    return ", ".join(parts)


@dataclass
class Timing:
    """The duration of a `timed_spinner` block, available after the block; `str()` formats it."""

    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{1000 * self.seconds:.0f} ms" if self.seconds < 1 else f"{self.seconds:.1f} s"


@contextmanager
def timed_spinner(label: str) -> Iterator[Timing]:
    """Show a spinner with a label and the elapsed time, and measure the duration of the block."""
    timing, began = Timing(), time.perf_counter()
    with st.spinner(label, show_time=True):
        yield timing
    timing.seconds = time.perf_counter() - began


def cached_in_session(key: str, token: object, compute: Callable[[], Value]) -> Value:
    """The result of `compute`, cached in the visitor's session under `key` until `token` changes.

    Streamlit runs the whole script again after each interaction; this keeps unrelated ones from repeating the work.
    """
    entry: tuple[object, Value] | None = st.session_state.get(key)
    if entry is None or entry[0] != token:
        entry = st.session_state[key] = (token, compute())
    return entry[1]
