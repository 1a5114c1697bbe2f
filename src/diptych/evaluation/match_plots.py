"""Pictures of how good a matcher's probabilities are: reliability, ROC and precision-recall curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from diptych.errors import require
from diptych.evaluation.metrics.matching import BINS, calibration_error, reliability
from diptych.runtime.quoting import plot_label

Sets = dict[str, tuple[np.ndarray, np.ndarray]]  # name -> probabilities and labels

_COLOURS = ("#2158c9", "#0f9d76", "#d1495b", "#7a5195")


def reliability_diagram(sets: Sets, title: str, *, bins: int = BINS) -> Any:
    """Share of matches against the mean probability of each bin; a perfect matcher lies on the diagonal.

    The area of a point is the share of the pairs in its bin. Returns a matplotlib `Figure`.
    """
    figure, axes = _axes(title, "probability given (mean of a bin)", "share of pairs that match")
    axes.plot([0, 1], [0, 1], color="#9aa1ad", linewidth=1, linestyle="--", label="perfectly calibrated")
    for colour, (name, (p, y)) in zip(_COLOURS, sets.items(), strict=False):
        found = reliability(p, y, bins=bins)
        label = f"{plot_label(name)}: ECE {calibration_error(p, y, bins=bins):.3f}"
        axes.plot(found.confidence, found.frequency, color=colour, linewidth=1.6, label=label)
        axes.scatter(
            found.confidence, found.frequency, s=12 + 500 * found.share, color=colour, alpha=0.35, linewidths=0
        )
    axes.legend(frameon=False, loc="lower right")
    return figure


def roc_curves(sets: Sets, title: str) -> Any:
    """Recall against the share of negatives called a match, over all thresholds. Returns a matplotlib `Figure`."""
    from sklearn.metrics import roc_auc_score, roc_curve

    figure, axes = _axes(title, "share of negatives called a match", "share of matches found (recall)")
    axes.plot([0, 1], [0, 1], color="#9aa1ad", linewidth=1, linestyle="--", label="chance")
    for colour, (name, (p, y)) in zip(_COLOURS, sets.items(), strict=False):
        false, true, _ = roc_curve(y, p)
        axes.plot(false, true, color=colour, linewidth=1.6, label=f"{plot_label(name)}: AUC {roc_auc_score(y, p):.3f}")
    axes.legend(frameon=False, loc="lower right")
    return figure


def precision_recall_curves(sets: Sets, title: str) -> Any:
    """Precision against recall, over all thresholds. Returns a matplotlib `Figure`."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    figure, axes = _axes(title, "share of matches found (recall)", "share of called matches that match (precision)")
    for colour, (name, (p, y)) in zip(_COLOURS, sets.items(), strict=False):
        precision, recall, _ = precision_recall_curve(y, p)
        label = f"{plot_label(name)}: average precision {average_precision_score(y, p):.3f}"
        axes.step(recall, precision, where="post", color=colour, linewidth=1.6, label=label)
    axes.legend(frameon=False, loc="lower left")
    return figure


PLOTS = {  # name of the file -> title and function
    "reliability": ("Reliability", reliability_diagram),
    "roc": ("ROC curve", roc_curves),
    "precision_recall": ("Precision and recall", precision_recall_curves),
}


def _axes(title: str, across: str, up: str) -> tuple[Any, Any]:
    require("matplotlib", extra="train")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=plot_label(title), xlabel=across, ylabel=up, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.grid(color="#e4e7ec", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def cosine_histogram(cosines: np.ndarray, marks: Mapping[str, float], title: str) -> Any:
    """How the (prompts,) cosines are spread, with a line at each mean of `marks`. Returns a matplotlib `Figure`."""
    require("matplotlib", extra="train")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    low = min(0.0, float(np.floor(cosines.min() * 10) / 10))
    axes.hist(cosines, bins=np.linspace(low, 1, 61).tolist(), color="#c9d6f2", linewidth=0)
    colours = ("#2158c9", "#d1495b", "#7a5195", "#0f9d76", "#e08e0b", "#5a6270")
    for colour, (name, value) in zip(colours, marks.items(), strict=False):
        axes.axvline(value, color=colour, linewidth=1.6, label=f"{plot_label(name)}: mean {value:.3f}")
    axes.set(title=plot_label(title), xlabel="cosine of predicted and true prompt", ylabel="prompts", xlim=(low, 1))
    axes.grid(color="#e4e7ec", linewidth=0.8, axis="y")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=2, fontsize=9)
    return figure
