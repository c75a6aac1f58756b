from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from abhinaya.data.audio import audio_digest
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import make_manifest, read_manifest, write_manifest
from abhinaya.demo.checkpoints.encoders import write_xvector

# Angle of the voice of each clip, in degrees; two speakers far apart in each split.
ANGLES = {
    "d0": 90,
    "d1": 0,
    "d2": 100,
    "d3": 20,
    "t0": 5,
    "t1": 92,
    "t2": 25,
    "t3": 85,
    "t4": 15,
}
SPEAKERS = {"d0": "t", "d1": "s", "d2": "t", "d3": "s"}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Nine short noises, their voices as angles in `voices.npz`, and a row without audio."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    digests = []
    for name in ANGLES:
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(800), 16_000)
        digests.append(audio_digest(path))
        split = "development" if name.startswith("d") else "test"
        rows.append(
            {"utterance": name, "audio": path.name, "split": split, "label": "AN"[len(rows) % 2]}
        )
        rows[-1]["speaker"] = SPEAKERS.get(name)
    rows.append({"utterance": "t5", "split": "test"})
    write_manifest(make_manifest(rows, MSP_PODCAST, tmp_path), tmp_path / "manifest.parquet")
    radians = np.radians(list(ANGLES.values()))
    np.savez(
        tmp_path / "voices.npz",
        model=np.array("by hand"),
        digests=np.array(digests),
        embeddings=np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32),
    )
    return tmp_path


def arguments(corpus: Path, *more: object, out: str = "m2.parquet") -> tuple[object, ...]:
    kept = ("--embeddings", corpus / "voices.npz")
    return ("speakers", corpus / "manifest.parquet", "--out", corpus / out, *kept, *more)


def columns(path: Path, *names: str) -> dict[str, tuple[Any, ...]]:
    rows: pd.DataFrame = read_manifest(path).rows
    return {
        row["utterance"]: tuple(row[n] if isinstance(row[n], str) else None for n in names)
        for _, row in rows.iterrows()
    }


def test_speakers_tuned_threshold_names_the_rows_without_a_speaker(
    run_cli: Any, corpus: Path
) -> None:
    result = run_cli(*arguments(corpus, "--select", "test", "--tune-on", "development", "--json"))
    assert result.code == 0, result.err
    tuned, estimated = json.loads(result.out)
    # See the hand-worked example of `tune_threshold`: between .060 and .914.
    gaps = np.cos(np.radians([90, 100, 70, 80])).mean()
    threshold = pytest.approx(((1 - np.cos(np.radians(20))) + (1 - gaps)) / 2, abs=1e-6)
    assert tuned == {
        "rows": "tuned: development",
        "clips": 4,
        "with a voice": 4,
        "threshold": threshold,
        "clusters": 2,
        "purity": 1.0,
        "coverage": 1.0,
        "pairwise F1": 1.0,
        "true speakers": 2,
    }
    assert estimated == {
        "rows": "estimated: test",
        "clips": 6,
        "with a voice": 5,
        "threshold": threshold,
        "clusters": 2,
        "purity": None,
        "coverage": None,
        "pairwise F1": None,
        "true speakers": None,
    }
    found = columns(corpus / "m2.parquet", "speaker", "speaker_source")
    first, second = ("spk-0001", "estimated"), ("spk-0002", "estimated")
    assert found == {
        **{name: (speaker, "official") for name, speaker in SPEAKERS.items()},
        "t0": first,
        "t1": second,
        "t2": first,
        "t3": second,
        "t4": first,
        "t5": (None, None),
    }
    written = read_manifest(corpus / "m2.parquet")
    assert written.facts["speakers"].startswith("of test estimated by ")
    assert "cosine distance 0.48" in written.facts["speakers"]
    problems = list(csv.reader((corpus / "m2.problems.csv").open()))
    assert problems == [["utterance", "reason"], ["t5", "the manifest names no audio file"]]
    assert "Note: 1 clips have no embedding and got no speaker; see " in result.err


@pytest.mark.parametrize(
    ("rule", "n_clusters"), [(("--n-speakers", 3), 3), (("--threshold", 0.001), 5)]
)
def test_speakers_known_count_or_threshold(
    run_cli: Any, corpus: Path, rule: tuple[object, ...], n_clusters: int
) -> None:
    result = run_cli(*arguments(corpus, "--select", "test", *rule))
    assert result.code == 0, result.err
    assert result.out.startswith(f"{corpus / 'm2.parquet'}\nrows")
    found = columns(corpus / "m2.parquet", "speaker")
    assert len({found[name] for name in ("t0", "t1", "t2", "t3", "t4")}) == n_clusters


def test_speakers_without_selection_takes_all_rows_without_a_speaker(
    run_cli: Any, corpus: Path
) -> None:
    assert run_cli(*arguments(corpus, "--n-speakers", 2)).code == 0
    found = columns(corpus / "m2.parquet", "speaker")
    assert [found[name] for name in ("d0", "t0", "t1", "t5")] == [
        ("t",),
        ("spk-0001",),
        ("spk-0002",),
        (None,),
    ]


