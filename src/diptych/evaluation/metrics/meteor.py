"""METEOR 1.5 of captions (Denkowski and Lavie 2014), by its own Java program, as coco-caption calls it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread
from typing import IO

import numpy as np

from diptych.errors import DiptychError, MissingExtra
from diptych.evaluation.metrics import java
from diptych.evaluation.metrics.bleu import check_pictures

_JAR = ("meteor", "meteor-1.5.jar")


def meteor_missing() -> str | None:
    """Why METEOR cannot be computed here, or None where it can."""
    return None if java.runs(*_JAR) else f"METEOR is a Java program: {java.HOW}"


def meteor(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> tuple[float, np.ndarray]:
    """METEOR of all pictures together, and (pictures,) of each, in [0, 1].

    Words are aligned exactly, by stem, by synonym and by paraphrase, with the parameters for English; of several
    references the best counts. Over all pictures, statistics are summed before the score is computed.

    Args:
        candidates: for each picture the words of its caption.
        references: for each picture the words of each of its references, at least one.

    Raises:
        ValueError: there is no picture, or there are not as many references as candidates.
        MissingExtra: Java or the package with the program is not there.
        DiptychError: the program failed.
    """
    check_pictures(candidates, references)
    if why := meteor_missing():
        raise MissingExtra(why)
    asked = b"".join(_line("SCORE", *references[row], words) for row, words in enumerate(candidates))
    jar = java.program(*_JAR)
    command = java.java_command("-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdin
        assert running.stdout
        writing = Thread(target=_write, args=(running.stdin, asked))  # so that neither side waits on a full pipe
        writing.start()
        statistics = [running.stdout.readline().decode().strip() for _ in candidates]
        writing.join()
        scores = running.communicate(f"EVAL ||| {' ||| '.join(statistics)}\n".encode())[0].split()
    if len(scores) != len(candidates) + 1:
        raise DiptychError(f"METEOR gave {len(scores)} scores for {len(candidates)} pictures; is 2 GB of memory free?")
    return float(scores[-1]), np.array([float(score) for score in scores[:-1]])


def _line(name: str, *texts: Sequence[str]) -> bytes:
    line = " ||| ".join([name, *(" ".join(words).replace("|||", "") for words in texts)])
    return f"{line}\n".encode("utf-8", "replace")


def _write(pipe: IO[bytes], text: bytes) -> None:
    with suppress(BrokenPipeError):  # a program that ended is seen by what it did not answer
        pipe.write(text)
        pipe.flush()
