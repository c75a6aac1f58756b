"""Tables on the screen: for people, for other programs, and for papers.

Markdown and LaTeX are written here, because tabulate pads cells and leaves bars in them unescaped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from enum import StrEnum
from pathlib import Path

import typer

from abhinaya.files import write_text
from abhinaya.pipeline.report import Cell, Report
from abhinaya.processes import is_main_process

__all__ = [
    "Cell",
    "TableFormat",
    "render_table",
    "show_json",
    "show_report",
    "show_table",
    "write_markdown",
]


class TableFormat(StrEnum):
    """How a table is printed."""

    TEXT = "text"
    LATEX = "latex"
    MARKDOWN = "markdown"


_LATEX_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{char: f"\\{char}" for char in "&%$#_{}"},
    }
)


def show_report(
    report: Report, *, as_json: bool = False, table_format: TableFormat = TableFormat.TEXT
) -> None:
    """Print what a stage returned, and its notes on stderr; only the main process of a launch does.

    Args:
        report: the stage's report.
        as_json: print one JSON document instead.
        table_format: otherwise, how to print its tables.
    """
    if not is_main_process():
        return
    if as_json:
        show_json(report.as_json())
    else:
        for idx, table in enumerate((report, *report.more)):
            if idx:
                typer.echo()
            show_table(
                table.columns,
                table.rows,
                title=table.title,
                best=table.best,
                table_format=table_format,
            )
            if table.remark:
                typer.echo(table.remark)
    for note in report.notes:
        typer.echo(f"Note: {note}", err=True)


def write_markdown(report: Report, path: Path) -> None:
    """Write what a stage returned as Markdown; only the main process of a launch does.

    Args:
        report: the stage's report.
        path: the file.
    """
    if not is_main_process():
        return
    parts = []
    for table in (report, *report.more):
        parts.append(
            render_table(
                table.columns,
                table.rows,
                title=table.title,
                best=table.best,
                table_format=TableFormat.MARKDOWN,
            )
        )
        parts += [table.remark] if table.remark else []
    write_text(path, "\n\n".join([*parts, *(f"Note: {note}" for note in report.notes)]) + "\n")


def show_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    title: str | None = None,
    best: Collection[tuple[int, int]] = (),
    as_json: bool = False,
    table_format: TableFormat = TableFormat.TEXT,
) -> None:
    """Print a table: coloured on a terminal, plain elsewhere.

    Args:
        columns: the headings.
        rows: one cell per heading. Floating-point numbers are shown with four digits; JSON has all.
        title: printed above text and Markdown, and as LaTeX's caption.
        best: row and column of cells to be marked: bold, or with * in plain text.
        as_json: print a list of objects keyed by the headings instead, without the title.
        table_format: otherwise, how to print it.
    """
    if as_json:
        show_json([dict(zip(columns, row, strict=True)) for row in rows])
    elif table_format is TableFormat.TEXT and sys.stdout.isatty():
        _show_on_terminal(columns, rows, title, best)
    else:
        typer.echo(render_table(columns, rows, title=title, best=best, table_format=table_format))


def show_json(value: object) -> None:
    """Print a value as readable JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def render_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    title: str | None = None,
    best: Collection[tuple[int, int]] = (),
    table_format: TableFormat = TableFormat.TEXT,
) -> str:
    """Return a table as text; columns of numbers are flush right, the best of them marked.

    Example:
        >>> print(render_table(["run", "macro-F1"], [["wavlm", 0.35], ["vote", 0.4402]]))
        run    macro-F1
        wavlm    0.3500
        vote     0.4402
    """
    texts = [[_text(cell) for cell in row] for row in rows]
    right = _numeric_columns(columns, rows)
    if table_format is TableFormat.LATEX:
        return _latex(columns, texts, right, title, best)
    if table_format is TableFormat.MARKDOWN:
        for row, column in best:
            texts[row][column] = f"**{texts[row][column]}**"
        return _markdown(columns, texts, right, title)
    for column in {column for _, column in best}:  # a blank where others have the mark
        for row, cells in enumerate(texts):
            cells[column] += "*" if (row, column) in best else " "
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in [list(columns), *texts]
    ]
    return "\n".join([title, *lines] if title else lines)


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:.4f}" if isinstance(cell, float) else str(cell)


def _numeric_columns(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[bool]:
    def is_numeric(idx: int) -> bool:
        cells = [row[idx] for row in rows if row[idx] is not None]
        return bool(cells) and all(isinstance(cell, int | float) for cell in cells)

    return [is_numeric(idx) for idx in range(len(columns))]


def _markdown(
    columns: Sequence[str], texts: list[list[str]], right: list[bool], title: str | None
) -> str:
    lines = [list(columns), ["---:" if is_right else "---" for is_right in right]]
    lines += [[cell.replace("|", r"\|") for cell in row] for row in texts]
    table = "\n".join(f"| {' | '.join(row)} |" for row in lines)
    return f"**{title}**\n\n{table}" if title else table


def _latex(
    columns: Sequence[str],
    texts: list[list[str]],
    right: list[bool],
    title: str | None,
    best: Collection[tuple[int, int]],
) -> str:
    """Return a tabular as booktabs sets it, in a table environment if it has a title."""

    def line(cells: Sequence[str], row: int | None = None) -> str:
        escaped = [cell.translate(_LATEX_ESCAPES) for cell in cells]
        for column in (column for where, column in best if where == row):
            escaped[column] = rf"\textbf{{{escaped[column]}}}"
        return " & ".join(escaped) + r" \\"

    lines = [
        rf"\begin{{tabular}}{{{''.join('r' if is_right else 'l' for is_right in right)}}}",
        r"\toprule",
        line(columns),
        r"\midrule",
        *(line(cells, row) for row, cells in enumerate(texts)),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if title:
        caption = title.translate(_LATEX_ESCAPES)
        lines = [r"\begin{table}", rf"\caption{{{caption}}}", r"\centering", *lines, r"\end{table}"]
    return "\n".join(lines)


def _show_on_terminal(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    title: str | None,
    best: Collection[tuple[int, int]],
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # No frame: a table of all classes should fit into a narrow window.
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for name, is_right in zip(columns, _numeric_columns(columns, rows), strict=True):
        # What is too wide is folded: half a name or half a number is none.
        table.add_column(Text(name), justify="right" if is_right else "left", overflow="fold")
    for row, cells in enumerate(rows):
        # Text keeps rich from reading "[...]" in a name as markup.
        styles = ["bold" if (row, column) in best else "" for column in range(len(cells))]
        table.add_row(*map(Text, map(_text, cells), styles))
    Console().print(table)
