"""What every page has to keep in a browser: accessible, and no wider than the window."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

__all__ = ["WIDTHS", "check_accessible", "check_fits", "take_screenshot", "watch"]

OWN = ("file:", "data:", "blob:", "about:", "http://127.0.0.1", "ws://127.0.0.1")
"""How the address of a request begins that stays on this machine."""

WIDTHS = (1280, 400)
"""Of a laptop and of a telephone, in pixels."""


def watch(context: BrowserContext) -> tuple[list[str], list[str]]:
    """Return two lists that grow: errors in the console, and requests that leave this machine."""
    errors: list[str] = []
    leaving: list[str] = []
    context.on("weberror", lambda error: errors.append(str(error.error)))
    context.on(
        "console",
        lambda message: errors.append(message.text) if message.type == "error" else None,
    )
    context.on(
        "request",
        lambda request: None if request.url.startswith(OWN) else leaving.append(request.url),
    )
    return errors, leaving


def check_accessible(page: Page, *, without: tuple[str, ...] = ()) -> None:
    """Check that axe-core has no serious or critical finding, but for rules named in `without`."""
    # Evaluated, not added as an element: a page may forbid inline scripts.
    page.evaluate(Path(os.environ["ABHINAYA_AXE"]).read_text(encoding="utf-8"))
    rules = {rule: {"enabled": False} for rule in without}
    result = page.evaluate("rules => axe.run(document, {rules})", rules)
    assert len(result["passes"]) >= 5, "axe-core looked at next to nothing"
    findings = [
        f"{finding['id']} ({finding['impact']}): {finding['help']}: {node['html'][:200]}"
        for finding in result["violations"]
        if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"]
    ]
    assert not findings, "\n".join(findings)


def check_fits(page: Page) -> None:
    """Check that the page does not scroll sideways."""
    wider = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert wider <= 0, f"the page is {wider} px wider than the window"


def take_screenshot(page: Page, name: str) -> None:
    """Write NAME.png of the whole page into the folder ABHINAYA_SCREENSHOTS, where that is set."""
    if folder := os.environ.get("ABHINAYA_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
