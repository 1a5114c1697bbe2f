"""`diptych match`: estimate the probability that an image and a text match."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diptych.cli.options import Device, OptionalOutput, Quiet
from diptych.cli.show import csv_output, note, print_table, progress, set_quiet, warn, warn_notes

if TYPE_CHECKING:
    from diptych.matching.matcher import Matcher


def match(
    image: Path | None = None,
    *texts: str,
    pairs: Path | None = None,
    output: OptionalOutput = None,
    model: str = "mini",
    head: str | None = None,
    prior: float | None = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Estimate the probability that an image and a text match.

    The probabilities are calibrated: of pairs that score 0.8, about 80% match, if they resemble the pairs that the
    model was calibrated on.

    Parameters
    ----------
    image
        An image file.
    texts
        One or more texts to match with the image.
    pairs
        Instead of an image and texts: a table (CSV, TSV or JSON lines) with the columns image and caption.
    output
        With --pairs, the CSV file to write. Standard output by default.
    model
        A matcher: a run or directory of `diptych train match`, or mini.
    head
        Matching head: pair (fast), cross (more accurate) or cosine (the dual encoder alone). By default, the best head
        that the model has.
    prior
        Expected share of matching pairs, if it differs from the one half of the calibration.
    """
    from diptych.errors import ConfigError
    from diptych.images.decode import decode
    from diptych.matching.matcher import load_matcher

    set_quiet(quiet)
    if (pairs is None) == (image is None):
        raise ConfigError('give an image and a text (diptych match photo.jpg "two dogs"), or a table with --pairs')
    if pairs is not None:
        _match_table(pairs, output, load_matcher(model, head, device), prior)
        return
    assert image is not None
    if output:
        raise ConfigError("--output requires --pairs")
    if not texts:
        raise ConfigError(f"no text to match with '{image}'; put one or more texts after the image")
    matcher = load_matcher(model, head, device)
    pixels = decode(image, min_side=matcher.encoder.image_size)
    probabilities = matcher.predict([pixels] * len(texts), texts, prior=prior)
    rows = [{"P(match)": f"{p:.3f}", "text": text} for p, text in zip(probabilities, texts, strict=True)]
    print_table(str(image), rows)


def _match_table(pairs: Path, output: Path | None, matcher: Matcher, prior: float | None) -> None:
    """Write the table with probabilities; the probability of an image that cannot be decoded is empty."""
    from diptych.matching.match_table import match_table, read_match_table

    table = read_match_table(pairs)
    warn_notes(table.notes, pairs)
    probabilities = match_table(matcher, table, prior=prior, progress=progress)
    rows = [
        (name, text, "" if p != p else f"{p:.4f}")
        for name, text, p in zip(table.names, table.texts, probabilities, strict=True)
    ]
    with csv_output(output) as writer:
        writer.writerow(("image", "caption", "probability"))
        writer.writerows(rows)
    bad = sum(1 for *_, p in rows if not p)
    without = f"; {bad:,} without a probability: the image cannot be decoded or the text is empty" if bad else ""
    if output:
        note(f"{len(rows):,} pairs: {output}{without}")
    elif bad:
        warn(f"{pairs}: {len(rows):,} pairs{without}")
