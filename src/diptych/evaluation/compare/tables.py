"""The tables and summary sentences of a comparison, independent of the output format."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diptych.evaluation.compare.comparison import Comparison
from diptych.evaluation.compare.differences import Measure
from diptych.evaluation.compare.measurements import Measured, Summary
from diptych.evaluation.metrics.bootstrap import least_groups
from diptych.evaluation.metrics.captions import NAMES

GROUPS = {  # group of measures -> title and note of its table
    "retrieval": (
        "Retrieval",
        "R@K: percentage of queries whose match is among the top K (Karpathy protocol; ties count against the model).",
    ),
    "classes": (
        "Classification",
        "Zero-shot uses the class names in prompt templates. Adapter and linear probe are evaluated by five-fold "
        "cross-validation on the labelled images.",
    ),
    "matching": (
        "Matching",
        "Whether a text matches an image. AUC depends on the order alone; ECE and Brier score measure the "
        "probabilities (lower is better). Hard negatives are images whose captions share words with the text. "
        "Matchers are calibrated on other negatives, so ECE here includes a distribution shift. Models without a "
        "matcher are scored by cosine.",
    ),
    "checks": (
        "Compositional checks",
        "Percentage of captions that score higher than a slightly changed, wrong one; chance is 50. Blind is the score "
        "for the mean of all images: what a model reaches from the text alone. Only values significantly above the "
        "model's own blind score are marked, and none with so few images that a lead could be chance.",
    ),
    "captions": (
        "Captions",
        "One caption for each image, scored against all of its references. BLEU-4 and METEOR are scores of all "
        "captions together, not means over images, and have no interval; BLEU-4 is 0 where no caption has four words "
        "in a row from a reference.",
    ),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A table cell: `text`, `small` print below it, and whether it is the `best` or `tied` with the best."""

    text: str
    small: str = ""
    best: bool = False
    tied: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table: title, note, header, and rows of cells, the first of which names the row."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def quality_tables(comparison: Comparison) -> list[Table]:
    """A table for each group that has measures: one row for each model."""
    tables = []
    for group, (title, note) in GROUPS.items():
        measures = comparison.group(group)
        if not measures:
            continue
        extra = _EXTRA.get(group)
        leaders = [_leaders(measure, comparison.models) for measure in measures]
        rows = []
        for model in comparison.models:
            if any(model.name in measure.values for measure in measures):
                cells = [_cell(measure, model, best) for measure, best in zip(measures, leaders, strict=True)]
                rows.append((Cell(model.name), *cells, *(map(Cell, extra[1](model)) if extra else ())))
        names = (measure.title for measure in measures)
        tables.append(Table(title, note, ("model", *names, *(extra[0] if extra else ())), tuple(rows)))
    return tables


def cost_table(comparison: Comparison) -> Table:
    """The cost of each model: parameters, size, throughput, memory, load time."""
    rows = [(Cell(model.name), *map(Cell, _cost(model.summary["cost"]))) for model in comparison.models]
    costs = (model.summary["cost"] for model in comparison.models)
    batch = next((cost for cost in costs if "picture_batch" in cost), None)
    notes = [_BATCHES.format(**batch)] if batch else []
    if busy := [model for model in comparison.models if (model.summary["machine"].get("load") or 0) > _BUSY]:
        load = max(model.summary["machine"]["load"] for model in busy)
        names = _list([model.name for model in busy])
        notes.append(
            f"The machine was busy (up to {load:g} jobs per core) while measuring {names}: their speeds and times are "
            "not comparable."
        )
    header = (
        "model",
        "parameters",
        "image / text",
        "on disk",
        "images/s",
        "texts/s",
        "peak memory",
        "load time",
    )
    return Table("Cost", " ".join(notes), header, tuple(rows))


_BUSY = 1.25  # jobs per core; up to 1 is the measurement itself
_BATCHES = (
    "Throughput for batches of {picture_batch} decoded images and {text_batch} texts, preprocessing included; medians "
    "of several rounds, each model in its own process. Peak memory is that of loading and these batches, without the "
    "libraries."
)


def difference_table(comparison: Comparison) -> Table | None:
    """Differences of all pairs of models by the leading measure of each group; significant ones are marked `best`."""
    leading = [measure for group, key in LEADING.items() for measure in comparison.group(group) if measure.key == key]
    leading = [measure for measure in leading if measure.differences]
    if not leading:
        return None
    rows = []
    for first, second in itertools.combinations(comparison.names, 2):
        cells = [_difference(measure, first, second) for measure in leading]
        rows.append((Cell(f"{first} − {second}"), *cells))
    note = (
        "First minus second, with confidence intervals from a paired bootstrap over images. All intervals of a column "
        "hold together with 95% (Bonferroni). Differences whose interval excludes zero are significant and in bold, "
        f"unless they are of fewer than {least_groups()} images."
    )
    return Table("Differences", note, ("models", *(measure.title for measure in leading)), tuple(rows))


LEADING = {"retrieval": "t2i_r@1", "classes": "top1", "matching": "auc_hard", "checks": "swapped attributes"}
LEADING |= {"captions": "cider_d"}


