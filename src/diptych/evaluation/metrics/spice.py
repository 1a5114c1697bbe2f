"""SPICE (Anderson et al. 2016, ECCV): what captions say of objects, attributes and relations, as F1 over tuples.

The scene graphs come from a parser with a model that no package carries: `spice` runs the authors' Java program where
that model has been put beside it. `tuples_f1` is the score itself.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from diptych.errors import MissingExtra
from diptych.evaluation.metrics import java
from diptych.evaluation.metrics.bleu import check_pictures

SceneTuple = tuple[str, ...]  # ("dog",), ("dog", "brown") or ("dog", "run on", "beach")

_JAR = ("spice", "spice-1.0.jar")
_MODEL = tuple(("spice", "lib", f"stanford-corenlp-3.6.0{part}.jar") for part in ("", "-models"))


def tuples_f1(
    candidate: Iterable[SceneTuple],
    references: Iterable[SceneTuple],
    same: Callable[[str, str], bool] = str.__eq__,
) -> float:
    """The F1 of a candidate's tuples against those of all references of the picture together, in [0, 1].

    Two tuples match when they have as many words and each pair of words is the `same` (SPICE: or synonyms in WordNet).
    Each counts once, however often it is said. It is 0 where either has no tuple.

    The candidate says two things of which one is right; the references say three: 2 * 1/2 * 1/3 / (1/2 + 1/3).

    >>> said = [("dog",), ("dog", "black")]
    >>> tuples_f1(said, [("dog",), ("dog", "brown"), ("dog", "on", "beach")])
    0.4
    """
    said, known = list(dict.fromkeys(candidate)), list(dict.fromkeys(references))
    left = list(known)
    for each in said:
        match = next((one for one in left if _match(each, one, same)), None)
        if match is not None:
            left.remove(match)
    matched = len(known) - len(left)
    return 2 * matched / (len(said) + len(known)) if matched else 0.0


def _match(one: SceneTuple, other: SceneTuple, same: Callable[[str, str], bool]) -> bool:
    return len(one) == len(other) and all(map(same, one, other))


def spice_missing() -> str | None:
    """Why SPICE cannot be computed here, or None where it can."""
    if not java.runs(*_JAR):
        return f"SPICE is a Java program: {java.HOW}"
    if not all(java.program(*part) for part in _MODEL):
        return (
            f"the model of SPICE's parser is not installed: put {_MODEL[0][-1]} and {_MODEL[1][-1]} (Stanford CoreNLP "
            "of 2015-12-09) into spice/lib of the package pycocoevalcap"
        )
    return None


def spice(candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> np.ndarray:
    """SPICE of each picture, (pictures,) in [0, 1]; coco-caption's score of all pictures is their mean.

    0 where the parser finds nothing in a caption or its references.

    Args:
        candidates: for each picture the words of its caption.
        references: for each picture the words of each of its references, at least one.

    Raises:
        ValueError: there is no picture, or there are not as many references as candidates.
        MissingExtra: Java, the program or its model is not there.
    """
    check_pictures(candidates, references)
    if why := spice_missing():
        raise MissingExtra(why)
    asked = [
        {"image_id": row, "test": " ".join(words), "refs": [" ".join(each) for each in of_picture]}
        for row, (words, of_picture) in enumerate(zip(candidates, references, strict=True))
    ]
    jar = java.program(*_JAR)
    assert jar
    with tempfile.TemporaryDirectory() as folder:
        said, scored = Path(folder, "captions.json"), Path(folder, "scores.json")
        said.write_text(json.dumps(asked), "utf-8")
        words = ("-Xmx8G", "-jar", str(jar), str(said), "-out", str(scored), "-subset", "-silent")
        java.run_java(*words, folder=jar.parent)
        found = {each["image_id"]: each["scores"]["All"]["f"] for each in json.loads(scored.read_text("utf-8"))}
    return np.nan_to_num(np.array([found[row] or 0.0 for row in range(len(candidates))], float))
