"""`abhinaya app` in a browser: a voice is heard, a run is looked through, nothing leaves."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
from browser_checks import WIDTHS, check_accessible, check_fits, take_screenshot, watch
from shown_runs import write_chain
from source_tree import ROOT
from untrained_runs import MakeConfig, bases, corpus, make_config

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["bases", "corpus", "make_config"]

pytestmark = pytest.mark.browser

GRADIO_FAILS = ("label-content-name-mismatch",)
"""What gradio's own markup breaks: the visible words of its upload field and of its player's speed
are no part of the names that it gives them."""


@pytest.fixture(scope="module")
def address(
    make_config: MakeConfig, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Where a page of a tiny chain answers, started as its users start it."""
    if shutil.which("chromium") is None or "ABHINAYA_AXE" not in os.environ:
        pytest.skip("needs chromium, playwright and axe-core; run make test-browser")
    folder = tmp_path_factory.mktemp("app") / "chain"
    write_chain(folder, make_config, corpus)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "abhinaya", "app", str(folder), "--port", str(port)]
    command += ["--max-seconds", "5", "--max-megabytes", "0.5"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert f"is at http://127.0.0.1:{port}/" in line
        yield f"http://127.0.0.1:{port}/"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def open_tab(page: Page, address: str, tab: str) -> None:
    page.goto(address)
    page.get_by_role("tab", name=tab).click()


def upload(page: Page, file: Path) -> None:
    page.locator("#recording input[type=file]").set_input_files(file)


@pytest.mark.parametrize("width", WIDTHS)
def test_recording_is_uploaded_and_the_members_decide(page, address, corpus, width):
    page.set_viewport_size({"width": width, "height": 900})
    open_tab(page, address, "Recording")
    upload(page, corpus / "n3.wav")
    page.locator("#recording").get_by_label("Play", exact=True).first.wait_for()
    page.get_by_label("Transcript").fill("oh no")
    page.get_by_role("button", name="Ask the members").click()
    page.locator("#decision strong").get_by_text("(").wait_for()
    cards = page.locator("#cards section")
    assert cards.count() == 3
    assert [cards.nth(idx).get_by_role("heading").inner_text() for idx in range(3)] == [
        "a",
        "b",
        "t1",
    ]
    assert "votes" in cards.nth(0).inner_text()
    # Its server is down, which is said.
    assert "abstains" in cards.nth(2).inner_text()
    assert "127.0.0.1:9" in cards.nth(2).inner_text()
    decision = page.locator("#decision").inner_text()
    assert "by majority: 2 of 2" in decision or "broken by b" in decision
    page.get_by_role("button", name="Time per stage").click()
    page.locator("#times").get_by_text("vote").wait_for()
    check_accessible(page, without=GRADIO_FAILS)
    check_fits(page)
    take_screenshot(page, f"app-recording-{width}")


def test_broken_and_long_files_and_none_are_a_sentence(browser, address, tmp_path):
    context = browser.new_context()
    errors, leaving = watch(context)
    page = context.new_page()
    open_tab(page, address, "Recording")
    page.get_by_role("button", name="Ask the members").click()
    page.get_by_text("There is no recording yet. Record one, or upload a file.").wait_for()
    (tmp_path / "broken.wav").write_bytes(b"RIFF but no sound")
    upload(page, tmp_path / "broken.wav")
    page.get_by_role("button", name="Ask the members").click()
    page.get_by_text("broken.wav cannot be decoded").wait_for()
    take_screenshot(page, "app-errors")
    open_tab(page, address, "Recording")
    soundfile.write(tmp_path / "long.wav", np.zeros(6 * 16_000), 16_000)
    upload(page, tmp_path / "long.wav")
    page.locator("#recording").get_by_label("Play", exact=True).first.wait_for()
    page.get_by_role("button", name="Ask the members").click()
    page.get_by_text("long.wav lasts 6 s, and this page takes 5 s at most.").wait_for()
    open_tab(page, address, "Recording")
    (tmp_path / "large.wav").write_bytes(bytes(600_000))
    upload(page, tmp_path / "large.wav")
    page.get_by_text("exceed the maximum allowed size").wait_for()
    assert "Traceback" not in page.content()
    context.close()
    # That the browser cannot play it either, gradio's player notes in the console.
    assert set(errors) <= {"Waveform load error: MediaError"}
    assert not leaving


@pytest.mark.parametrize("width", WIDTHS)
def test_run_is_filtered_and_a_clip_is_played(page, address, width):
    page.set_viewport_size({"width": width, "height": 900})
    open_tab(page, address, "Run")
    page.get_by_text("4 of 4 utterances.").wait_for()
    page.get_by_label("Predicted class").click()
    page.get_by_role("option", name="angry (A)").click()
    page.get_by_text("2 of 4 utterances.").wait_for()
    page.locator("#rows").get_by_text("n8.wav").first.click()
    page.get_by_text("a tie between angry (A) and neutral (N), broken by b").wait_for()
    page.locator("#picture img").wait_for()
    assert page.locator("#votes section").count() == 3
    page.locator("#clip").get_by_label("Play", exact=True).first.click()
    page.locator("#clip").get_by_label("Pause", exact=True).first.wait_for()
    check_accessible(page, without=GRADIO_FAILS)
    check_fits(page)
    take_screenshot(page, f"app-run-{width}")


@pytest.mark.parametrize("width", WIDTHS)
def test_ensembles_are_compared(page, address, width):
    page.set_viewport_size({"width": width, "height": 900})
    open_tab(page, address, "Compare")
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("B minus A:").wait_for()
    # B is a alone; see tests/app/test_comparing.py for the numbers.
    assert "0.2083" in page.locator("#scores").inner_text()
    assert "0.2500" in page.locator("#scores").inner_text()
    page.locator("#differing").get_by_text("n7.wav").locator("visible=true").first.wait_for()
    check_accessible(page, without=GRADIO_FAILS)
    check_fits(page)
    take_screenshot(page, f"app-compare-{width}")


@pytest.mark.parametrize("width", WIDTHS)
def test_prompt_is_shown_as_it_is_sent(page, address, width):
    page.set_viewport_size({"width": width, "height": 900})
    open_tab(page, address, "Prompt")
    own = "---\nname: own-v1\nversion: 1\nslots: [classes]\n---\n## user\nOne of {{ classes }}?\n"
    page.get_by_label("Prompt, changed as you like").fill(own)
    page.get_by_role("button", name="Show it as it is sent").click()
    page.locator("#chat").get_by_text("One of angry, contempt, disgust").wait_for()
    check_accessible(page, without=GRADIO_FAILS)
    page.get_by_role("button", name="Ask the model").click()
    page.get_by_text("127.0.0.1:9").first.wait_for()
    check_fits(page)
    take_screenshot(page, f"app-prompt-{width}")
