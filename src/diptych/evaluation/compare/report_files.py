"""The report of a comparison as files: `report.html`, `report.md`, `report.json` and `report.csv`."""

from __future__ import annotations

import json
import math
from pathlib import Path

from diptych.errors import ConfigError
from diptych.evaluation.compare import tables
from diptych.evaluation.compare.comparison import Comparison
from diptych.evaluation.compare.report_page import html_report
from diptych.runtime import quoting
from diptych.runtime.atomic import new_text, write_text


def write_report(comparison: Comparison, out: str | Path, *, command: str = "") -> list[Path]:
    """Write the report into a folder.

    Args:
        comparison: the comparison.
        out: the folder; created if missing.
        command: command line to show in the report.

    Returns:
        The files, the HTML page first.

    Raises:
        ConfigError: a file cannot be written.
    """
    folder = Path(out)
    contents = {
        "report.html": html_report(comparison, command),
        "report.md": markdown(comparison, command),
        "report.json": json.dumps(_finite(comparison.to_dict() | {"command": command}), indent=2, ensure_ascii=False)
        + "\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_text(folder / name, content, errors="replace")
        _write_table(comparison, folder / "report.csv")
    except OSError as error:
        raise ConfigError(f"cannot write into '{out}' ({error}); check the folder and its permissions") from error
    return [folder / name for name in (*contents, "report.csv")]


def _finite(content: object) -> object:
    """Replace NaN and infinity by None, since JSON has neither."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def markdown(comparison: Comparison, command: str = "") -> str:
    """The report as Markdown: the best value in bold, values not significantly worse after a `≈`."""
    sections = [*tables.quality_tables(comparison), tables.cost_table(comparison), tables.difference_table(comparison)]
    sentences = [
        *tables.summary_sentences(comparison),
        *(f"{name} could not be measured: {reason}" for name, reason in comparison.failed.items()),
    ]
    parts = [f"# {quoting.markdown(', '.join(comparison.names))}", *map(quoting.markdown, sentences)]
    parts += [_markdown_table(table) for table in sections if table]
    return "\n\n".join([*parts, *([quoting.code_block(command, "sh")] if command else [])]) + "\n"


def _markdown_table(table: tables.Table) -> str:
    header = (map(quoting.markdown, table.header), ("---", *("---:" for _ in table.header[1:])))
    lines = [*header, *(map(_markdown_cell, row) for row in table.rows)]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join(
        part for part in (f"## {quoting.markdown(table.title)}", quoting.markdown(table.note), body) if part
    )


def _markdown_cell(cell: tables.Cell) -> str:
    text = quoting.markdown(cell.text)
    text = f"**{text}**" if cell.best else f"≈ {text}" if cell.tied else text
    return f"{text} ({', '.join(map(quoting.markdown, cell.small.splitlines()))})" if cell.small else text


def _write_table(comparison: Comparison, path: Path) -> None:
    """CSV with a line for each model and measure: model, group, measure, value, low, high, rank."""
    with new_text(path, errors="replace") as file:
        table = quoting.ReportTable(file)
        table.writerow(("model", "group", "measure", "value", "low", "high", "rank"))
        for measure in comparison.measures:
            for name, value in measure.values.items():
                rank = "best" if name == measure.best else "tied" if measure.tied(name) else "behind"
                table.writerow((name, measure.group, measure.key, value, *measure.intervals[name], rank))
        for model in comparison.models:
            table.writerows(
                (model.name, "cost", key, value, "", "", "") for key, value in model.summary["cost"].items()
            )
