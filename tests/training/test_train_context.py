"""Members that read: a context beside stored features, long transcripts, batches of like texts."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from abhinaya.data.audio import utterance_rng
from abhinaya.data.manifest import Manifest
from abhinaya.data.predictions import PredictionTable
from abhinaya.data.transcripts import read_transcripts, write_transcripts
from abhinaya.errors import BadValueError
from abhinaya.inference.predict import predict_classifier
from abhinaya.member import InputBuilder, PredictRequest, Utterance
from abhinaya.nn.backbone import Backbone
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.training.classifier_member import ClassifierMember
from abhinaya.training.train import train_classifier
from members.wavlm.config import WavLMConfig
from members.wavlm.member import WaveformInputs
from members.wavlm.model import WavLMBackbone

pytestmark = pytest.mark.slow

SOURCES = "data.transcripts={train: human, predict: backwards}"
FROZEN = ("freeze=encoder", "audio.max_audio_s=0.3", "audio.train_crop=2", "audio.eval_crop=2")

MakeConfig = Callable[..., ClassifierConfig]

SEEN: list[Utterance] = []
"""Every utterance of which a context was made."""


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    SEEN.clear()


class LetterInputs(WaveformInputs):
    """A waveform, and one letter of its transcript, which in training is drawn."""

    needs_text = True

    def encode(self, utterance: Utterance) -> dict[str, Any]:
        return super().encode(utterance) | self.encode_context(utterance)

    def collate(self, encoded: list[dict[str, Any]]) -> dict[str, Any]:
        return super().collate(encoded) | self.collate_context(encoded)

    def encode_context(self, utterance: Utterance) -> dict[str, Any]:
        SEEN.append(utterance)
        text = utterance.text or " "
        at = 0
        if utterance.epoch is not None:
            at = int(utterance_rng(0, utterance.epoch, utterance.name).integers(len(text)))
        return {"letter": min(ord(text[at]), 127)}

    def collate_context(self, encoded: list[dict[str, Any]]) -> dict[str, Any]:
        return {"letter": torch.tensor([one["letter"] for one in encoded])}


class LetterBackbone(WavLMBackbone):
    """Adds what it has learned of a letter to each frame."""

    context = ("letter",)

    def __init__(self, encoder: Any, **options: Any) -> None:
        super().__init__(encoder, **options)
        self.letters = nn.Embedding(128, self.n_features)

    def forward_trained(
        self, states: Tensor, mask: Tensor, letter: Tensor
    ) -> tuple[Tensor, Tensor]:
        features, mask = super().forward_trained(states, mask)
        return features + self.letters(letter)[:, None], mask


class Letters(ClassifierMember):
    config_class = WavLMConfig

    def build_backbone(self, config: WavLMConfig) -> Backbone:
        return LetterBackbone.from_pretrained(config.base, freeze=config.freeze)

    def build_inputs(self, config: WavLMConfig) -> InputBuilder:
        return LetterInputs()


@pytest.fixture(scope="module")
def texts(manifest: Manifest) -> dict[str, str]:
    read = read_transcripts(manifest.root / "transcripts.parquet", "human")
    return {utterance: text for utterance, text in read.items() if text is not None}


@pytest.fixture(scope="module")
def corpus(
    manifest: Manifest, texts: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Manifest:
    """The corpus with a recogniser's transcripts beside the human ones, each of them backwards."""
    folder = tmp_path_factory.mktemp("texts")
    write_transcripts(
        [
            {"utterance": utterance, "source": source, "text": text}
            for utterance, human in texts.items()
            for source, text in (("human", human), ("backwards", human[::-1]))
        ],
        folder / "transcripts.parquet",
    )
    rows = manifest.rows.copy()
    rows["audio"] = [str(manifest.audio_path(name)) for name in rows["audio"]]
    shutil.copytree(manifest.root / "subsets", folder / "subsets", dirs_exist_ok=True)
    return replace(manifest, rows=rows, root=folder)


def predict(run: Path, corpus: Manifest, out: Path, *overrides: str) -> PredictionTable:
    request = PredictRequest(corpus, ("development",), out, overrides=overrides)
    return predict_classifier(Letters(), run, request)


def test_context_beside_stored_features_is_that_of_a_fresh_pass(
    make_config: MakeConfig, corpus: Manifest, tmp_path: Path
) -> None:
    stored, cache = {}, (f"cache.dir={tmp_path / 'store'}",)
    for name, further in (("fresh", ()), ("stored", cache)):
        config = make_config(tmp_path / name, SOURCES, *FROZEN, *further)
        run = train_classifier(Letters(), config, corpus)
        stored[name] = load_file(run / "best" / "model.safetensors")
    for name, value in stored["fresh"].items():
        np.testing.assert_allclose(stored["stored"][name], value, atol=1e-5, err_msg=name)
    fresh = predict(tmp_path / "fresh", corpus, tmp_path / "fresh.parquet")
    ours = predict(tmp_path / "stored", corpus, tmp_path / "stored.parquet")
    np.testing.assert_allclose(ours.probs, fresh.probs, atol=1e-4)
    files = set((tmp_path / "store").rglob("*.npy"))
    assert len(files) == 34 + 11  # of O and X there are predictions, but no training
    # Another text of the same sound is another result, but no other file.
    quiet = predict(
        tmp_path / "stored",
        corpus,
        tmp_path / "quiet.parquet",
        "data.transcripts.predict=human",
    )
    assert quiet.probs is not None
    assert ours.probs is not None
    assert np.abs(quiet.probs - ours.probs).max() > 1e-3
    assert set((tmp_path / "store").rglob("*.npy")) == files


