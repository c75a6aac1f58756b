"""Servers and runs that are killed: nothing is lost, and nothing is answered twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from chat_server import PROBE, ChatServer, likeliest
from warm_python import warm_python
from zero_shot_runs import QUICK, make_corpus, question_about, run_zero_shot

from abhinaya.config import dump_yaml
from abhinaya.data.manifest import read_manifest, write_manifest
from members.llama_zero_shot.engine import EngineError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
TEXTS = [f"this is sentence {number}" for number in range(120)]
QUESTIONS = [question_about(text) for text in TEXTS]


def wait_for(server: ChatServer, n_answers: int) -> None:
    end = time.monotonic() + 60
    while server.n_answers < n_answers:
        assert time.monotonic() < end, f"{server.n_answers} answers in a minute"
        time.sleep(0.005)


def test_server_killed_and_restarted_loses_nothing_and_answers_nothing_twice(tmp_path):
    manifest = make_corpus(tmp_path, TEXTS)
    n_at_kills = []

    def kill_twice() -> None:
        for n_answers in (30, 80):
            wait_for(server, n_answers)
            server.stop()
            n_at_kills.append(server.n_answers)
            time.sleep(0.4)
            server.start()

    with ChatServer(delay_s=0.1) as server:  # so long that some are open at each kill
        killer = threading.Thread(target=kill_twice)
        killer.start()
        settings = {"openai": {"concurrency": 16}}
        table = run_zero_shot(manifest, tmp_path / "t.parquet", server, settings)
        killer.join()
    assert 30 <= n_at_kills[0] < 80 <= n_at_kills[1] < 120
    assert table.raw == tuple(likeliest(question) for question in QUESTIONS)
    assert set(table.reasons) == {None}
    answered = {question: n for question, n in server.answered.items() if question != PROBE}
    assert answered == dict.fromkeys(QUESTIONS, 1)
    # Those that were open when it was killed came again: at most 16 each time.
    n_received = sum(server.received[question] for question in QUESTIONS)
    assert n_received > 120
    # The table is the one of an undisturbed run.
    with ChatServer() as calm:
        settings = {"answers": str(tmp_path / "others")}
        run_zero_shot(manifest, tmp_path / "calm.parquet", calm, settings)
    assert (tmp_path / "calm.parquet").read_bytes() == (tmp_path / "t.parquet").read_bytes()


def test_server_that_comes_late_is_waited_for(tmp_path):
    manifest = make_corpus(tmp_path, TEXTS[:3])
    server = ChatServer().reserve()
    starter = threading.Timer(0.6, server.start)
    starter.start()
    try:
        table = run_zero_shot(manifest, tmp_path / "t.parquet", server)
    finally:
        starter.join()
        server.stop()
    assert set(table.reasons) == {None}
    assert server.n_answers == 3


def test_server_that_stays_away_ends_the_run_and_the_next_one_goes_on(tmp_path):
    manifest = make_corpus(tmp_path, TEXTS)
    with ChatServer(delay_s=0.03) as server:
        threading.Thread(target=lambda: (wait_for(server, 40), server.stop())).start()
        settings = {"openai": {"concurrency": 8, "patience_s": 0.5}}
        with pytest.raises(EngineError, match=r"has answered nothing for .*are kept"):
            run_zero_shot(manifest, tmp_path / "t.parquet", server, settings)
    assert not (tmp_path / "t.parquet").exists()
    n_before = server.n_answers
    with ChatServer() as other:
        table = run_zero_shot(manifest, tmp_path / "t.parquet", other)
    assert other.n_answers == 120 - n_before
    assert table.raw == tuple(likeliest(question) for question in QUESTIONS)


def test_run_killed_goes_on_and_asks_only_what_it_had_no_answer_to(tmp_path):
    write_manifest(make_corpus(tmp_path, TEXTS), tmp_path / "manifest.parquet")
    manifest = read_manifest(tmp_path / "manifest.parquet")
    concurrency = 4
    with ChatServer(delay_s=0.1) as server:
        from zero_shot_runs import make_zero_shot_config

        client = QUICK | {"url": server.url, "concurrency": concurrency}
        config = make_zero_shot_config({"openai": client})
        (tmp_path / "config.yaml").write_text(dump_yaml(config))
        command = [sys.executable, "-m", "abhinaya", "predict", str(tmp_path / "config.yaml")]
        command += ["--manifest", str(tmp_path / "manifest.parquet"), "--select", "all"]
        command += ["--out", str(tmp_path / "t.parquet")]
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
        wait_for(server, 24)
        process.send_signal(signal.SIGKILL)
        process.wait()
        server.delay_s = 0
        (file,) = (tmp_path / "answers").glob("*.jsonl")
        n_kept = file.read_bytes().count(b"\n")
        # The last answers may have been on their way.
        assert 24 - concurrency <= n_kept < 120
        time.sleep(0.3)  # what the server was at when the client died
        before = server.received.copy()
        table = run_zero_shot(manifest, tmp_path / "t.parquet", server)
    asked_again = server.received - before
    del asked_again[PROBE]
    assert sum(asked_again.values()) == 120 - n_kept
    assert table.raw == tuple(likeliest(question) for question in QUESTIONS)
    # Nothing that was kept is asked again, so at most the open ones came twice.
    assert sum(server.received[q] > 1 for q in QUESTIONS) <= concurrency


@pytest.mark.slow
def test_two_processes_share_the_questions_and_the_answers(tmp_path):
    write_manifest(make_corpus(tmp_path, TEXTS), tmp_path / "manifest.parquet")
    from zero_shot_runs import make_zero_shot_config

    with ChatServer() as server:
        config = make_zero_shot_config({"openai": QUICK | {"url": server.url}})
        (tmp_path / "config.yaml").write_text(dump_yaml(config))
        command = [warm_python(), "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", "2", "-m", "abhinaya", "predict"]
        command += [str(tmp_path / "config.yaml"), "--select", "all"]
        command += ["--manifest", str(tmp_path / "manifest.parquet")]
        command += ["--out", str(tmp_path / "t.parquet")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        subprocess.run(command, env=environment, check=True, timeout=300)
        assert server.received == server.answered
        # Two files of sixty answers each, and a table of all.
        files = sorted((tmp_path / "answers").glob("*.jsonl"))
        assert [file.read_bytes().count(b"\n") for file in files] == [60, 60]
        assert server.answered == dict.fromkeys(QUESTIONS, 1) | {PROBE: 2}
        manifest = read_manifest(tmp_path / "manifest.parquet")
        (tmp_path / "t.parquet").rename(tmp_path / "two.parquet")
        run_zero_shot(manifest, tmp_path / "t.parquet", server)
    assert server.n_answers == 120
    assert (tmp_path / "two.parquet").read_bytes() == (tmp_path / "t.parquet").read_bytes()
