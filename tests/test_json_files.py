"""JSON files that users bring, damaged in every way: one line of ours, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from abhinaya.asr.model import load_whisper
from abhinaya.corpora import prepare_corpus
from abhinaya.corpora.msp_labels import read_consensus
from abhinaya.data.labels import EmotionSet
from abhinaya.errors import AbhinayaError
from abhinaya.files import read_json_object, read_text
from abhinaya.nn.weight_files import weight_files
from abhinaya.prompting.prompts import read_prompt_pool
from abhinaya.training.run_directory import RunDirectory
from ensembling.learned.recipes import read_recipe

DAMAGED = {
    "cut": b'{"a": ',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "deep": b"[" * 200_000,
    "long number": b'{"a": ' + b"9" * 5_000 + b"}",
    "list": b"[1]",
    "text": b'"a"',
}

READERS = {
    "recipe.json": read_recipe,
    "labels.json": read_consensus,
    "train.json": lambda file: prepare_corpus("msp-podcast-lists", file, file.parent / "out"),
    "pool.json": lambda file: read_prompt_pool(file, "emotion"),
    "model.safetensors.index.json": lambda file: weight_files(file.parent),
    "config.json": lambda file: load_whisper(str(file.parent), torch.device("cpu")),
    "digest.json": lambda file: RunDirectory(file.parent, "d").check(),
    "emotions.json": lambda file: EmotionSet.from_json(read_text(file)),
    "facts.json": read_json_object,
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("name", READERS)
def test_damaged_json_of_users_is_answered_in_one_line(
    tmp_path: Path, name: str, damage: str
) -> None:
    file = tmp_path / name
    file.write_bytes(DAMAGED[damage])
    if name == "digest.json":
        (tmp_path / "best").mkdir()
    with pytest.raises(AbhinayaError) as caught:
        READERS[name](file)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
