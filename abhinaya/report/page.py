"""A page as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from abhinaya import __version__
from abhinaya.errors import BadValueError
from abhinaya.files import write_text
from abhinaya.report.blocks import Page

__all__ = ["GENERATOR", "check_overwritable", "render_page", "write_page"]

GENERATOR = "abhinaya report"
"""By what a report is known again."""


def render_page(page: Page) -> str:
    """Return the HTML of a page; the same page gives the same bytes."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("abhinaya.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["url"] = quote
    environment.filters["slug"] = _slug
    environment.tests["kind"] = lambda block, name: type(block).__name__ == name
    template = environment.get_template("page.html.jinja")
    return template.render(
        page=page,
        generator=GENERATOR,
        version=__version__,
        new_id=_ids(),
        keys=lambda choice: list(itertools.product(*choice.switches.values())),
    )


def check_overwritable(path: Path) -> None:
    """Check that a path ends in .html, and that no file but an earlier report is there.

    Raises:
        BadValueError: if one of both is not so.
    """
    if path.suffix != ".html":
        raise BadValueError(f"The report {str(path)!r} must end in .html.")
    if not path.exists():
        return
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            if f'content="{GENERATOR}' in file.read(2_000):
                return
    raise BadValueError(
        f"{str(path)!r} is there and is no report of abhinaya, so it is not overwritten. Remove "
        "it, or choose another --out."
    )


def write_page(page: Page, path: Path) -> None:
    """Write a page, whole or not at all.

    Raises:
        BadValueError: see `check_overwritable`.
    """
    check_overwritable(path)
    write_text(path, render_page(page))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "part"


def _ids() -> Callable[[str], str]:
    """Return a function that makes a name unique within the page."""
    taken: set[str] = set()

    def new(text: str) -> str:
        slug = _slug(text)
        name = next(
            one
            for number in itertools.count(1)
            if (one := slug if number == 1 else f"{slug}-{number}") not in taken
        )
        taken.add(name)
        return name

    return new
