"""Arousal, valence and dominance in the tables of members that learned them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from abhinaya.data.predictions import PredictionTable, read_table

MakeRun = Callable[..., Path]
Predict = Callable[..., PredictionTable]

TWO = "attributes={arousal: 1, dominance: 0.5, gender: 1, secondary: 1}"


def test_predict_gives_the_attributes_that_were_learned(
    make_run: MakeRun, predict: Predict, tmp_path: Path
) -> None:
    run = make_run(TWO)
    table = predict(run, with_embedding=True)
    state = load_file(run / "best" / "model.safetensors")
    # Each is 1 + 6 sigmoid of a linear function of the stored embedding.
    for column, name in ((0, "arousal"), (2, "dominance")):
        weight, bias = (state[f"attribute_heads.out.{name}.{part}"] for part in ("weight", "bias"))
        z = table.embeddings @ weight.numpy()[0] + bias.numpy()
        np.testing.assert_allclose(table.attributes[:, column], 1 + 6 / (1 + np.exp(-z)), rtol=1e-5)
    assert np.isnan(table.attributes[:, 1]).all()
    assert len(np.unique(table.attributes[:, 0])) == 10
    stored = read_table(tmp_path / "table.parquet")
    np.testing.assert_array_equal(stored.attributes, table.attributes)


def test_predict_attributes_do_not_depend_on_the_batch_or_the_shards(
    make_run: MakeRun, predict: Predict, tmp_path: Path, monkeypatch: object
) -> None:
    run = make_run(TWO, "audio.eval_crop=2", "audio.max_audio_s=0.6")
    whole = predict(run)
    alone = predict(run, "inference.batch_size=1", out=tmp_path / "alone.csv")
    np.testing.assert_allclose(alone.attributes, whole.attributes, atol=1e-5)
    read = read_table(tmp_path / "alone.csv")
    np.testing.assert_array_equal(read.attributes, alone.attributes)
    monkeypatch.setattr("abhinaya.inference.sharding.CHUNK_SIZE", 4)
    shards = predict(run, out=tmp_path / "shards.parquet")
    np.testing.assert_allclose(shards.attributes, whole.attributes, atol=1e-5)


def test_predict_without_the_key_has_no_attributes(make_run: MakeRun, predict: Predict) -> None:
    assert predict(make_run()).attributes is None
    run = make_run("attributes={gender: 1}", name="other")
    assert predict(run).attributes is None
