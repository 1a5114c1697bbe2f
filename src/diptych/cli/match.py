"""`diptych match`: estimate the probability that an image and a text match."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diptych.cli.options import COMMON, Common, Head, InputImage, Matcher, OptionalInputPath, Prior, TableOutput
from diptych.cli.show import csv_output, note, print_json, print_table, progress, set_quiet, warn_failures, warn_notes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from diptych.matching.match_table import MatchTable


def match(
    image: InputImage = None,
    *texts: str,
    pairs: OptionalInputPath = None,
    output: TableOutput = None,
    model: Matcher = "mini",
    head: Head = None,
    prior: Prior = None,
    common: Common = COMMON,
) -> None:
    """Estimate the probability that an image and a text match.

    The probabilities are calibrated: about 80% of the pairs given 0.8 do match, provided that they resemble the pairs
    the model was calibrated on.

    Parameters
    ----------
    image
        An image file.
    texts
        One or more texts to match with the image.
    pairs
        Instead of an image and texts: a table (CSV, TSV, JSON lines or Parquet) with the columns image and caption (or
        prompt). Its other columns are kept.
    output
        With --pairs, the CSV file to write. Default: standard output.
    """
    from diptych.errors import ConfigError

    set_quiet(common.quiet, common.as_json)
    if (pairs is None) == (image is None):
        raise ConfigError('give an image and a text (diptych match photo.jpg "two dogs"), or a table with --pairs')
    if pairs is not None:
        _match_pairs(pairs, output, common.as_json, model, head, prior, common.device)
        return
    assert image is not None
    if output:
        raise ConfigError("--output requires --pairs")
    if not texts:
        raise ConfigError(f"no text to match with '{image}'; put one or more texts after the image")
    from diptych.images.decode import decode
    from diptych.matching.matcher import load_matcher

    matcher = load_matcher(model, head, common.device)
    pixels = decode(image, min_side=matcher.encoder.image_size)
    probabilities = matcher.predict([pixels] * len(texts), texts, prior=prior)
    if common.as_json:
        print_json([{"text": text, "probability": float(p)} for p, text in zip(probabilities, texts, strict=True)])
        return
    rows = [{"P(match)": f"{p:.3f}", "text": text} for p, text in zip(probabilities, texts, strict=True)]
    print_table(str(image), rows)


def _match_pairs(
    pairs: Path, output: Path | None, as_json: bool, model: str, head: str | None, prior: float | None, device: str
) -> None:
    """Write the table with probabilities; a pair whose image cannot be decoded or whose text is empty has none."""
    from diptych.matching.match_table import match_table, read_match_table

    table = read_match_table(pairs)
    warn_notes(table.notes, pairs)
    from diptych.matching.matcher import load_matcher

    probabilities = match_table(load_matcher(model, head, device), table, prior=prior, progress=progress)
    warn_failures(table.failures(probabilities), len(table.texts), f"pairs of '{pairs}'", "probability")
    if as_json:
        print_json(_records(table, probabilities))
    if output or not as_json:
        _write(table, probabilities, output)
    if output:
        note(f"{len(table.texts):,} pairs: {output}")


def _write(table: MatchTable, probabilities: NDArray[np.float64], output: Path | None) -> None:
    from diptych.matching.match_table import free_name

    with csv_output(output) as writer:
        writer.writerow((*table.columns, free_name("probability", table.columns)))
        for row, p in zip(table.rows(), probabilities, strict=True):
            writer.writerow((*row.values(), "" if p != p else f"{p:.4f}"))


def _records(table: MatchTable, probabilities: NDArray[np.float64]) -> list[dict[str, str | float | None]]:
    from diptych.matching.match_table import free_name

    name = free_name("probability", table.columns)
    return [{**row, name: None if p != p else float(p)} for row, p in zip(table.rows(), probabilities, strict=True)]
