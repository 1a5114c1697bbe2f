"""`diptych train`: one command for each recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from diptych.cli.recipe import Config, Given, Resume, note_given, say_outcome, settled
from diptych.cli.show import print_scores, print_table, progress, say, say_left_out
from diptych.training.caption.config import CaptionRecipe
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.match.config import MatchRecipe

app = App(name="train", config=note_given)
app.command("diptych.cli.prompt_model:train", name="prompt")


@app.command
def contrastive(
    *,
    recipe: Annotated[ContrastiveRecipe, Parameter(name="*")] = ContrastiveRecipe(),  # noqa: B008 - a flag's default
    config: Config = None,
    resume: Resume = False,
    sweep: Path | None = None,
    given: Given = (),
) -> None:
    """Train a dual encoder on pictures with captions.

    Parameters
    ----------
    sweep
        YAML file of settings, each with a list of values: every combination is trained, and one table compares them.
        An interrupted sweep goes on where it was.
    """
    from diptych.training.contrastive.train import train

    recipe = settled(recipe, config, given)
    if sweep:
        from diptych.training.sweep import run_sweep

        print_table(f"sweep of {sweep.name}, validation recall in %", run_sweep(recipe, sweep, progress=progress))
        return
    result = train(recipe, resume=resume, progress=progress)
    say(f"{result.sizes['train']:,} pictures to train on, {result.sizes['val']:,} for validation")
    say_left_out(result.left_out)
    say_outcome(result.outcome)
    print_scores("validation", result.outcome.best)
    say(f"model: {result.model}")


@app.command
def match(
    *,
    recipe: Annotated[MatchRecipe, Parameter(name="*")] = MatchRecipe(),  # noqa: B008 - a flag's default
    config: Config = None,
    resume: Resume = False,
    given: Given = (),
) -> None:
    """Train a matcher on a dual encoder: the probability that a picture and a text belong together."""
    from diptych.training.match.train import train_matcher

    recipe = settled(recipe, config, given)
    result = train_matcher(recipe, resume=resume, progress=progress)
    say(f"{result.sizes['train']:,} pictures to train on, {result.sizes['val']:,} to choose and calibrate by")
    say_left_out(result.left_out)
    for name, outcome in result.outcomes.items():
        say_outcome(outcome, name)
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
    config: Config = None,
    resume: Resume = False,
    given: Given = (),
) -> None:
    """Train a captioner: a small decoder on a dual encoder, a ViT-GPT2, or a BLIP."""
    from diptych.training.caption.train import train_captioner

    recipe = settled(recipe, config, given)
    result = train_captioner(recipe, resume=resume, progress=progress)
    say(f"{result.sizes['train']:,} pictures to train on, {result.sizes['val']:,} to choose by")
    say_left_out(result.left_out)
    for name, outcome in result.outcomes.items():
        say_outcome(outcome, name)
    say(f"validation CIDEr {result.scores['cider']:.3f}, {result.scores['length']:.1f} words a caption")
    say(f"model: {result.model}")
