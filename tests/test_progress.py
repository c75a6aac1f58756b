from __future__ import annotations

import io
import logging
import re
import sys

import pytest

from abhinaya.progress import paused, progress, progress_of_steps


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_progress_away_from_a_terminal_logs_a_line_per_tenth(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with progress("encoding", 30) as advance:
        for _ in range(30):
            advance(1)
    # Every third of 30 is a tenth.
    assert lines_of(caplog) == [f"encoding: {done} of 30" for done in range(3, 31, 3)]


def test_progress_logs_the_end_of_few_large_steps(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with progress("encoding", 7) as advance:
        advance(4)
        advance(3)
    assert lines_of(caplog) == ["encoding: 4 of 7", "encoding: 7 of 7"]


@pytest.mark.parametrize(
    ("total", "options"), [(10, {"shown": False}), (10, {"lines": False}), (0, {})]
)
def test_progress_says_nothing_where_it_is_not_wanted(
    caplog: pytest.LogCaptureFixture, total: int, options: dict[str, bool]
) -> None:
    caplog.set_level(logging.INFO)
    with progress("encoding", total, **options) as advance:
        advance(total)
    assert lines_of(caplog) == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_is_a_bar_on_stderr_without_lines(
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    # `lines` is about log lines; the bar is shown whatever it says.
    with progress("encoding", 4, lines=False) as advance:
        advance(4)
    assert "encoding" in terminal.getvalue()
    assert "100%" in terminal.getvalue()
    assert capsys.readouterr().out == ""
    assert lines_of(caplog) == []


def become_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make stderr a terminal of 120 columns, in the test itself: pytest sets it before each."""
    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return made


def test_bar_shows_rate_and_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = become_terminal(monkeypatch)
    clock = [100.0]
    monkeypatch.setattr("rich.console.monotonic", lambda: clock[0])
    with progress("encoding", 400) as advance:
        for _ in range(2):
            clock[0] += 10.0
            advance(100)
    # 100 in ten seconds; the other 200 take twenty.
    assert "50% 10/s 20 s left" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())


def test_bar_of_a_chain_stands_with_those_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two displays at once are an error of rich."""
    terminal = become_terminal(monkeypatch)
    with progress_of_steps(19) as begin:
        begin("train:wavlm", 6, 754.0)
        with progress("encoding", 4) as advance:
            advance(4)
        with paused():
            terminal.write("REPORT")
        begin("train:other", 7, None)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    assert "step 7 of 19: train:wavlm" in text
    assert "12 min 3" in text
    assert "encoding" in text
    assert "REPORT" in text
    assert "step 8 of 19: train:other" in text


def test_chain_without_a_terminal_shows_no_bar(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    with progress_of_steps(2) as begin, paused():
        begin("train:wavlm", 0, 12.0)
    assert lines_of(caplog) == []
    assert capsys.readouterr() == ("", "")


def test_quiet_shows_nothing_on_a_terminal_either(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = become_terminal(monkeypatch)
    monkeypatch.setattr(logging.getLogger("abhinaya"), "level", logging.WARNING)
    with progress_of_steps(2) as begin, progress("encoding", 4) as advance:
        begin("train:wavlm", 0, 12.0)
        advance(4)
    assert terminal.getvalue() == ""
