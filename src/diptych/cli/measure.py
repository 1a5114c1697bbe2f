"""`diptych eval`: measure models by the field's protocols."""

from __future__ import annotations

import json
from typing import Annotated

from cyclopts import App, Parameter

from diptych.cli.show import print_scores, print_table, progress, say

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
    from diptych.classes import read_classes, read_labelled
    from diptych.dual import load
    from diptych.evaluate import evaluate_zeroshot

    pairs = read_labelled(data, format).split(split)
    known = read_classes(classes) if classes else None
    scores, left_out = evaluate_zeroshot(load(model, device), pairs, known, prompts=prompts, progress=progress)
    if as_json:
        print(json.dumps(scores.as_dict() | {"left_out": left_out.bad_pictures}, indent=2))
        return
    if left_out.bad_pictures:
        say(f"left out: {left_out.summary()}")
    row = {f"top-{k} %": f"{value:.1f}" for k, value in scores.accuracy.items()}
    row["mean of classes, top-1 %"] = f"{scores.mean_per_class:.1f}"
    print_table(f"{split} split: {scores.pictures:,} pictures, {scores.classes:,} classes", [row])
