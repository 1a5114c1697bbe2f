"""What `diptych app` was told, as the page reads it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

VARIABLE = "DIPTYCH_APP"  # the page runs as a script in threads of the server: its settings come by the environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Which models serve, which library is shown first, and what visitors may name."""

    model: str | None = None
    """The dual encoder; None is the one that made the index, or mini."""
    captioner: str | None = None
    """What captions; None is the model's own. The same holds for the next two."""
    matcher: str | None = None
    prompter: str | None = None
    index: str | None = None
    """The library or index shown first; None is the sample library."""
    compare: tuple[str, ...] = ()
    """Models that the page offers for comparison."""
    roots: tuple[str, ...] = ()
    """Folders below which visitors may index; none: they may not."""
    follow_links: bool = False
    """Whether pictures that lie outside the roots and the library, through links or in the index, are read too."""
    any_model: bool = False
    """Whether visitors may name any model for comparison, which is then read from the disk or the hub."""
    device: str = "auto"

    def publish(self) -> None:
        """Make these the settings of pages that run in this process and those that it starts."""
        os.environ[VARIABLE] = json.dumps(asdict(self))

    @classmethod
    def current(cls) -> Settings:
        """Those last published; the defaults where none were, as under a plain `streamlit run`."""
        told: dict[str, Any] = json.loads(os.environ.get(VARIABLE, "{}"))
        lists = {name: tuple(value) for name, value in told.items() if isinstance(value, list)}  # JSON has no tuples
        return cls(**{**told, **lists})
