"""From CAMEO to nEMO as the shipped chain goes, on a collection made here and a tiny HuBERT."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import soundfile
from exported_runs import write_hubert

from abhinaya.config import load_yaml
from abhinaya.data.predictions import read_table
from abhinaya.resources import find_config

COMMON = ("anger", "fear", "happiness", "neutral", "sadness", "surprise")


def wav_bytes(seed: int) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).uniform(-0.1, 0.1, 6_400)
    soundfile.write(buffer, noise, 16_000, format="WAV")
    return buffer.getvalue()


def collection(folder: Path) -> None:
    """Write every split that the member trains on, and nemo, with six classes and two speakers."""
    trained = load_yaml(find_config("corpora/cameo-hubert.yaml"))["data"]["train"]
    (folder / "data").mkdir(parents=True)
    for split in (*trained, "nemo"):
        n_rows = 24 if split == "nemo" else 6
        names = [f"{split}_{n}.wav" for n in range(n_rows)]
        cells: dict[str, Any] = {
            "file_id": names,
            "audio": [{"bytes": wav_bytes(n), "path": name} for n, name in enumerate(names)],
            "emotion": [COMMON[n % 6] for n in range(n_rows)],
            "transcription": ["text"] * n_rows,
            "speaker_id": [str(n // 12) for n in range(n_rows)],
            "dataset": [split] * n_rows,
        }
        table = datasets.Dataset.from_dict(cells).cast_column("audio", datasets.Audio())
        table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


@pytest.mark.slow
def test_shipped_chain_trains_on_twelve_corpora_and_names_clusters_in_the_thirteenth(
    run_cli, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    collection(Path("cameo"))
    write_hubert(Path("base"))
    result = run_cli(
        "run",
        "corpora/cameo-hubert-nemo.yaml",
        "prepare.corpus=dataset",
        "prepare.source=cameo",
        "set.base=base",
        "set.audio.max_audio_s=0.5",
        "set.training.num_train_epochs=1",
        "set.training.use_cpu=true",
        "set.training.dataloader_num_workers=0",
        "set.inference.num_workers=0",
    )
    assert result.code == 0, result.err
    out = Path("runs/cameo-hubert-nemo")
    direct = read_table(out / "tables/test/hubert.parquet")
    smoothed = read_table(out / "tables/test/vote-smooth.parquet")
    assert len(smoothed) == len(direct) == 24
    manifest = pd.read_parquet("runs/cameo-nemo/corpus/manifest.parquet").set_index("utterance")
    speakers = manifest.loc[list(smoothed.utterances), "speaker"]
    assert sorted(set(speakers)) == ["nemo-0", "nemo-1"]
    # Twelve clips of a speaker make six clusters, which take the six classes one to one.
    for speaker in ("nemo-0", "nemo-1"):
        labels = smoothed.labels[(speakers == speaker).to_numpy()]
        assert sorted(set(labels.tolist())) == [0, 1, 2, 3, 4, 5]
