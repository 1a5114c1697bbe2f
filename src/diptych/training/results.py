"""The results of training runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diptych.data.doctor.inspect import Report
    from diptych.training.trainer import Outcome

BASELINE = "baseline_cosine"
"""The validation score of a prompt run that its `cosine` is compared with, in percent: that of the mean of all training
prompts, predicted for every image."""


@dataclass(kw_only=True)
class RunResult:
    """What every training run returns."""

    model: Path
    """Folder of the published model."""
    left_out: Report
    """The unusable images, by reason."""
    sizes: dict[str, int]
    """Number of images by split, `train` and `val`."""


@dataclass(kw_only=True)
class TrainingResult(RunResult):
    """The result of a contrastive or prompt run."""

    outcome: Outcome


@dataclass(kw_only=True)
class MatchTrainingResult(RunResult):
    """The result of a matching run."""

    outcomes: dict[str, Outcome]
    """The training of each head."""
    scores: dict[str, dict[str, float]]
    """Validation scores by head, `cosine` among them, in percent."""


@dataclass(kw_only=True)
class CaptionTrainingResult(RunResult):
    """The result of a captioning run."""

    outcomes: dict[str, Outcome]
    """The training of each phase."""
    scores: dict[str, float]
    """Validation scores of the model: `cider`, in [0, 10], and `length`, the mean number of words."""
