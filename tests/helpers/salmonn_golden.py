"""The golden set of SALMONN (tests/golden/README.md) as configs, clips and models."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import soundfile
import torch
from golden_set import BEATS, LLAMA, QFORMER, SALMONN, WAVS, WHISPER, classifier_of
from golden_set import CASES as CASES
from golden_set import CONFIG as CONFIG
from golden_set import GOLDEN as GOLDEN
from golden_set import ROWS as ROWS
from golden_set import SINGLES as SINGLES
from golden_set import TOKENS as TOKENS
from golden_set import golden as golden

from abhinaya.member import Utterance
from abhinaya.nn.classifier import EmotionClassifier
from members.salmonn.config import SalmonnConfig
from members.salmonn.member import SPEECH, SPEECH_TEXT, load_published

CLASS_WEIGHTS = CONFIG["class_weights"]
HEAD = {"hidden": CONFIG["head"]["fc_hidden"], "norm": "none"}

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
        "base": str(LLAMA),
        "whisper": str(WHISPER),
        "beats": str(BEATS),
        "salmonn": str(SALMONN),
        "classifier": str(classifier_of(system)),
        "qformer": str(QFORMER),
        "window_s": CONFIG["salmonn"]["second_per_window"],
        "stride_s": CONFIG["salmonn"]["second_stride"],
        "prompt_template": CONFIG["prompt_template"],
        "max_text_tokens": CONFIG["salmonn"]["max_txt_len"],
        "lora": {"alpha": CONFIG["lora"]["alpha"], "dropout": CONFIG["lora"]["dropout"]},
        "llm_weights": "float32",
        "prompt": str(folder / f"{system}-v1.md"),
        "head": HEAD,
        "loss": LOSSES[system],
        "training": {"global_batch_size": 3, "use_cpu": True},
        **write_prompts(folder),
    }
    return SalmonnConfig.model_validate(content | changes)


def member_of(system: str) -> Any:
    return SPEECH if system == "s2" else SPEECH_TEXT


def load_classifier(config: SalmonnConfig) -> EmotionClassifier:
    """The golden classifier, with the loss of its system."""
    from abhinaya.nn.losses.build import build_loss

    model = load_published(member_of(config.name), config)
    model.loss = build_loss(config.loss, CONFIG["class_counts"])
    return model


@functools.cache
def utterances() -> tuple[Utterance, ...]:
    """The golden clips with their transcripts."""
    clips = []
    for file, text in zip(WAVS, CONFIG["st1_transcripts"], strict=True):
        waveform, _ = soundfile.read(file, dtype="float32")
        clips.append(Utterance(file.name, waveform, text))
    return tuple(clips)


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
