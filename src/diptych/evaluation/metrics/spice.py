"""SPICE (Anderson et al. 2016, ECCV): F1 over the objects, attributes and relations that captions mention.

`spice` runs the authors' Java program, which parses captions into scene graphs; the model of its parser is not on PyPI
and must be installed by hand. `tuples_f1` computes the score from the parsed tuples.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diptych.errors import MissingExtra
from diptych.evaluation.metrics import java
from diptych.evaluation.metrics.bleu import check_references

SceneTuple = tuple[str, ...]  # ("dog",), ("dog", "brown") or ("dog", "run on", "beach")

_JAR = ("spice", "spice-1.0.jar")
_MODEL = tuple(("spice", "lib", f"stanford-corenlp-3.6.0{part}.jar") for part in ("", "-models"))


def tuples_f1(
    candidate: Iterable[SceneTuple],
    references: Iterable[SceneTuple],
    same: Callable[[str, str], bool] = str.__eq__,
) -> float:
    """F1 of a candidate's tuples against the union of the references' tuples, in [0, 1].

    Two tuples match if they have the same length and their words match pairwise. Duplicates count once. The score is 0
    if either side has no tuple.

    Args:
        candidate: tuples of the candidate's scene graph.
        references: tuples of the scene graphs of all references of the image.
        same: whether two words match (in SPICE, also if they are synonyms in WordNet).

    Of two candidate tuples one matches one of three reference tuples: 2 * 1/2 * 1/3 / (1/2 + 1/3).

    >>> candidate = [("dog",), ("dog", "black")]
    >>> tuples_f1(candidate, [("dog",), ("dog", "brown"), ("dog", "on", "beach")])
    0.4
    """
    predicted, expected = list(dict.fromkeys(candidate)), list(dict.fromkeys(references))
    unmatched = list(expected)
    for item in predicted:
        match = next((other for other in unmatched if _match(item, other, same)), None)
        if match is not None:
            unmatched.remove(match)
    matched = len(expected) - len(unmatched)
    return 2 * matched / (len(predicted) + len(expected)) if matched else 0.0


def _match(one: SceneTuple, other: SceneTuple, same: Callable[[str, str], bool]) -> bool:
    return len(one) == len(other) and all(map(same, one, other))


def spice_missing() -> str | None:
    """Why SPICE cannot be computed on this machine, or None if it can."""
    if not java.runs(*_JAR):
        return f"SPICE is a Java program: {java.HOW}"
    if not all(java.program(*part) for part in _MODEL):
        return (
            f"its parser's model is not installed; put {_MODEL[0][-1]} and {_MODEL[1][-1]} (Stanford CoreNLP "
            "of 2015-12-09) into spice/lib of the package pycocoevalcap"
        )
    return None


def spice(candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> NDArray[np.float64]:
    """SPICE of each image: (images,) in [0, 1]; coco-caption's corpus score is their mean.

    It is 0 if the parser finds no tuple in a caption or in its references.

    Args:
        candidates: the words of each image's caption.
        references: the words of each image's references, at least one for each image.

    Raises:
        ValueError: there is no image, an image has no reference, or the lengths differ.
        MissingExtra: Java, the program or its parser model is not installed.
        DiptychError: the program failed.
    """
    check_references(candidates, references)
    if why := spice_missing():
        raise MissingExtra(why)
    requests = [
        {"image_id": row, "test": " ".join(words), "refs": [" ".join(reference) for reference in of_image]}
        for row, (words, of_image) in enumerate(zip(candidates, references, strict=True))
    ]
    jar = java.program(*_JAR)
    assert jar
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "captions.json"), Path(folder, "scores.json")
        source.write_text(json.dumps(requests), "utf-8")
        arguments = ("-Xmx8G", "-jar", str(jar), str(source), "-out", str(target), "-subset", "-silent")
        java.run_java(*arguments, folder=jar.parent)
        results = json.loads(target.read_text("utf-8"))
    scores = {result["image_id"]: result["scores"]["All"]["f"] for result in results}
    return np.nan_to_num(np.array([scores[row] or 0.0 for row in range(len(candidates))], float))
