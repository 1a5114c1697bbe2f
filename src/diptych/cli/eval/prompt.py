"""`diptych eval prompt`: a prompter against the true prompts and baselines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from diptych.cli.options import (
    COMMON,
    Captioner,
    Common,
    Format,
    OptionalInputPath,
    Prompter,
    PromptMethod,
    Split,
    TableFile,
)
from diptych.cli.show import note, note_files, note_left_out, print_json, print_table, progress, set_quiet
from diptych.runtime.quoting import ReportTable

if TYPE_CHECKING:
    from diptych.evaluation.prompts import PromptReport


def prompt(
    model: Prompter = "mini",
    *,
    data: str,
    split: Split = "test",
    train_data: str | None = None,
    method: PromptMethod = "retrieve",
    library: Annotated[OptionalInputPath, Parameter("--prompts")] = None,
    captioner: Captioner = None,
    table: TableFile = None,
    histogram: Annotated[Path | None, Parameter(validator=validators.Path(dir_okay=False))] = None,
    format: Format = None,
    common: Common = COMMON,
) -> None:
    """Evaluate a prompter against the true prompts and baselines.

    Both the predicted embedding and the prompt in words are compared with the true prompt. If the data set has no val
    split, --split val uses the images that training would hold out by default.

    Parameters
    ----------
    data
        Data set of images with prompts (or captions) to evaluate on.
    train_data
        Data set for the baselines: its training split, or all of it if it has none. Default: the training split
        of --data.
    method
        How prompts are produced: retrieve, compose or generate.
    library
        With retrieve, the prompts to choose from: a text file with one per line, a table, or a data set.
    table
        CSV file to write: the true and the predicted prompt of every image with their cosine similarity.
    histogram
        Image file to write (.png): a histogram of the cosine similarities.
    """
    from diptych.cli.prompt import generation_config_of
    from diptych.data.formats.read import read_pairs

    set_quiet(common.quiet, common.as_json)
    pairs = read_pairs(data, format).with_val()
    known = read_pairs(train_data).with_val(0.0) if train_data else pairs
    training = known.split("train") if "train" in known.split_sizes and (train_data or split != "train") else None
    evaluated = pairs.split(split)
    from diptych.evaluation.prompts import evaluate_prompter
    from diptych.prompting.prompter import load_prompter

    prompter = load_prompter(model, common.device)
    config = generation_config_of(prompter, library, captioner, None, common.device)
    report, left_out = evaluate_prompter(prompter, evaluated, training, how=method, progress=progress, **config)
    files = _write(report, table, histogram, f"{model}, {split} split")
    if common.as_json:
        print_json(report.to_dict() | {"left_out": left_out.bad_images})
        return
    note_left_out(left_out)
    _print(report, f"{split} split, embeddings of {prompter.space.name}")
    for file in files:
        note_files([file])


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
    first = next(iter(report.scores.values()))
    print_table(f"{title}: {first.images:,} images, {first.prompts:,} prompts", rows)
    note("nearest: prompt of the nearest training image; other prompts: each against the mean of its image's others")
    note("norm.: cosines of different text encoders cannot be compared; here the mean embedding is 0, the truth 1")
    note("rank: median rank over all prompts; first: median over images of the best rank among the image's prompts")


def _write(report: PromptReport, table: Path | None, histogram: Path | None, title: str) -> list[Path]:
    from diptych.runtime.atomic import new_file, new_text

    if table:
        with new_text(table) as file:
            writer = ReportTable(file)
            writer.writerow(("imgId", "prompt", "predicted", "cosine"))
            writer.writerows(report.lines())
    if histogram:
        from diptych.evaluation.match_plots import cosine_histogram

        marks = {name: scores.mean for name, scores in report.scores.items()}
        with new_file(histogram) as file:
            cosine_histogram(report.cosines, marks, title).savefig(file, dpi=150)
    return [path for path in (table, histogram) if path]
