from __future__ import annotations

import json
import re
import sys

import pytest

from abhinaya.cli.tables import TableFormat, render_table, show_report, show_table
from abhinaya.pipeline.report import Report, find_best

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


def test_narrow_terminal_loses_no_part_of_a_name_or_a_number(capsys, monkeypatch):
    """Names were cut to `llama-…` and intervals to `0.5948-…`."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    show_table(
        ["run", "interval", "n"], [["llama-zero-shot-second-prompt", "0.5948-0.7882", 12345]]
    )
    out = "".join(re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).split())
    assert "…" not in out
    assert sorted(out) == sorted("runintervalnllama-zero-shot-second-prompt0.5948-0.788212345")


SCORED = ["run", "macro-F1", "ECE", "gain"]
SCORES = [["a", 0.5, 0.2, "-0.1"], ["b", 0.7, 0.1, "+0.2"], ["c", 0.7, None, None]]


def test_best_cells_are_found_by_their_numbers():
    # Both 0.7; the lower of 0.2 and 0.1; texts count as the numbers they say.
    best = find_best(SCORED, SCORES, highest=("macro-F1", "gain"), lowest=("ECE",))
    assert best == ((1, 1), (2, 1), (1, 2), (1, 3))
    assert find_best(SCORED, SCORES[:1], highest=("macro-F1",)) == ()
    assert find_best(SCORED, SCORES[1:], highest=("macro-F1",)) == ()
    assert find_best(SCORED, [], highest=("macro-F1",), lowest=("ECE",)) == ()


def test_text_marks_the_best_and_keeps_digits_below_each_other():
    assert render_table(["run", "F1", "n"], [["a", 0.5, 3], ["b", 0.25, 4]], best=[(0, 1)]) == (
        "run       F1  n\na    0.5000*  3\nb    0.2500   4"
    )


@pytest.mark.parametrize(
    ("table_format", "marked"), [("markdown", "| b | **0.7000** |"), ("latex", "\\textbf{0.7000}")]
)
def test_papers_get_the_best_in_bold(table_format, marked):
    text = render_table(
        ["run", "F1"],
        [["a", 0.5], ["b", 0.7]],
        best=[(1, 1)],
        table_format=TableFormat(table_format),
    )
    assert marked in text
    assert "*0.5" not in text
    assert "{0.5" not in text


def test_terminal_shows_the_best_in_bold(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    show_table(["run", "F1"], [["a", 0.5], ["b", 0.7]], best=[(1, 1)])
    *_, first, second = capsys.readouterr().out.splitlines()
    assert "\x1b[1m" not in first
    assert "\x1b[1m0.7000" in second


def test_json_has_no_marks(capsys):
    show_report(Report(None, ["run", "F1"], [["a", 0.5]], best=((0, 1),)), as_json=True)
    assert json.loads(capsys.readouterr().out) == [{"run": "a", "F1": 0.5}]
