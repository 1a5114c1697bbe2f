"""The settings of the web page, passed from `diptych app` to the scripts that Streamlit runs."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

from diptych.serving.names import as_names

VARIABLE = "DIPTYCH_APP"  # Streamlit runs the page as a script, which reads its settings from the environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The models of the page, the default library, and what visitors may index and compare."""

    model: str | None = None
    """Dual encoder; None uses the model that made the index, or mini."""
    captioner: str | None = None
    """Captioner; None uses the dual encoder's own."""
    matcher: str | None = None
    """Matcher; None uses the dual encoder's own."""
    prompter: str | None = None
    """Prompter; None uses the dual encoder's own."""
    index: str | None = None
    """Default library or index folder; None uses the sample library."""
    compare: tuple[str, ...] = ()
    """Models offered for comparison."""
    roots: tuple[str, ...] = ()
    """Folders whose contents visitors may index; empty disables indexing."""
    follow_links: bool = False
    """Also read images outside the roots and the library, reached through links or listed in the index."""
    any_model: bool = False
    """Let visitors compare any model, which is then loaded from disk or the hub."""
    device: str = "auto"
    """Torch device: auto, cpu, cuda or mps."""

    def __post_init__(self) -> None:
        for name in ("compare", "roots"):  # a single name is one name, not a sequence of letters
            object.__setattr__(self, name, as_names(getattr(self, name)))

    def publish(self) -> None:
        """Make these the current settings of this process and of its child processes."""
        os.environ[VARIABLE] = json.dumps(asdict(self))

    @classmethod
    def current(cls) -> Settings:
        """The settings published last, or the defaults, for example under a plain `streamlit run`."""
        return cls(**json.loads(os.environ.get(VARIABLE, "{}")))
