"""What a member needs of memory: by hand, and against what real steps allocate."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from measured_memory import peak_bytes
from member_recipes import RECIPES

from abhinaya.config import merge
from abhinaya.demo.checkpoints.beats import write_beats
from abhinaya.demo.checkpoints.encoders import write_wavlm, write_whisper
from abhinaya.demo.checkpoints.llama import write_llama
from abhinaya.demo.checkpoints.salmonn import write_salmonn
from abhinaya.doctor.memory import MEMORY_TOLERANCE, find_needs
from abhinaya.member_config import check_member_config


def write_s2(folder: Path) -> dict[str, str]:
    write_llama(folder / "llama", n_features=256, n_layers=4)
    write_whisper(folder / "whisper", n_features=128, n_layers=2)
    write_beats(folder / "beats.pt", n_features=64)
    write_salmonn(
        folder / "salmonn.pth",
        **{"whisper_width": 128, "beats_width": 64, "llm_width": 256, "llm_layers": 4},
        **{"qformer_width": 64, "qformer_ffn_width": 256, "qformer_layers": 2},
    )
    names = {"base": "llama", "whisper": "whisper", "beats": "beats.pt", "salmonn": "salmonn.pth"}
    return {key: str(folder / name) for key, name in names.items()} | {"llm_weights": "float32"}


def write_t2(folder: Path) -> dict[str, str]:
    write_llama(folder, layout="llama3", n_features=256, n_heads=8, n_layers=4)
    return {"base": str(folder), "weights": "float32"}


def write_s1(folder: Path) -> dict[str, str]:
    # Few channels: what oneDNN takes to arrange convolutions is another matter on each device.
    write_wavlm(folder, n_layers=4, n_features=256, n_conv_features=8)
    return {"base": str(folder)}


def write_encoder(folder: Path) -> dict[str, str]:
    write_whisper(folder, chunk_s=10, n_features=128, n_layers=4)
    return {"base": str(folder)}


SOURCES = {
    "wavlm": ("wavlm", write_s1),
    "salmonn-13b": ("salmonn-13b", write_s2),
    "llama-8b-lora": ("llama-8b-lora", write_t2),
    "whisper-encoder": ("whisper-encoder", write_encoder),
    "whisper-encoder-lora": ("whisper-encoder-lora", write_encoder),
    "gen-ser": ("gen-ser", write_s1),
}


@pytest.fixture(scope="session")
def make_config(tmp_path_factory):
    """A function that returns the config of a small member, large enough for activations to
    outweigh what is constant."""

    @functools.cache
    def write(name: str) -> dict[str, str]:
        return SOURCES[name][1](tmp_path_factory.mktemp("sources") / "model")

    def make(name: str, **changes):
        recipe = RECIPES[SOURCES[name][0]]
        content = {
            "member": recipe.member,
            "name": "m",
            "run_dir": "run",
            "data": {"manifest": "m", "transcripts": {"train": "t", "predict": "t"}},
            "audio": {"max_audio_s": 5.0, "train_crop": "first"},
            "inference": {"batch_size": 4},
            "training": {"global_batch_size": 4, "use_cpu": True},
        }
        if recipe.member != "llama-8b-lora" and not recipe.reads:
            del content["data"]["transcripts"]
        return check_member_config(
            merge(merge(merge(content, recipe.settings), write(name)), changes), "the test"
        )

    return make


BF16 = {"bf16": True}
AGAIN = {"activation_checkpointing": True}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("wavlm", {}),
        ("wavlm", {"training": AGAIN}),
        ("wavlm", {"training": BF16}),
        ("salmonn-13b", {}),
        ("salmonn-13b", {"training": AGAIN}),
        ("salmonn-13b", {"llm_weights": "bf16", "whisper_weights": "bf16", "training": BF16}),
        ("llama-8b-lora", {}),
        ("llama-8b-lora", {"training": AGAIN}),
        ("llama-8b-lora", {"weights": "bf16", "training": BF16}),
        ("whisper-encoder", {}),
        ("whisper-encoder-lora", {}),
        ("gen-ser", {}),
    ],
)
def test_computed_memory_is_near_what_a_real_step_allocates(name, changes, make_config):
    config = make_config(name, **changes)
    needs = find_needs(config)
    training, prediction = (peak_bytes(config, trains=trains) for trains in (True, False))
    print(name, changes, needs.training / training, needs.prediction / prediction)
    assert needs.training == pytest.approx(max(training, prediction), rel=MEMORY_TOLERANCE)
    assert needs.prediction == pytest.approx(prediction, rel=MEMORY_TOLERANCE)
