"""The tables of a comparison, as text and marks that a page, Markdown or CSV can set in its own way."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diptych.evaluation.compare.comparison import Comparison
from diptych.evaluation.compare.differences import Measure
from diptych.evaluation.compare.measurements import Measured
from diptych.evaluation.metrics.captions import NAMES

GROUPS = {  # of measures -> the title of its table, and what its numbers are
    "retrieval": (
        "Retrieval",
        "R@K: how often what belongs is among the first K, in the Karpathy protocol; a tie counts against the model.",
    ),
    "classes": (
        "Classification",
        "Zero-shot is by the names of the classes alone, in prompt templates; adapter and linear probe learn from "
        "the other four fifths of the pictures, each picture judged by what had not seen it.",
    ),
    "matching": (
        "Matching",
        "Whether a text belongs to a picture. AUC looks at the order alone, ECE at the probabilities: less is better. "
        "Hard negatives are pictures whose captions share words with the text; a matcher is calibrated for others, so "
        "its ECE here is that of a change of scene. A model without one is judged by its cosine, no probability.",
    ),
    "checks": (
        "Compositional checks",
        "How often the right caption scores above one with a small change; guessing gives 50. Blind is the same choice "
        "for the mean of all pictures: what a model gets from how captions are usually written. Only what is surely "
        "above the model's own blind score is marked.",
    ),
    "captions": ("Captions", "One caption a picture, against all of its captions."),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands in a field: `text`, `small` lines below it, and whether it is the `best`, or `tied` with it."""

    text: str
    small: str = ""
    best: bool = False
    tied: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def quality_tables(comparison: Comparison) -> list[Table]:
    """A table for each group of measures that a model has: one row a model."""
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
    """What each model costs; of the rates and sizes the best is marked where all were measured on one machine."""
    rows = [(Cell(model.name), *map(Cell, _cost(model.told["cost"]))) for model in comparison.models]
    batch = next((model.told["cost"] for model in comparison.models if "picture_batch" in model.told["cost"]), None)
    notes = [_BATCHES.format(**batch)] if batch else []
    if busy := [model for model in comparison.models if (model.told["machine"].get("load") or 0) > _BUSY]:
        most = max(model.told["machine"]["load"] for model in busy)
        names = _list([model.name for model in busy])
        notes.append(
            f"{names} ran beside other work (up to {most:g} jobs a core): compare no speed or time with theirs."
        )
    header = (
        "model",
        "parameters",
        "of them image / text",
        "on disk",
        "pictures/s",
        "texts/s",
        "peak memory",
        "loads in",
    )
    return Table("Cost", " ".join(notes), header, tuple(rows))


_BUSY = 1.25  # jobs a core: up to 1 is the comparison itself
_BATCHES = (
    "In batches of {picture_batch} pictures and {text_batch} texts, preprocessing included, pictures decoded before; "
    "medians of rounds in a process of the model's own. Peak memory is what loading and these batches add to a process "
    "that has its libraries."
)


def difference_table(comparison: Comparison) -> Table | None:
    """Every two models by the leading measure of each group; real differences are marked as `best`."""
    leading = [measure for group, key in LEADING.items() for measure in comparison.group(group) if measure.key == key]
    leading = [measure for measure in leading if measure.differences]
    if not leading:
        return None
    rows = []
    for one, two in itertools.combinations(comparison.names, 2):
        cells = [_difference(measure, one, two) for measure in leading]
        rows.append((Cell(f"{one} − {two}"), *cells))
    note = (
        "By how much the first is above the second, with its interval: a paired bootstrap over pictures, both on the "
        "same draws, at a level at which all differences of a column hold together with 95% (Bonferroni). In bold "
        "where the interval leaves out zero: those differences are real."
    )
    return Table("Differences", note, ("models", *(measure.title for measure in leading)), tuple(rows))


LEADING = {"retrieval": "t2i_r@1", "classes": "top1", "matching": "auc_hard", "checks": "swapped attributes"}
LEADING |= {"captions": "cider_d"}


