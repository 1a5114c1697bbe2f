"""`diptych train`: one command for each recipe, with a flag for each of its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from cyclopts import App, ArgumentCollection, Parameter, default_name_transform
from cyclopts.config import Dict

from diptych.cli.options import OptionalInputPath, Quiet, check_device
from diptych.cli.show import echo, note, note_left_out, print_scores, print_table, progress, set_quiet, warn
from diptych.errors import ConfigError
from diptych.training.caption.config import CaptionRecipe
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.match.config import MatchRecipe
from diptych.training.prompt.config import PromptRecipe
from diptych.training.recipe_files import make, read_yaml
from diptych.training.results import BASELINE
from diptych.training.resume import recorded_recipe
from diptych.training.run_settings import RunSettings

if TYPE_CHECKING:
    from cyclopts.field_info import FieldInfo

    from diptych.data.doctor.inspect import Report
    from diptych.training.trainer import Outcome

Recipe = TypeVar("Recipe", bound=RunSettings)


def _flag_of(field: str) -> str:
    return "output" if field == "out" else default_name_transform(field)


def _short_flag_of(field: FieldInfo, taken: frozenset[str]) -> str | None:
    return "-o" if field.name == "out" and "-o" not in taken else None


_SETTINGS = Parameter(name="*", name_transform=_flag_of, short_alias=_short_flag_of)


@Parameter(name="*")
@dataclass(frozen=True)
class RunOptions:
    """The options of every training command that are not settings of its recipe.

    Attributes:
        config: YAML file of settings.
        resume: Whether an interrupted run is resumed.
        quiet: Whether only results are printed.
        given: Names of the settings on the command line.
    """

    config: Annotated[
        Path | None, Parameter(help="YAML file of settings. Flags on the command line override the file.")
    ] = None
    resume: Annotated[
        bool,
        Parameter(
            negative="",
            help="Resume the run in the output folder from its last checkpoint, as if it had not stopped; other "
            "flags are optional.",
        ),
    ] = False
    quiet: Quiet = False
    given: Annotated[tuple[str, ...], Parameter(show=False)] = ()


def note_given(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Pass the names of the settings on the command line to a command's hidden `given`: they override `--config`."""
    flags = (argument.name.removeprefix("--") for argument in arguments if argument.tokens)
    names = sorted({flag.split(".")[0].replace("-", "_") for flag in flags})
    given = ["out" if name == "output" else name for name in names]
    if given and any(argument.name == "--given" for argument in arguments):
        Dict({"given": given}, use_commands_as_keys=False, source="command line")(app, commands, arguments)


app = App(name="train", config=note_given)


@app.command
def contrastive(
    *,
    recipe: Annotated[ContrastiveRecipe, _SETTINGS] = ContrastiveRecipe(),  # noqa: B008 - defaults of the flags
    sweep: OptionalInputPath = None,
    options: RunOptions = RunOptions(),
) -> None:
    """Train a dual encoder on images with captions.

    Parameters
    ----------
    sweep
        YAML file with a list of values per setting: a model is trained for every combination, and the results are
        compared in one table. An interrupted sweep continues where it stopped.
    """
    recipe = _chosen_settings(recipe, replace(options, resume=options.resume and not sweep))
    from diptych.training.contrastive.train import train

    if sweep:
        from diptych.training.sweep import run_sweep

        print_table(f"sweep of {sweep.name}, validation recall in %", run_sweep(recipe, sweep, progress=progress))
        return
    result = train(recipe, resume=options.resume, progress=progress)
    _note_training(result.sizes, result.left_out, {"": result.outcome})
    print_scores("validation", result.outcome.best)
    echo(f"model: {result.model}")


