"""Search hits as a grid of cards: image, rank, score, caption, and a button to find similar ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from diptych.images.paths import from_text
from diptych.runtime.quoting import escaped, printable
from diptych.search.results import Hit
from diptych.serving.app.layout import bar_html, escape_markdown
from diptych.serving.app.thumbnails import thumbnail_of

_CARD_PIXELS = 210


def hit_grid(
    hits: Sequence[Hit], *, key: str, on_more_like: Callable[[Hit], None] | None = None, first_rank: int | None = 1
) -> None:
    """Show hits as cards.

    `on_more_like` is called with a hit when its button **More like this** is pressed; without it there is no button.
    `first_rank` is the rank of the first hit; None hides rank and score, for images that no query ranked.
    """
    grid = st.grid("auto", min_column_width=_CARD_PIXELS, gap="small", key=f"grid-{key}")
    for i, hit in enumerate(hits):
        with grid.cell(), st.container(border=True, gap="small", height="stretch", key=f"card-{key}-{i}"):
            _show_card(hit, None if first_rank is None else first_rank + i)
            if on_more_like is not None:
                st.button(
                    "More like this",
                    icon=":material/image_search:",
                    key=f"like-{key}-{i}-{hit.id}",
                    help=f"Find images similar to {escape_markdown(from_text(hit.path).name)}",
                    type="tertiary",
                    on_click=on_more_like,
                    args=(hit,),
                )


def _show_card(hit: Hit, rank: int | None) -> None:
    name = from_text(hit.path).name
    image = thumbnail_of(hit.path)
    if image is None:
        st.html('<div class="d-gone">Not available</div>')
    else:
        st.image(image, width="stretch", alt=printable((hit.caption or "").split("\n")[0] or name))
    st.html(_card_html(hit, name, rank))


def _card_html(hit: Hit, name: str, rank: int | None) -> str:
    number = score = ""
    if rank is not None:
        number = f'<span class="d-rank">{rank}</span>'
        score = f'<span class="d-score" title="Cosine similarity of query and image">{hit.score:.3f}</span>'
    lines = [
        f'<div class="d-line">{number}<span class="d-name" title="{escaped(name)}">{escaped(name)}</span>{score}</div>'
    ]
    if hit.match is not None:
        lines.append(bar_html(hit.match, f"match {hit.match:.0%}"))
    if hit.caption:
        lines.append(f'<div class="d-text">{escaped(hit.caption.splitlines()[0])}</div>')
    if details := _details(hit):
        lines.append(f'<div class="d-small">{escaped(details)}</div>')
    return "".join(lines)


def _details(hit: Hit) -> str:
    """Date, size, camera and number of copies on one line, as far as they are known."""
    copies = f"{len(hit.copies)} more cop{'y' if len(hit.copies) == 1 else 'ies'}" if hit.copies else ""
    details = (f"{hit.taken:%Y-%m-%d}" if hit.taken else "", f"{hit.width} × {hit.height}" if hit.width else "")
    return " · ".join(detail for detail in (*details, hit.camera or "", copies) if detail)
