"""`diptych eval`: measure models by the field's protocols."""

from __future__ import annotations

import json
from typing import Annotated

from cyclopts import App, Parameter

from diptych.cli.show import print_scores, progress, say

app = App(name="eval")


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
    from diptych.dual import load
    from diptych.evaluate import evaluate_retrieval
    from diptych.formats import read_pairs

    pairs = read_pairs(data, format).with_val().split(split)
    scores, left_out = evaluate_retrieval(load(model, device), pairs, progress=progress)
    if as_json:
        print(json.dumps(scores.as_dict() | {"left_out": left_out.bad_pictures}, indent=2))
        return
    if left_out.bad_pictures:
        say(f"left out: {left_out.summary()}")
    print_scores(
        f"{split} split: {scores.image_to_text.queries:,} pictures, {scores.text_to_image.queries:,} captions",
        scores.as_dict(),
    )