@app.command
def match(
    *,
    recipe: Annotated[MatchRecipe, _SETTINGS] = MatchRecipe(),  # noqa: B008 - defaults of the flags
    options: RunOptions = RunOptions(),
) -> None:
    """Train a matcher on a dual encoder. It estimates the probability that an image and a text match."""
    recipe = _chosen_settings(recipe, options)
    from diptych.training.match.train import train_matcher

    result = train_matcher(recipe, resume=options.resume, progress=progress)
    _note_training(result.sizes, result.left_out, result.outcomes)
    rows = [
        {"head": head, **{key: f"{value:.2f}" for key, value in scores.items() if key != "score"}}
        for head, scores in result.scores.items()
    ]
    print_table("validation, in %", rows)
    echo(f"model: {result.model}")


@app.command
def caption(
    *,
    recipe: Annotated[CaptionRecipe, _SETTINGS] = CaptionRecipe(),  # noqa: B008 - defaults of the flags
    options: RunOptions = RunOptions(),
) -> None:
    """Train a captioner: a small decoder on a dual encoder, a VisionEncoderDecoder (such as ViT-GPT2), or a BLIP."""
    recipe = _chosen_settings(recipe, options)
    from diptych.training.caption.train import train_captioner

    result = train_captioner(recipe, resume=options.resume, progress=progress)
    _note_training(result.sizes, result.left_out, result.outcomes)
    echo(f"validation CIDEr {result.scores['cider']:.3f}, {result.scores['length']:.1f} words per caption")
    echo(f"model: {result.model}")


@app.command
def prompt(
    *,
    recipe: Annotated[PromptRecipe, _SETTINGS] = PromptRecipe(),  # noqa: B008 - defaults of the flags
    options: RunOptions = RunOptions(),
) -> None:
    """Train a prompter, a model that predicts the prompt of an image, on images with prompts."""
    recipe = _chosen_settings(recipe, options)
    from diptych.training.prompt.train import train_prompter

    result = train_prompter(recipe, resume=options.resume, progress=progress)
    _note_training(result.sizes, result.left_out, {"": result.outcome})
    best = result.outcome.best
    echo(f"validation cosine {best['cosine'] / 100:.3f}, median rank of the true prompt {best['median_rank']:g}")
    if best["cosine"] <= best.get(BASELINE, -100.0):
        warn(
            f"this is no better than the mean of the training prompts, with a cosine of {best[BASELINE] / 100:.3f} "
            "for any image; train for more epochs, or on more images"
        )
    echo(f"model: {result.model}")


def _chosen_settings(recipe: Recipe, options: RunOptions) -> Recipe:
    """The recorded settings of a run that is resumed, overridden by the YAML file and those by the flags."""
    set_quiet(options.quiet)
    flags = {name: value for name, value in asdict(recipe).items() if name in options.given}
    chosen = {**(read_yaml(options.config) if options.config else {}), **flags}
    if options.resume:
        recorded = recorded_recipe(type(recipe), make(type(recipe), chosen).out)
        return _checked(make(type(recipe), {**asdict(recorded), **chosen}))
    return _checked(make(type(recipe), chosen) if options.config else recipe)


def _checked(recipe: Recipe) -> Recipe:
    """The recipe, if its data set and its device exist."""
    from diptych.data.formats.read import detect

    check_device(str, recipe.device)
    if not recipe.data:
        raise ConfigError("no data set is given; name a folder, a file or a data set of the hub as `data`")
    detect(recipe.data, recipe.format)
    return recipe


def _note_training(sizes: dict[str, int], left_out: Report, outcomes: Mapping[str, Outcome]) -> None:
    """Print how many images were used, and how many steps the training of each part of the model took."""
    note(f"{sizes['train']:,} images for training, {sizes['val']:,} for validation")
    note_left_out(left_out)
    for part, outcome in outcomes.items():
        early = ", stopped early" if outcome.stopped_early else ""
        text = f"{outcome.steps:,} steps in {outcome.seconds:,.0f} s{early}; best epoch {outcome.best_epoch + 1}"
        note(f"{part}: {text}" if part else text)
