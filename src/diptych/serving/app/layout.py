"""Page setup, messages and text formatting shared by all pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import streamlit as st

from diptych.errors import DiptychError
from diptych.runtime.quoting import escaped, printable

_ASSETS = Path(__file__).parent
_PUNCTUATION = re.compile(r"[\\`*_{}\[\]()#+\-!|<>~$:.&=]")
# Streamlit finds emoji codes, icon codes, web addresses and e-mail addresses after backslash escapes are resolved, so
# that a backslash does not protect them.
_AUTOLINK = re.compile(r":(?=[\w+-]+[:/])|:(?=//)|\bwww(?=\.)|@(?=[\w-]+\.)", re.IGNORECASE)
_WORD_JOINER = "\u2060"  # invisible


def page_setup(title: str = "diptych") -> None:
    """Set the title, logo and style of the page. Call it first in a script."""
    st.set_page_config(page_title=title, page_icon=str(_ASSETS / "logo.svg"), layout="wide")
    st.logo(_ASSETS / "logo.svg", size="large")
    st.html(_ASSETS / "style.css")


def page_header(title: str, lead: str) -> None:
    """Show the heading of a page and a sentence about it."""
    st.title(title)
    st.html(f'<p class="d-lead">{escaped(lead)}</p>')


@contextmanager
def error_as_message() -> Iterator[None]:
    """Show a `DiptychError`, or an `OSError` that names a file, as a message; the rest of the page still renders."""
    try:
        yield
    except DiptychError as error:
        show_error(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        show_error(f"'{error.filename}': {error.strerror}")


def show_error(message: str) -> None:
    """Show an error message, with a capital letter and a full stop."""
    st.error(escape_markdown(message[:1].upper() + message[1:]) + ("" if message.endswith((".", "?", "!")) else "."))


def show_note(message: str) -> None:
    """Show a note about something that is unavailable and how to get it."""
    st.info(escape_markdown(message))


def escape_markdown(text: object) -> str:
    """The text escaped for Streamlit's Markdown: displayed verbatim, on one line."""
    return _PUNCTUATION.sub(r"\\\g<0>", _AUTOLINK.sub(rf"\g<0>{_WORD_JOINER}", printable(text).strip()))


def image_count(count: int) -> str:
    """A number of images in words: `1 image`, `1,200 images`."""
    return "1 image" if count == 1 else f"{count:,} images"


def bar_html(share: float, label: str) -> str:
    """HTML of a bar that is filled to `share` (clipped to [0, 1]); screen readers read `label`."""
    return (
        f'<div class="d-bar" role="img" aria-label="{escaped(label)}">'
        f'<span style="width:{100 * min(max(share, 0.0), 1.0):.1f}%"></span></div>'
    )


def row_html(text: str, value: str, share: float | None = None) -> str:
    """HTML of a line with a text on the left and a value on the right, above a bar if `share` is given."""
    bar = "" if share is None else bar_html(share, value)
    return f'<div class="d-row"><b>{escaped(text)}</b><em>{escaped(value)}</em>{bar}</div>'
