"""What the commands of `diptych train` share: a recipe's settings from flags and YAML, and what a run came to."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import App, ArgumentCollection, Parameter
from cyclopts.config import Dict

from diptych.cli.show import say
from diptych.training.settings import make, read_yaml

if TYPE_CHECKING:
    from diptych.training.trainer import Outcome

Recipe = TypeVar("Recipe")

Config = Annotated[Path | None, Parameter(help="YAML file of settings; flags on the command line win over it.")]
Resume = Annotated[
    bool, Parameter(negative="", help="Go on with an interrupted run, exactly where its last checkpoint was.")
]
Given = Annotated[tuple[str, ...], Parameter(show=False)]


def note_given(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Tell a command, in its hidden `given`, which flags stand on the command line: those win over `--config`."""
    names = (argument.name.removeprefix("--") for argument in arguments if argument.tokens)
    given = sorted({name.split(".")[0].replace("-", "_") for name in names})
    if given and any(argument.name == "--given" for argument in arguments):
        Dict({"given": given}, use_commands_as_keys=False, source="command line")(app, commands, arguments)


def settled(recipe: Recipe, config: Path | None, given: tuple[str, ...]) -> Recipe:
    """The recipe with the settings of a YAML file, but for the flags that were given."""
    if config is None:
        return recipe
    flags: dict[str, Any] = {name: value for name, value in asdict(recipe).items() if name in given}  # type: ignore[call-overload]
    return make(type(recipe), {**read_yaml(config), **flags})


def say_outcome(outcome: Outcome, part: str = "") -> None:
    """A line of how long the training of a model, or of one `part` of it, took."""
    early = ", stopped early" if outcome.stopped_early else ""
    told = f"{outcome.steps:,} steps in {outcome.seconds:,.0f} s{early}; best epoch {outcome.best_epoch + 1}"
    say(f"{part}: {told}" if part else told)
