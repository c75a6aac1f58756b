from __future__ import annotations

import json
import sys

import pytest

from abhinaya.cli.tables import TableFormat, render_table, show_table

COLUMNS = ["run", "macro-F1", "note"]
ROWS = [["wavlm_2", 0.35, None], ["vote|all", 0.44021, "5 % up"]]


def test_text_aligns_numbers_right_and_shows_four_digits():
    assert render_table(COLUMNS, ROWS) == (
        "run       macro-F1  note\nwavlm_2     0.3500\nvote|all    0.4402  5 % up"
    )


def test_text_title_stands_above():
    assert render_table(["n"], [[1], [20]], title="Rows") == "Rows\n n\n 1\n20"


def test_markdown_escapes_bars():
    assert render_table(COLUMNS, ROWS, title="Dev", table_format=TableFormat.MARKDOWN) == (
        "**Dev**\n\n"
        "| run | macro-F1 | note |\n"
        "| --- | ---: | --- |\n"
        "| wavlm_2 | 0.3500 |  |\n"
        "| vote\\|all | 0.4402 | 5 % up |"
    )


def test_latex_escapes_what_latex_would_eat():
    assert render_table(COLUMNS, ROWS, table_format=TableFormat.LATEX) == (
        "\\begin{tabular}{lrl}\n"
        "\\toprule\n"
        "run & macro-F1 & note \\\\\n"
        "\\midrule\n"
        "wavlm\\_2 & 0.3500 &  \\\\\n"
        "vote|all & 0.4402 & 5 \\% up \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}"
    )


def test_latex_title_becomes_the_caption():
    text = render_table(["n"], [[1]], title="A & B", table_format=TableFormat.LATEX)
    assert text.startswith("\\begin{table}\n\\caption{A \\& B}\n\\centering\n\\begin{tabular}{r}")
    assert text.endswith("\\end{table}")


@pytest.mark.parametrize("table_format", TableFormat)
def test_table_without_rows_has_its_headings(table_format):
    assert "macro-F1" in render_table(COLUMNS, [], table_format=table_format)


def test_json_keeps_all_digits_and_null(capsys):
    show_table(COLUMNS, ROWS, title="Dev", as_json=True)
    assert json.loads(capsys.readouterr().out) == [
        {"run": "wavlm_2", "macro-F1": 0.35, "note": None},
        {"run": "vote|all", "macro-F1": 0.44021, "note": "5 % up"},
    ]


def test_no_terminal_prints_plain_text(capsys):
    show_table(["n"], [[1]])
    assert capsys.readouterr().out == "n\n1\n"


def test_terminal_shows_brackets_as_they_are(capsys, monkeypatch):
    """Markup such as [red] in a name is text here, not a colour."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    show_table(["run", "n"], [["[red]a[/red]", 3]], title="Runs")
    out = capsys.readouterr().out
    assert "[red]a[/red]" in out
    assert "Runs" in out
