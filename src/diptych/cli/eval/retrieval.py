"""`diptych eval retrieval`: recall, median rank and MRR of retrieval in both directions."""

from __future__ import annotations

from diptych.cli.options import COMMON, Common, Format, Model, Split
from diptych.cli.show import note_left_out, print_json, print_scores, progress, set_quiet


def retrieval(
    model: Model = "mini",
    *,
    data: str,
    split: Split = "test",
    format: Format = None,
    common: Common = COMMON,
) -> None:
    """Evaluate image-to-text and text-to-image retrieval (Karpathy protocol).

    If the data set has no val split, --split val uses the images that training would hold out by default.

    Parameters
    ----------
    data
        Data set to evaluate on.
    """
    from diptych.data.formats.read import read_pairs

    set_quiet(common.quiet, common.as_json)
    pairs = read_pairs(data, format).with_val().split(split)
    from diptych.evaluation.evaluators import evaluate_retrieval
    from diptych.models.dual_encoder import load

    scores, left_out = evaluate_retrieval(load(model, common.device), pairs, progress=progress)
    if common.as_json:
        print_json(scores.to_dict() | {"left_out": left_out.bad_images})
        return
    note_left_out(left_out)
    images, captions = scores.image_to_text.queries, scores.text_to_image.queries
    print_scores(f"{split} split: {images:,} images, {captions:,} captions", scores.to_dict())
