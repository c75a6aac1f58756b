"""What is wrong with a chain is found before its first step, all of it at once."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import yaml
from chat_server import ChatServer

from abhinaya.demo.checkpoints.encoders import write_wavlm
from abhinaya.doctor.findings import format_bytes
from abhinaya.doctor.memory import find_sizes
from abhinaya.errors import ProblemsError
from abhinaya.pipeline.config import load_pipeline
from abhinaya.pipeline.preflight import find_obstacles
from abhinaya.pipeline.run import plan, run_pipeline
from abhinaya.pipeline.steps import build_steps

CHAIN = {
    "name": "night",
    "out": "out",
    "prepare": {"corpus": "msp-podcast", "source": "source", "out": "out/corpus"},
    "predict": {"test": "test3"},
}
TEXT = {"transcripts": {"predict": "human"}}
ASKED = {"member": "llama-70b-zero-shot", "base": "tiny", "prompt": "zero-shot-v1", "data": TEXT}


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A function that loads a chain of these members, with further keys."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source").mkdir()

    def load(members, **changes):
        for name, member in members.items():
            Path(f"{name}.yaml").write_text(yaml.safe_dump(member))
        entries = {name: {"config": f"{name}.yaml"} for name in members}
        Path("chain.yaml").write_text(yaml.safe_dump(CHAIN | {"members": entries} | changes))
        return load_pipeline("chain.yaml")

    return load


def obstacles(pipeline):
    return find_obstacles(pipeline, build_steps(pipeline))


def test_everything_in_the_way_is_told_at_once_and_nothing_is_begun(load, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    wave = {
        "member": "wavlm",
        "base": "none/at/all",
        "training": {"global_batch_size": 4, "report_to": "wandb"},
    }
    monkeypatch.setitem(sys.modules, "wandb", None)
    pipeline = load(
        {
            "wave": wave,
            "service": ASKED | {"openai": {"api_key_env": "NO_SUCH_KEY"}},
            "silent": ASKED | {"openai": {"url": "http://127.0.0.1:9/v1"}},
            "own": ASKED | {"engine": "vllm", "vllm": {"python": "no/python"}},
        },
        prepare=CHAIN["prepare"] | {"source": "nowhere"},
        transcribe={"model": "no-model.pt"},
        speakers={"model": "no/speaker/model", "n_speakers": 2},
    )
    with pytest.raises(ProblemsError, match="9 problems in the chain 'night'") as caught:
        run_pipeline(pipeline, lambda report: None)
    parts = [
        r"prepare: corpus nowhere: There is no 'nowhere' to prepare msp-podcast from",
        r"transcribe: model no-model.pt: Unknown file, folder or official model",
        r"train:wave: base none/at/all: There is no 'none/at/all'",
        r"train:wave: training.report_to: training.report_to: wandb needs the package wandb",
        r"predict:test:own: engine vllm: vllm.python is 'no/python', which cannot be run",
        r"predict:test:own: base tiny: There is no folder 'tiny', and as a hub id it is not in the",
        r"predict:test:service: engine openai: The environment variable 'NO_SUCH_KEY' is not set",
        r"predict:test:silent: server http://127.0.0.1:9/v1: .* tells no models: no connection",
        r"speakers: base no/speaker/model: There is no 'no/speaker/model'",
    ]
    for problem, part in zip(caught.value.problems, parts, strict=True):
        assert part.partition(".*")[0] in problem
    assert not Path("out").exists()


def test_recordings_are_looked_for_and_decide_a_training(load, tmp_path):
    background = {"probability": 1, "range": [9, 9], "folder": "noise"}
    wave = {
        "member": "wavlm",
        "base": "base",
        "training": {"global_batch_size": 4},
        "audio": {"augment": {"background": background}},
    }
    write_wavlm(tmp_path / "base", n_layers=1, n_features=16, n_conv_features=8)
    pipeline = load({"wave": wave})
    (problem,) = obstacles(pipeline)
    assert problem.startswith("train:wave: audio.augment: 'noise' is not a folder, expected reco")
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "a.wav").write_bytes(b"whatever: training will listen")
    assert obstacles(pipeline) == []
    train = next(step for step in build_steps(pipeline) if step.name == "train:wave")
    assert Path("noise/a.wav") in train.needs


def test_server_that_is_there_with_its_model_is_no_obstacle(load):
    with ChatServer() as server:
        pipeline = load({"asked": ASKED | {"openai": {"url": server.url}}})
        assert obstacles(pipeline) == []
        other = load({"asked": ASKED | {"base": "tinny", "openai": {"url": server.url}}})
        (problem,) = obstacles(other)
    assert "it has no model 'tinny'. Did you mean 'tiny'?" in problem
    assert not server.received  # no question was asked


def test_steps_that_are_not_to_do_are_not_looked_at(load):
    pipeline = load({"asked": ASKED})
    (entry,) = plan(pipeline, only=["prepare"])
    assert find_obstacles(pipeline, [entry.step]) == []


def test_folder_in_which_nothing_may_be_written(load, monkeypatch):
    pipeline = load({"asked": ASKED}, prepare=None, manifest="m.parquet")
    monkeypatch.setattr("os.access", lambda folder, mode: False)  # root may write anywhere
    assert any("in which nothing may be written. Change out" in one for one in obstacles(pipeline))


def test_output_folder_that_is_a_file(load, tmp_path):
    (tmp_path / "out").write_text("")
    pipeline = load({"asked": ASKED}, prepare=None, manifest="m.parquet")
    assert any(
        "is a file, but should be a folder. Change out" in one for one in obstacles(pipeline)
    )


def test_disk_that_is_too_small_is_told_with_numbers(load, tmp_path, monkeypatch):
    write_wavlm(tmp_path / "wavlm", n_layers=1, n_features=16, n_conv_features=8)
    training = {"global_batch_size": 4, "save_total_limit": 3}
    wave = {"member": "wavlm", "base": "wavlm", "training": training}
    pipeline = load({"wave": wave})
    assert not obstacles(pipeline)
    n_trained = find_sizes(pipeline.members[0]).n_trained
    # Three checkpoints, one more that is being written, the best weights: 12, 12 and 4 bytes.
    needed = 4 * 12 * n_trained + 4 * n_trained
    usage = shutil.disk_usage(tmp_path)
    for free, n_obstacles in ((needed, 0), (needed - 1, 1)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: usage._replace(free=free))
        found = obstacles(pipeline)
        assert len(found) == n_obstacles
    size = format_bytes(needed)
    assert f"take about {size} (wave {size}). Make room, change out" in found[0]
