"""A picture of how near predicted prompts come to the true ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from diptych.errors import require
from diptych.quoting import plot_label


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
