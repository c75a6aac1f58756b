"""Reports of a few rows and of a whole chain, and what stands in them."""

from __future__ import annotations

import csv
import html
import io
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest
from report_chains import write_report_chain

from abhinaya.pipeline.stages.report import ReportSettings, run_report


class Page:
    """A report as the reader finds it."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text(encoding="utf-8")

    @property
    def words(self) -> str:
        """Return all but pictures, in one line."""
        text = re.sub(r"<(svg|style|script).*?</\1>", "", self.text, flags=re.DOTALL)
        return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())

    def sections(self) -> list[str]:
        return [html.unescape(title) for title in re.findall(r"<h3[^>]*>(.*?)</h3>", self.text)]

    def figures(self) -> list[str]:
        return re.findall(r'<figure class="block" id="([^"]*)"', self.text)

    def download(self, name: str) -> str:
        """Return the text of a file that the page offers."""
        (found,) = re.findall(rf'download="{re.escape(name)}" href="data:[^,]*,([^"]*)"', self.text)
        return unquote(html.unescape(found))

    def table(self, name: str) -> list[dict[str, str]]:
        """Return the rows of a table, as its CSV has them."""
        return list(csv.DictReader(io.StringIO(self.download(f"{name}.csv"))))


@pytest.fixture(scope="session")
def read_page() -> type[Page]:
    return Page


@pytest.fixture(scope="session")
def report_chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a chain: only look at it."""
    return write_report_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="session")
def report_file(report_chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its report."""
    out = tmp_path_factory.mktemp("report") / "page.html"
    run_report([str(report_chain)], ReportSettings(resamples=20), out=out)
    return out


@pytest.fixture
def chain(report_chain: Path, tmp_path: Path) -> Path:
    """A copy of it to change, whose config names the first one's manifest."""
    return Path(shutil.copytree(report_chain, tmp_path / "chain"))
