"""The golden set of SALMONN (tests/golden/README.md) as configs, clips and models."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from abhinaya.member import Utterance
from abhinaya.nn.classifier import EmotionClassifier
from members.salmonn.config import SalmonnConfig
from members.salmonn.member import SPEECH, SPEECH_TEXT, load_published

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIG = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))
CLASS_WEIGHTS = CONFIG["class_weights"]

LOSSES: dict[str, dict[str, Any]] = {
    "s2": {"name": "focal", "gamma": 2, "class_weights": CLASS_WEIGHTS},
    "st1": {
        "name": "vector-scaling",
        "gamma": 0.3,
        "tau": 1.0,
        "class_weights": CLASS_WEIGHTS,
        "class_counts": CONFIG["class_counts"],
    },
}


def write_prompts(folder: Path) -> dict[str, Any]:
    """Keys of a config that uses the golden prompts, each as a file of ours and of SALMONN's."""
    pool = folder / "prompts.json"
    texts = CONFIG["prompts"]
    pool.write_text(json.dumps({"emotion_recognition": texts}), encoding="utf-8")
    for name, slots, text in (
        ("s2-v1", "[speech]", CONFIG["s2_text"]),
        (
            "st1-v1",
            "[speech, transcript]",
            CONFIG["st1_text_pattern"].format(transcript="{{ transcript }}"),
        ),
    ):
        (folder / f"{name}.md").write_text(
            f"---\nname: {name}\nversion: 1\nslots: {slots}\n---\n## user\n{{{{ speech }}}}\n"
            f"## assistant\n{text}\n",
            encoding="utf-8",
        )
    return {"prompt_pool": {"file": str(pool)}}


def make_config(system: str, folder: Path, **changes: Any) -> SalmonnConfig:
    """The config of `s2` or `st1` on the golden files."""
    content: dict[str, Any] = {
        "member": "salmonn-13b" if system == "s2" else "salmonn-7b-speech-text",
        "name": system,
        "run_dir": str(folder / "run"),
        "data": {"manifest": str(folder / "manifest.parquet")},
        "base": str(GOLDEN / "llama"),
        "whisper": str(GOLDEN / "whisper"),
        "beats": str(GOLDEN / "beats" / "BEATs_tiny.pt"),
        "salmonn": str(GOLDEN / "salmonn" / "salmonn_tiny.pth"),
        "classifier": str(GOLDEN / system / f"{system}_classifier.pth"),
        "qformer": str(GOLDEN / "qformer_bert"),
        "llm_weights": "float32",
        "prompt": str(folder / f"{system}-v1.md"),
        "head": {"hidden": 32, "norm": "none"},
        "loss": LOSSES[system],
        "training": {"global_batch_size": 3, "use_cpu": True},
        **write_prompts(folder),
    }
    return SalmonnConfig.model_validate(content | changes)


def member_of(system: str) -> Any:
    return SPEECH if system == "s2" else SPEECH_TEXT


def load_classifier(config: SalmonnConfig) -> EmotionClassifier:
    """The golden classifier, with the loss of its system."""
    from abhinaya.nn.losses import build_loss

    model = load_published(member_of(config.name), config)
    model.loss = build_loss(config.loss, CONFIG["class_counts"])
    return model


@functools.cache
def utterances() -> tuple[Utterance, ...]:
    """The three golden clips with their transcripts."""
    clips = []
    for idx, text in enumerate(CONFIG["st1_transcripts"]):
        waveform, _ = soundfile.read(GOLDEN / "wav" / f"utt{idx}.wav", dtype="float32")
        clips.append(Utterance(f"utt{idx}.wav", waveform, text))
    return tuple(clips)


CASES: dict[str, tuple[tuple[int, int], ...]] = {
    "batch": ((0, 0), (1, 0), (2, 0)),
    "mixed": ((0, 0), (1, 1), (2, 0)),
    "single0": ((0, 0),),
    "single1": ((1, 0),),
    "single2": ((2, 0),),
    "single1p1": ((1, 1),),
}
"""(utterance, prompt) of each row."""


def batch_of(config: SalmonnConfig, rows: tuple[tuple[int, int], ...]) -> dict[str, torch.Tensor]:
    """Model inputs of golden clips with golden prompts."""
    import dataclasses

    inputs = member_of(config.name).build_inputs(config)
    encoded = []
    for utterance, prompt in rows:
        tokens = inputs.tokens
        inputs.tokens = dataclasses.replace(tokens, prompts=tokens.prompts[prompt:])
        encoded.append(inputs.encode(utterances()[utterance]))
        inputs.tokens = tokens
    return dict(inputs.collate(encoded))


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)
