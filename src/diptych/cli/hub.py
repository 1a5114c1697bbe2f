"""`diptych hub`: publish models on the Hugging Face Hub."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from diptych.cli.options import Model, Output
from diptych.cli.show import echo

app = App(name="hub")

Licence = Annotated[
    str | None,
    Parameter(
        help="Licence of the model, as the Hub names it (apache-2.0, mit, ...), if its model card does not state one."
    ),
]


@app.command
def push(
    model: str,
    repo: str,
    *,
    licence: Licence = None,
    preview: bool = True,
    private: bool = False,
    message: str | None = None,
) -> None:
    """Upload a model to the Hugging Face Hub with a complete model card. Log in first: hf auth login.

    Every command then accepts the repository's name as a model.

    Parameters
    ----------
    model
        A training run, a model directory of any kind, an exported model, or an endpoint directory.
    repo
        Repository on the Hub, USER/NAME. It is created if it does not exist.
    preview
        Add an image that shows results on the sample library to the model card.
    private
        Create the repository as private.
    message
        Commit message.
    """
    from diptych.export.hub import push as push_model

    echo(push_model(model, repo, licence=licence, preview=preview, private=private, message=message))


@app.command
def card(model: Model, repo: str, *, output: Output, licence: Licence = None) -> None:
    """Write the model card that `diptych hub push` would upload, so that you can review it first.

    Parameters
    ----------
    repo
        Repository that the model will have on the Hub, USER/NAME.
    output
        The Markdown file to write.
    """
    from diptych.export.model_card import complete_model_card
    from diptych.models.checkpoints import model_directory
    from diptych.runtime.atomic import write_text

    write_text(output, complete_model_card(model_directory(model), repo, licence=licence))
    echo(f"model card: {output}")
