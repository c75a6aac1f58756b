"""A corpus of texts alone, and the member `llama-70b-zero-shot` run on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chat_server import ChatServer

from abhinaya.config import merge
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import Manifest, make_manifest
from abhinaya.data.predictions import PredictionTable
from abhinaya.data.transcripts import write_transcripts
from abhinaya.member import PredictRequest
from abhinaya.member_config import check_member_config
from abhinaya.registry import load_member
from members.llama_zero_shot.config import LlamaZeroShotConfig

__all__ = ["QUICK", "make_corpus", "make_zero_shot_config", "question_about", "run_zero_shot"]

QUICK = {"backoff_s": 0.01, "patience_s": 10, "timeout_s": 5, "n_tries": 3}
"""A client that does not make tests wait."""


def make_corpus(folder: Path, texts: Sequence[str | None]) -> Manifest:
    """Clips without audio, `0.wav` and so on, whose transcripts these are."""
    names = [f"{number}.wav" for number in range(len(texts))]
    write_transcripts(
        [
            {"utterance": name, "source": "machine", "text": text}
            for name, text in zip(names, texts, strict=True)
        ],
        folder / "transcripts.parquet",
    )
    return make_manifest([{"utterance": name} for name in names], MSP_PODCAST, folder)


def make_zero_shot_config(settings: Mapping[str, Any]) -> LlamaZeroShotConfig:
    """A config with these keys; without others it asks a server for the model `tiny`."""
    content = {
        "member": "llama-70b-zero-shot",
        "name": "t1",
        "base": "tiny",
        "prompt": "zero-shot-v1",
        "openai": QUICK,
        "data": {"manifest": "manifest.parquet", "transcripts": {"predict": "machine"}},
    }
    config = check_member_config(merge(content, settings), "the test")
    assert isinstance(config, LlamaZeroShotConfig)
    return config


def run_zero_shot(
    manifest: Manifest,
    out: Path,
    server: ChatServer | None = None,
    settings: Mapping[str, Any] | None = None,
) -> PredictionTable:
    """The table of all rows, as `abhinaya predict` makes it."""
    settings = settings or {}
    if server is not None:
        settings = merge({"openai": {"url": server.url}}, settings)
    config = make_zero_shot_config(settings)
    return load_member(config.member).predict(config, PredictRequest(manifest, ("all",), out))


def question_about(text: str) -> str:
    """The last user turn of the prompt `zero-shot-v1` about a transcript."""
    from abhinaya.prompting.prompts import load_prompt

    classes = "angry, contempt, disgust, fear, happy, neutral, sad, surprise"
    return load_prompt("zero-shot-v1").render(transcript=text, classes=classes)[-1].text
