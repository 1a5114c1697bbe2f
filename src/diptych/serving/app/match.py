"""The Match page: the probability that a text describes an image, as a number and in words."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from diptych.models.unknown_words import unknown_words_message
from diptych.serving.app.image_input import SelectedImage, show_image
from diptych.serving.app.image_page import image_page
from diptych.serving.app.layout import error_as_message, row_html, show_note
from diptych.serving.app.progress import timed_spinner
from diptych.serving.app.services import missing_model
from diptych.serving.service import Service

_PHRASES = (  # (lowest probability, phrase)
    (0.95, "almost certain"),
    (0.8, "very likely"),
    (0.6, "likely"),
    (0.4, "uncertain"),
    (0.2, "unlikely"),
    (0.05, "very unlikely"),
    (0.0, "almost certainly not"),
)


def match_page() -> None:
    """The page that compares an image with texts."""
    lead = "How likely is it that a text describes an image? The probabilities are calibrated."
    image_page("Match", lead, match_panel)


def match_panel(service: Service, selected: SelectedImage, *, key: str = "match") -> None:
    """The image, a field for texts, and the probability that each text describes the image."""
    show_image(selected, key)
    if texts := text_lines(key):
        with error_as_message():
            show_match(service, selected, texts)


def text_lines(key: str) -> list[str]:
    """A field for texts, one per line; returns them without blanks and repetitions."""
    value = st.text_area(
        "Descriptions, one per line",
        key=f"{key}-texts",
        placeholder="a dog on a beach\ntwo people on a bench",
        height=110,
        persist_state="session",
    )
    return list(dict.fromkeys(line.strip() for line in value.splitlines() if line.strip()))


def show_match(service: Service, selected: SelectedImage, texts: Sequence[str]) -> None:
    """Show the probability of each text, or a note if the service has no matcher."""
    if not service.has("matcher"):
        show_note(missing_model(service, "matcher"))
        return
    with timed_spinner("Matching…") as timing:
        probabilities = service.match(selected.image, texts)
    if unknown := service.unknown_texts(texts, "matcher"):
        show_note(f"Note: {unknown_words_message(unknown)}.")
    show_probabilities(texts, probabilities)
    st.caption(
        f"Computed in {timing}. The probabilities assume that half of all pairs match: about eight in ten pairs with "
        "80% do."
    )


def show_probabilities(texts: Sequence[str], probabilities: Sequence[float]) -> None:
    """Show texts with their probabilities, the most likely first."""
    for probability, text in sorted(zip(probabilities, texts, strict=True), reverse=True):
        st.html(row_html(text, f"{probability:.0%} · {probability_phrase(probability)}", probability))


def probability_phrase(probability: float) -> str:
    """A probability in [0, 1] in words, such as `very likely`."""
    return next(phrase for lowest, phrase in _PHRASES if probability >= lowest)
