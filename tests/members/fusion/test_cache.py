"""Features of several frozen encoders, each in a store that other members share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from abhinaya.config import merge
from abhinaya.data.manifest import Manifest
from abhinaya.errors import BadValueError
from abhinaya.loading.clips import Clip, Cropping, collect_clips, load_segments
from abhinaya.loading.features import FeatureStore
from abhinaya.loading.joined import JoinedStore, open_store
from abhinaya.member import PredictRequest
from abhinaya.member_config import check_member_config
from abhinaya.nn.build import build_classifier
from abhinaya.registry import load_member
from members.fusion.config import FusionConfig
from members.fusion.member import MEMBER

MakeConfig = Callable[..., FusionConfig]

CPU = torch.device("cpu")


def config_for(make_config: MakeConfig, manifest: Manifest, **changes: Any) -> FusionConfig:
    stored = {
        "data": {"manifest": str(manifest.root / "manifest.parquet")},
        "audio": {"train_crop": 2, "eval_crop": 2, "max_audio_s": 1.2},
        "cache": {"dir": str(manifest.root / "store")},
    }
    return make_config(**merge(stored, changes))


def clips_of(manifest: Manifest, config: FusionConfig) -> list[Clip]:
    """Six clips of two segments each."""
    assert config.data.transcripts is not None
    inputs = MEMBER.build_inputs(config)
    rows = manifest.select("train").head(6)
    clips, problems = collect_clips(rows, manifest, inputs, (config.data.transcripts, "train"))
    assert problems == []
    return clips


def filled(config: FusionConfig, clips: list[Clip], model: Any, **options: Any) -> JoinedStore:
    assert config.cache is not None
    cropping = Cropping(config.audio.eval_crop, config.audio.max_audio_s)
    store = open_store(config.cache, model.backbone, MEMBER.build_inputs(config), cropping)
    assert isinstance(store, JoinedStore)
    assert store.fill(clips, **{"batch_size": 3, "device": CPU} | options) == []
    return store


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_stored_features_are_those_of_a_fresh_pass(
    dtype: str, make_config: MakeConfig, manifest: Manifest, tmp_path: Path
) -> None:
    cache = {"dir": str(tmp_path / "store"), "dtype": dtype}
    weighted = {"whisper": {"layer": "weighted"}}
    config = config_for(make_config, manifest, cache=cache, encoders=weighted)
    model: Any = build_classifier(MEMBER, config, 8).eval()
    clips, inputs = clips_of(manifest, config), MEMBER.build_inputs(config)
    # One clip at a time in both ways, so that not even rounding differs.
    store = filled(config, clips, model, batch_size=1)
    # Two encoders hear, one reads: each has what it made of every clip.
    assert len(store.files) == 18
    for clip in clips:
        stored = store.load(clip)
        segments = load_segments(clip, Cropping(2, 1.2))
        assert len(stored) == len(segments) == 2
        assert all(isinstance(leg["states"].base, np.memmap) for leg in stored[0].values())
        fresh = dict(inputs.collate([inputs.encode(segment) for segment in segments]))
        with torch.no_grad():
            theirs, their_mask = model.backbone.find_states(fresh)
            ours, our_mask = model.backbone.find_states(store.collate(stored))
        for name in theirs:
            rounded = theirs[name].half().float() if dtype == "float16" else theirs[name]
            torch.testing.assert_close(our_mask[name], their_mask[name])
            torch.testing.assert_close(ours[name], rounded, atol=0, rtol=0)


def test_runs_share_the_features_of_the_encoders_that_they_share(
    make_config: MakeConfig,
    manifest: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other member's frozen encoder, and a fusion with one leg less, find all there."""
    cache = {"dir": str(tmp_path / "store")}
    config = config_for(make_config, manifest, cache=cache)
    clips = clips_of(manifest, config)
    filled(config, clips, build_classifier(MEMBER, config, 8))
    monkeypatch.setattr(FeatureStore, "_encode", lambda *_: pytest.fail("encoded again"))
    less = config_for(make_config, manifest, cache=cache, encoders={"wavlm": None})
    store = filled(less, clips, build_classifier(MEMBER, less, 8))
    assert len(store.files) == 12
    content = less.model_dump(mode="json", exclude={"encoders", "text", "fusion", "legs"})
    content |= {"member": "whisper-encoder", "base": less.base_of("whisper"), "pointwise": []}
    other = check_member_config(content, "the test")
    member: Any = load_member("whisper-encoder")
    assert less.cache is not None
    plain = open_store(
        less.cache, member.build_backbone(other), member.build_inputs(other), Cropping(2, 1.2)
    )
    assert plain.fill(clips, batch_size=3, device=CPU) == []
    assert plain.files < store.files


