"""Signals that ask a command to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from abhinaya.errors import BadValueError
from abhinaya.files import write_text
from abhinaya.stopping import interruptions
from abhinaya.stopping.interruptions import Interruption, deferred, heeding_signals, run_and_pass_on


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_signal_stops_at_once_and_leaves_no_temporary_file(tmp_path, monkeypatch, number):
    monkeypatch.setattr("os.replace", lambda *_: os.kill(os.getpid(), number))
    with heeding_signals(), pytest.raises(Interruption):
        write_text(tmp_path / "a.txt", "text")
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) is signal.SIG_DFL


def test_deferred_signal_raises_behind_the_block():
    done = []

    def work():
        with deferred(lambda: done.append("told")):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # what a launcher passes on as well
            done.append("finished")

    with heeding_signals():
        with pytest.raises(Interruption):
            work()
        assert interruptions.is_asked_to_stop()
    assert done == ["told", "finished"]
    assert not interruptions.is_asked_to_stop()


def test_error_in_a_deferred_block_is_not_hidden():
    def work():
        with deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            raise BadValueError("bad")

    with heeding_signals(), pytest.raises(BadValueError):
        work()


def test_other_threads_leave_signals_alone():
    found = []

    def look():
        with heeding_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


def run_script(text):
    """What a script printed, and how it ended."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout, done.returncode


def test_second_signal_ends_the_process_at_once():
    printed, code = run_script("""
        import os, signal, time
        from abhinaya.stopping import interruptions
        interruptions._ECHO_S = 0.1
        with interruptions.heeding_signals(), interruptions.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
            print("still here", flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            print("never")
    """)
    assert (printed, code) == ("still here\n", 143)


def test_signal_goes_on_to_the_command_that_runs():
    child = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    printed, code = run_script(f"""
        import os, signal, sys, threading, time
        from abhinaya.stopping.interruptions import Interruption, heeding_signals, run_and_pass_on
        threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        try:
            with heeding_signals():
                run_and_pass_on([sys.executable, "-c", {child!r}])
        except Interruption:
            print("passed on")
    """)
    assert (printed, code) == ("ready\npassed on\n", 0)


def test_command_that_ends_by_itself_gives_its_code():
    assert run_and_pass_on([sys.executable, "-c", "raise SystemExit(7)"]) == 7
