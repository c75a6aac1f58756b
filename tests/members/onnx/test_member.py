"""An exported member labels as its run does, and says what is wrong with its folder."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from exported_runs import write_run, write_tiny_whisper

from abhinaya.data.labels import MSP_PODCAST, EmotionSet
from abhinaya.data.manifest import Manifest, make_manifest
from abhinaya.data.predictions import PredictionTable
from abhinaya.errors import (
    BadValueError,
    CheckpointError,
    ClassOrderError,
    MissingFileError,
    MissingPackageError,
)
from abhinaya.export.export import export_checkpoint
from abhinaya.export.folder import INFO, MODEL, hash_file, read_export
from abhinaya.member import PredictRequest
from abhinaya.member_config import check_member_config, find_predictor
from abhinaya.registry import load_member


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two crops of each clip, and its export."""
    folder = tmp_path_factory.mktemp("onnx")
    write_tiny_whisper(folder / "base")
    run = write_run(
        folder / "run",
        "whisper-encoder",
        folder / "base",
        audio={"eval_crop": 2, "max_audio_s": 1.0, "normalize": True},
        pointwise=[8],
    )
    export_checkpoint(run / "best", folder / "export")
    rng = np.random.default_rng(0)
    for idx in range(5):
        noise = rng.standard_normal(6_400 + 6_000 * idx)
        dark = np.convolve(noise, np.ones(3 * idx + 1), mode="same")
        soundfile.write(folder / f"u{idx}.wav", 0.03 * dark, 16_000)
    (folder / "u9.wav").write_bytes(b"no sound")
    return folder


@pytest.fixture
def export(folder: Path, tmp_path: Path) -> Path:
    """A copy of the export that a test may spoil."""
    shutil.copytree(folder / "export", tmp_path / "moved")
    return tmp_path / "moved"


@pytest.fixture
def manifest(folder: Path) -> Manifest:
    rows = [
        {"utterance": f"u{idx}.wav", "audio": f"u{idx}.wav", "label": "A"} for idx in (0, 1, 9, 2)
    ]
    return make_manifest(rows, MSP_PODCAST, folder)


def predict(source: Path, manifest: Manifest, out: Path, **options: bool) -> PredictionTable:
    member, resolved = find_predictor(source)
    return member.predict(resolved, PredictRequest(manifest, ("all",), out, **options))


@pytest.mark.slow
def test_folder_labels_as_the_run_it_was_exported_from(
    folder: Path, export: Path, manifest: Manifest, tmp_path: Path
) -> None:
    theirs = predict(folder / "run", manifest, tmp_path / "run.parquet")
    ours = predict(export, manifest, tmp_path / "onnx.parquet")
    assert ours.name == "tiny-onnx"
    assert ours.labels.tolist() == theirs.labels.tolist()
    assert ours.reasons == theirs.reasons
    assert ours.probs is not None
    np.testing.assert_allclose(ours.probs, theirs.probs, atol=1e-5)
    assert np.ptp(ours.probs[ours.has_probs], axis=0).max() > 1e-3, "deaf, it would equal anything"
    for key in ("absorbed_prior", "config_digest"):
        assert ours.meta[key] == theirs.meta[key]
    assert ours.meta["member"] == "onnx"
    assert ours.meta["checkpoint"] == str(export)


@pytest.mark.slow
def test_export_with_adjusted_logits_labels_as_the_run_with_them(
    folder: Path, manifest: Manifest, tmp_path: Path
) -> None:
    run, adjusted = tmp_path / "run", "inference.logit_adjustment=2"
    shutil.copytree(folder / "run", run)
    facts = run / "best" / "facts.json"
    counts = {"class_counts": [1, 2, 3, 40, 5, 6, 7, 8]}
    facts.write_text(json.dumps(json.loads(facts.read_text()) | counts))
    export_checkpoint(run / "best", tmp_path / "export", overrides=[adjusted])
    ours = predict(tmp_path / "export", manifest, tmp_path / "onnx.parquet")
    request = PredictRequest(manifest, ("all",), tmp_path / "run.parquet", overrides=(adjusted,))
    theirs = load_member("whisper-encoder").predict(run, request)
    assert ours.probs is not None
    np.testing.assert_allclose(ours.probs, theirs.probs, atol=1e-5)
    assert ours.meta["absorbed_prior"] == pytest.approx(theirs.meta["absorbed_prior"])
    assert (
        ours.labels.tolist() != predict(run, manifest, tmp_path / "plain.parquet").labels.tolist()
    )


def test_export_json_is_enough_to_run_it(folder: Path) -> None:
    info = json.loads((folder / "export" / INFO).read_text())
    assert info["classes"] == list("ACDFHNSU")
    assert info["class_names"][0] == "angry"
    assert info["outside"] == ["O", "X"]
    assert (info["sample_rate_hz"], info["min_samples"], info["max_samples"]) == (
        16_000,
        400,
        32_000,
    )
    assert (info["eval_crop"], info["max_audio_s"]) == (2, 1.0)
    assert info["run_digest"] == "0123456789abcdef"
    assert info["quantization"] == "none"
    assert {"abhinaya", "torch", "onnxruntime"} < set(info["versions"])
    assert b".py" not in (folder / "export" / MODEL).read_bytes(), "it tells of this machine"


