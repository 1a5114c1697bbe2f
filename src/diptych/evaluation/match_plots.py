"""Plots of match probabilities (reliability, ROC, precision-recall) and of prompt cosines, with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diptych.errors import require
from diptych.evaluation.metrics.matching import BINS, Labels, calibration_error, reliability
from diptych.runtime.quoting import plot_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Sets = Mapping[str, tuple[NDArray[np.floating], Labels]]
"""Name of a set of pairs to its probabilities and labels, (pairs,) each."""

_COLOURS = ("#2158c9", "#0f9d76", "#d1495b", "#7a5195")
_LIMITS = (-0.02, 1.02)  # of both axes


def reliability_diagram(sets: Sets, title: str, *, bins: int = BINS) -> Figure:
    """Fraction of matches against the mean probability of each bin; a calibrated matcher lies on the diagonal.

    The area of a point is the fraction of the pairs in its bin.
    """
    figure, axes = _axes(title, "predicted probability (mean of a bin)", "fraction of matches")
    axes.plot([0, 1], [0, 1], color="#9aa1ad", linewidth=1, linestyle="--", label="perfectly calibrated")
    for colour, (name, (p, y)) in zip(_COLOURS, sets.items(), strict=False):
        diagram = reliability(p, y, bins=bins)
        label = f"{plot_label(name)}: ECE {calibration_error(p, y, bins=bins):.3f}"
        axes.plot(diagram.confidence, diagram.frequency, color=colour, linewidth=1.6, label=label)
        area = 12 + 500 * diagram.share
        axes.scatter(diagram.confidence, diagram.frequency, s=area, color=colour, alpha=0.35, linewidths=0)
    axes.legend(frameon=False, loc="lower right")
    return figure


def roc_curves(sets: Sets, title: str) -> Figure:
    """ROC curves: true positive rate against false positive rate over all thresholds."""
    from sklearn.metrics import roc_auc_score, roc_curve

    figure, axes = _axes(title, "false positive rate", "true positive rate (recall)")
    axes.plot([0, 1], [0, 1], color="#9aa1ad", linewidth=1, linestyle="--", label="chance")
    for colour, (name, (p, y)) in zip(_COLOURS, sets.items(), strict=False):
        false, true, _ = roc_curve(y, p)
        axes.plot(false, true, color=colour, linewidth=1.6, label=f"{plot_label(name)}: AUC {roc_auc_score(y, p):.3f}")
    axes.legend(frameon=False, loc="lower right")
    return figure


def precision_recall_curves(sets: Sets, title: str) -> Figure:
    """Precision against recall over all thresholds."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    figure, axes = _axes(title, "recall", "precision")
    for colour, (name, (p, y)) in zip(_COLOURS, sets.items(), strict=False):
        precision, recall, _ = precision_recall_curve(y, p)
        label = f"{plot_label(name)}: average precision {average_precision_score(y, p):.3f}"
        axes.step(recall, precision, where="post", color=colour, linewidth=1.6, label=label)
    axes.legend(frameon=False, loc="lower left")
    return figure


PLOTS = {  # file name -> title and function
    "reliability": ("Reliability", reliability_diagram),
    "roc": ("ROC curve", roc_curves),
    "precision_recall": ("Precision and recall", precision_recall_curves),
}


def _axes(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    require("matplotlib", extra="train")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=plot_label(title), xlabel=xlabel, ylabel=ylabel, xlim=_LIMITS, ylim=_LIMITS, aspect="equal")
    axes.grid(color="#e4e7ec", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def cosine_histogram(cosines: NDArray[np.floating], marks: Mapping[str, float], title: str) -> Figure:
    """Histogram of (prompts,) cosines, with a vertical line at each of `marks`."""
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
