"""`diptych train prompt` and `diptych eval prompt`: prompters, trained and measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from diptych.cli.recipe import Config, Given, Resume, say_outcome, settled
from diptych.cli.show import print_json, print_table, progress, say, say_left_out
from diptych.runtime.quoting import ReportTable
from diptych.training.prompt.config import PromptRecipe

if TYPE_CHECKING:
    from diptych.evaluation.prompts import PromptReport


def train(
    *,
    recipe: Annotated[PromptRecipe, Parameter(name="*")] = PromptRecipe(),  # noqa: B008 - a flag's default
    config: Config = None,
    resume: Resume = False,
    given: Given = (),
) -> None:
    """Train a prompter on pictures with prompts: from a picture to its prompt's embedding."""
    from diptych.training.prompt.train import train_prompter

    recipe = settled(recipe, config, given)
    result = train_prompter(recipe, resume=resume, progress=progress)
    say(f"{result.sizes['train']:,} pictures to train on, {result.sizes['val']:,} for validation")
    say_left_out(result.left_out)
    say_outcome(result.outcome)
    best = result.outcome.best
    say(f"validation: cosine {best['cosine'] / 100:.3f}, median rank of the true prompt {best['median_rank']:g}")
    say(f"model: {result.model}")


def evaluate(
    model: str = "mini",
    *,
    data: str,
    split: str = "test",
    train_data: str | None = None,
    how: Literal["retrieve", "compose", "generate"] = "retrieve",
    library: Path | None = None,
    captioner: str | None = None,
    results: Path | None = None,
    histogram: Path | None = None,
    format: str | None = None,
    device: str = "auto",
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
) -> None:
    """Measure a prompter: how near its vectors and its words come to the true prompts, beside baselines.

    Parameters
    ----------
    model
        A prompter: the run or directory of `diptych train prompt`, or mini.
    data
        Data set of pictures with prompts (or captions) to measure on.
    split
        Split to measure on: test, val (also called dev), train, or all. Where the data set has no val, it is the part
        that training holds out by default.
    train_data
        Data set whose train split (or whole) gives the baselines; that of --data when not given.
    how
        How the prompter says its prompts: retrieve, compose or generate.
    library
        With retrieve, the prompts to choose from: a text file with one a line, or a table or data set with prompts.
    captioner
        With compose and generate, the captioner; the model's own when not given.
    results
        CSV file for every prompt with what was predicted and their cosine, test_results.csv say.
    histogram
        Picture file (PNG) for how the cosines are spread.
    format
        The data set's format; recognised by itself when not given.
    device
        auto, cpu, cuda or mps.
    as_json
        Print the scores as JSON.
    """
    from diptych.cli.prompt import generation_config_of
    from diptych.data.formats.read import read_pairs
    from diptych.evaluation.prompts import evaluate_prompter
    from diptych.prompting.prompter import load_prompter

    pairs = read_pairs(data, format).with_val()
    known = read_pairs(train_data).with_val(0.0) if train_data else pairs
    training = known.split("train") if "train" in known.split_sizes and (train_data or split != "train") else None
    prompter = load_prompter(model, device)
    wishes = generation_config_of(prompter, library, captioner, None, device)
    chosen = pairs.split(split)
    report, left_out = evaluate_prompter(prompter, chosen, training, how=how, progress=progress, **wishes)
    files = _written(report, results, histogram, f"{model}, {split} split")
    if as_json:
        print_json(report.to_dict() | {"left_out": left_out.bad_pictures})
        return
    say_left_out(left_out)
    _print(report, f"{split} split, space of {prompter.space.name}")
    for file in files:
        say(str(file))


def _print(report: PromptReport, title: str) -> None:
    rows = [
        {
            "": name,
            "cosine": f"{scores.mean:.3f}",
            "median": f"{scores.median:.3f}",
            **{f"{share:.0%}": f"{scores.quantiles[share]:.2f}" for share in (0.05, 0.95)},
            "norm.": "-" if scores.normalised is None else f"{scores.normalised:.3f}",
            "rank": f"{scores.median_rank:g}",
            "first": f"{scores.median_first_rank:g}",
        }
        for name, scores in report.scores.items()
    ]
    one = next(iter(report.scores.values()))
    print_table(f"{title}: {one.pictures:,} pictures, {one.prompts:,} prompts", rows)
    say("nearest: of the training picture most alike; other prompts: each beside the mean of its picture's others")
    say("norm.: cosines of different text encoders cannot be compared; here the mean embedding is 0 and the truth 1")
    say("rank: median over all prompts; first: over pictures, of the best of each picture's prompts")


def _written(report: PromptReport, results: Path | None, histogram: Path | None, title: str) -> list[Path]:
    from diptych.runtime.atomic import new_file, new_text

    if results:
        with new_text(results) as file:
            writer = ReportTable(file)
            writer.writerow(("imgId", "prompt", "predicted", "cosine"))
            writer.writerows(report.lines())
    if histogram:
        from diptych.evaluation.match_plots import cosine_histogram

        marks = {name: scores.mean for name, scores in report.scores.items()}
        with new_file(histogram) as file:
            cosine_histogram(report.cosines, marks, title).savefig(file, dpi=150)
    return [path for path in (results, histogram) if path]
