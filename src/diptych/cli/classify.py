"""`diptych classify`: pictures into classes, by their names or by examples."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from diptych.cli.show import print_json, print_table, progress, say, say_left_out

if TYPE_CHECKING:
    from diptych.evaluation.classify import Classified, ImageClassifier, MethodScores


def classify(
    path: str,
    *,
    labels: str | None = None,
    examples: str | None = None,
    method: str | None = None,
    shots: Annotated[tuple[int, ...], Parameter(negative="", consume_multiple=True)] = (),
    model: str = "mini",
    prompts: str = "eighty",
    top: int = 3,
    table: Path | None = None,
    page: Path | None = None,
    device: str = "auto",
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
) -> None:
    """Sort the pictures of a folder into classes, by the names of the classes alone or with labelled examples.

    A folder that holds one folder of pictures for each class is labelled already: without --labels or --examples, ways
    to classify it are measured beside each other, by cross-validation.

    Parameters
    ----------
    path
        A folder of pictures, or of class folders.
    labels
        The classes: a text file with a class a line, imagenet, or imagenet-clip.
    examples
        Labelled pictures to learn from: a folder with one folder of pictures for each class.
    method
        zero-shot (names alone), adapter (names and examples, Tip-Adapter), or probe (a linear probe on examples). With
        examples the one that does best on them, zero-shot without.
    shots
        When measuring, also with only so many examples of each class: --shots 1 4 16.
    model
        A training run, a model directory, a hub name, or mini.
    prompts
        Templates that the class names are put into: one, seven, or eighty.
    top
        How many classes to tell of each picture.
    table
        Write every picture with its class to this CSV file.
    page
        Show the pictures of each class on an HTML page (.html) or contact sheets (.png).
    device
        auto, cpu, cuda or mps.
    as_json
        Print what was found as JSON.
    """
    from diptych.data.classes import classes_in, read_class_folders, read_classes
    from diptych.data.doctor.inspect import sound
    from diptych.evaluation.classify import ImageClassifier
    from diptych.models.dual_encoder import load

    measuring = labels is None and examples is None
    learnt: Any = None
    if measuring or examples is not None:
        learnt, left_out = sound(read_class_folders(examples or path), progress=progress)
        if not as_json:
            say_left_out(left_out)
    classes = read_classes(labels) if labels else classes_in(learnt)
    sorter = ImageClassifier(load(model, device), classes, prompts=prompts, progress=progress)
    if measuring:
        scores = sorter.cross_validate(learnt, shots=shots, progress=progress)
        _tell_scores(scores, as_json)
        return
    found = _classified(sorter, path, learnt, method, top, as_json)
    _tell_classes(found, as_json)
    _write(found, sorter, table, page, as_json)


def _classified(
    sorter: ImageClassifier, path: str, learnt: Any, method: str | None, top: int, as_json: bool
) -> list[Classified]:
    from diptych.evaluation.classify import best_method

    pictures = _pictures(path)
    if method is None and learnt is not None:
        scores = sorter.cross_validate(learnt, progress=progress)
        method = best_method(scores)
        if not as_json:
            _tell_scores(scores, as_json)
            say(f"classified by: {method}")
    return sorter.set_params(method=method or "zero-shot").fit(learnt).classify(pictures, k=top)


def _pictures(path: str) -> Any:
    """Every picture below a folder, whatever the folders within are called."""
    from diptych.data.formats.image_paths import walk_pictures
    from diptych.data.pairs import Pairs, Row
    from diptych.errors import DataError

    folder = Path(path).absolute()
    rows = [Row(file.relative_to(folder).as_posix(), file, ()) for file in walk_pictures(folder)]
    if not rows:
        raise DataError(f"'{path}' holds no pictures; give a folder with some")
    return Pairs.from_rows(rows)


def _tell_scores(scores: list[MethodScores], as_json: bool) -> None:
    if as_json:
        print_json([asdict(score) for score in scores])
        return
    rows = [
        {
            "by": score.method,
            "examples a class": "none" if score.method == "zero-shot" else f"{score.shots or 'all'}",
            "top-1 %": f"{score.top1:.1f}",
            "95%": f"{score.low:.1f} to {score.high:.1f}",
            "top-5 %": f"{score.top5:.1f}",
            "mean of classes %": f"{score.mean_per_class:.1f}",
        }
        for score in scores
    ]
    print_table(f"{scores[0].pictures:,} labelled pictures, each judged by what had not seen it", rows)


def _tell_classes(found: list[Classified], as_json: bool) -> None:
    if as_json:
        print_json([asdict(each) for each in found])
        return
    rows = [
        {
            "picture": each.image_id,
            "class": each.names[0] if each.names else "(cannot be decoded)",
            "probability": f"{each.probabilities[0]:.2f}" if each.names else "",
            "or": ", ".join(f"{name} {p:.2f}" for name, p in zip(each.names[1:], each.probabilities[1:], strict=True)),
        }
        for each in found[:50]
    ]
    print_table(f"{len(found):,} pictures", rows)
    if len(found) > len(rows):
        say(f"and {len(found) - len(rows):,} more; --table FILE writes them all")


def _write(
    found: list[Classified], sorter: ImageClassifier, table: Path | None, page: Path | None, as_json: bool
) -> None:
    from diptych.evaluation.classify import class_gallery, write_table
    from diptych.reports.gallery import save_gallery

    files: list[Path] = []
    if table:
        write_table(found, table)
        files.append(table)
    if page:
        files += save_gallery(class_gallery(found, sorter.classes), page)
    if not as_json:
        for file in files:
            say(str(file))
