"""The engine `vllm` as a server of its own; a small script stands in for vLLM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from chat_server import find_probs_of
from zero_shot_runs import QUICK, make_corpus, make_zero_shot_config, question_about, run_zero_shot

from abhinaya.config import config_digest, dump_yaml
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.errors import BadValueError, MissingFileError, MissingPackageError
from members.llama_zero_shot import vllm_server
from members.llama_zero_shot.doctor import check_zero_shot
from members.llama_zero_shot.engine import EngineError
from members.llama_zero_shot.member import ZERO_SHOT, make_engine
from members.llama_zero_shot.vllm_server import OwnServer, find_vllm_python

HELPERS = Path(__file__).resolve().parents[2] / "helpers"
TEXTS = [f"this is sentence {number}" for number in range(5)]


@pytest.fixture(autouse=True)
def fake_vllm(monkeypatch):
    paths = [str(HELPERS / "fake_vllm"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setattr(vllm_server, "_GRACE_S", 0.3)


def settings(*arguments: str, **vllm: object) -> dict:
    return {"engine": "vllm", "vllm": {"arguments": list(arguments), **vllm}, "openai": QUICK}


def wait_for(condition, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ended(pids: Path) -> bool:
    return not any(lives(int(pid)) for pid in pids.read_text().split())


def test_table_comes_from_a_server_that_is_gone_afterwards(tmp_path):
    manifest, pids = make_corpus(tmp_path, TEXTS), tmp_path / "pids"
    table = run_zero_shot(
        manifest, tmp_path / "t.parquet", settings=settings("--pids", str(pids), "--deaf")
    )
    expected = [find_probs_of(question_about(text)) for text in TEXTS]
    np.testing.assert_allclose(table.probs, expected, atol=1e-6)
    assert table.meta["engine"] == "vllm"
    assert ended(pids)
    log = (tmp_path / "answers" / "t1.vllm.log").read_text()
    assert "--tensor-parallel-size 1" in log
    assert "--generation-config vllm" in log
    # All is answered already: no server is started for another table.
    pids.unlink()
    run_zero_shot(
        manifest, tmp_path / "u.parquet", settings=settings("--pids", str(pids), "--deaf")
    )
    assert not pids.exists()


@pytest.mark.parametrize(
    ("flag", "wait", "message"),
    [
        ("--die", {}, r"ended with exit code 1\. Its log is '.*t1\.vllm\.log'.*out of memory"),
        (
            "--never-ready",
            {"start_timeout_s": 0.7},
            r"did not answer within 0.7 s \(vllm.start_timeout_s\)\. Its log is '.*t1\.vllm\.log'",
        ),
        ("--die-when-asked", {}, r"ended with exit code 3\. .*broken while it worked"),
    ],
)
def test_server_that_fails_is_told_with_its_log_and_stopped(flag, wait, message, tmp_path):
    manifest, pids = make_corpus(tmp_path, TEXTS), tmp_path / "pids"
    change = settings("--pids", str(pids), flag, **wait)
    change["openai"] = QUICK | {"patience_s": 0.3}
    with pytest.raises(EngineError, match=f"(?s){message}"):
        run_zero_shot(manifest, tmp_path / "t.parquet", settings=change)
    assert wait_for(lambda: not pids.exists() or ended(pids))
    assert not (tmp_path / "t.parquet").exists()


def test_server_is_stopped_when_asking_fails(tmp_path, monkeypatch):
    manifest, pids = make_corpus(tmp_path, TEXTS), tmp_path / "pids"

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(vllm_server.OpenAIEngine, "ask", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_zero_shot(manifest, tmp_path / "t.parquet", settings=settings("--pids", str(pids)))
    assert ended(pids)


def test_server_stays_within_keep_loaded_and_no_longer(tmp_path):
    manifest, pids = make_corpus(tmp_path, TEXTS), tmp_path / "pids"
    change = settings("--pids", str(pids))
    with ZERO_SHOT.keep_loaded():
        run_zero_shot(manifest, tmp_path / "a.parquet", settings=change)
        first = pids.read_text()
        more = change | {"answers": str(tmp_path / "others")}
        run_zero_shot(manifest, tmp_path / "b.parquet", settings=more)
        assert pids.read_text() == first
        assert not ended(pids)
    assert ended(pids)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_server_ends_with_the_process_that_started_it(sent, tmp_path):
    pids = tmp_path / "pids"
    script = (
        "import sys, time; from pathlib import Path\n"
        "from members.llama_zero_shot.vllm_server import OwnServer\n"
        "command = [sys.executable, '-m', 'vllm.entrypoints.openai.api_server',\n"
        "           '--served-model-name', 'm', '--pids', sys.argv[1]]\n"
        "server = OwnServer(command, Path(sys.argv[1] + '.log'), 60)\n"
        "print('ready', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(pids)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        assert not ended(pids)
        parent.send_signal(sent)
    assert wait_for(lambda: ended(pids))


def test_own_server_answers_nobody_without_its_key(tmp_path):
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--served-model-name"]
    server = OwnServer([*command, "m"], tmp_path / "log", 60)
    try:
        assert server.key not in Path(f"/proc/{server._process.pid}/cmdline").read_text()
        foreign = make_zero_shot_config({"base": "m", "openai": {"url": server.url}})
        with pytest.raises(EngineError, match="refuses the key"):
            run_zero_shot(
                make_corpus(tmp_path, TEXTS),
                tmp_path / "t.parquet",
                settings={"base": "m", "openai": {"url": foreign.openai.url}},
            )
    finally:
        server.stop()
        server.stop()  # does nothing


def test_answers_are_known_as_those_of_vllm_in_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    engines = [
        make_engine(make_zero_shot_config({"engine": "vllm", "vllm": vllm}), MSP_PODCAST, tmp_path)
        for vllm in ({}, {"server": False}, {"arguments": ["--rope-scaling", "x"]})
    ]
    own, inside, changed = (engine.identity for engine in engines)
    assert own == inside == "vllm:tiny:auto"
    assert changed.startswith(own)
    assert changed != own


def test_server_takes_all_devices_unless_told(monkeypatch):
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 8)
    sizes = []
    for vllm in ({}, {"pipeline_parallel": 2}, {"tensor_parallel": 1}, {"server": False}):
        config = make_zero_shot_config({"engine": "vllm", "vllm": vllm})
        again = make_zero_shot_config({"engine": "vllm", "vllm": config.vllm.model_dump()})
        assert again == config
        command = vllm_server.server_command("m", config.decoding, config.vllm)
        sizes.append(command[command.index("--tensor-parallel-size") + 1])
    assert sizes == ["8", "4", "1", "1"]


def test_config_of_a_running_server_has_none_of_the_new_keys():
    config = make_zero_shot_config({})
    assert config.vllm.tensor_parallel == 1
    assert "start_timeout_s" not in dump_yaml(config)
    assert config_digest(config.vllm) == "a97df5ffd2a6efa3"  # as before there were servers


def test_python_without_vllm_or_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(
        MissingPackageError, match=r"or another vllm.python, needs the package vllm"
    ):
        find_vllm_python(make_zero_shot_config(settings()).vllm)
    absent = settings(python=str(tmp_path / "bin" / "python"))
    with pytest.raises(MissingFileError, match=r"cannot be run .* environment that has vLLM"):
        find_vllm_python(make_zero_shot_config(absent).vllm)
    found = [one for one in check_zero_shot(make_zero_shot_config(absent)) if one.what == "engine"]
    assert [one.result for one in found] == ["problem"]


def test_server_in_a_launch_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadValueError, match="Leave out accelerate launch"):
        make_engine(make_zero_shot_config(settings()), MSP_PODCAST, tmp_path)