def test_training_it_is_refused(folder: Path, manifest: Manifest) -> None:
    content = {"member": "onnx", "name": "x", "base": "x", "data": {"manifest": "m"}}
    with pytest.raises(BadValueError, match="'onnx' has nothing to train"):
        load_member("onnx").train(check_member_config(content, "the test"), manifest)


def test_embeddings_are_refused(export: Path, manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(BadValueError, match="onnx gives labels without embeddings"):
        predict(export, manifest, tmp_path / "t.parquet", with_embedding=True)


def test_manifest_of_other_classes_raises(folder: Path, export: Path, tmp_path: Path) -> None:
    emotions = EmotionSet.from_codes(["H", "A"])
    other = make_manifest([{"utterance": "u0.wav", "audio": "u0.wav"}], emotions, folder)
    message = r"The manifest has the class order H A, but the export '.*moved' has A C D F H N S U"
    with pytest.raises(ClassOrderError, match=message):
        predict(export, other, tmp_path / "t.parquet")


@pytest.mark.parametrize("name", [MODEL, INFO])
def test_folder_that_lacks_a_file_is_no_export(export: Path, name: str) -> None:
    (export / name).unlink()
    with pytest.raises(MissingFileError, match=rf"is no export: {name} is missing. Name the fold"):
        read_export(export)


def test_clip_longer_than_the_model_hears_raises(
    folder: Path, export: Path, tmp_path: Path
) -> None:
    info = json.loads((export / INFO).read_text()) | {"eval_crop": "full"}
    (export / INFO).write_text(json.dumps(info))
    soundfile.write(folder / "long.wav", np.zeros(40_000), 16_000)
    rows = [{"utterance": "long.wav", "audio": "long.wav"}]
    message = r"'long.wav' has 2.5 s, but the export hears 2 s at once. Export the run with audio"
    with pytest.raises(BadValueError, match=message):
        predict(export, make_manifest(rows, MSP_PODCAST, folder), tmp_path / "t.parquet")


def test_damaged_model_raises(export: Path, manifest: Manifest, tmp_path: Path) -> None:
    content = (export / MODEL).read_bytes()
    (export / MODEL).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"model\.onnx' is damaged or belongs to another"):
        predict(export, manifest, tmp_path / "t.parquet")
    assert not (tmp_path / "t.parquet").exists()


def test_model_that_onnxruntime_cannot_run_raises(
    export: Path, manifest: Manifest, tmp_path: Path
) -> None:
    (export / MODEL).write_bytes(b"no protobuf")
    info = json.loads((export / INFO).read_text()) | {"model_sha256": hash_file(export / MODEL)}
    (export / INFO).write_text(json.dumps(info))
    with pytest.raises(CheckpointError, match=r"model\.onnx' cannot be run: .*Copy it again"):
        predict(export, manifest, tmp_path / "t.parquet")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda info: "{",
        lambda info: "[]",
        lambda info: json.dumps({**info, "extra": 1}),
        lambda info: json.dumps({key: info[key] for key in info if key != "classes"}),
        lambda info: json.dumps({**info, "class_names": ["one"]}),
    ],
    ids=["no-json", "no-object", "unknown-key", "missing-key", "names"],
)
def test_damaged_export_json_raises(export: Path, spoil: Callable[[Any], str]) -> None:
    info = json.loads((export / INFO).read_text())
    (export / INFO).write_text(spoil(info))
    with pytest.raises(CheckpointError, match=r"export\.json' is damaged, expected JSON with name"):
        read_export(export)


def test_export_of_a_later_version_raises(export: Path) -> None:
    info = json.loads((export / INFO).read_text()) | {"format": 2}
    (export / INFO).write_text(json.dumps(info))
    with pytest.raises(CheckpointError, match="has the format 2, this version reads 1"):
        read_export(export)


def test_missing_onnxruntime_names_the_extra(
    export: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"onnxruntime\. Install it with: pip install 'a"):
        predict(export, manifest, tmp_path / "t.parquet")


def test_doctor_looks_at_the_folder(export: Path) -> None:
    content = {"member": "onnx", "name": "x", "base": str(export), "data": {"manifest": "m"}}
    member: Any = load_member("onnx")
    config = check_member_config(content, "the test")
    found = member.check_weights(config)
    assert [(finding.what, finding.result) for finding in found] == [
        ("base", "ok"),
        ("model", "ok"),
    ]
    assert "whisper-encoder" in found[0].details
    assert "classes A C D F H N S U" in found[0].details
    (export / MODEL).unlink()
    (problem,) = member.check_weights(config)
    assert problem.result == "problem"
    assert "is no export" in problem.details
