"""`diptych eval zeroshot`: accuracy of zero-shot classification."""

from __future__ import annotations

from diptych.cli.options import COMMON, Common, Format, Model, Split, Templates
from diptych.cli.show import note_left_out, print_json, print_table, progress, set_quiet


def zeroshot(
    model: Model = "mini",
    *,
    data: str,
    classes: str | None = None,
    templates: Templates = "eighty",
    split: Split = "all",
    format: Format = None,
    common: Common = COMMON,
) -> None:
    """Evaluate zero-shot classification by class names (CLIP protocol).

    Parameters
    ----------
    data
        A folder with one subfolder of images per class, or a data set whose captions are class names.
    classes
        Candidate classes: a file with one class per line (`name`, or `label<TAB>name` if the data set contains labels),
        or a built-in list, imagenet or imagenet-clip. Default: the classes of the data set.
    """
    from diptych.data.classes import read_classes, read_labelled

    set_quiet(common.quiet, common.as_json)
    candidates = read_classes(classes) if classes else None
    pairs = read_labelled(data, format).split(split)
    from diptych.evaluation.evaluators import evaluate_zeroshot
    from diptych.models.dual_encoder import load

    scores, left_out = evaluate_zeroshot(
        load(model, common.device), pairs, candidates, prompts=templates, progress=progress
    )
    if common.as_json:
        print_json(scores.to_dict() | {"left_out": left_out.bad_images})
        return
    note_left_out(left_out)
    row = {f"top-{k} %": f"{value:.1f}" for k, value in scores.accuracy.items()}
    row["top-1 %, mean per class"] = f"{scores.mean_per_class:.1f}"
    print_table(f"{split} split: {scores.images:,} images, {scores.classes:,} classes", [row])
