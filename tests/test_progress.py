from __future__ import annotations

import io
import logging
import sys

import pytest

from abhinaya.progress import progress


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
