"""The report as people see it: switches, downloads, narrow windows, dark, without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_checks import WIDTHS, check_accessible, check_fits, take_screenshot
from report_chains import write_report_chain

from abhinaya.pipeline.stages.report import ReportSettings, run_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(browser, tmp_path_factory) -> Iterator[Path]:
    pytest.importorskip("matplotlib")
    run = write_report_chain(tmp_path_factory.mktemp("chain"))
    run_report([str(run)], ReportSettings(resamples=20))
    return run / "report.html"


@pytest.fixture
def opened(page, report):
    page.goto(report.as_uri())
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_and_is_accessible(opened, scheme):
    opened.emulate_media(color_scheme=scheme)
    for width in WIDTHS:
        opened.set_viewport_size({"width": width, "height": 900})
        check_fits(opened)
        take_screenshot(opened, f"report-{width}-{scheme}")
    opened.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    check_accessible(opened)


def test_switches_choose_the_confusion_matrix_that_is_shown(opened):
    choice = opened.locator("[data-choice]").first
    shown = choice.locator("figure:visible")
    assert shown.count() == 1
    assert shown.get_attribute("id") == "confusions-of-vote-smooth-counts"
    choice.get_by_label("Cells").select_option("shares of the true class")
    assert shown.get_attribute("id") == "confusions-of-vote-smooth-shares-of-the-true-class"
    choice.get_by_label("Table").select_option("m1")
    assert shown.get_attribute("id") == "confusions-of-m1-shares-of-the-true-class"
    assert shown.count() == 1


def test_theme_switch_changes_paper_and_ink(opened):
    def paper():
        return opened.evaluate("getComputedStyle(document.body).backgroundColor")

    opened.emulate_media(color_scheme="light")
    assert paper() == "rgb(255, 255, 255)"
    opened.get_by_role("button", name="Dark", exact=True).click()
    assert paper() == "rgb(22, 24, 27)"
    check_accessible(opened)
    # Words in pictures take the colour of the page's.
    ink = opened.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill")
    assert ink == "rgb(236, 236, 236)"
    opened.get_by_role("button", name="Light", exact=True).click()
    assert paper() == "rgb(255, 255, 255)"


def save(page, click, folder: Path) -> Path:
    with page.expect_download() as waiting:
        click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_figure_is_saved_as_svg_and_png(opened, tmp_path):
    figure = opened.locator("#macro-f1-with-intervals")
    svg = save(opened, figure.get_by_role("button", name="SVG of").click, tmp_path)
    assert svg.name == "macro-f1-with-intervals.svg"
    text = svg.read_text(encoding="utf-8")
    assert text.startswith("<svg")
    assert 'xmlns="http://www.w3.org/2000/svg"' in text
    assert "vote-smooth" in text
    png = save(opened, figure.get_by_role("button", name="PNG of").click, tmp_path)
    assert png.name == "macro-f1-with-intervals.png"
    content = png.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(content[16:20], "big") > 1_500  # pixels wide
    # A saved SVG is a picture of its own, dark words on white.
    opened.goto(svg.as_uri())
    assert opened.evaluate("document.documentElement.tagName") == "svg"


def test_table_is_saved_as_csv_and_latex(opened, tmp_path):
    table = opened.locator(".table", has=opened.get_by_role("heading", name="Scores", exact=True))
    csv = save(opened, table.get_by_role("link", name="CSV of").click, tmp_path)
    assert csv.name == "scores.csv"
    lines = csv.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("table,macro-F1,95 % interval")
    assert len(lines) == 6
    tex = save(opened, table.get_by_role("link", name="LaTeX of").click, tmp_path)
    assert tex.name == "scores.tex"
    assert r"\begin{tabular}" in tex.read_text(encoding="utf-8")


def test_printed_page_is_light_and_has_no_buttons(opened):
    opened.emulate_media(media="print", color_scheme="dark")
    assert opened.locator("button:visible").count() == 0
    assert (
        opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    )
    assert len(opened.pdf()) > 50_000
