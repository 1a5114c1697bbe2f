"""`diptych match`: the probability that pictures and texts belong together."""

from __future__ import annotations

from pathlib import Path

from diptych.cli.show import csv_output, print_table, progress, say


def match(
    picture: Path | None = None,
    *texts: str,
    pairs: Path | None = None,
    out: Path | None = None,
    model: str = "mini",
    head: str | None = None,
    prior: float | None = None,
    device: str = "auto",
) -> None:
    """Say how likely it is that a picture and a text belong together, from 0 to 1.

    Of the pairs that get 0.8, eight in ten match, if they are like those that the model was calibrated for.

    Parameters
    ----------
    picture
        A picture file.
    texts
        One or more texts, each put to the picture.
    pairs
        Instead of a picture and texts: a table of many pairs (CSV, TSV, JSON lines) with the columns image and caption.
    out
        With --pairs, the CSV file to write; to standard output when not given.
    model
        A matcher: the run or directory of `diptych train match`, or mini.
    head
        pair (fast) or cross (looks closer), or cosine (the dual encoder alone); the best that the model has when not
        given.
    prior
        Share of pairs that are expected to match, when it is not the half that the model was calibrated for.
    device
        auto, cpu, cuda or mps.
    """
    from diptych.errors import ConfigError
    from diptych.images.decode import decode
    from diptych.matching.matcher import load_matcher

    if (pairs is None) == (picture is None):
        raise ConfigError('give a picture and a text (diptych match photo.jpg "two dogs"), or a table with --pairs')
    if pairs is not None:
        _match_table(pairs, out, model, head, prior, device)
        return
    assert picture is not None
    if not texts:
        raise ConfigError(f"no text is given for '{picture}'; say in words what it may show")
    matcher = load_matcher(model, head, device)
    image = decode(picture, min_side=matcher.encoder.image_size)
    probabilities = matcher.predict([image] * len(texts), texts, prior=prior)
    rows = [{"P(match)": f"{p:.3f}", "text": text} for p, text in zip(probabilities, texts, strict=True)]
    print_table(str(picture), rows)


def _match_table(pairs: Path, out: Path | None, model: str, head: str | None, prior: float | None, device: str) -> None:
    """Each line of the table with its probability; a picture that cannot be decoded leaves its field empty."""
    from diptych.matching.match_table import match_table, read_match_table
    from diptych.matching.matcher import load_matcher

    table = read_match_table(pairs)
    probabilities = match_table(load_matcher(model, head, device), table, prior=prior, progress=progress)
    told = [
        (name, text, "" if p != p else f"{p:.4f}")
        for name, text, p in zip(table.names, table.texts, probabilities, strict=True)
    ]
    with csv_output(out) as writer:
        writer.writerow(("image", "caption", "probability"))
        writer.writerows(told)
    if out:
        bad = sum(1 for *_, p in told if not p)
        without = f"; {bad:,} without a probability: no picture that decodes, or no text" if bad else ""
        say(f"{len(told):,} pairs: {out}{without}")
