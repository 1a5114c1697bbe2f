"""`diptych eval compositional`: does a model read a caption, or only its words?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from diptych.cli.show import print_json, print_table, progress, say, say_left_out

if TYPE_CHECKING:
    from diptych.evaluation.compositional.checks import ChoiceScores, QuadScores


def compositional(
    model: str = "mini",
    *,
    data: str | None = None,
    published: Path | None = None,
    images: Path | None = None,
    matcher: bool = False,
    split: str = "test",
    most: int = 1000,
    format: str | None = None,
    device: str = "auto",
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
) -> None:
    """Measure whether a model tells a caption from one with words swapped, replaced or negated, by kind of change.

    The wrong captions are made of a data set's own, or come from Winoground or SugarCrepe.

    Parameters
    ----------
    model
        A training run, a model directory, a hub name, or mini.
    data
        Data set of whose captions wrong ones are made.
    published
        Instead of it: the folder of Winoground (examples.jsonl) or SugarCrepe (swap_obj.json and others), or one file.
    images
        Folder of the pictures of the published set, when it is another.
    matcher
        Ask the model's matcher instead of its cosine.
    split
        Split of the data set: test, val (also called dev), train, or all.
    most
        At most this many checks of a kind, drawn by chance.
    format
        The data set's format; recognised by itself when not given.
    device
        auto, cpu, cuda or mps.
    as_json
        Print the scores as JSON.
    """
    from diptych.data.doctor.inspect import sound
    from diptych.data.formats.read import read_pairs
    from diptych.errors import ConfigError
    from diptych.evaluation.compositional.checks import Checks, checks_of, evaluate_checks, evaluate_quads
    from diptych.evaluation.compositional.published import read_published
    from diptych.matching.matcher import load_matcher
    from diptych.models.dual_encoder import load

    if (data is None) == (published is None):
        raise ConfigError("give a data set of your own with --data, or Winoground or SugarCrepe with --published")
    if data is not None:
        usable, left_out = sound(read_pairs(data, format).with_val().split(split), progress=progress)
        if not as_json:
            say_left_out(left_out)
        checks: Any = checks_of(usable, most=most)
    else:
        assert published is not None
        checks = read_published(published, images=images)
    judge = load_matcher(model, None, device) if matcher else load(model, device)
    if isinstance(checks, Checks):
        _tell_choices(evaluate_checks(judge, checks, progress=progress), as_json)
    else:
        _tell_quads(evaluate_quads(judge, checks, progress=progress), as_json)


def _tell_choices(scores: ChoiceScores, as_json: bool) -> None:
    if as_json:
        print_json({"mean": scores.mean, "kinds": scores.rows()})
        return
    rows = [
        {
            "kind": row["kind"],
            "right %": f"{row['accuracy']:.1f}",
            "95%": f"{row['low']:.1f} to {row['high']:.1f}",
            "without the picture %": f"{row['blind']:.1f}",
            "checks": row["checks"],
        }
        for row in scores.rows()
    ]
    print_table("right caption before the wrong one (guessing: 50)", rows)
    say(f"mean of the kinds {scores.mean:.1f}")


def _tell_quads(scores: QuadScores, as_json: bool) -> None:
    from dataclasses import asdict

    told = {"all": asdict(scores.all), **{tag: asdict(found) for tag, found in scores.by_tag.items()}}
    if as_json:
        print_json(told)
        return
    rows = [
        {"tag": tag, **{f"{name} %": f"{row[name]:.1f}" for name in ("text", "image", "group")}, "n": row["examples"]}
        for tag, row in told.items()
    ]
    print_table("Winoground (guessing: text 25, image 25, group 16.7)", rows)
