"""Captioning: a picture's caption with its confidence, alternatives, candidates ranked, and a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from diptych.runtime.quoting import escaped
from diptych.serving.app.frame import bar, kept, note, timed, told
from diptych.serving.app.image_input import Picked, pick_picture, show_empty, show_picture
from diptych.serving.app.library import lead_to_index
from diptych.serving.app.match import meaning
from diptych.serving.app.services import library_paths, missing, service_here
from diptych.serving.results import Alternative, Captioned, GeneratedPrompt
from diptych.serving.service import How, Service

METHODS = {"beam": "Beam search: the likeliest", "greedy": "Greedy: the fastest", "nucleus": "Sampling: more varied"}
PROMPTS: dict[How, str] = {"retrieve": "Retrieved", "compose": "Composed", "generate": "Generated"}


def caption_page() -> None:
    st.title("Caption")
    st.html('<p class="d-lead">What does a picture show? A sentence, how sure it is, and what else it might be.</p>')
    service = service_here()
    chooser, answer = st.columns([2, 3], gap="large")
    with chooser:
        picked = pick_picture("caption", library_paths(service))
        lead_to_index(service)
    with answer:
        if picked is None:
            show_empty(bool(service.index))
        else:
            caption_part(service, picked)


def caption_part(service: Service, picked: Picked, *, key: str = "caption") -> None:
    """The picture, the button **Generate caption**, and what it found."""
    show_picture(picked, key)
    with st.container(horizontal=True, vertical_alignment="center"):
        pressed = st.button(
            "Generate caption", type="primary", key=f"{key}-go", icon=":material/auto_awesome:", shortcut="Ctrl+Enter"
        )
        with st.popover("Options", icon=":material/tune:", key=f"{key}-options"):
            method = st.radio(
                "How", list(METHODS), format_func=METHODS.__getitem__, key=f"{key}-method", persist_state="session"
            )
            count = st.slider("Captions", 1, 8, 4, key=f"{key}-count", persist_state="session")
            candidates = st.text_area(
                "Captions to choose among, one a line",
                key=f"{key}-candidates",
                help="They are ranked by how well they fit the picture.",
                persist_state="session",
            )
    asked = (picked.content, method, count, tuple(filter(None, map(str.strip, candidates.splitlines()))))
    if pressed:
        st.session_state[f"{key}-asked"] = asked
    if st.session_state.get(f"{key}-asked", ("",))[0] == picked.content:
        with told():
            show_captions(service, picked, *asked[1:])
        with told():
            show_prompt(service, picked, key)


def show_captions(
    service: Service, picked: Picked, method: str = "beam", count: int = 3, candidates: Sequence[str] = ()
) -> None:
    """The caption with its confidence, what else it might be, and the candidates ranked.

    Where there is a matcher, captioner and matcher choose together.
    """
    if not service.has("captioner"):
        note(missing(service, "captioner"))
        return
    choose = service.has("matcher")

    def written() -> tuple[Captioned, str]:
        with timed("Writing …") as timing:
            said = service.caption([picked.image], method=method, count=count, candidates=candidates, choose=choose)
        return said[0], str(timing)

    asked = (picked.content, method, count, tuple(candidates))
    found, timing = kept(f"captions-{_names(service)}", asked, written)
    st.html(f'<p class="d-caption">{escaped(found.best)}</p>')
    if found.confidence is not None:
        words = f"{found.confidence:.0%} · {meaning(found.confidence)}"
        st.html(_row("Confidence", words, found.confidence))
    st.caption(f"written in {timing}")
    if found.alternatives[1:]:
        st.subheader("Alternatives")
        st.html("".join(_alternative(each) for each in found.alternatives[1:]))
        st.caption("in the order of captioner and matcher together" if choose else "in the captioner's order")
    if found.candidates:
        st.subheader("Your captions, ranked")
        st.html("".join(_row(each.text, f"{each.probability:.0%}", each.probability) for each in found.candidates))


def show_prompt(service: Service, picked: Picked, key: str = "prompt") -> None:
    """Prompts that would make a picture like this one."""
    st.subheader("Prompt")
    if not service.has("prompter"):
        note(missing(service, "prompter"))
        return
    how = st.segmented_control(
        "How the prompt is made",
        list(PROMPTS),
        format_func=PROMPTS.__getitem__,
        default="retrieve",
        required=True,
        key=f"{key}-how",
        label_visibility="collapsed",
    )

    def said() -> list[GeneratedPrompt]:
        with timed("Looking for words …"):
            return service.prompt([picked.image], how=how, count=1)[0]

    for prompt in kept(f"prompts-{_names(service)}", (picked.content, how), said):
        st.code(prompt.text, language=None, wrap_lines=True)


def _names(service: Service) -> str:
    """All models of the service, as one key."""
    return " ".join(f"{model.name}" for model in service.models())


def _alternative(each: Alternative) -> str:
    if each.confidence is None:
        return _row(each.text, f"{each.score:.2f}")
    return _row(each.text, f"{each.confidence:.0%}", each.confidence)


def _row(text: str, figure: str, share: float | None = None) -> str:
    drawn = "" if share is None else bar(share, figure)
    return f'<div class="d-row"><b>{escaped(text)}</b><em>{escaped(figure)}</em>{drawn}</div>'
