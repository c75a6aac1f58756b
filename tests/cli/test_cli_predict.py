from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import make_manifest, read_manifest, write_manifest
from abhinaya.data.predictions import read_table
from abhinaya.demo.checkpoints.encoders import write_wavlm
from abhinaya.member_config import load_member_config
from abhinaya.pipeline.stages.recordings import run_recordings
from abhinaya.registry import load_member


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight noises, five of them for training, and a tiny WavLM trained on these in `run`."""
    folder = tmp_path_factory.mktemp("predict")
    (folder / "wav").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for idx in range(8):
        soundfile.write(folder / "wav" / f"u{idx}.wav", 0.1 * rng.standard_normal(8_000), 16_000)
        rows.append(
            {
                "utterance": f"u{idx}.wav",
                "audio": f"wav/u{idx}.wav",
                "label": "AHN"[idx % 3],
                "split": "train" if idx < 5 else "development",
            }
        )
    write_manifest(make_manifest(rows, MSP_PODCAST, folder), folder / "manifest.parquet")
    write_wavlm(folder / "base", n_layers=1, n_features=16, n_conv_features=8)
    config = {
        "member": "wavlm",
        "name": "tiny",
        "run_dir": str(folder / "run"),
        "data": {"manifest": str(folder / "manifest.parquet")},
        "base": str(folder / "base"),
        "audio": {"max_audio_s": 0.5},
        "head": {"hidden": 8},
        "training": {"global_batch_size": 5, "num_train_epochs": 1, "use_cpu": True},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    load_member("wavlm").train(
        load_member_config(folder / "config.yaml"), read_manifest(folder / "manifest.parquet")
    )
    return folder


def test_predict_writes_the_table_and_says_how_many_rows(
    run_cli: Any, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tiny.parquet"
    result = run_cli(
        "predict",
        folder / "run",
        "--manifest",
        folder / "manifest.parquet",
        "--select",
        "development",
        "--out",
        out,
    )
    assert result.code == 0, result.err
    assert result.out == (
        f"{out}\nrun   selection    rows  abstained\ntiny  development     3          0\n"
        f"0 problems in {tmp_path / 'tiny.problems.csv'}\n"
    )
    table = read_table(out)
    assert table.utterances == ("u5.wav", "u6.wav", "u7.wav")
    assert table.embeddings is None


def test_predict_several_selections_with_embedding_as_json(
    run_cli: Any, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tiny.parquet"
    result = run_cli(
        "predict",
        folder / "run",
        "--manifest",
        folder / "manifest.parquet",
        "--json",
        "--select",
        "development",
        "--select",
        "train:A",
        "--out",
        out,
        "--with",
        "embedding",
    )
    assert result.code == 0, result.err
    # u0 and u3 are A of train; the manifest's order stays.
    selection = "development, train:A"
    assert json.loads(result.out) == [
        {"run": "tiny", "selection": selection, "rows": 5, "abstained": 0}
    ]
    table = read_table(out)
    assert table.utterances == ("u0.wav", "u3.wav", "u5.wav", "u6.wav", "u7.wav")
    assert table.embeddings is not None
    assert table.embeddings.shape == (5, 8)


def test_predict_csv_with_overrides_and_another_audio_root(
    run_cli: Any, folder: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    (moved / "below").mkdir(parents=True)
    for name in ("u5.wav", "u6.wav"):
        (moved / "below" / name).write_bytes((folder / "wav" / name).read_bytes())
    (tmp_path / "base").symlink_to(folder / "base")
    out = tmp_path / "tiny.csv"
    result = run_cli(
        "predict",
        folder / "run",
        f"base={tmp_path / 'base'}",
        "inference.batch_size=2",
        "--manifest",
        folder / "manifest.parquet",
        "--select",
        "development",
        "--audio-root",
        moved,
        "--out",
        out,
        "--format",
        "markdown",
    )
    assert result.code == 0, result.err
    assert "| tiny | development | 3 | 1 |" in result.out
    header, *rows = out.read_text().splitlines()
    assert header == "FileName,EmoClass,prob_A,prob_C,prob_D,prob_F,prob_H,prob_N,prob_S,prob_U"
    assert [row.split(",")[0] for row in rows] == ["u5.wav", "u6.wav", "u7.wav"]
    assert rows[2] == "u7.wav,,,,,,,,,"
    listed = (tmp_path / "tiny.problems.csv").read_text().splitlines()
    assert listed[0] == "utterance,reason"
    # Quoted, because the reason has a comma in it.
    assert listed[1].startswith('u7.wav,"u7.wav does not exist. Correct the audio root, or')


def test_predict_wrong_input_exits_1_with_a_message(
    run_cli: Any, folder: Path, tmp_path: Path
) -> None:
    manifest, run = folder / "manifest.parquet", folder / "run"
    out, select = ("--out", tmp_path / "t.parquet"), ("--select", "development")
    given = ("--manifest", manifest, *select, *out)
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text((run / "config.yaml").read_text())
    cases = [
        ([empty, *given], "is no run directory: it has no config.yaml with a member"),
        ([tmp_path / "none", *given], "There is no config"),
        ([tmp_path / "begun", *given], "is no checkpoint: classes.json"),
        ([folder / "config.yaml", *given], "must be trained before it predicts. Run abhinaya tr"),
        ([run, "--manifest", empty / "m.parquet", *select, *out], "There is no manifest"),
        ([run, "--manifest", manifest, "--select", "test9", *out], "Unknown split or subset 'tes"),
        ([run, "--manifest", manifest, "--select", "train:Q", *out], "unknown label 'Q'"),
        ([run, "--manifest", manifest, "--select", "train:O", *out], "'train:O' has no rows"),
        ([run, *given, "--audio-root", tmp_path / "none"], "is not a folder"),
        ([run, *given, "inference.batchsize=2"], "inference.batchsize is unknown, did you mean"),
        ([run, *given, "base=/none/here"], "base '/none/here' cannot be loaded"),
        ([run, *given, "head"], "the override 'head' is not of the form some.key=value"),
        (
            [run, "--manifest", manifest, *select, "--out", tmp_path / "t.xlsx"],
            "must end in .parquet or .csv",
        ),
        (
            [run, "--manifest", manifest, *select, "--out", empty / "t.csv", "--with", "embedding"],
            "A CSV holds no embeddings",
        ),
    ]
    for args, message in cases:
        result = run_cli("predict", *args)
        assert (result.code, result.out) == (1, ""), args
        assert message in result.err, args
        assert "Traceback" not in result.err
    assert not (tmp_path / "t.parquet").exists()


def test_predict_wrong_command_line_exits_2(run_cli: Any, folder: Path) -> None:
    run, manifest = folder / "run", folder / "manifest.parquet"
    for args in (
        [run],
        [run, "--manifest", manifest, "--select", "train"],
        [run, "--manifest", manifest, "--out", "t.parquet"],
        [run, "--manifest", manifest, "--select", "train", "--out", "t.parquet", "--with", "x"],
    ):
        result = run_cli("predict", *args)
        assert (result.code, result.out) == (2, ""), args
        assert "Usage: abhinaya predict" in result.err


def test_recordings_get_the_labels_of_the_same_clips_in_a_corpus(
    run_cli: Any, folder: Path, tmp_path: Path
) -> None:
    run = str(folder / "run")
    manifest = str(folder / "manifest.parquet")
    corpus = ("--manifest", manifest, "--select", "all", "--out", str(tmp_path / "corpus.parquet"))
    assert run_cli("predict", run, *corpus).code == 0
    expected = read_table(tmp_path / "corpus.parquet")

    out = tmp_path / "own.parquet"
    result = run_cli("predict", run, str(folder / "wav"), "--out", str(out), "--json")
    assert result.code == 0, result.err
    table = read_table(out)
    assert table.utterances == expected.utterances
    np.testing.assert_allclose(table.probs, expected.probs, rtol=1e-5)
    shown = json.loads(result.out)
    assert [one["recording"] for one in shown] == [f"u{idx}.wav" for idx in range(8)]
    assert shown[3]["label"] == MSP_PODCAST.codes[int(expected.labels[3])]
    assert shown[3]["probs"]["A"] == pytest.approx(float(expected.probs[3, 0]), rel=1e-5)


def test_recordings_on_the_screen_alone_leave_nothing_behind(
    run_cli: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    broken = tmp_path / "u0.wav"
    broken.write_bytes(b"no audio")
    clip = folder / "wav" / "u0.wav"
    result = run_cli("predict", str(folder / "run"), str(clip), str(broken), str(clip))
    assert result.code == 0, result.err
    assert "tiny on 2 recordings" in result.out
    # Two files of one name keep their folders; the broken one is named with the reason.
    names = [line.split()[0] for line in result.out.splitlines()[2:4]]
    assert all(name.endswith("/u0.wav") for name in names)
    assert len(set(names)) == 2
    assert "u0.wav cannot be decoded" in result.err
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_recording_on_standard_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = io.BytesIO((folder / "wav" / "u1.wav").read_bytes())
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=sound))
    table = run_recordings(folder / "run", ["-"], overrides=("inference.batch_size=1",))
    assert table.utterances == ("stdin",)
    assert table.labels[0] >= 0


def test_recordings_wrong_input_is_refused_in_a_line(
    run_cli: Any, folder: Path, tmp_path: Path
) -> None:
    run, clip = str(folder / "run"), str(folder / "wav" / "u0.wav")
    (tmp_path / "empty").mkdir()
    result = run_cli("predict", run, str(tmp_path / "no.wav"), str(tmp_path / "empty"))
    assert result.code == 1
    assert "no.wav', '" in result.err
    assert "empty' (a folder without audio). Name audio files, folders" in result.err
    result = run_cli("predict", run, clip, "--manifest", str(folder / "manifest.parquet"))
    assert result.code == 2
    assert "are in no manifest; remove --manifest" in " ".join(result.err.split())
    result = run_cli("predict", run, "audio.max_audio_s=1")
    assert result.code == 2
    assert "name recordings, such as *.wav, or a corpus" in " ".join(result.err.split())
    result = run_cli("predict", "members/llama-70b-zero-shot.yaml", clip)
    assert result.code == 1
    assert "reads transcripts, and a recording has none. Prepare" in result.err
