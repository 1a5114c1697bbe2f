"""`diptych eval compositional`: whether a model reads captions as sentences or as bags of words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from diptych.cli.options import COMMON, Common, Count, Flag, Format, Model, OptionalInputPath, Split
from diptych.cli.show import echo, note_left_out, print_json, print_table, progress, set_quiet

if TYPE_CHECKING:
    from diptych.evaluation.compositional.checks import Checks, ChoiceScores, Quads, QuadScores


def compositional(
    model: Model = "mini",
    *,
    data: str | None = None,
    published: OptionalInputPath = None,
    images: Annotated[OptionalInputPath, Parameter("--image-folder")] = None,
    use_matcher: Flag = False,
    split: Split = "test",
    max_checks: Count = 1000,
    format: Format = None,
    common: Common = COMMON,
) -> None:
    """Evaluate whether a model can tell a caption from a variant with its words changed.

    Variants have words swapped, replaced or negated. They are derived from the captions of a data set, or come from
    Winoground or SugarCrepe. Results are reported per kind of change.

    Parameters
    ----------
    data
        Data set from whose captions the variants are derived.
    published
        Instead of --data: the folder of Winoground (examples.jsonl) or SugarCrepe (swap_obj.json and others), or one of
        these files.
    images
        Folder of the images of the published set, if it is not the same folder.
    use_matcher
        Evaluate the model's matcher instead of its cosine similarity.
    max_checks
        Maximum number of checks per kind of change, sampled at random.
    """
    from diptych.errors import ConfigError

    set_quiet(common.quiet, common.as_json)
    if (data is None) == (published is None):
        raise ConfigError("give either --data, a captioned data set, or --published, Winoground or SugarCrepe")
    checks = _checks(data, published, images, split, max_checks, format)
    from diptych.evaluation.compositional.checks import Checks, evaluate_checks, evaluate_quads
    from diptych.matching.matcher import load_matcher
    from diptych.models.dual_encoder import load

    judge = load_matcher(model, None, common.device) if use_matcher else load(model, common.device)
    if isinstance(checks, Checks):
        _print_choices(evaluate_checks(judge, checks, progress=progress), common.as_json)
    else:
        _print_quads(evaluate_quads(judge, checks, progress=progress), common.as_json)


def _checks(
    data: str | None, published: Path | None, images: Path | None, split: str, max_checks: int, format: str | None
) -> Checks | Quads:
    from diptych.data.doctor.inspect import usable_pairs
    from diptych.data.formats.read import read_pairs

    if data is None:
        from diptych.evaluation.compositional.published import read_published

        assert published is not None
        return read_published(published, images=images)
    pairs, left_out = usable_pairs(read_pairs(data, format).with_val().split(split), progress=progress)
    note_left_out(left_out)
    from diptych.evaluation.compositional.checks import make_checks

    return make_checks(pairs, limit=max_checks)


def _print_choices(scores: ChoiceScores, as_json: bool) -> None:
    if as_json:
        print_json({"mean": scores.mean, "kinds": scores.rows()})
        return
    rows = [
        {
            "kind": row["kind"],
            "accuracy %": f"{row['accuracy']:.1f}",
            "95% interval": f"{row['low']:.1f} to {row['high']:.1f}",
            "text only %": f"{row['blind']:.1f}",
            "checks": row["checks"],
        }
        for row in scores.rows()
    ]
    print_table("right caption preferred to the wrong one (chance: 50)", rows)
    echo(f"mean over kinds {scores.mean:.1f}")


def _print_quads(scores: QuadScores, as_json: bool) -> None:
    from dataclasses import asdict

    by_tag = {"all": asdict(scores.all), **{tag: asdict(score) for tag, score in scores.by_tag.items()}}
    if as_json:
        print_json(by_tag)
        return
    rows = [
        {"tag": tag, **{f"{name} %": f"{row[name]:.1f}" for name in ("text", "image", "group")}, "n": row["examples"]}
        for tag, row in by_tag.items()
    ]
    print_table("Winoground (chance: text 25, image 25, group 16.7)", rows)
