"""The Caption page: a picture's caption with its confidence, alternatives, ranked candidates, and a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from diptych.runtime.quoting import escaped
from diptych.serving.app.image_input import SelectedImage, select_image, show_image, show_placeholder
from diptych.serving.app.index import offer_indexing
from diptych.serving.app.layout import error_as_message, page_header, row_html, show_note
from diptych.serving.app.match import probability_phrase
from diptych.serving.app.progress import cached_in_session, timed_spinner
from diptych.serving.app.services import current_service, library_paths, missing_model
from diptych.serving.parameters import Method, PromptMethod
from diptych.serving.results import Alternative, CaptionedImage, GeneratedPrompt
from diptych.serving.service import Service

METHODS: dict[Method, str] = {
    "beam": "Beam search: most likely",
    "greedy": "Greedy: fastest",
    "nucleus": "Sampling: most varied",
}
PROMPT_METHODS: dict[PromptMethod, str] = {"retrieve": "Retrieved", "compose": "Composed", "generate": "Generated"}


@dataclass(frozen=True)
class _Options:
    method: Method
    count: int
    candidates: tuple[str, ...]


def caption_page() -> None:
    """The page that captions a picture."""
    page_header("Caption", "Describe a picture in a sentence, with a confidence and alternatives.")
    service = current_service()
    chooser, answer = st.columns([2, 3], gap="large")
    with chooser:
        selected = select_image("caption", library_paths(service))
        offer_indexing(service)
    with answer:
        if selected is None:
            show_placeholder(bool(service.index))
        else:
            caption_panel(service, selected)


def caption_panel(service: Service, selected: SelectedImage, *, key: str = "caption") -> None:
    """The picture, the button **Generate caption** with its options, and the results once it was pressed."""
    show_image(selected, key)
    with st.container(horizontal=True, vertical_alignment="center"):
        pressed = st.button(
            "Generate caption", type="primary", key=f"{key}-go", icon=":material/auto_awesome:", shortcut="Ctrl+Enter"
        )
        with st.popover("Options", icon=":material/tune:", key=f"{key}-options"):
            options = _option_fields(key)
    requested = f"{key}-requested"
    if pressed:
        st.session_state[requested] = selected.content
    if st.session_state.get(requested) == selected.content:
        with error_as_message():
            show_captions(service, selected, options.method, options.count, options.candidates)
        with error_as_message():
            show_prompt(service, selected, key)


def _option_fields(key: str) -> _Options:
    method = st.radio(
        "Decoding", list(METHODS), format_func=METHODS.__getitem__, key=f"{key}-method", persist_state="session"
    )
    count = st.slider("Number of captions", 1, 8, 4, key=f"{key}-count", persist_state="session")
    candidates = st.text_area(
        "Your own captions, one per line",
        key=f"{key}-candidates",
        help="They are ranked by how well they fit the picture.",
        persist_state="session",
    )
    return _Options(method, count, tuple(filter(None, map(str.strip, candidates.splitlines()))))


def show_captions(
    service: Service, selected: SelectedImage, method: Method = "beam", count: int = 3, candidates: Sequence[str] = ()
) -> None:
    """Caption the picture and show the best caption with its confidence, the alternatives, and the ranked candidates.

    With a matcher, captions are ordered by captioner and matcher combined.
    """
    if not service.has("captioner"):
        show_note(missing_model(service, "captioner"))
        return
    choose = service.has("matcher")

    def caption() -> tuple[CaptionedImage, str]:
        with timed_spinner("Generating captions…") as timing:
            results = service.caption(
                [selected.image], method=method, count=count, candidates=candidates, choose=choose
            )
        return results[0], str(timing)

    token = (selected.content, method, count, tuple(candidates))
    result, timing = cached_in_session(f"captions-{_model_names(service)}", token, caption)
    st.html(f'<p class="d-caption">{escaped(result.best)}</p>')
    if result.confidence is not None:
        value = f"{result.confidence:.0%} · {probability_phrase(result.confidence)}"
        st.html(row_html("Confidence", value, result.confidence))
    st.caption(f"Generated in {timing}")
    if result.alternatives[1:]:
        st.subheader("Alternatives")
        st.html("".join(_alternative_html(alternative) for alternative in result.alternatives[1:]))
        st.caption("Ranked by captioner and matcher combined" if choose else "Ranked by the captioner")
    if result.candidates:
        st.subheader("Your captions, ranked")
        st.html("".join(row_html(c.text, f"{c.probability:.0%}", c.probability) for c in result.candidates))


def show_prompt(service: Service, selected: SelectedImage, key: str = "prompt") -> None:
    """Show a text-to-image prompt for a picture like this one."""
    st.subheader("Prompt")
    if not service.has("prompter"):
        show_note(missing_model(service, "prompter"))
        return
    how = st.segmented_control(
        "Prompt method",
        list(PROMPT_METHODS),
        format_func=PROMPT_METHODS.__getitem__,
        default="retrieve",
        required=True,
        key=f"{key}-how",
        label_visibility="collapsed",
    )

    def prompt() -> list[GeneratedPrompt]:
        with timed_spinner("Generating a prompt…"):
            return service.prompt([selected.image], how=how, count=1)[0]

    for result in cached_in_session(f"prompts-{_model_names(service)}", (selected.content, how), prompt):
        st.code(result.text, language=None, wrap_lines=True)


def _model_names(service: Service) -> str:
    """The names of all models of the service, as part of a cache key."""
    return " ".join(f"{model.name}" for model in service.models())


def _alternative_html(alternative: Alternative) -> str:
    if alternative.confidence is None:
        return row_html(alternative.text, f"{alternative.score:.2f}")
    return row_html(alternative.text, f"{alternative.confidence:.0%}", alternative.confidence)
