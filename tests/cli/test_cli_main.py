from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

import abhinaya
import abhinaya.cli as cli
from abhinaya.errors import BadValueError
from abhinaya.stopping.interruptions import deferred


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
    assert "Submit:\n" in result.out + result.err


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


@pytest.fixture
def mistake_of_ours(monkeypatch, tmp_path):
    """Something that `vote` does not expect; logs go to the returned folder."""

    def fail(*_args, **_options):
        raise ZeroDivisionError("a reason\nof two lines " + 1_000 * "x")

    monkeypatch.setattr("abhinaya.data.predictions.read_tables", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_mistake_of_ours_is_one_line_that_names_its_log(run_cli, mistake_of_ours, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    result = run_cli("vote", "a.parquet", "--out", "b c.parquet")
    (log,) = mistake_of_ours.glob("abhinaya-*.log")
    assert (result.code, result.out) == (1, "")
    start = (
        "Error: abhinaya vote stopped in process 3 with ZeroDivisionError: a reason of two lines"
    )
    assert result.err.startswith(start)
    assert result.err.endswith(
        f"The details are in '{log}', or on the screen with ABHINAYA_DEBUG=1.\n"
    )
    assert result.err.count("\n") == 1
    assert len(result.err) < 700
    details = log.read_text()
    assert f"abhinaya {abhinaya.__version__}, Python 3" in details
    assert "vote a.parquet --out 'b c.parquet'\n" in details
    assert "Traceback" in details
    assert "test_cli_main.py" in details


def test_a_mistake_of_ours_without_place_for_a_log_is_one_line(
    run_cli, mistake_of_ours, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(mistake_of_ours / "absent"))
    result = run_cli("vote", "a.parquet", "--out", "b.parquet")
    assert result.code == 1
    assert result.err.endswith(
        "No log could be written (No such file or directory); set ABHINAYA_DEBUG=1 to see it.\n"
    )


def test_too_little_memory_is_not_called_a_fault(run_cli, mistake_of_ours, monkeypatch):
    def fail(*_args, **_options):
        raise MemoryError

    monkeypatch.setattr("abhinaya.data.predictions.read_tables", fail)
    result = run_cli("vote", "a.parquet", "--out", "b.parquet")
    assert "MemoryError: no reason given. It needs more memory than there is; ch" in result.err


def test_a_mistake_of_ours_shows_its_frames_when_asked(run_cli, mistake_of_ours, monkeypatch):
    monkeypatch.setenv("ABHINAYA_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main(["vote", "a.parquet", "--out", "b.parquet"])
    assert not list(mistake_of_ours.glob("*.log"))


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


@pytest.mark.parametrize(("debug", "n_tracebacks"), [("0", 0), ("1", 1)])
def test_python_m_abhinaya_ends_a_mistake_of_ours_alike(tmp_path, debug, n_tracebacks):
    """In a real process: what is imported when it starts makes every vote fail."""
    (tmp_path / "sitecustomize.py").write_text(
        "import abhinaya.data.predictions as p\np.read_tables = lambda *args: 1 / 0\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "abhinaya", "vote", "a.parquet", "--out", "b.parquet"],
        env=os.environ | {"PYTHONPATH": path, "TMPDIR": str(tmp_path), "ABHINAYA_DEBUG": debug},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == n_tracebacks
    assert len(list(tmp_path.glob("abhinaya-*.log"))) == 1 - n_tracebacks
    assert "ZeroDivisionError: division by zero" in done.stderr


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (None, 143, "Stopped by a signal. Run the same command again to go on.\n"),
        # A reader of audio, or a neighbour in the launch, that was stopped first.
        (RuntimeError("worker killed"), 143, "Stopped by a signal. Run the same command again"),
        (BadValueError("The value 3 is bad."), 1, "Error: The value 3 is bad.\n"),
    ],
)
def test_command_that_is_stopped_exits_143(run_cli, monkeypatch, fault, code, said):
    def stop(*_args, **_options):
        with deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            if fault is not None:
                raise fault

    monkeypatch.setattr("abhinaya.data.predictions.read_tables", stop)
    result = run_cli("vote", "a.parquet", "--out", "b.parquet")
    assert (result.code, result.out) == (code, "")
    assert said in result.err
