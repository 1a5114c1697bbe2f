"""Matching: how likely it is that a picture and a text belong together, in numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from diptych.runtime.quoting import escaped
from diptych.serving.app.frame import bar, note, timed, told
from diptych.serving.app.image_input import Picked, pick_picture, show_empty, show_picture
from diptych.serving.app.library import lead_to_index
from diptych.serving.app.services import library_paths, missing, service_here
from diptych.serving.service import Service

_MEANINGS = (  # from which probability on, in words
    (0.95, "almost certainly yes"),
    (0.8, "very likely"),
    (0.6, "rather yes"),
    (0.4, "undecided"),
    (0.2, "rather not"),
    (0.05, "unlikely"),
    (0.0, "almost certainly not"),
)


def match_page() -> None:
    st.title("Match")
    st.html('<p class="d-lead">Do a picture and a text belong together? A probability that means what it says.</p>')
    service = service_here()
    chooser, answer = st.columns([2, 3], gap="large")
    with chooser:
        picked = pick_picture("match", library_paths(service))
        lead_to_index(service)
    with answer:
        match_part(service, picked)


def match_part(service: Service, picked: Picked | None, *, key: str = "match") -> None:
    """A field for texts, and the probability that each belongs to the picture that was picked."""
    if picked is None:
        show_empty(bool(service.index))
        return
    show_picture(picked, key)
    if texts := text_lines(key):
        with told():
            show_match(service, picked, texts)


def text_lines(key: str) -> list[str]:
    """A field for texts, a line each."""
    told_texts = st.text_area(
        "What it may show, a text a line",
        key=f"{key}-texts",
        placeholder="a dog on a beach\ntwo people on a bench",
        height=110,
        persist_state="session",
    )
    return list(dict.fromkeys(line.strip() for line in told_texts.splitlines() if line.strip()))


def show_match(service: Service, picked: Picked, texts: Sequence[str]) -> None:
    """The probability of each text, or a note that the model has no matcher."""
    if not service.has("matcher"):
        note(missing(service, "matcher"))
        return
    with timed("Looking closely …") as timing:
        probabilities = service.match(picked.image, texts)
    show_probabilities(texts, probabilities)
    st.caption(f"in {timing}. Of pairs that get 80%, eight in ten match, if half of all pairs do.")


def show_probabilities(texts: Sequence[str], probabilities: Sequence[float]) -> None:
    """Texts with their probabilities, likeliest first."""
    ranked = sorted(zip(probabilities, texts, strict=True), reverse=True)
    for probability, text in ranked:
        st.html(
            f'<div class="d-row"><b>{escaped(text)}</b><em>{probability:.0%} · {meaning(probability)}</em>'
            f"{bar(probability, f'{probability:.0%}')}</div>"
        )


def meaning(probability: float) -> str:
    """What a probability of a match says, in words."""
    return next(words for least, words in _MEANINGS if probability >= least)
