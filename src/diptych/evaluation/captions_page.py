"""Reports of caption scores: an HTML page with the worst and best captions, and a CSV table of all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from diptych.errors import ConfigError, ImageError
from diptych.evaluation.captions import CaptionReport, ScoredCaption
from diptych.evaluation.metrics.captions import NAMES
from diptych.evaluation.metrics.ptb import TOKENIZERS
from diptych.images.decode import decode, thumbnail
from diptych.reports.html import CARDS, data_uri, html_document
from diptych.runtime.atomic import new_text, write_text
from diptych.runtime.background import prefetch
from diptych.runtime.quoting import ReportTable, escaped

_SHOWN = ("cider_d", "meteor", "rouge_l", "clipscore")  # below a picture; the table has all
_STYLE = (
    CARDS
    + """
table { border-collapse: collapse; margin: 0 0 1rem } td { padding: .2rem 1.6rem .2rem 0; border-bottom: 1px solid
  var(--line) } td + td { text-align: right; font-variant-numeric: tabular-nums; padding-right: 0 }
.scores { display: flex; flex-wrap: wrap; align-items: start; gap: 0 4rem } .score { white-space: nowrap }
.facts { color: var(--faint); margin: 0 0 .2rem }
ul { margin: .5rem 0; padding: 0; list-style: none; color: var(--faint) } ul li { display: block; border: 0;
  border-radius: 0; background: none; padding: .15rem 0; overflow-wrap: anywhere }
"""
)


def caption_page(report: CaptionReport, title: str, *, shown: int = 24, size: int = 480) -> str:
    """The HTML page: corpus scores, then the `shown` worst captions, then the best, each with its references.

    Args:
        report: the scores.
        title: title of the page.
        shown: number of captions in each section.
        size: longest side of an image in pixels; images are embedded in the page.
    """
    worst = report.worst_first()
    best = worst[shown:][::-1][:shown]
    sections = [("Lowest CIDEr-D", worst[:shown]), ("Highest CIDEr-D", best)]
    body = _scores(report) + "".join(_section(name, rows, size) for name, rows in sections if rows)
    note = f"{len(worst):,} images, each with its caption and the reference captions."
    return html_document(title, note, body, _STYLE)


def save_page(report: CaptionReport, title: str, path: Path, *, shown: int = 24) -> None:
    """Write `caption_page` to a file.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        write_text(path, caption_page(report, title, shown=shown))
    except OSError as error:
        raise ConfigError(f"cannot write '{path}' ({error.strerror}); check the folder and its permissions") from error


def save_table(report: CaptionReport, path: Path) -> None:
    """Write CSV with one line for each image: image, caption, and each score.

    Raises:
        ConfigError: it cannot be written.
    """
    keys = list(report.corpus)
    try:
        with new_text(path) as file:
            table = ReportTable(file)
            table.writerow(("image", "caption", *keys))
            for row in report.captions:
                table.writerow((row.image_id, row.caption, *(f"{row.scores[key]:.4f}" for key in keys)))
    except OSError as error:
        raise ConfigError(f"cannot write '{path}' ({error.strerror}); check the folder and its permissions") from error


def _scores(report: CaptionReport) -> str:
    scores = [(report.name(key), f"{value:.4f}") for key, value in report.corpus.items()]
    facts = [f"{NAMES[key]} was not computed: {reason}" for key, reason in report.missing.items()]
    notes = "".join(f'<p class="facts">{escaped(fact)}</p>' for fact in (TOKENIZERS[report.tokenizer], *facts))
    return f'<div class="scores">{_table(scores)}{_table(variety_rows(report))}</div>\n{notes}\n'


def variety_rows(report: CaptionReport) -> list[tuple[str, str]]:
    """Names and values of the `CaptionVariety` of a report, for display."""
    variety = report.variety
    rows = [
        ("words per caption, mean", f"{variety.length:.2f}"),
        ("distinct words", f"{variety.vocabulary:,}"),
        ("captions shared by several images", f"{100 * variety.repeated:.1f}%"),
    ]
    if variety.novel is not None:
        rows.append(("captions not in the training data", f"{100 * variety.novel:.1f}%"))
    return rows


def _table(rows: Sequence[tuple[str, str]]) -> str:
    lines = (f"<tr><td>{escaped(name)}</td><td>{escaped(value)}</td></tr>" for name, value in rows)
    return f"<table>{''.join(lines)}</table>"


def _section(title: str, rows: Sequence[ScoredCaption], size: int) -> str:
    images = prefetch(rows, lambda row: _thumbnail(row, size))
    cards = "".join(_card(row, image) for row, image in zip(rows, images, strict=True))
    return f"<section>\n<h2>{escaped(title)}</h2>\n<ol>\n{cards}</ol>\n</section>\n"


def _thumbnail(caption: ScoredCaption, size: int) -> Image.Image | None:
    try:
        return thumbnail(decode(caption.image, min_side=size), size)
    except ImageError:
        return None


def _card(caption: ScoredCaption, image: Image.Image | None) -> str:
    figure = f'<img src="{data_uri(image)}" alt="{escaped(caption.caption)}">' if image else "no longer available"
    references = "".join(f"<li>{escaped(text)}</li>" for text in caption.references)
    scores = (f"{NAMES[key]} {caption.scores[key]:.2f}" for key in _SHOWN if key in caption.scores)
    line = " · ".join(f'<span class="score">{score}</span>' for score in scores)
    return (
        f'<li><figure><div class="mat">{figure}</div><figcaption><div class="name">{escaped(caption.caption)}</div>'
        f'<ul>{references}</ul><div class="small">{line}</div>'
        f'<div class="small">{escaped(caption.image_id)}</div></figcaption></figure></li>\n'
    )
