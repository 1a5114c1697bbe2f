"""The measurements of one model: summary numbers, and arrays with one value per query, stored on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych.runtime.atomic import new_folder

Summary = dict[str, Any]
"""Numbers and texts by topic and name, as in `measured.json`."""


@dataclass
class Measured:
    """What was measured of one model.

    Attributes:
        name: its name in the report.
        model: its path or hub name.
        summary: numbers by topic, as JSON: `cost`, `machine`, `absent` (ability to the reason why the model lacks it),
            and, as far as the model has them, `retrieval`, `classes`, `matching`, `checks` and `captions`.
        arrays: values per query, for the paired bootstrap:

            - `found_captions` (images,) and `found_images` (captions,): retrieval ranks, from 1;
            - `nearest` (captions, up to 6): rows of the top images of each caption;
            - `class_ranks` and `class_found` (labelled images,): rank of the right class, and the top class;
            - `adapter_ranks` and `probe_ranks` (labelled images,): cross-validated ranks of the right class;
            - `match_scores` (labelled pairs,): probabilities, or cosines if the model has no matcher;
            - `checks_right` (checks,): whether the right caption scored higher;
            - `caption_METRIC` (images of the subset,): scores of the generated captions.
    """

    name: str
    model: str
    summary: Summary = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the folder atomically: `arrays.npz` and `measured.json`."""
        with new_folder(folder) as new:
            np.savez(new / "arrays.npz", **self.arrays)  # type: ignore[arg-type]
            content = {"model": self.model, **self.summary}
            (new / "measured.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path, name: str) -> Measured:
        """Read a folder that `save` wrote."""
        summary = json.loads((folder / "measured.json").read_text("utf-8"))
        with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
            return cls(name, summary.pop("model"), summary, dict(arrays))
