from __future__ import annotations

import errno
import subprocess
import sys

import pytest

import abhinaya
import abhinaya.cli as cli
from abhinaya.errors import BadValueError


def test_help_lists_every_command_in_order(run_cli):
    result = run_cli("--help")
    assert result.code == 0
    places = [result.out.index(f"\n  {name} ") for name in cli.COMMANDS]
    assert places == sorted(places)
    assert len(places) >= 3


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_every_command_has_no_empty_text(run_cli, command):
    result = run_cli(command, "--help")
    assert result.code == 0
    assert result.out.startswith(f"Usage: abhinaya {command}")


def test_version(run_cli):
    assert run_cli("--version") == (0, f"abhinaya {abhinaya.__version__}\n", "")


def test_no_command_shows_the_help_and_is_a_wrong_command_line(run_cli):
    result = run_cli()
    assert result.code == 2
    assert "Commands:" in result.out + result.err


@pytest.mark.parametrize("args", [["vot"], ["score"], ["vote", "--nonsense"]])
def test_wrong_command_line_exits_2(run_cli, args):
    result = run_cli(*args)
    assert result.code == 2
    assert "Usage: abhinaya" in result.err
    assert "Error: " in result.err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (BadValueError("The value 3 is too large."), 1, "Error: The value 3 is too large.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.parquet"),
            1,
            "Error: No space left on device: 'a.parquet'.\n",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_a_message_and_an_exit_code(run_cli, monkeypatch, error, code, message):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr("abhinaya.data.predictions.read_tables", fail)
    result = run_cli("vote", "a.parquet", "--out", "b.parquet")
    assert (result.code, result.out, result.err.lstrip("\n")) == (code, "", message)


def test_a_mistake_of_ours_is_not_hidden(monkeypatch):
    """Only what the user can mend becomes a message; the rest keeps its traceback."""

    def fail(*_args, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr("abhinaya.data.predictions.read_tables", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["vote", "a.parquet", "--out", "b.parquet"])


def test_python_m_abhinaya_works_and_shows_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "abhinaya", "vote", "none.parquet", "--out", "out.parquet"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: There is no table 'none.parquet'.")
    assert "Traceback" not in done.stderr
