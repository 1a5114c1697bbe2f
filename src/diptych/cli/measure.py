"""`diptych eval`: measure models by the field's protocols."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from diptych.cli.show import print_json, print_scores, print_table, progress, say, say_left_out

if TYPE_CHECKING:
    from diptych.evaluation.evaluators import MatchReport

app = App(name="eval")
app.command("diptych.cli.prompt_model:evaluate", name="prompt")
app.command("diptych.cli.compositional:compositional", name="compositional")
app.command("diptych.cli.caption_scores:caption", name="caption")


@app.command
def retrieval(
    model: str,
    *,
    data: str,
    split: str = "test",
    format: str | None = None,
    device: str = "auto",
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
) -> None:
    """Measure image-to-text and text-to-image retrieval (Karpathy protocol).

    Parameters
    ----------
    model
        A training run, a model directory, or a hub name.
    data
        Data set to measure on.
    split
        Split to measure on: test, val (also called dev), train, or all. Where the data set has no val, it is the part
        that training holds out by default.
    format
        The data set's format; recognised by itself when not given.
    device
        auto, cpu, cuda or mps.
    as_json
        Print the scores as JSON.
    """
    from diptych.data.formats.read import read_pairs
    from diptych.evaluation.evaluators import evaluate_retrieval
    from diptych.models.dual_encoder import load

    pairs = read_pairs(data, format).with_val().split(split)
    scores, left_out = evaluate_retrieval(load(model, device), pairs, progress=progress)
    if as_json:
        print_json(scores.to_dict() | {"left_out": left_out.bad_pictures})
        return
    say_left_out(left_out)
    print_scores(
        f"{split} split: {scores.image_to_text.queries:,} pictures, {scores.text_to_image.queries:,} captions",
        scores.to_dict(),
    )


@app.command
def zeroshot(
    model: str,
    *,
    data: str,
    classes: str | None = None,
    prompts: str = "eighty",
    split: str = "all",
    format: str | None = None,
    device: str = "auto",
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
) -> None:
    """Measure zero-shot classification by class names (CLIP's protocol).

    Parameters
    ----------
    model
        A training run, a model directory, or a hub name.
    data
        A folder with one folder of pictures for each class, or a data set whose captions are class names.
    classes
        The classes to choose among: a file with a class a line (`name`, or `label<TAB>name` where the data set writes
        labels), imagenet, or imagenet-clip. When not given, those that the data set has.
    prompts
        Templates that the names are put into: one, seven, or eighty.
    split
        Split to measure on: test, val (also called dev), train, or all.
    format
        The data set's format; recognised by itself when not given.
    device
        auto, cpu, cuda or mps.
    as_json
        Print the scores as JSON.
    """
    from diptych.data.classes import read_classes, read_labelled
    from diptych.evaluation.evaluators import evaluate_zeroshot
    from diptych.models.dual_encoder import load

    pairs = read_labelled(data, format).split(split)
    known = read_classes(classes) if classes else None
    scores, left_out = evaluate_zeroshot(load(model, device), pairs, known, prompts=prompts, progress=progress)
    if as_json:
        print_json(scores.to_dict() | {"left_out": left_out.bad_pictures})
        return
    say_left_out(left_out)
    row = {f"top-{k} %": f"{value:.1f}" for k, value in scores.accuracy.items()}
    row["mean of classes, top-1 %"] = f"{scores.mean_per_class:.1f}"
    print_table(f"{split} split: {scores.pictures:,} pictures, {scores.classes:,} classes", [row])


@app.command
def match(
    model: str = "mini",
    *,
    data: str,
    head: str | None = None,
    split: str = "test",
    threshold: float = 0.5,
    precision: float | None = None,
    prior: float | None = None,
    plots: Path | None = None,
    resamples: int = 200,
    format: str | None = None,
    device: str = "auto",
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
) -> None:
    """Measure a matcher: its decisions, its order and its probabilities, with 95% intervals over pictures.

    Each caption is judged with its own picture, with a random one and with a hard one: one that the dual encoder finds
    similar. Labelled pairs (a table with the columns image, caption, label) are judged as they are.

    Parameters
    ----------
    model
        A matcher: the run or directory of `diptych train match`, a BLIP checkpoint for matching, or mini.
    data
        Data set to measure on, or a table of labelled pairs.
    head
        pair, cross or cosine; the best that the model has when not given.
    split
        Split to measure on: test, val (also called dev), train, or all; labelled pairs are always taken all.
    threshold
        At or above this probability a pair counts as called a match.
    precision
        Also say which threshold has this precision, from 0 to 1.
    prior
        Share of matches that the probabilities are moved to; they are as calibrated when not given.
    plots
        Folder for the reliability diagram, ROC and precision-recall curves (PNG).
    resamples
        Bootstrap resamples for the intervals.
    format
        The data set's format; recognised by itself when not given.
    device
        auto, cpu, cuda or mps.
    as_json
        Print the scores as JSON.
    """
    from diptych.data.formats.read import read_pairs
    from diptych.data.labelled import is_labelled, read_labelled_pairs
    from diptych.evaluation.evaluators import evaluate_match
    from diptych.matching.matcher import load_matcher

    pairs = read_labelled_pairs(data) if is_labelled(data) else read_pairs(data, format).with_val().split(split)
    matcher = load_matcher(model, head, device)
    report, left_out = evaluate_match(
        matcher, pairs, threshold=threshold, prior=prior, resamples=resamples, progress=progress
    )
    files = _save_plots(report, matcher.name, plots) if plots else []
    if as_json:
        print_json(report.to_dict() | {"left_out": left_out.bad_pictures})
        return
    say_left_out(left_out)
    _print_match(report, f"head {matcher.name}, threshold {threshold:g}", precision)
    for file in files:
        say(str(file))


def _print_match(report: MatchReport, title: str, precision: float | None) -> None:
    from diptych.evaluation.metrics.matching import threshold_for_precision

    def shown(name: str, key: str) -> str:
        low, high = report.intervals[name][key]
        return f"{getattr(report.scores[name], key):.3f} ({low:.3f} to {high:.3f})"

    keys = ("accuracy", "precision", "recall", "f1", "auc", "average_precision", "brier", "ece")
    rows = [{"measure": key.replace("_", " "), **{name: shown(name, key) for name in report.scores}} for key in keys]
    sizes = {name: f"{scores.pairs:,}" for name, scores in report.scores.items()}
    print_table(title, [*rows, {"measure": "pairs", **sizes}])
    if precision is None:
        return
    for name in report.scores:
        found = threshold_for_precision(*report.of(name), precision)
        where = "no threshold" if found is None else f"threshold {found:.4f}"
        say(f"{name}: {where} has a precision of at least {precision:g}")


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
