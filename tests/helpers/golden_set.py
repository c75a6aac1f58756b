"""The set of golden numbers that all parity tests read (tests/golden/README.md).

`ABHINAYA_GOLDEN` names another set of the same form. Sizes, counts and names come from the set's
own files; only the form itself (file names, keys of arrays) is known here.
"""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from abhinaya.data.audio import read_audio

PUBLIC = Path(__file__).resolve().parents[1] / "golden"
GOLDEN = Path(os.environ.get("ABHINAYA_GOLDEN", PUBLIC)).resolve()


def read_json(*parts: str) -> Any:
    return json.loads(GOLDEN.joinpath(*parts).read_text(encoding="utf-8"))


@functools.cache
def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of one file, by key."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


CONFIG = read_json("config.json")
TOKENS = read_json("tokens.json")
CLASSES: list[str] = CONFIG["class_order"]
ROWS = range(len(CONFIG["st1_transcripts"]))
"""The utterances."""
WAVS = [GOLDEN / "wav" / f"utt{row}.wav" for row in ROWS]
LENGTHS = [len(read_audio(file)) for file in WAVS]
"""Samples of each utterance; the batch is padded to the longest."""
LLAMA, LLAMA3 = GOLDEN / "llama", GOLDEN / "t2" / "llama"
WHISPER, QFORMER = GOLDEN / "whisper", GOLDEN / "qformer_bert"
BEATS = GOLDEN / CONFIG["salmonn"]["beats_path"]
SALMONN = GOLDEN / CONFIG["salmonn"]["ckpt"]

LLM_WIDTH, LLM_LAYERS = (CONFIG["llama"][key] for key in ("hidden_size", "num_hidden_layers"))
QFORMER_WIDTH = CONFIG["qformer"]["hidden_size"]
WHISPER_WIDTH, BEATS_WIDTH = CONFIG["whisper"]["d_model"], CONFIG["beats_cfg"]["encoder_embed_dim"]
RANK = CONFIG["lora"]["r"]
N_ADAPTERS = 2 * len(CONFIG["lora"]["targets"]) * LLM_LAYERS
"""Two matrices for each projection in each layer of SALMONN's language model."""


def classifier_of(system: str) -> Path:
    """The checkpoint of `s2`, `st1` or `t2`."""
    return GOLDEN / system / f"{system}_classifier.pth"


def _cases() -> dict[str, tuple[tuple[int, int], ...]]:
    """(utterance, prompt) of each row of each case.

    The prompts of the mixed batch stand in the description of the case.
    """
    prompts = [int(number) for number in re.findall(r"\d+", CONFIG["cases"]["mixed"])]
    cases = {
        "batch": tuple((row, 0) for row in ROWS),
        "mixed": tuple(zip(ROWS, prompts, strict=True)),
    }
    for key in golden("s2"):
        if found := re.fullmatch(r"(single(\d+)(?:p(\d+))?)_logits", key):
            cases[found[1]] = ((int(found[2]), int(found[3] or 0)),)
    return cases


CASES = _cases()
SINGLES = [case for case in CASES if case.startswith("single")]
