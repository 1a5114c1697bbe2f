"""What was found, as a grid of cards: picture, rank, score, caption, and a way to ask for more like it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from diptych.images.paths import from_text
from diptych.runtime.quoting import escaped, printable
from diptych.search.results import Hit
from diptych.serving.app.frame import bar, plain
from diptych.serving.app.thumbnails import thumbnail_of

_CARD_PIXELS = 210


def hit_grid(
    hits: Sequence[Hit], *, key: str, more_like: Callable[[Hit], None] | None = None, first_rank: int | None = 1
) -> None:
    """Cards of hits. `more_like` is called with the hit whose button was pressed; without it the cards have none.

    `first_rank` None leaves out rank and score: pictures that nothing was asked of.
    """
    grid = st.grid("auto", min_column_width=_CARD_PIXELS, gap="small", key=f"grid-{key}")
    for at, hit in enumerate(hits):
        with grid.cell(), st.container(border=True, gap="small", height="stretch", key=f"card-{key}-{at}"):
            _card(hit, None if first_rank is None else first_rank + at)
            if more_like is not None:
                name = plain(from_text(hit.path).name)
                st.button(
                    "More like this",
                    icon=":material/image_search:",
                    key=f"like-{key}-{at}-{hit.id}",
                    help=f"Pictures like {name}",
                    type="tertiary",
                    on_click=more_like,
                    args=(hit,),
                )


def _card(hit: Hit, rank: int | None) -> None:
    name = from_text(hit.path).name
    picture = thumbnail_of(hit.path)
    if picture is None:
        st.html('<div class="d-gone">no longer there</div>')
    else:
        st.image(picture, width="stretch", alt=printable((hit.caption or "").split("\n")[0] or name))
    st.html(_words(hit, name, rank))


def _words(hit: Hit, name: str, rank: int | None) -> str:
    score = "" if rank is None else f'<span class="d-score" title="cosine of query and picture">{hit.score:.3f}</span>'
    number = "" if rank is None else f'<span class="d-rank">{rank}</span>'
    lines = [
        f'<div class="d-line">{number}<span class="d-name" title="{escaped(name)}">{escaped(name)}</span>{score}</div>'
    ]
    if hit.match is not None:
        lines.append(bar(hit.match, f"match {hit.match:.0%}"))
    if hit.caption:
        lines.append(f'<div class="d-text">{escaped(hit.caption.splitlines()[0])}</div>')
    if facts := _facts(hit):
        lines.append(f'<div class="d-small">{escaped(facts)}</div>')
    return "".join(lines)


def _facts(hit: Hit) -> str:
    copies = f"{len(hit.copies)} more cop{'y' if len(hit.copies) == 1 else 'ies'}" if hit.copies else ""
    facts = (f"{hit.taken:%Y-%m-%d}" if hit.taken else "", f"{hit.width} × {hit.height}" if hit.width else "")
    return " · ".join(fact for fact in (*facts, hit.camera or "", copies) if fact)
