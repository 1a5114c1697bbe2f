"""`diptych eval match`: decisions, ranking and calibration of a matcher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diptych.cli.options import COMMON, Common, Count, Format, Head, Matcher, OptionalShare, Prior, Share, Split
from diptych.cli.show import echo, note_files, note_left_out, print_json, print_table, progress, set_quiet

if TYPE_CHECKING:
    from diptych.evaluation.evaluators import MatchReport

_MEASURES = ("accuracy", "precision", "recall", "f1", "auc", "average_precision", "brier", "ece")


def match(
    model: Matcher = "mini",
    *,
    data: str,
    head: Head = None,
    split: Split = "test",
    threshold: Share = 0.5,
    min_precision: OptionalShare = None,
    prior: Prior = None,
    plots: Path | None = None,
    resamples: Count = 200,
    format: Format = None,
    common: Common = COMMON,
) -> None:
    """Evaluate a matcher: decisions, ranking and calibration, with 95% confidence intervals.

    Each caption is paired with its own image, a random image and a hard negative, an image that the dual encoder finds
    similar. Labelled pairs (a table with the columns image, caption and label) are evaluated as they are, without
    splits.

    Parameters
    ----------
    data
        Data set to evaluate on, or a table of labelled pairs.
    threshold
        Minimum probability at which a pair counts as a match.
    min_precision
        Also report the lowest threshold at which the precision is at least this value, from 0 to 1.
    plots
        Folder for the reliability diagram and the ROC and precision-recall curves (.png).
    resamples
        Number of bootstrap resamples of the images for the confidence intervals.
    """
    from diptych.data.formats.read import read_pairs
    from diptych.data.labelled import is_labelled, read_labelled_pairs

    set_quiet(common.quiet, common.as_json)
    pairs = read_labelled_pairs(data) if is_labelled(data) else read_pairs(data, format).with_val().split(split)
    from diptych.evaluation.evaluators import evaluate_match
    from diptych.matching.matcher import load_matcher

    matcher = load_matcher(model, head, common.device)
    report, left_out = evaluate_match(
        matcher, pairs, threshold=threshold, prior=prior, resamples=resamples, progress=progress
    )
    files = _save_plots(report, matcher.name, plots) if plots else []
    if common.as_json:
        print_json(report.to_dict() | {"left_out": left_out.bad_images})
        return
    note_left_out(left_out)
    _print(report, f"head {matcher.name}, threshold {threshold:g}")
    if min_precision is not None:
        _print_thresholds(report, min_precision)
    for file in files:
        note_files([file])


def _print(report: MatchReport, title: str) -> None:
    def cell(name: str, key: str) -> str:
        low, high = report.intervals[name][key]
        return f"{getattr(report.scores[name], key):.3f} ({low:.3f} to {high:.3f})"

    rows = [
        {"measure": key.replace("_", " "), **{name: cell(name, key) for name in report.scores}} for key in _MEASURES
    ]
    counts = {name: f"{scores.pairs:,}" for name, scores in report.scores.items()}
    print_table(title, [*rows, {"measure": "pairs", **counts}])


def _print_thresholds(report: MatchReport, precision: float) -> None:
    from diptych.evaluation.metrics.matching import threshold_for_precision

    for name in report.scores:
        threshold = threshold_for_precision(*report.of(name), precision)
        which = "no threshold" if threshold is None else f"threshold {threshold:.4f}"
        echo(f"{name}: {which} has a precision of at least {precision:g}")


def _save_plots(report: MatchReport, head: str, folder: Path) -> list[Path]:
    from diptych.evaluation.match_plots import PLOTS
    from diptych.runtime.atomic import new_file

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, (title, plot) in PLOTS.items():
        files.append(folder / f"{name}.png")
        sets = {part: report.of(part) for part in report.scores}
        with new_file(files[-1]) as file:
            plot(sets, f"{title}, head {head}").savefig(file, dpi=150)
    return files