def test_text_is_stored_by_what_is_read_and_never_by_name_or_sound(
    make_config: MakeConfig, manifest: Manifest, tmp_path: Path
) -> None:
    config = config_for(
        make_config,
        manifest,
        cache={"dir": str(tmp_path / "store")},
        encoders={"wavlm": None, "whisper": None},
    )
    model = build_classifier(MEMBER, config, 8)
    names = [Clip("a", None, "so late"), Clip("b", None, "so late"), Clip("c", None, "so far")]
    assert len(filled(config, names, model).files) == 2
    shorter = config_for(
        make_config,
        manifest,
        cache={"dir": str(tmp_path / "store")},
        encoders={"wavlm": None, "whisper": None},
        text={"max_tokens": 3},
    )
    assert not filled(shorter, names, model).files & filled(config, names, model).files


def test_store_too_small_for_all_encoders_together_raises(
    make_config: MakeConfig, manifest: Manifest, tmp_path: Path
) -> None:
    cache = {"dir": str(tmp_path / "store"), "max_gb": 1e-4}
    config = config_for(make_config, manifest, cache=cache)
    with pytest.raises(BadValueError, match=r"beside .* GB of others that the run needs, but"):
        filled(config, clips_of(manifest, config), build_classifier(MEMBER, config, 8))


def test_clip_that_cannot_be_heard_is_told_once(
    make_config: MakeConfig, manifest: Manifest, tmp_path: Path
) -> None:
    config = config_for(make_config, manifest, cache={"dir": str(tmp_path / "store")})
    model: Any = build_classifier(MEMBER, config, 8)
    clips = clips_of(manifest, config)
    gone = Clip("gone", tmp_path / "gone.wav", "so late", 1.0)
    assert config.cache is not None
    store = open_store(
        config.cache, model.backbone, MEMBER.build_inputs(config), Cropping("first", 1.2)
    )
    problems = store.fill([*clips, gone], batch_size=3, device=CPU)
    assert [problem.utterance for problem in problems] == ["gone"]


def test_training_on_stored_features_is_that_on_fresh_ones(
    make_config: MakeConfig, manifest: Manifest, tmp_path: Path
) -> None:
    """Weights and predictions; a moved run finds all encoders again."""
    bases = tmp_path / "project" / "weights"
    sources = make_config()
    named = [(name, sources.base_of(name)) for name in sources.encoders]
    assert sources.text is not None
    for name, base in [*named, ("text", sources.text.base)]:
        shutil.copytree(base, bases / name)
    fresh = config_for(
        make_config,
        manifest,
        encoders={name: {"base": str(bases / name)} for name, _ in named},
        text={"base": str(bases / "text")},
        run_dir=str(tmp_path / "project" / "fresh"),
        cache=None,
        head={"hidden": 8},
        data={"validation": None, "transcripts": {"train": "human", "predict": "human"}},
        training={"max_steps": 2, "use_cpu": True, "global_batch_size": 8, "learning_rate": 1e-2},
    )
    store = {"dir": str(tmp_path / "store")}
    stored = check_member_config(
        merge(
            fresh.model_dump(mode="json"),
            {"cache": store, "run_dir": str(tmp_path / "project" / "stored")},
        ),
        "the test",
    )
    runs = [MEMBER.train(config, manifest) for config in (fresh, stored)]
    ours, theirs = (load_file(run / "best" / "model.safetensors") for run in runs)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-4)
    (tmp_path / "project").rename(tmp_path / "moved")
    tables = [
        MEMBER.predict(
            tmp_path / "moved" / run.name,
            PredictRequest(manifest, ("development",), tmp_path / f"{run.name}.parquet"),
        )
        for run in runs
    ]
    probs = [table.probs for table in tables]
    np.testing.assert_allclose(probs[0], probs[1], atol=1e-5)
