"""Two processes that nobody watches but they themselves: one dies, the other stops."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import textwrap
import threading
import time
from pathlib import Path

import pytest
from warm_python import warm_python

from abhinaya.config import dump_yaml
from abhinaya.errors import LostProcessError
from abhinaya.stopping import neighbours

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def test_message_of_a_lost_process_says_what_to_do():
    assert str(LostProcessError(1, 2)) == (
        "Process 1 of 0 to 1 has ended before its work was done, so the others stop too. Its own "
        "message says why, unless it was killed; run the same command again to go on."
    )


def connect_to_each_other() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        return server.accept()[0], theirs


def test_stranger_at_the_port_is_sent_away_and_a_process_in_pieces_is_kept(monkeypatch):
    """A scan of ports stopped the watching, or the training."""
    token, known = bytes(range(16)), selectors.DefaultSelector()
    monkeypatch.setattr(neighbours, "_GREETING_S", 0.5)
    monkeypatch.setattr(neighbours, "_sockets", {})
    for said in (b"", b"GET / HTTP/1.1\r\n\r\n", token[::-1] + bytes(4)):  # the first is silent
        ours, theirs = connect_to_each_other()
        theirs.sendall(said)
        neighbours._welcome(ours, token, known)
        assert ours.fileno() == -1
        theirs.close()
    ours, theirs = connect_to_each_other()
    theirs.sendall(token[:5])
    later = threading.Timer(0.1, theirs.sendall, [token[5:] + (7).to_bytes(4, "big")])
    later.start()
    neighbours._welcome(ours, token, known)
    assert neighbours._sockets == {ours: 7}
    assert [key.fileobj for key in known.get_map().values()] == [ours]
    for link in (ours, theirs):
        link.close()


def start_two(*command: str) -> list[subprocess.Popen[str]]:
    """Start two processes without a launcher, as a script on each of two machines does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    launch = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [warm_python(), *command],
            env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", **launch}
            | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def end_of(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        printed, said = process.communicate(timeout=40)
    finally:
        process.kill()
    return process.returncode, printed, said


SCRIPT = textwrap.dedent("""
    import os, signal, sys, time
    from abhinaya import processes
    from abhinaya.cli import app, main
    from abhinaya.errors import BadValueError
    from abhinaya.stopping import neighbours

    neighbours._GRACE_S = 1.0
    rank = int(os.environ["RANK"])
    victim, where = int(sys.argv[1]), sys.argv[2]

    def kill_oneself(number=0):
        if rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    @app.command("die")
    def die():
        processes.join_launch()
        processes.meet()
        if where == "meet":
            kill_oneself()
            processes.meet()
        elif where == "shares":
            processes.map_in_shares(kill_oneself, [1, 2, 3, 4])
        elif where == "stuck":
            kill_oneself()
            time.sleep(3600)
        elif where == "error" and rank == victim:
            raise BadValueError("mine alone")
        elif where == "error":
            processes.meet()
        elif where == "early" and rank != victim:
            time.sleep(4)
            print("finished")

    main(["die"])
""")


@pytest.mark.parametrize(
    ("victim", "where", "code", "said"),
    [
        (1, "meet", 1, "Error: Process 1 of 0 to 1 has ended"),
        (0, "meet", 1, "Error: Process 0 of 0 to 1 has ended"),
        (1, "shares", 1, "Error: Process 1 of 0 to 1 has ended"),
        (1, "stuck", 1, "Error: Process 1 of 0 to 1 has ended"),
        (1, "error", 1, "Error: Process 1 of 0 to 1 has ended"),
        (1, "early", 0, ""),  # no harm: it has done its share and said goodbye
    ],
)
def test_process_killed_anywhere_stops_its_neighbour(tmp_path, victim, where, code, said):
    (tmp_path / "script.py").write_text(SCRIPT)
    both = start_two(str(tmp_path / "script.py"), str(victim), where)
    end_of(both[victim])
    since = time.monotonic()
    got, printed, err = end_of(both[1 - victim])
    assert time.monotonic() - since < 15
    assert got == code, err
    assert said in err
    assert "Traceback" not in err
    assert (printed == "finished\n") == (where == "early")


@pytest.fixture
def both_training(make_config, tmp_path):
    """Two processes that train together and have a checkpoint."""
    (tmp_path / "config.yaml").write_text(
        dump_yaml(make_config(tmp_path / "run", "training.num_train_epochs=300"))
    )
    both = start_two("-m", "abhinaya", "train", str(tmp_path / "config.yaml"))
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run").glob("checkpoint-*/trainer_state.json")):
        assert both[0].poll() is None, end_of(both[0])
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return both


def test_signal_to_one_process_stops_both_behind_the_same_checkpoint(both_training, tmp_path):
    both_training[1].send_signal(signal.SIGTERM)
    ends = [end_of(process) for process in both_training]
    assert [code for code, _, _ in ends] == [143, 143], ends
    for _, _, said in ends:
        assert said.endswith("Stopped by a signal. Run the same command again to go on.\n")
        assert "Traceback" not in said
    checkpoints = sorted(tmp_path.glob("run/checkpoint-*"), key=lambda path: path.stat().st_mtime)
    names = {path.name for path in checkpoints[-1].iterdir()}
    assert {"trainer_state.json", "rng_state_0.pth", "rng_state_1.pth"} <= names


def test_process_killed_in_training_stops_its_neighbour(both_training):
    both_training[1].send_signal(signal.SIGKILL)
    code, _, said = end_of(both_training[0])
    assert code == 1, said
    assert "Error: Process 1 of 0 to 1 has ended before its work was done" in said
