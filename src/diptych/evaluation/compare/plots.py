"""The plots of a comparison, as SVG."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diptych.errors import require
from diptych.evaluation.compare.comparison import Comparison, Measure
from diptych.evaluation.compare.tables import LEADING
from diptych.evaluation.match_plots import reliability_diagram
from diptych.runtime.quoting import plot_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#2158c9", "#0f9d76", "#d1495b", "#7a5195", "#e08e0b", "#4d8fac", "#8c6d46", "#6b7280")
_INK, _FAINT, _LINE = "#1c202a", "#5d6472", "#e4e7ec"


def colour_of(comparison: Comparison, name: str) -> str:
    """The colour of a model, the same in all plots."""
    return _COLOURS[comparison.names.index(name) % len(_COLOURS)]


def plots(comparison: Comparison) -> dict[str, bytes]:
    """Title to SVG of every plot that the comparison has data for."""
    drawn = {
        "Quality against speed": _quality_against_speed(comparison),
        "Compositional checks by kind": _bars(comparison, comparison.group("checks"), chance=50),
        "Reliability of the matchers": _reliability(comparison),
    }
    return {title: _svg(figure) for title, figure in drawn.items() if figure is not None}


def confusion_matrix(counts: NDArray[np.int64], labels: list[str], name: str) -> bytes:
    """Confusion matrix as SVG.

    Args:
        counts: (classes, classes) images by true class (rows) and predicted class (columns).
        labels: names of the classes.
        name: name of the model.
    """
    side = 2.6 + 0.28 * len(labels)
    figure, axes = _figure(side + 0.6, side)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(title=plot_label(name), xlabel="predicted", ylabel="true")
    names = list(map(plot_label, labels))
    axes.set_xticks(range(len(labels)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(labels)), names, fontsize=8)
    figure.colorbar(shown, shrink=0.7, label="fraction of the class")
    return _svg(figure)


def _quality_against_speed(comparison: Comparison) -> Figure | None:
    """The leading measure of the first group that has one, against images per second; area by size on disk."""
    measure = next((m for group, key in LEADING.items() for m in comparison.group(group) if m.key == key), None)
    fast = [model for model in comparison.models if "images_per_second" in model.summary["cost"]]
    fast = [model for model in fast if measure is not None and model.name in measure.values]
    if measure is None or not fast:
        return None
    figure, axes = _figure(7.2, 4.8)
    for model in fast:
        cost, (low, high) = model.summary["cost"], measure.intervals[model.name]
        value, colour = measure.values[model.name], colour_of(comparison, model.name)
        x = cost["images_per_second"]
        axes.errorbar(x, value, [[value - low], [high - value]], color=colour, linewidth=1.2, capsize=3)
        axes.scatter(x, value, s=30 + 3 * cost["bytes_on_disk"] / 1e6, color=colour, alpha=0.3, linewidths=0)
        axes.scatter(x, value, s=22, color=colour)
        words = f"{plot_label(model.name)}\n{cost['bytes_on_disk'] / 1e6:,.0f} MB"
        axes.annotate(words, (x, value), (9, 7), textcoords="offset points", fontsize=9, color=_INK)
    axes.set_xscale("log")
    axes.margins(x=0.35, y=0.2)
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    rates = [model.summary["cost"]["images_per_second"] for model in fast]
    ticks = [tick for tick in _round_numbers() if min(rates) / 1.6 < tick < max(rates) * 1.6]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="images per second", ylabel=f"{measure.title} (95% interval)")
    return figure


def _bars(comparison: Comparison, measures: list[Measure], chance: float) -> Figure | None:
    if not measures:
        return None
    names = [name for name in comparison.names if any(name in measure.values for measure in measures)]
    figure, axes = _figure(7.2, 4.8)
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        x = np.arange(len(measures)) + (i - (len(names) - 1) / 2) * width
        values = np.array([measure.values[name] for measure in measures])
        ends = np.array([measure.intervals[name] for measure in measures])
        bars = np.abs(ends.T - values)
        style = {"linewidth": 0.9, "ecolor": _FAINT}
        axes.bar(
            x, values, width * 0.9, color=colour_of(comparison, name), label=plot_label(name), yerr=bars, error_kw=style
        )
    axes.axhline(chance, color=_FAINT, linewidth=1, linestyle="--")
    axes.text(1.005, chance, "chance", transform=axes.get_yaxis_transform(), fontsize=8, color=_FAINT, va="center")
    axes.set_xticks(range(len(measures)), [measure.key.replace(" ", "\n") for measure in measures])
    axes.set(ylabel="accuracy, %", ylim=(0, 100))
    axes.legend(frameon=False, fontsize=9, ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def _reliability(comparison: Comparison) -> Figure | None:
    pairs = comparison.suite.labelled_pairs if comparison.suite.pairs is not None else None
    calibrated = [model for model in comparison.models if model.summary.get("matching", {}).get("calibrated")]
    if pairs is None or not calibrated:
        return None
    rows = pairs.sets["mixture"]
    sets = {model.name: (model.arrays["match_scores"][rows], pairs.labels[rows]) for model in calibrated}
    return reliability_diagram(sets, "Half matches; half random and hard negatives")


def _round_numbers() -> list[float]:
    return [digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5)]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    require("matplotlib", extra="train")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # missing glyphs are drawn as boxes
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
