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
from abhinaya.doctor.memory import (
    LAUNCHES,
    MEMORY_TOLERANCE,
    Needs,
    compare_launches,
    find_needs,
    find_sizes,
)
from abhinaya.errors import BadValueError
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


def write_middle_s1(folder: Path) -> dict[str, str]:
    write_wavlm(folder, n_layers=6, n_features=768, n_conv_features=8)
    return {"base": str(folder)}


def write_middle_t2(folder: Path) -> dict[str, str]:
    write_llama(folder, layout="llama3", n_features=1024, n_heads=16, n_layers=6)
    return {"base": str(folder), "weights": "float32"}


SOURCES = {
    "wavlm-middle": ("wavlm", write_middle_s1),
    "llama-middle": ("llama-8b-lora", write_middle_t2),
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


def test_needs_count_the_heads_of_attributes(make_config):
    """A linear layer each on an embedding of 8: nine parameters for every number predicted."""
    plain = make_config("wavlm", head={"hidden": 8})
    more = make_config("wavlm", head={"hidden": 8}, attributes={"arousal": 1, "secondary": 0.1})
    ours, theirs = find_needs(more), find_needs(plain)
    assert ours.n_trained - theirs.n_trained == 9 * (1 + 17)
    assert ours.training == pytest.approx(theirs.training, rel=1e-3)


BF16 = {"bf16": True}
AGAIN = {"activation_checkpointing": True}
SLOWLY = [
    ("wavlm", {"training": AGAIN}),
    ("wavlm", {"training": BF16}),
    ("wavlm-middle", {}),
    ("salmonn-13b", {}),
    ("salmonn-13b", {"llm_weights": "bf16", "whisper_weights": "bf16", "training": BF16}),
    ("llama-8b-lora", {}),
    ("llama-8b-lora", {"weights": "bf16", "training": BF16}),
    ("llama-middle", {}),
    ("llama-middle", {"training": AGAIN}),
    ("whisper-encoder", {}),
    ("whisper-encoder-lora", {}),
    ("gen-ser", {}),
]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("wavlm", {}),
        ("salmonn-13b", {"training": AGAIN}),
        ("llama-8b-lora", {"training": AGAIN}),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOWLY),
    ],
)
def test_computed_memory_is_near_what_a_real_step_allocates(name, changes, make_config):
    config = make_config(name, **changes)
    needs = find_needs(config)
    training, prediction = (peak_bytes(config, trains=trains) for trains in (True, False))
    print(f"{name} {changes}: {needs.training / training:.3f} {needs.prediction / prediction:.3f}")
    assert needs.training == pytest.approx(max(training, prediction), rel=MEMORY_TOLERANCE)
    assert needs.prediction == pytest.approx(prediction, rel=MEMORY_TOLERANCE)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        # Of four layers of width 32: see below.
        ("float32", lambda inside, outside: 4 * (inside + outside)),
        ("bf16", lambda inside, outside: 2 * (inside + outside)),
        ("int8", lambda inside, outside: inside + 2 * outside),
        # Half a byte; one byte per 64, four bytes per 64 * 256; each matrix rounded down.
        ("nf4", lambda inside, outside: inside * (0.5 + 1 / 64 + 4 / 64 / 256) + 2 * outside),
    ],
)
def test_bytes_of_weights_by_hand(weights, expected, make_config):
    config = make_config("llama-8b-lora", weights=weights)
    sizes = find_sizes(config)
    # LLaMA of width 256 with half the heads for keys, a feed-forward of twice the width.
    width, inner = 256, 512
    layer = 2 * width * width + 2 * width * width // 2 + 3 * width * inner
    n_rows = 512
    outside = n_rows * width + 4 * 2 * width + width
    assert sizes.frozen == pytest.approx(expected(4 * layer, outside), abs=4 * 7)
    assert sizes.unpacked == (2 * width * inner if weights in ("int8", "nf4") else 0)


def test_shares_of_eight_devices_by_hand():
    """800 bytes of frozen weights, 100 trained parameters, layers of up to 50 bytes."""
    needs = Needs(800, 100, 50, training=1000)
    shares = {name: share(needs, 8) for name, share in LAUNCHES.items()}
    parts = {
        name: (share.weights, share.gradients, share.optimizer, share.activations)
        for name, share in shares.items()
    }
    assert parts == {
        # All of it; DDP sends gradients in buckets of its own, as large as the gradients.
        "ddp": (1200, 800, 800, 1000),
        # An eighth, and one layer whole.
        "fsdp2": (150 + 50, 50, 100, 1000),
        # Gradients, moments and a float32 copy of the trained weights are divided.
        "zero2": (1200, 50, 150, 1000),
        "zero3": (150 + 50, 50, 150, 1000),
    }
    assert shares["ddp"].sum == 1200 + 800 + 800 + 1000 + 3 * 2**28
    assert LAUNCHES["ddp"](needs, 1).gradients == 400  # nothing is sent


def test_global_batch_is_divided_and_four_bits_are_offered(make_config):
    eight = compare_launches(make_config("llama-8b-lora", weights="bf16"), 4)
    assert list(eight) == ["ddp", "fsdp2", "zero2", "zero3", "ddp, weights: nf4"]
    assert eight["ddp, weights: nf4"].weights < eight["ddp"].weights
    one = compare_launches(make_config("llama-8b-lora", weights="nf4"), 1)
    assert list(one) == ["ddp", "zero2"]  # quantised weights cannot be divided
    assert one["ddp"].activations > 2 * eight["ddp"].activations


def test_nothing_to_train_and_no_devices_raise(make_config):
    with pytest.raises(BadValueError, match=r"--devices is 0, expected 1 or more\."):
        compare_launches(make_config("wavlm"), 0)
    content = {"member": "llama-70b-zero-shot", "name": "t", "base": "b", "prompt": "zero-shot-v1"}
    asked = check_member_config(content | {"data": {"manifest": "m"}}, "the test")
    with pytest.raises(BadValueError, match="has nothing to train, so no device needs memory"):
        compare_launches(asked, 8)
