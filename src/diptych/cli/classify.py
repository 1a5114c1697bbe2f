"""`diptych classify`: classify images by class names or by labelled examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from diptych.cli.options import COMMON, Classes, Common, K, Model, PageOutput, TableFile, Templates
from diptych.cli.show import note, note_files, note_left_out, print_json, print_table, progress, set_quiet

if TYPE_CHECKING:
    from diptych.data.pairs import Pairs
    from diptych.evaluation.image_classifier import Classified, ImageClassifier, MethodScores

_SHOWN = 50  # images of the printed table


Examples = Annotated[
    str | None, Parameter(help="Labelled images to learn from: a folder with one subfolder of images per class.")
]


def classify(
    source: str,
    *,
    classes: Classes = None,
    examples: Examples = None,
    method: Literal["zero-shot", "adapter", "probe"] | None = None,
    shots: Annotated[tuple[int, ...], Parameter(negative="")] = (),
    model: Model = "mini",
    templates: Templates = "eighty",
    k: K = 3,
    table: TableFile = None,
    output: PageOutput = None,
    common: Common = COMMON,
) -> None:
    """Classify images by class names or by labelled examples.

    Without --classes and --examples, the images must be in one subfolder per class, and classification methods are
    compared on them by cross-validation.

    Parameters
    ----------
    source
        A folder of images, or a folder with one subfolder of images per class.
    method
        zero-shot (class names only), adapter (names and examples, Tip-Adapter) or probe (linear probe on the examples).
        Default: the method that does best on the examples, or zero-shot without examples.
    shots
        When comparing methods, also measure with this many examples per class: --shots 1 4 16.
    k
        Classes to report per image.
    table
        Write the classes of every image to this CSV file.
    output
        Also write the images of each class to an HTML page (.html) or contact sheets (.png).
    """
    from diptych.data.classes import classes_in, read_classes
    from diptych.errors import DataError

    set_quiet(common.quiet, common.as_json)
    if Path(source).is_file():
        raise DataError(f"'{source}' is a file; give the folder of the images")
    names = read_classes(classes) if classes is not None else None
    comparing = classes is None and examples is None
    labelled = _labelled(examples or source) if comparing or examples is not None else None
    images = None if comparing else _images(source)
    if names is None:
        assert labelled is not None
        names = classes_in(labelled)
    from diptych.evaluation.image_classifier import ImageClassifier
    from diptych.models.dual_encoder import load

    classifier = ImageClassifier(load(model, common.device), names, prompts=templates, progress=progress)
    if images is None:
        assert labelled is not None
        _print_scores(classifier.cross_validate(labelled, shots=shots, progress=progress), common.as_json)
        return
    classified = _classified(classifier, images, labelled, method, k, common.as_json)
    _print_classified(classified, common.as_json)
    _write(classified, classifier, table, output)


def _labelled(folder: str) -> Pairs:
    """The images of class folders that can be used."""
    from diptych.data.classes import read_class_folders
    from diptych.data.doctor.inspect import usable_pairs

    pairs, left_out = usable_pairs(read_class_folders(folder), progress=progress)
    note_left_out(left_out)
    return pairs


def _classified(
    classifier: ImageClassifier, images: Pairs, labelled: Pairs | None, method: str | None, k: int, as_json: bool
) -> list[Classified]:
    from diptych.evaluation.image_classifier import best_method

    if labelled is not None and method is None:
        scores = classifier.cross_validate(labelled, progress=progress)
        method = best_method(scores)
        if not as_json:
            _print_scores(scores, as_json)
        note(f"classified by: {method}")
    return classifier.set_params(method=method or "zero-shot").fit(labelled).classify(images, k=k)


def _images(path: str) -> Pairs:
    """Every image in a folder and its subfolders, whatever their names."""
    from diptych.data.formats.image_paths import image_files
    from diptych.data.pairs import Pairs, Row
    from diptych.errors import DataError

    folder = Path(path).absolute()
    rows = [Row(file.relative_to(folder).as_posix(), file, ()) for file in image_files(folder)]
    if not rows:
        raise DataError(f"'{path}' contains no images")
    return Pairs.from_rows(rows)


def _print_scores(scores: Sequence[MethodScores], as_json: bool) -> None:
    if as_json:
        print_json([asdict(score) for score in scores])
        return
    rows = [
        {
            "method": score.method,
            "examples per class": "none" if score.method == "zero-shot" else f"{score.shots or 'all'}",
            "top-1 %": f"{score.top1:.1f}",
            "95% interval": f"{score.low:.1f} to {score.high:.1f}",
            "top-5 %": f"{score.top5:.1f}",
            "mean per class %": f"{score.mean_per_class:.1f}",
        }
        for score in scores
    ]
    print_table(f"{scores[0].images:,} labelled images, cross-validated", rows)


def _print_classified(classified: Sequence[Classified], as_json: bool) -> None:
    if as_json:
        print_json([asdict(image) for image in classified])
        return
    print_table(f"{len(classified):,} images", [_row(image) for image in classified[:_SHOWN]])
    if len(classified) > _SHOWN:
        note(f"and {len(classified) - _SHOWN:,} more; --table FILE writes all of them")


def _row(image: Classified) -> dict[str, str]:
    others = zip(image.names[1:], image.probabilities[1:], strict=True)
    return {
        "image": image.image_id,
        "class": image.names[0] if image.names else "(cannot be decoded)",
        "probability": f"{image.probabilities[0]:.2f}" if image.names else "",
        "or": ", ".join(f"{name} {probability:.2f}" for name, probability in others),
    }


def _write(classified: list[Classified], classifier: ImageClassifier, table: Path | None, output: Path | None) -> None:
    from diptych.evaluation.image_classifier import class_gallery, write_table
    from diptych.reports.gallery import save_gallery

    files: list[Path] = []
    if table:
        write_table(classified, table)
        files.append(table)
    if output:
        files += save_gallery(class_gallery(classified, classifier.classes), output)
    for file in files:
        note_files([file])
