"""`diptych train`: one command for each recipe."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import App, ArgumentCollection, Parameter
from cyclopts.config import Dict

from diptych.cli.show import print_scores, print_table, progress, say, say_left_out
from diptych.recipes.caption import CaptionRecipe
from diptych.recipes.config import make, read_yaml
from diptych.recipes.contrastive import ContrastiveRecipe
from diptych.recipes.match import MatchRecipe


def note_given(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Tell a command, in its hidden `given`, which flags stand on the command line: those win over `--config`."""
    names = (argument.name.removeprefix("--") for argument in arguments if argument.tokens)
    given = sorted({name.split(".")[0].replace("-", "_") for name in names})
    if given and any(argument.name == "--given" for argument in arguments):
        Dict({"given": given}, use_commands_as_keys=False, source="command line")(app, commands, arguments)


app = App(name="train", config=note_given)
app.command("diptych.cli.prompt_model:train", name="prompt")


@app.command
def contrastive(
    *,
    recipe: Annotated[ContrastiveRecipe, Parameter(name="*")] = ContrastiveRecipe(),  # noqa: B008 - a flag's default
    config: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    sweep: Path | None = None,
    given: Annotated[tuple[str, ...], Parameter(show=False)] = (),
) -> None:
    """Train a dual encoder on pictures with captions.

    Parameters
    ----------
    config
        YAML file of settings; flags on the command line win over it.
    resume
        Go on with an interrupted run, exactly where its last checkpoint was.
    sweep
        YAML file of settings, each with a list of values: every combination is trained, and one table compares them.
        An interrupted sweep goes on where it was.
    """
    from diptych.recipes.contrastive import train

    if config:
        flags = {name: value for name, value in asdict(recipe).items() if name in given}
        recipe = make(ContrastiveRecipe, {**read_yaml(config), **flags})
    if sweep:
        from diptych.recipes.sweep import run_sweep

        print_table(f"sweep of {sweep.name}, validation recall in %", run_sweep(recipe, sweep, progress=progress))
        return
    result = train(recipe, resume=resume, progress=progress)
    say(f"{result.sizes['train']:,} pictures to train on, {result.sizes['val']:,} for validation")
    say_left_out(result.left_out)
    outcome = result.outcome
    early = ", stopped early" if outcome.stopped_early else ""
    say(f"{outcome.steps:,} steps in {outcome.seconds:,.0f} s{early}; best epoch: {outcome.best_epoch + 1}")
    print_scores("validation", outcome.best)
    say(f"model: {result.model}")


@app.command
def match(
    *,
    recipe: Annotated[MatchRecipe, Parameter(name="*")] = MatchRecipe(),  # noqa: B008 - a flag's default
    config: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    given: Annotated[tuple[str, ...], Parameter(show=False)] = (),
) -> None:
    """Train a matcher on a dual encoder: the probability that a picture and a text belong together.

    Parameters
    ----------
    config
        YAML file of settings; flags on the command line win over it.
    resume
        Go on with an interrupted run, exactly where its last checkpoint was.
    """
    from diptych.recipes.match import train_matcher

    if config:
        flags = {name: value for name, value in asdict(recipe).items() if name in given}
        recipe = make(MatchRecipe, {**read_yaml(config), **flags})
    result = train_matcher(recipe, resume=resume, progress=progress)
    say(f"{result.sizes['train']:,} pictures to train on, {result.sizes['val']:,} to choose and calibrate by")
    say_left_out(result.left_out)
    for name, outcome in result.outcomes.items():
        early = ", stopped early" if outcome.stopped_early else ""
        say(f"{name}: {outcome.steps:,} steps in {outcome.seconds:,.0f} s{early}; best epoch {outcome.best_epoch + 1}")
    rows = [
        {"head": head, **{key: f"{value:.2f}" for key, value in scores.items() if key != "score"}}
        for head, scores in result.scores.items()
    ]
    print_table("validation, in %", rows)
    say(f"model: {result.model}")


@app.command
def caption(
    *,
    recipe: Annotated[CaptionRecipe, Parameter(name="*")] = CaptionRecipe(),  # noqa: B008 - a flag's default
    config: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    given: Annotated[tuple[str, ...], Parameter(show=False)] = (),
) -> None:
    """Train a captioner: a small decoder on a dual encoder, a ViT-GPT2, or a BLIP.

    Parameters
    ----------
    config
        YAML file of settings; flags on the command line win over it.
    resume
        Go on with an interrupted run, exactly where its last checkpoint was.
    """
    from diptych.recipes.caption import train_captioner

    if config:
        flags = {name: value for name, value in asdict(recipe).items() if name in given}
        recipe = make(CaptionRecipe, {**read_yaml(config), **flags})
    result = train_captioner(recipe, resume=resume, progress=progress)
    say(f"{result.sizes['train']:,} pictures to train on, {result.sizes['val']:,} to choose by")
    say_left_out(result.left_out)
    for name, outcome in result.outcomes.items():
        early = ", stopped early" if outcome.stopped_early else ""
        say(f"{name}: {outcome.steps:,} steps in {outcome.seconds:,.0f} s{early}; best epoch {outcome.best_epoch + 1}")
    say(f"validation CIDEr {result.scores['cider']:.3f}, {result.scores['length']:.1f} words a caption")
    say(f"model: {result.model}")
