"""How each registered member is made tiny, for the contract of all members."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chat_server import ChatServer
from exported_runs import write_run, write_tiny_whisper

from abhinaya.config import MemberConfig, merge
from abhinaya.demo.checkpoints.beats import write_beats
from abhinaya.demo.checkpoints.encoders import write_distilhubert, write_wavlm, write_whisper
from abhinaya.demo.checkpoints.llama import write_llama
from abhinaya.demo.checkpoints.salmonn import write_salmonn
from abhinaya.demo.checkpoints.text import write_roberta
from abhinaya.export.export import export_checkpoint
from abhinaya.export.folder import Quantization
from abhinaya.member_config import check_member_config

__all__ = ["N_MEMBERS", "RECIPES", "Recipe", "make_config"]

N_MEMBERS = 11
"""How many are registered; count a new one here."""


@dataclass(frozen=True)
class Recipe:
    """A tiny member.

    Args:
        member: its name in the registry.
        write_base: writes tiny base weights below a folder, and returns the keys of the config that
            name them.
        settings: keys of its config beside those of all and of `write_base`.
        trains: False for a member that predicts from its config, with nothing to train.
        hears: it needs audio.
        reads: it needs transcripts.
        batch_size_key: the key of its config that sets how much is predicted at once.
    """

    member: str
    write_base: Callable[[Path], dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)
    trains: bool = True
    hears: bool = True
    reads: bool = False
    batch_size_key: str = "inference.batch_size"


def tiny_wavlm(folder: Path, n_features: int = 16, **options: Any) -> dict[str, Any]:
    write_wavlm(folder, n_layers=2, n_features=n_features, n_conv_features=8, **options)
    return {"base": str(folder)}


def tiny_distilhubert(folder: Path) -> dict[str, Any]:
    write_distilhubert(folder, n_features=16, n_conv_features=8)
    return {"base": str(folder)}


def tiny_whisper(folder: Path, n_features: int = 16) -> dict[str, Any]:
    # Of a width of 16, weights this large are needed for the sound to matter.
    write_whisper(folder, chunk_s=2, n_layers=2, n_features=n_features, init_std=0.1)
    return {"base": str(folder)}


def tiny_llama(folder: Path) -> dict[str, Any]:
    write_llama(folder, layout="llama3", n_layers=2, vocab_size=384)
    return {"base": str(folder), "weights": "float32"}


def tiny_chat_llama(folder: Path) -> dict[str, Any]:
    # With smaller weights it would give everybody the same answer.
    write_llama(folder, layout="llama3", init_std=0.3, chat_template=True)
    return {
        "engine": "transformers",
        "base": str(folder),
        "transformers": {"weights": "float32"},
    }


def tiny_chat_server(folder: Path) -> dict[str, Any]:
    # It ends with the tests.
    return {"base": "tiny", "openai": {"url": ChatServer().start().url}}


def tiny_salmonn(folder: Path) -> dict[str, Any]:
    write_whisper(folder / "whisper", chunk_s=2, n_layers=1, n_features=16, init_std=0.1)
    write_beats(folder / "beats.pt", n_layers=1)
    write_llama(folder / "vicuna", n_layers=1)
    write_salmonn(folder / "salmonn.pth", whisper_width=16, beats_layers=1, llm_layers=1)
    return {
        "base": str(folder / "vicuna"),
        "whisper": str(folder / "whisper"),
        "beats": str(folder / "beats.pt"),
        "salmonn": str(folder / "salmonn.pth"),
        "llm_weights": "float32",
    }


def tiny_encoders(folder: Path) -> dict[str, Any]:
    tiny_wavlm(folder / "wavlm")
    tiny_whisper(folder / "whisper")
    write_roberta(folder / "roberta", n_layers=1, n_features=16)
    return {
        "encoders": {
            "wavlm": {"base": str(folder / "wavlm")},
            "whisper": {"base": str(folder / "whisper"), "layer": "weighted"},
        },
        "text": {"base": str(folder / "roberta"), "layer": "mean"},
        "legs": {"width": 16, "feed_forward": 16},
    }


def tiny_export(folder: Path, quantize: Quantization) -> dict[str, Any]:
    write_tiny_whisper(folder / "whisper")
    audio = {"eval_crop": 2, "max_audio_s": 1.5}
    run = write_run(folder / "run", "whisper-encoder", folder / "whisper", audio=audio)
    export_checkpoint(run / "best", folder / "export", quantize=quantize)
    return {"base": str(folder / "export")}


# Gen-SER has no head to set; eight classes need a width above 16, and its 16 heads divide it.
_NO_HEAD = {"head": {"hidden": 1024}}


RECIPES = {
    "distilhubert": Recipe("distilhubert", tiny_distilhubert),
    "fusion": Recipe("fusion", tiny_encoders, reads=True),
    # All encoders are trained.
    "fusion-tuned": Recipe(
        "fusion",
        tiny_encoders,
        {
            "fusion": "cross-attention",
            "encoders": {
                "wavlm": {"freeze": "convolutions", "layer": "mean"},
                "whisper": {"freeze": "nothing"},
            },
            "text": {"freeze": "nothing", "layer": "last"},
            "audio": {"eval_crop": 2},
        },
        reads=True,
    ),
    "gen-ser": Recipe(
        "gen-ser",
        lambda folder: tiny_wavlm(folder, n_features=32),
        {**_NO_HEAD, "temperature": 0.2},
    ),
    # Its noise must not depend on neighbours, and its temperature is fitted.
    "gen-ser-whisper-noisy": Recipe(
        "gen-ser",
        lambda folder: tiny_whisper(folder, n_features=32),
        {
            **_NO_HEAD,
            "backbone": "whisper",
            "audio": {"eval_crop": 2},
            "sampler": {"method": "euler", "steps": 4, "start": "noisy"},
        },
    ),
    "llama-8b-lora": Recipe("llama-8b-lora", tiny_llama, hears=False, reads=True),
    # Without suffix and first token, an empty transcript has not one token of its own.
    "llama-8b-lora-bare": Recipe(
        "llama-8b-lora",
        tiny_llama,
        {"suffix": "", "max_tokens": 12, "pooling": "mean", "lora": {"rank": 2}},
        hears=False,
        reads=True,
    ),
    "llama-70b-zero-shot": Recipe(
        "llama-70b-zero-shot",
        tiny_chat_llama,
        {"prompt": "zero-shot-v1"},
        trains=False,
        hears=False,
        reads=True,
        batch_size_key="transformers.batch_size",
    ),
    "llama-70b-zero-shot-server": Recipe(
        "llama-70b-zero-shot",
        tiny_chat_server,
        {"prompt": "zero-shot-v1"},
        trains=False,
        hears=False,
        reads=True,
        batch_size_key="openai.concurrency",
    ),
    "onnx": Recipe("onnx", lambda folder: tiny_export(folder, "none"), trains=False),
    # Its numbers are rounded by what stands beside them, unless a clip runs alone.
    "onnx-int8": Recipe("onnx", lambda folder: tiny_export(folder, "int8"), trains=False),
    "salmonn-13b": Recipe(
        "salmonn-13b", tiny_salmonn, {"prompt": "salmonn-speech-v1", "head": {"hidden": 0}}
    ),
    "salmonn-13b-trimmed": Recipe(
        "salmonn-13b",
        tiny_salmonn,
        {
            "prompt": ["salmonn-speech-v1", "salmonn-speech-v2"],
            "prompt_sampling": "random",
            "trim_padding": True,
            "audio": {"eval_crop": 2},
        },
    ),
    "salmonn-zero-shot": Recipe(
        "salmonn-zero-shot",
        tiny_salmonn,
        {"prompt": "salmonn-zero-shot-v1", "audio": {"max_audio_s": 2.0}},
        trains=False,
    ),
    "salmonn-7b-speech-text": Recipe(
        "salmonn-7b-speech-text", tiny_salmonn, {"prompt": "salmonn-speech-text-v1"}, reads=True
    ),
    "wavlm": Recipe("wavlm", tiny_wavlm),
    # Its normalisation runs over the clip, so padding would show.
    "wavlm-group-norm": Recipe("wavlm", lambda folder: tiny_wavlm(folder, norm="group")),
    "wavlm-frozen": Recipe(
        "wavlm",
        tiny_wavlm,
        {
            "freeze": "encoder",
            "layer_weights": True,
            "standardize": True,
            "average_frames": True,
            "audio": {"eval_crop": 2},
        },
    ),
    "whisper-encoder": Recipe("whisper-encoder", tiny_whisper, {"pointwise": [8]}),
    "whisper-encoder-lora": Recipe(
        "whisper-encoder",
        tiny_whisper,
        {"pointwise": [], "lora": {"rank": 2}, "layer_weights": True},
    ),
}
"""Cases by name: at least one for every registered member."""


def make_config(recipe: Recipe, folder: Path, manifest_file: Path) -> MemberConfig:
    """The config of a recipe, whose base weights are written below `folder` first."""
    content: dict[str, Any] = {
        "member": recipe.member,
        "name": "tiny",
        "seed": 7,
        "data": {"manifest": str(manifest_file)},
    }
    if recipe.reads:
        content["data"]["transcripts"] = {"train": "human", "predict": "machine"}
    if recipe.trains:
        content |= {
            "run_dir": str(folder / "run"),
            "audio": {"max_audio_s": 2.0},
            "head": {"hidden": 8},
            # 10 steps of two batches, that move the weights apart. Some checkpoints
            # fall into the middle of an epoch.
            "training": {
                "global_batch_size": 8,
                "per_device_train_batch_size": 4,
                "num_train_epochs": 2,
                "learning_rate": 0.003,
                "save_strategy": "steps",
                "save_steps": 3,
                "save_total_limit": 9,
                "use_cpu": True,
            },
        }
    content = merge(content | recipe.write_base(folder / "base"), recipe.settings)
    return check_member_config(content, "the recipe")