def said(comparison: Comparison) -> list[str]:
    """The outcome in sentences: who leads by the leading measure of each group, and before whom surely."""
    return [
        _sentence(measure, leaders)
        for group, key in LEADING.items()
        for measure in comparison.group(group)
        if measure.key == key and (leaders := _leaders(measure, comparison.models))
    ]


def _sentence(measure: Measure, leaders: list[str]) -> str:
    best, level = leaders[0], leaders[1:]
    behind = [name for name in measure.values if name != best and measure.difference(best, name).value > 0]
    behind = [name for name in behind if measure.difference(best, name).significant]
    sure = f", surely before {_list(behind)}" if behind else ""
    chance = f"; its lead over {_list(level)} may be chance" if level else ""
    what = measure.title.split(" %")[0]
    return f"{best} leads in {what} with {measure.values[best]:.{measure.digits}f}{sure}{chance}."


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _leaders(measure: Measure, models: Sequence[Measured]) -> list[str]:
    """The best model, then those that may be as good; none where there is nothing to lead."""
    names = [model.name for model in models if model.name in measure.values and _counts(measure, model)]
    if len(measure.values) < 2 or not names:
        return []
    best = max(names, key=lambda name: measure.values[name])
    return [best, *(name for name in names if name != best and not measure.difference(best, name).significant)]


def _counts(measure: Measure, model: Measured) -> bool:
    """A check that is won without the picture as well is not won."""
    return measure.group != "checks" or measure.intervals[model.name][0] > _blind(measure, model)


def _blind(measure: Measure, model: Measured) -> float:
    return next(row["blind"] for row in model.told["checks"]["kinds"] if row["kind"] == measure.key)


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


def _difference(measure: Measure, one: str, two: str) -> Cell:
    if one not in measure.values or two not in measure.values:
        return Cell("–")
    found, digits = measure.difference(one, two), measure.digits
    value, low, high = (f"{each:+.{digits}f}".replace("-", "−") for each in (found.value, found.low, found.high))
    return Cell(value, f"{low} to {high}", best=found.significant)


def _retrieval_extra(model: Measured) -> tuple[str, ...]:
    scores = model.told["retrieval"]
    return f"{scores['rsum']:.1f}", f"{scores['t2i_median_rank']:g} / {scores['i2t_median_rank']:g}"


def _classes_extra(model: Measured) -> tuple[str, ...]:
    return (f"{model.told['classes']['mean_per_class']:.1f}",)


def _matching_extra(model: Measured) -> tuple[str, ...]:
    told = model.told["matching"]
    if not told["calibrated"]:
        return "–", "–", told["head"], "–"
    mixed = told["sets"]["mixture"]
    return f"{mixed['ece']:.3f}", f"{mixed['brier']:.3f}", told["head"], f"{told['pairs_per_second']:,.0f}"


def _captions_extra(model: Measured) -> tuple[str, ...]:
    told = model.told["captions"]
    rest = [f"{told['scores'][key]:.3f}" if key in told["scores"] else "–" for key in ("bleu4", "meteor")]
    return *rest, f"{told['captions_per_second']:.1f}"


_EXTRA: dict[str, tuple[tuple[str, ...], Any]] = {
    "retrieval": (("sum of R@K", "median rank t→i / i→t"), _retrieval_extra),
    "classes": (("zero-shot, mean of classes %",), _classes_extra),
    "matching": (("ECE, mixed", "Brier, mixed", "judged by", "pairs/s"), _matching_extra),
    "captions": ((NAMES["bleu4"], NAMES["meteor"], "captions/s"), _captions_extra),
}


def _cost(cost: dict[str, Any]) -> tuple[str, ...]:
    parts = [cost.get(f"{side}_parameters") for side in ("image", "text")]
    return (
        _millions(cost.get("parameters")),
        " / ".join(map(_millions, parts)) if all(parts) else "–",
        _megabytes(cost["bytes_on_disk"]),
        _rate(cost.get("pictures_per_second")),
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
