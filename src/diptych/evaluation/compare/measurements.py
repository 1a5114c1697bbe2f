"""What was measured of one model: numbers to tell, and arrays with a value for each question, kept on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diptych.runtime.atomic import new_folder


@dataclass
class Measured:
    """Of the model `model` (as it was named), called `name` in the report.

    `told` has the keys `cost`, `machine`, `absent` (what the model cannot do, and why), and of what it can do
    `retrieval`, `classes`, `matching`, `checks` and `captions`. `arrays` holds what the paired bootstrap needs:

    - `found_captions` (pictures,) and `found_pictures` (captions,): ranks of retrieval, 1 is best;
    - `nearest` (captions, up to 6): rows of the pictures that each caption finds first;
    - `class_ranks` and `class_found` (labelled pictures,): the rank of the right class, and the class that came first;
    - `adapter_ranks` and `probe_ranks` (labelled pictures,): the same by classifiers that learnt from the others;
    - `match_scores` (judged pairs,): probabilities, or cosines where the model has no matcher;
    - `checks_right` (checks,): whether the right caption won;
    - `caption_METRIC` (some pictures,): scores of the written captions.
    """

    name: str
    model: str
    told: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write it whole or not at all."""
        with new_folder(folder) as new:
            np.savez(new / "arrays.npz", **self.arrays)  # type: ignore[arg-type]
            told = {"model": self.model, **self.told}
            (new / "measured.json").write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path, name: str) -> Measured:
        told = json.loads((folder / "measured.json").read_text("utf-8"))
        with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
            return cls(name, told.pop("model"), told, dict(arrays))
