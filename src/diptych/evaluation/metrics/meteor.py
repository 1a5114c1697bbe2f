"""METEOR 1.5 (Denkowski and Lavie 2014), computed by its authors' Java program as in coco-caption."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread
from typing import IO

import numpy as np
from numpy.typing import NDArray

from diptych.errors import DiptychError, MissingExtra
from diptych.evaluation.metrics import java
from diptych.evaluation.metrics.bleu import check_references

_JAR = ("meteor", "meteor-1.5.jar")


def meteor_missing() -> str | None:
    """Why METEOR cannot be computed on this machine, or None if it can."""
    return None if java.runs(*_JAR) else f"METEOR is a Java program: {java.HOW}"


def meteor(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> tuple[float, NDArray[np.float64]]:
    """METEOR of the corpus, and (images,) of each image, in [0, 1].

    Words are aligned exactly, by stem, by synonym and by paraphrase, with the parameters for English; the best of
    several references counts. Corpus statistics are summed over images before the score is computed.

    Args:
        candidates: the words of each image's caption.
        references: the words of each image's references, at least one for each image.

    Raises:
        ValueError: there is no image, an image has no reference, or the lengths differ.
        MissingExtra: Java or pycocoevalcap is not installed.
        DiptychError: the program failed.
    """
    check_references(candidates, references)
    if why := meteor_missing():
        raise MissingExtra(why)
    requests = b"".join(_line("SCORE", *references[row], words) for row, words in enumerate(candidates))
    jar = java.program(*_JAR)
    command = java.java_command("-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdin
        assert running.stdout
        writing = Thread(target=_write, args=(running.stdin, requests))  # in a thread: neither side blocks
        writing.start()
        statistics = [running.stdout.readline().decode().strip() for _ in candidates]
        writing.join()
        scores = running.communicate(f"EVAL ||| {' ||| '.join(statistics)}\n".encode())[0].split()
    if len(scores) != len(candidates) + 1:
        raise DiptychError(
            f"METEOR returned {len(scores)} values for {len(candidates)} images; check that 2 GB of memory are free"
        )
    return float(scores[-1]), np.array([float(score) for score in scores[:-1]])


def _line(name: str, *texts: Sequence[str]) -> bytes:
    line = " ||| ".join([name, *(" ".join(words).replace("|||", "") for words in texts)])
    return f"{line}\n".encode("utf-8", "replace")


def _write(pipe: IO[bytes], text: bytes) -> None:
    with suppress(BrokenPipeError):  # a program that ended is noticed by its missing answers
        pipe.write(text)
        pipe.flush()
