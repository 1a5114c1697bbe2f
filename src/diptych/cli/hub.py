"""`diptych hub`: models to the Hugging Face hub; from there every command takes them by name."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from diptych.cli.show import say

app = App(name="hub")


@app.command
def push(
    model: str,
    repo: str,
    *,
    licence: str | None = None,
    picture: bool = True,
    private: bool = False,
    message: str | None = None,
) -> None:
    """Put a model on the hub with a full card. Log in first: hf auth login.

    Parameters
    ----------
    model
        A training run, a model directory of any kind, an exported model, or an endpoint's directory.
    repo
        The name on the hub, USER/NAME; made if it is not there.
    licence
        Under which licence, as the hub names it (apache-2.0, mit, ...), when the model's card does not say so.
    picture
        Add a picture of what the model makes of the sample library's photographs.
    private
        Make the repository private, if it is made.
    message
        The message of the commit.
    """
    from diptych.export.hub import push as push_model

    say(push_model(model, repo, licence=licence, picture=picture, private=private, message=message))


@app.command
def card(model: str, repo: str, *, out: Path, licence: str | None = None) -> None:
    """Write the card that `push` would send, to read it before anybody else does.

    Parameters
    ----------
    model
        A training run, or a model directory of any kind.
    repo
        The name that it is to have on the hub, USER/NAME.
    out
        The Markdown file to write.
    licence
        Under which licence, as the hub names it, when the model's card does not say so.
    """
    from diptych.export.model_card import full_card
    from diptych.models.checkpoints import model_directory
    from diptych.runtime.atomic import write_text

    write_text(out, full_card(model_directory(model), repo, licence=licence))
    say(f"card: {out}")
