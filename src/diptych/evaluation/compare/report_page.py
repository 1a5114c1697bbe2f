"""The report of a comparison as a self-contained HTML page: tables, plots, example queries, and provenance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diptych.data.pairs import Pairs
from diptych.errors import ImageError
from diptych.evaluation.compare.comparison import Comparison
from diptych.evaluation.compare.examples import Example, ModelResult, examples
from diptych.evaluation.compare.plots import confusion_matrix, plots
from diptych.evaluation.compare.tables import (
    Cell,
    Table,
    cost_table,
    difference_table,
    quality_tables,
    summary_sentences,
)
from diptych.images.decode import ImageSource, decode, thumbnail
from diptych.reports.html import data_uri, html_document, svg_data_uri
from diptych.runtime.background import prefetch
from diptych.runtime.quoting import escaped

_STYLE = """
body { max-width: 1240px } section { margin: 0 0 2.5rem } p { margin: 0 0 1rem; max-width: 62rem }
h3 { margin: 1.6rem 0 .6rem; font-size: 1.02rem } .said { font-size: 1.06rem; margin: 0 0 .35rem }
.faint, small, footer { color: var(--faint) } small { display: block; font-size: .78rem; white-space: pre }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 12px; background: var(--card) }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .5rem .8rem; text-align: right; border-top: 1px solid var(--line); vertical-align: top }
th { font-weight: 600; color: var(--faint); border-top: 0; vertical-align: bottom; font-size: .86rem }
th:first-child, td:first-child { text-align: left; font-weight: 600; white-space: nowrap }
.made td { text-align: left; font-weight: 400 } .made small { white-space: normal }
.best { font-weight: 700; color: var(--accent) } .tied::before { content: "≈ "; color: var(--faint) }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); gap: 1.1rem }
figure { margin: 0 }
.plots figure { padding: 1rem; border-radius: 12px; background: #fff; border: 1px solid var(--line) }
.plots img { display: block; width: 100%; max-height: 32rem; object-fit: contain }
.plots figcaption { color: #1c202a; font-weight: 600; margin: 0 0 .5rem }
.example { margin: 0 0 1.4rem; padding: 1rem; border: 1px solid var(--line); border-radius: 12px;
  background: var(--card) }
.query { margin: 0 0 .8rem; font-size: 1.05rem; font-weight: 600; overflow-wrap: anywhere }
.found { display: grid; grid-template-columns: minmax(6rem, 9rem) repeat(6, minmax(0, 1fr)); gap: .5rem;
  align-items: center; padding: .35rem 0; border-top: 1px solid var(--line) }
.name { font-weight: 600; overflow-wrap: anywhere } .name small { font-weight: 400 }
.thumb { aspect-ratio: 4 / 3; width: 100%; object-fit: contain; background: var(--mat); border-radius: 6px }
.right { outline: 3px solid #22a054; outline-offset: 0 }
.written { display: grid; grid-template-columns: minmax(7rem, 12rem) 1fr; gap: 1rem; padding: .7rem 0;
  border-top: 1px solid var(--line) } .written p { margin: 0 0 .25rem }
@media (max-width: 720px) { .found { grid-template-columns: repeat(3, minmax(0, 1fr)) } .name { grid-column: 1 / -1 } }
@media print { body { background: none } .example, .plots figure { break-inside: avoid } }
"""

_THUMB = 220
_CLASSES_DRAWN = 25  # with more classes, the most frequent confusions are listed and no matrix is drawn


def html_report(comparison: Comparison, command: str = "") -> str:
    """The page; `command` is the command line to show in it."""
    names = ", ".join(comparison.names)
    title = f"{len(comparison.models)} models compared: {names}" if len(comparison.models) > 1 else names
    parts = [
        "".join(f'<p class="said">{escaped(sentence)}</p>\n' for sentence in summary_sentences(comparison)),
        *(_table(table) for table in quality_tables(comparison)),
        _table(cost_table(comparison)),
        _plots(plots(comparison), "Plots"),
        *(_table(table) for table in [difference_table(comparison)] if table),
        _confusions(comparison),
        _examples(comparison),
        _captions(comparison),
        _provenance(comparison, command),
    ]
    return html_document(title, _data(comparison), "".join(part for part in parts if part), _STYLE)


def _data(comparison: Comparison) -> str:
    """The data of the comparison, in a sentence."""
    source, parts = comparison.suite.source, []
    if "data" in source:
        data = source["data"]
        parts.append(f"{data['images']:,} images with {data['captions']:,} captions ({data['path']}, {data['split']})")
    if "class_data" in source:
        data = source["class_data"]
        classes = len(comparison.suite.evaluator.classes)
        parts.append(f"{data['images']:,} images of {classes:,} classes ({data['path']}, {data['split']})")
    return f"Measured on {' and '.join(parts)}. The best value is coloured; ≈ marks values not significantly worse."


def _table(table: Table) -> str:
    head = "".join(f"<th>{escaped(name)}</th>" for name in table.header)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in table.rows)
    note = f'<p class="faint">{escaped(table.note)}</p>\n' if table.note else ""
    return (
        f"<section>\n<h2>{escaped(table.title)}</h2>\n{note}"
        f'<div class="wide"><table>\n<tr>{head}</tr>\n{rows}</table></div>\n</section>\n'
    )


def _cell(cell: Cell) -> str:
    mark = ' class="best"' if cell.best else ' class="tied"' if cell.tied else ""
    small = f"<small>{escaped(cell.small)}</small>" if cell.small else ""
    return f"<td><span{mark}>{escaped(cell.text)}</span>{small}</td>"


def _plots(drawn: dict[str, bytes], title: str) -> str:
    figures = "".join(
        f'<figure><figcaption>{escaped(name)}</figcaption><img src="{svg_data_uri(drawing)}" alt="{escaped(name)}">'
        "</figure>\n"
        for name, drawing in drawn.items()
    )
    return f'<section>\n<h2>{escaped(title)}</h2>\n<div class="plots">\n{figures}</div>\n</section>\n' if drawn else ""


def _confusions(comparison: Comparison) -> str:
    """Confusions of each model: a matrix for few classes, and the most frequent ones."""
    models = [model for model in comparison.models if "class_found" in model.arrays]
    if not models:
        return ""
    evaluator = comparison.suite.evaluator
    names = list(evaluator.classes.names)
    drawn, rows = {}, []
    for model in models:
        counts = np.zeros((len(names), len(names)), np.int64)
        np.add.at(counts, (evaluator.labels, model.arrays["class_found"]), 1)
        if len(names) <= _CLASSES_DRAWN:
            drawn[model.name] = confusion_matrix(counts, names, model.name)
        rows.append((Cell(model.name), Cell("; ".join(_most_frequent(counts, names)) or "none")))
    table = Table(
        "Confusions", "The most frequent confusions of each model.", ("model", "true → predicted"), tuple(rows)
    )
    return _plots(drawn, "Confusion matrices") + _table(table)


def _most_frequent(counts: NDArray[np.int64], names: Sequence[str], limit: int = 10) -> list[str]:
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    pairs = [np.unravel_index(i, wrong.shape) for i in order]
    return [
        f"{names[true]} → {names[predicted]} ({wrong[true, predicted]})"
        for true, predicted in pairs
        if wrong[true, predicted]
    ]


def _examples(comparison: Comparison) -> str:
    sections = examples(comparison)
    if not any(sections.values()):
        return ""
    assert comparison.suite.pairs is not None
    every = [example for section in sections.values() for example in section]
    rows = {row for example in every for result in example.results for row in (example.row, *result.rows)}
    images = _thumbnails(comparison.suite.pairs, sorted(rows))
    body = "".join(
        f"<h3>{escaped(title)}</h3>\n" + "".join(_example(example, images) for example in section)
        for title, section in sections.items()
        if section
    )
    note = "Each model's top images for a caption; a green frame marks the correct image."
    return f'<section>\n<h2>Example queries</h2>\n<p class="faint">{note}</p>\n{body}</section>\n'


def _example(example: Example, images: dict[int, str]) -> str:
    rows = "".join(_result(result, example.row, images) for result in example.results)
    return f'<article class="example"><p class="query">“{escaped(example.caption)}”</p>\n{rows}</article>\n'


def _result(result: ModelResult, right: int, images: dict[int, str]) -> str:
    thumbs = "".join(_thumb(images[row], row == right, f"rank {rank}") for rank, row in enumerate(result.rows, 1))
    return (
        f'<div class="found"><div class="name">{escaped(result.model)}'
        f"<small>rank of the right one: {result.rank:,}</small></div>{thumbs}</div>\n"
    )


def _thumb(source: str, right: bool, alt: str) -> str:
    text = f"{alt}, the right one" if right else alt
    return f'<img class="thumb{" right" if right else ""}" src="{source}" alt="{text}">'


def _captions(comparison: Comparison, count: int = 6) -> str:
    """The captions of each captioner for the same images, with a reference caption."""
    captioners = [model for model in comparison.models if "captions" in model.summary]
    if not captioners:
        return ""
    subset = comparison.suite.subset
    images = _thumbnails(subset, list(range(min(count, len(subset)))))
    parts = []
    for row, source in images.items():
        image_id, references = subset[row].image_id, subset[row].captions
        lines = [(model.name, model.summary["captions"]["written"].get(image_id, "")) for model in captioners]
        captions = "".join(f"<p><b>{escaped(name)}</b>: {escaped(text)}</p>" for name, text in lines)
        reference = f'<p class="faint">reference: {escaped(references[0])}</p>'
        parts.append(f'<div class="written">{_thumb(source, False, "image")}<div>{captions}{reference}</div></div>\n')
    return f"<section>\n<h2>Captions side by side</h2>\n{''.join(parts)}</section>\n"


def _thumbnails(pairs: Pairs, rows: Sequence[int]) -> dict[int, str]:
    """Row to data URL of a thumbnail; an image that is no longer available is an empty one."""
    return dict(zip(rows, prefetch([pairs[row].image for row in rows], _data_url), strict=True))


def _data_url(image: ImageSource) -> str:
    try:
        return data_uri(thumbnail(decode(image, min_side=_THUMB), _THUMB))
    except ImageError:
        return "data:,"


def _provenance(comparison: Comparison, command: str) -> str:
    rows = [(Cell("command"), Cell(command))] if command else []
    for model in comparison.models:
        on = model.summary["machine"]
        where = f"{on['processor']}, {on['cores']} cores, {on['threads']} threads, device {on['device']}"
        versions = f"diptych {on['diptych']}, torch {on['torch']}, Python {on['python']}, {on['system']}"
        rows.append((Cell(model.name), Cell(f"{model.model}; measured {on['date']} on {where}", versions)))
        rows += [(Cell(""), Cell(f"no {ability}: {reason}")) for ability, reason in model.summary["absent"].items()]
    rows += [(Cell(name), Cell(f"could not be measured: {reason}")) for name, reason in comparison.failed.items()]
    suite = comparison.suite
    rows.append((Cell("data"), Cell(
        f"prompts {suite.prompts}; matchers and captioners on at most {suite.limit:,} images; seed {suite.seed}; "
        f"key {suite.key}"
    )))  # fmt: skip
    return _table(Table("Provenance", "", ("", ""), tuple(rows))).replace("<table>", '<table class="made">')
