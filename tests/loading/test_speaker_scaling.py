"""Features from the mean and spread of their speaker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abhinaya.errors import BadValueError
from abhinaya.export.export import export_checkpoint
from abhinaya.loading.clips import Clip
from abhinaya.loading.speaker_scaling import scale_speakers
from abhinaya.nn.recipe.speakers import SpeakerScaling
from abhinaya.registry import load_member

STATES = {
    # Two frames of 1 and 3: the clip counts with its mean 2.
    "a1": ("anna", [[1.0], [3.0]]),
    "a2": ("anna", [[6.0]]),
    "b1": ("bert", [[10.0]]),
    "b2": ("bert", [[14.0]]),
    "x1": (None, [[4.0]]),
    "x2": (None, [[4.0]]),
}


def load(clip: Clip, epoch: int | None) -> list[dict[str, Any]]:
    """Give the states of one segment, (T, N, D) with N = 1 and D = 1."""
    return [{"states": np.array(STATES[clip.utterance][1], np.float32)[:, :, None], "more": epoch}]


def scaled(shrinkage: float) -> dict[str, list[float]]:
    clips = [Clip(name, speaker=speaker) for name, (speaker, _) in STATES.items()]
    scale = scale_speakers(load, clips, SpeakerScaling(shrinkage=shrinkage))
    return {clip.utterance: scale(clip, 0)[0]["states"].ravel().tolist() for clip in clips}


def test_each_speaker_has_mean_0_and_deviation_1_by_hand() -> None:
    # Anna: mean (2 + 6) / 2 = 4, deviation 2. Bert: 12 and 2. Nobody: 4, and no spread at all.
    assert scaled(0.0) == {
        "a1": [-1.5, -0.5],
        "a2": [1.0],
        "b1": [-1.0],
        "b2": [1.0],
        "x1": [0.0],
        "x2": [0.0],
    }


def test_shrinkage_draws_towards_all_clips_by_hand() -> None:
    # All: 2 6 10 14 4 4: mean 20/3, variance 368/6 - 400/9 = 152/9. With two clips and shrinkage 2
    # w = 1/2. Anna: mean (4 + 20/3) / 2 = 16/3, variance (4 + 152/9) / 2 = 94/9.
    found = scaled(2.0)
    assert found["a2"] == pytest.approx([(6 - 16 / 3) / (94 / 9) ** 0.5], rel=1e-6)
    assert found["x1"] == pytest.approx([(4 - 16 / 3) / (76 / 9) ** 0.5], rel=1e-6)


def test_what_else_is_loaded_stays() -> None:
    clips = [Clip("a1", speaker="anna"), Clip("a2", speaker="anna")]
    scale = scale_speakers(load, clips, SpeakerScaling())
    assert scale(clips[0], 7)[0]["more"] == 7


def test_one_clip_cannot_be_scaled() -> None:
    with pytest.raises(BadValueError, match="needs the other clips of a speaker, but there are 1"):
        scale_speakers(load, [Clip("a1", speaker="anna")], SpeakerScaling())


FROZEN = ("freeze=encoder", "audio.max_audio_s=0.6", "audio.train_crop=first", "audio.eval_crop=1")


def test_training_and_prediction_see_each_voice_from_itself(
    make_config: Any, manifest: Any, predict: Any, tmp_path: Path
) -> None:
    plain = ("pooling=mean", "head.hidden=0", "average_frames=true", "pointwise=[]")
    cache = f"cache.dir={tmp_path / 'store'}"
    overrides = (*FROZEN, *plain, cache, "speaker_scaling={shrinkage: 0}")
    config = make_config(tmp_path / "run", *overrides, member="whisper-encoder")
    voices = ["anna", "bert"] * len(manifest.rows)
    manifest = replace(manifest, rows=manifest.rows.assign(speaker=voices[: len(manifest.rows)]))
    load_member("whisper-encoder").train(config, manifest)
    run = tmp_path / "run"
    found = predict(run, member="whisper-encoder", manifest=manifest, with_embedding=True)
    # The embedding of such a model is the last hidden state as the loader gives it.
    speakers = manifest.rows.set_index("utterance")["speaker"]
    own = np.array([str(speakers[name]) for name in found.utterances])
    assert set(own) == {"anna", "bert"}
    for speaker in set(own):
        rows = found.embeddings[own == speaker]
        assert len(rows) > 1
        np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(rows.std(axis=0), 1, atol=1e-3)


def test_export_of_a_run_that_needs_all_clips_of_a_speaker_is_refused(
    make_run: Any, tmp_path: Path
) -> None:
    run = make_run(*FROZEN, f"cache.dir={tmp_path / 'store'}", "speaker_scaling={}")
    with pytest.raises(BadValueError, match="An exported model hears one clip at a time, but the"):
        export_checkpoint(run / "best", tmp_path / "out")


def test_config_needs_a_store(make_config: Any, tmp_path: Path) -> None:
    with pytest.raises(BadValueError, match=r"speaker_scaling scales the features .* set cache"):
        make_config(tmp_path / "run", *FROZEN, "speaker_scaling={}")