def test_context_knows_the_epoch_in_training_alone(
    make_config: MakeConfig, corpus: Manifest, texts: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(tmp_path / "run", SOURCES, *FROZEN, f"cache.dir={tmp_path / 'store'}")
    run = train_classifier(Letters(), config, corpus)
    train, validation = (set(corpus.select(name)["utterance"]) for name in config_splits())
    beside = [utterance for utterance in SEEN if utterance.waveform is None]
    assert {one.epoch for one in beside if one.name in train} == {0, 1}
    assert {one.epoch for one in beside if one.name in validation} == {None}
    assert all(one.text == texts[one.name] for one in beside)
    SEEN.clear()
    predict(run, corpus, tmp_path / "table.parquet")
    assert {one.epoch for one in SEEN} == {None}
    assert all(one.text == texts[one.name][::-1] for one in SEEN)


def test_validation_reads_the_source_of_its_own(
    make_config: MakeConfig, corpus: Manifest, texts: dict[str, str], tmp_path: Path
) -> None:
    sources = "data.transcripts={train: human, validation: backwards, predict: human}"
    config = make_config(tmp_path / "run", sources, *FROZEN, "training.num_train_epochs=1")
    train_classifier(Letters(), config, corpus)
    train, validation = (set(corpus.select(name)["utterance"]) for name in config_splits())
    for names, step in ((train, 1), (validation, -1)):
        seen = [one for one in SEEN if one.name in names]
        assert len(seen) > 10
        assert all(one.text == texts[one.name][::step] for one in seen)


def config_splits() -> tuple[str, str]:
    return "train", "development"


def test_max_train_words_leaves_out_long_transcripts_of_training_alone(
    make_config: MakeConfig, corpus: Manifest, texts: dict[str, str], tmp_path: Path
) -> None:
    n_words = {utterance: len(text.split()) for utterance, text in texts.items()}
    inside = corpus.rows["label"].isin(list(corpus.emotions.codes))
    train = corpus.rows.loc[inside & (corpus.rows["split"] == "train"), "utterance"]
    limit = sorted(n_words[utterance] for utterance in train)[len(train) // 2]
    long = {utterance for utterance in train if n_words[utterance] > limit}
    assert 0 < len(long) < len(train)
    config = make_config(
        tmp_path / "run", SOURCES, *FROZEN, f"data.max_train_words={limit}", "training.max_steps=1"
    )
    run = train_classifier(Letters(), config, corpus)
    with (run / "problems.csv").open(newline="", encoding="utf-8") as file:
        reasons = {row["utterance"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons.keys() == long
    for utterance, reason in reasons.items():
        expected = f"its transcript has {n_words[utterance]} words, data.max_train_words is {limit}"
        assert reason == expected
    assert not {one.name for one in SEEN} & long
    validated = [one.name for one in SEEN if one.epoch is None]
    assert any(n_words[utterance] > limit for utterance in validated)


def test_max_train_words_without_text_raises(
    make_config: MakeConfig, manifest: Manifest, tmp_path: Path
) -> None:
    config = make_config(tmp_path / "run", "data.max_train_words=50")
    message = r"data.max_train_words is 50, but the member 'wavlm' reads no text\. Remove it"
    with pytest.raises(BadValueError, match=message):
        train_classifier(WavLMOnly(), config, manifest)


class WavLMOnly(Letters):
    def build_inputs(self, config: WavLMConfig) -> InputBuilder:
        return WaveformInputs()


BATCHES: list[list[int]] = []
"""Numbers of characters of each batch of texts."""


class TextInputs:
    """The characters of a text, padded with zeros."""

    needs_audio = False
    needs_text = True

    def encode(self, utterance: Utterance) -> dict[str, Any]:
        SEEN.append(utterance)
        return {"characters": [min(ord(c), 127) for c in utterance.text or ""]}

    def collate(self, encoded: list[dict[str, Any]]) -> dict[str, Any]:
        BATCHES.append([len(one["characters"]) for one in encoded])
        longest = max(BATCHES[-1])
        padded = [one["characters"] + [0] * (longest - len(one["characters"])) for one in encoded]
        return {"characters": torch.tensor(padded)}


class TextBackbone(Backbone):
    """A vector for each character."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(128, 8)
        self.n_features = 8

    def forward_pretrained(self, characters: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(characters)[:, None], characters > 0

    def forward_trained(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return states[:, 0], mask


class Texts(ClassifierMember):
    config_class = WavLMConfig

    def build_backbone(self, config: WavLMConfig) -> Backbone:
        return TextBackbone()

    def build_inputs(self, config: WavLMConfig) -> InputBuilder:
        return TextInputs()


def test_texts_of_similar_length_share_a_batch(
    make_config: MakeConfig, corpus: Manifest, texts: dict[str, str], tmp_path: Path
) -> None:
    BATCHES.clear()
    config = make_config(
        tmp_path / "run",
        SOURCES,
        "data.validation=null",
        "training.num_train_epochs=1",
        "inference.batch_size=4",
    )
    run = train_classifier(Texts(), config, corpus)
    # 34 rows in one pool of batches of 8: sorted, no two batches overlap; the longest goes first.
    assert len(BATCHES) == 5
    in_order = sorted(BATCHES, key=lambda batch: (min(batch), max(batch)))
    for shorter, longer in pairwise(in_order):
        assert max(shorter) <= min(longer)
    assert max(BATCHES[0]) == max(map(max, BATCHES))
    assert {one.epoch for one in SEEN} == {0}
    BATCHES.clear()
    request = PredictRequest(corpus, ("development",), tmp_path / "table.parquet")
    predict_classifier(Texts(), run, request)
    predicted = [length for batch in BATCHES for length in batch]
    assert predicted == sorted(predicted, reverse=True)
    assert len(predicted) == 11