def summary_sentences(comparison: Comparison) -> list[str]:
    """Summary sentences: the best model by the leading measure of each group, and the models it clearly beats."""
    return [
        _sentence(measure, leaders)
        for group, key in LEADING.items()
        for measure in comparison.group(group)
        if measure.key == key and (leaders := _leaders(measure, comparison.models))
    ]


def _sentence(measure: Measure, leaders: list[str]) -> str:
    best, tied = leaders[0], leaders[1:]
    worse = [name for name in measure.values if name != best and measure.difference(best, name).value > 0]
    worse = [name for name in worse if measure.difference(best, name).significant]
    clear = f", significantly above {_list(worse)}" if worse else ""
    unclear = f"; its lead over {_list(tied)} is not significant" if tied else ""
    title = measure.title.split(" %")[0]
    return f"{best} leads in {title} with {measure.values[best]:.{measure.digits}f}{clear}{unclear}."


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _leaders(measure: Measure, models: Sequence[Measured]) -> list[str]:
    """The best model, then those not significantly worse; none with fewer than two models."""
    names = [model.name for model in models if model.name in measure.values and _above_blind(measure, model)]
    if len(measure.values) < 2 or not names:
        return []
    best = max(names, key=lambda name: measure.values[name])
    return [best, *(name for name in names if name != best and not measure.difference(best, name).significant)]


def _above_blind(measure: Measure, model: Measured) -> bool:
    """Whether a value counts: that of a check must be significantly above the model's blind score."""
    if measure.group != "checks":
        return True
    return measure.images >= least_groups() and measure.intervals[model.name][0] > _blind(measure, model)


def _blind(measure: Measure, model: Measured) -> float:
    return next(row["blind"] for row in model.summary["checks"]["kinds"] if row["kind"] == measure.key)


def _cell(measure: Measure, model: Measured, leaders: list[str]) -> Cell:
    name, digits = model.name, measure.digits
    if name not in measure.values:
        return Cell("–")
    low, high = measure.intervals[name]
    small = f"{low:.{digits}f} to {high:.{digits}f}"
    if measure.group == "checks":
        small += f"\nblind {_blind(measure, model):.{digits}f}"
    text = f"{measure.values[name]:.{digits}f}"
    return Cell(text, small, best=name in leaders[:1], tied=name in leaders[1:])


def _difference(measure: Measure, first: str, second: str) -> Cell:
    if first not in measure.values or second not in measure.values:
        return Cell("–")
    difference = measure.difference(first, second)
    numbers = (difference.value, difference.low, difference.high)
    value, low, high = (f"{number:+.{measure.digits}f}".replace("-", "−") for number in numbers)
    return Cell(value, f"{low} to {high}", best=difference.significant)


def _retrieval_extra(model: Measured) -> tuple[str, ...]:
    scores = model.summary["retrieval"]
    return f"{scores['rsum']:.1f}", f"{scores['t2i_median_rank']:g} / {scores['i2t_median_rank']:g}"


def _classes_extra(model: Measured) -> tuple[str, ...]:
    return (f"{model.summary['classes']['mean_per_class']:.1f}",)


def _matching_extra(model: Measured) -> tuple[str, ...]:
    scores = model.summary["matching"]
    if not scores["calibrated"]:
        return "–", "–", scores["head"], "–"
    mixed = scores["sets"]["mixture"]
    return f"{mixed['ece']:.3f}", f"{mixed['brier']:.3f}", scores["head"], f"{scores['pairs_per_second']:,.0f}"


def _captions_extra(model: Measured) -> tuple[str, ...]:
    captions = model.summary["captions"]
    scores = [f"{captions['scores'][key]:.3f}" if key in captions["scores"] else "–" for key in ("bleu4", "meteor")]
    return *scores, f"{captions['captions_per_second']:.1f}"


_EXTRA: dict[str, tuple[tuple[str, ...], Callable[[Measured], tuple[str, ...]]]] = {
    "retrieval": (("sum of R@K", "median rank t→i / i→t"), _retrieval_extra),
    "classes": (("zero-shot, mean per class %",), _classes_extra),
    "matching": (("ECE, mixed", "Brier, mixed", "scored by", "pairs/s"), _matching_extra),
    "captions": ((NAMES["bleu4"], NAMES["meteor"], "captions/s"), _captions_extra),
}


def _cost(cost: Summary) -> tuple[str, ...]:
    parts = [cost.get(f"{side}_parameters") for side in ("image", "text")]
    return (
        _millions(cost.get("parameters")),
        " / ".join(map(_millions, parts)) if all(parts) else "–",
        _megabytes(cost["bytes_on_disk"]),
        _rate(cost.get("images_per_second")),
        _rate(cost.get("texts_per_second")),
        _megabytes(cost.get("peak_memory")),
        f"{cost['load_seconds']:.2f} s",
    )


def _millions(count: int | None) -> str:
    return "–" if count is None else f"{count / 1e6:.1f} M"


def _megabytes(count: int | None) -> str:
    return "–" if count is None else f"{count / 1e6:,.0f} MB"


def _rate(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:,.1f}" if rate < 100 else f"{rate:,.0f}"