def test_speakers_replace_keeps_the_official_ones_and_scores_against_them(
    run_cli: Any, corpus: Path
) -> None:
    result = run_cli(
        *arguments(corpus, "--select", "development", "--n-speakers", 1, "--replace", "--json")
    )
    assert result.code == 0, result.err
    (estimated,) = json.loads(result.out)
    # One cluster for two speakers of two clips: purity 1/2, coverage 1, F1 2 * 2 / (6 + 2).
    assert (estimated["purity"], estimated["coverage"]) == (0.5, 1.0)
    assert (estimated["pairwise F1"], estimated["true speakers"]) == (0.5, 2)
    assert estimated["threshold"] is None
    found = columns(corpus / "m2.parquet", "speaker", "speaker_source", "speaker_official")
    assert found["d0"] == ("spk-0001", "estimated", "t")
    assert found["t0"] == (None, None, None)
    # Names that stand for somebody else are passed over.
    others = ("speakers", corpus / "m2.parquet", "--out", corpus / "m4.parquet")
    others += ("--embeddings", corpus / "voices.npz", "--select", "test", "--n-speakers", 2)
    assert run_cli(*others).code == 0
    found = columns(corpus / "m4.parquet", "speaker")
    assert (found["d0"], found["t0"], found["t1"]) == (("spk-0001",), ("spk-0002",), ("spk-0003",))
    # The copy can be worked on further; its own estimates count as unknown there.
    more = ("speakers", corpus / "m2.parquet", "--out", corpus / "m3.parquet", "--replace")
    more += ("--embeddings", corpus / "voices.npz", "--tune-on", "development")
    again = run_cli(*more, "--select", "development", "--select", "test")
    assert again.code == 0, again.err
    found = columns(corpus / "m3.parquet", "speaker", "speaker_official")
    assert (found["d0"], found["d1"]) == (("spk-0001", "t"), ("spk-0002", "s"))
    assert (found["t1"], found["t0"]) == (("spk-0001", None), ("spk-0002", None))


def test_speakers_with_a_model_keeps_embeddings_beside_the_output(
    run_cli: Any, tmp_path: Path
) -> None:
    """Random weights cannot tell voices, but they can tell two sounds with a little noise each."""
    rng = np.random.default_rng(0)
    sounds = [0.1 * rng.standard_normal(8_000), 0.1 * np.sin(np.arange(9_000))]
    rows = []
    for idx in range(6):
        sound = sounds[idx % 2] * (1 + 0.001 * rng.standard_normal(len(sounds[idx % 2])))
        soundfile.write(tmp_path / f"u{idx}.wav", sound, 16_000)
        rows.append({"utterance": f"u{idx}", "audio": f"u{idx}.wav", "speaker": f"s{idx % 2}"})
    write_manifest(make_manifest(rows, MSP_PODCAST, tmp_path), tmp_path / "manifest.parquet")
    write_xvector(tmp_path / "model")
    args = ("speakers", tmp_path / "manifest.parquet", "--out", tmp_path / "m2.parquet")
    args += ("--model", tmp_path / "model", "--replace", "--n-speakers", 2, "--json")
    result = run_cli(*args)
    assert result.code == 0, result.err
    (estimated,) = json.loads(result.out)
    assert (estimated["purity"], estimated["coverage"]) == (1.0, 1.0)
    (kept,) = tmp_path.glob("m2.xvectors-*.npz")
    before = kept.stat().st_mtime_ns
    assert run_cli(*args).code == 0
    assert kept.stat().st_mtime_ns == before


def test_speakers_wrong_input_exits_1_with_a_message(run_cli: Any, corpus: Path) -> None:
    everything = pd.read_parquet(corpus / "manifest.parquet")
    n_speakers = ("--n-speakers", 2)
    out = ("--out", corpus / "m2.parquet")
    nobody = corpus / "empty.npz"
    np.savez(nobody, model=np.array("x"), digests=np.array(["0"]), embeddings=np.ones((1, 2)))
    manifest = ("speakers", corpus / "manifest.parquet", *out)
    cases = [
        (arguments(corpus, "--select", "development", *n_speakers), "All 4 rows of 'development'"),
        (arguments(corpus, "--tune-on", "test"), "None of the 6 rows of 'test' has a speaker to"),
        (arguments(corpus, "--select", "dev", *n_speakers), "Unknown split or subset 'dev'"),
        (arguments(corpus, "--n-speakers", 9), "n_speakers is 9, expected 1 to 5"),
        ((*manifest, "--model", corpus / "none", *n_speakers), "none' cannot be loaded"),
        ((*manifest, "--embeddings", corpus / "no.npz", *n_speakers), "Name one with --model"),
        ((*manifest, "--embeddings", nobody, *n_speakers), "None of the 6 clips could be embedded"),
    ]
    for args, message in cases:
        result = run_cli(*args)
        assert (result.code, result.out) == (1, ""), args
        assert message in result.err, args
    assert not (corpus / "m2.parquet").exists()
    assert pd.read_parquet(corpus / "manifest.parquet").equals(everything)


def test_speakers_wrong_command_line_exits_2(run_cli: Any, corpus: Path) -> None:
    manifest = corpus / "manifest.parquet"
    plain = ("speakers", manifest, "--out", corpus / "m2.parquet", "--n-speakers", 2)
    cases = [
        (arguments(corpus), "--n-speakers, --threshold, --tune-on: give exactly one of them"),
        (arguments(corpus, "--n-speakers", 2, "--threshold", 0.5), "give exactly one of them"),
        (plain, "--model, --embeddings: give one of them, or both"),
        (arguments(corpus, "--n-speakers", 2, out="m2.csv"), "must end in .parquet"),
        (arguments(corpus, "--n-speakers", 2, out="manifest.parquet"), "is not overwritten"),
        (arguments(corpus, "--threshold", 2.5), "less than or equal to 2"),
    ]
    for args, message in cases:
        result = run_cli(*args)
        assert (result.code, result.out) == (2, ""), args
        assert message in result.err, args
