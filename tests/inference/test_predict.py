from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

import abhinaya.inference.predict as module
from abhinaya.data.labels import ABSTAIN
from abhinaya.data.manifest import Manifest
from abhinaya.data.predictions import read_table
from abhinaya.errors import BadValueError, CheckpointError, MissingFileError
from abhinaya.files import sole_writer
from abhinaya.member import PredictRequest
from abhinaya.registry import load_member


@pytest.fixture
def count_chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Parts of four clips; the list gets the number of clips of each part that is computed."""
    sizes: list[int] = []
    compute = module._predict_chunk

    def counting(clips: Any, *args: Any) -> Any:
        sizes.append(len(clips))
        return compute(clips, *args)

    monkeypatch.setattr("abhinaya.inference.sharding.CHUNK_SIZE", 4)
    monkeypatch.setattr(module, "_predict_chunk", counting)
    return sizes


@pytest.fixture
def damaged(corpus: Path, manifest: Manifest, tmp_path: Path) -> Manifest:
    """The corpus without n1.wav, with half of n2.wav, and with a row that names no audio."""
    folder = tmp_path / "damaged"
    shutil.copytree(corpus, folder)
    (folder / "n1.wav").unlink()
    whole = (folder / "n2.wav").read_bytes()
    (folder / "n2.wav").write_bytes(whole[: len(whole) // 2])
    rows = manifest.rows.copy()
    rows.loc[3, "audio"] = None
    return replace(manifest, rows=rows, root=folder)


def test_predict_tells_clips_apart_and_labels_the_likeliest(make_run: Any, predict: Any) -> None:
    table = predict(make_run())
    assert table.utterances == tuple(f"n{idx}.wav" for idx in range(10))
    assert table.probs is not None
    np.testing.assert_allclose(table.probs.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(table.labels, table.probs.argmax(axis=1))
    # Otherwise none of the comparisons in these tests would mean anything.
    assert table.probs.std(axis=0).max() > 0.01


def test_predict_reads_all_parts_with_one_set_of_workers(
    make_run: Any, predict: Any, count_chunks: list[int], monkeypatch: Any, tmp_path: Path
) -> None:
    """Every part of 64 clips started its workers anew."""
    loaders: list[Any] = []

    def counted(*args: Any, **options: Any) -> Any:
        loaders.append(DataLoader(*args, **options))
        return loaders[-1]

    monkeypatch.setattr("abhinaya.inference.sharding.DataLoader", counted)
    run = make_run()
    predict(run, "inference.num_workers=1", "inference.batch_size=3", out=tmp_path / "a.parquet")
    assert count_chunks == [4, 4, 2]
    assert len(loaders) == 1
    predict(run, "inference.num_workers=0", "inference.batch_size=3", out=tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_predict_meta_says_where_the_table_comes_from(make_run: Any, predict: Any) -> None:
    run = make_run("seed=5")
    meta = predict(run).meta
    assert {key: meta[key] for key in ("member", "selection", "checkpoint", "seed")} == {
        "member": "wavlm",
        "selection": ["all"],
        "checkpoint": str(run / "best"),
        "seed": 5,
    }
    assert meta["absorbed_prior"] == [0.125] * 8
    assert meta["config_digest"] == "0" * 16


def test_predict_unusable_audio_abstains_and_is_listed(
    make_run: Any, predict: Any, damaged: Manifest, tmp_path: Path
) -> None:
    table = predict(make_run(), manifest=damaged)
    abstained = [idx for idx, label in enumerate(table.labels) if label == ABSTAIN]
    assert abstained == [1, 2, 3]
    assert table.reasons[1].startswith("n1.wav does not exist")
    assert table.reasons[2].startswith("n2.wav is truncated")
    assert table.reasons[3] == "the manifest names no audio file"
    assert table.has_probs.tolist() == [True] + 3 * [False] + 6 * [True]
    with (tmp_path / "table.problems.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["utterance"] for row in rows] == ["n1.wav", "n2.wav", "n3.wav"]
    assert [row["reason"] for row in rows] == list(table.reasons[1:4])


def test_predict_rows_without_any_audio_all_abstain(
    make_run: Any, predict: Any, manifest: Manifest
) -> None:
    """Nothing to compute once meant no parts, and removing their folder failed."""
    silent = replace(manifest, rows=manifest.rows.assign(audio=None))
    table = predict(make_run(), manifest=silent, with_embedding=True)
    assert (table.labels == ABSTAIN).all()
    assert set(table.reasons) == {"the manifest names no audio file"}
    assert not table.has_probs.any()


def test_predict_again_computes_nothing(
    make_run: Any, predict: Any, count_chunks: list[int], tmp_path: Path
) -> None:
    run = make_run()
    first = predict(run)
    written = (tmp_path / "table.parquet").stat().st_mtime_ns
    again = predict(run)
    assert count_chunks == [4, 4, 2]
    assert (tmp_path / "table.parquet").stat().st_mtime_ns == written
    np.testing.assert_array_equal(again.probs, first.probs)


@pytest.mark.parametrize(
    "change",
    [
        ("weights",),
        ("audio",),
        ("audio_root",),
        ("embedding",),
        ("override", "audio.eval_crop=first"),
        ("override", "inference.precision=bf16"),
        ("override", "average_frames=true"),
    ],
    ids=lambda change: " ".join(change),
)
def test_predict_again_after_a_change_is_computed_anew(
    make_run: Any,
    predict: Any,
    count_chunks: list[int],
    damaged: Manifest,
    corpus: Path,
    change: tuple[str, ...],
) -> None:
    """A table once survived the repair of the audio that it had abstained on."""
    run = make_run("freeze=encoder")
    before = predict(run, manifest=damaged)
    options: dict[str, Any] = {"manifest": damaged}
    if change[0] == "weights":
        make_run("freeze=encoder", seed=1)
    elif change[0] == "audio":
        shutil.copy(corpus / "n1.wav", damaged.root / "n1.wav")
    elif change[0] == "audio_root":
        options["manifest"] = replace(damaged, audio_root=corpus)
    elif change[0] == "embedding":
        options["with_embedding"] = True
    after = predict(run, *change[1:], **options)
    assert count_chunks == [4, 4, 1, 4, 4, 1]
    if change[0].startswith("audio"):
        assert before.labels[1] == ABSTAIN
        assert after.labels[1] != ABSTAIN


def test_predict_again_with_other_batches_or_base_elsewhere(
    make_run: Any, predict: Any, count_chunks: list[int], bases: dict[str, str], tmp_path: Path
) -> None:
    """Batch size and workers do not decide the table; a base of another path is looked at."""
    run = make_run()
    table = predict(run)
    predict(run, "inference.batch_size=3", "inference.num_workers=1")
    assert len(count_chunks) == 3
    shutil.copytree(bases["wavlm"], tmp_path / "moved")
    moved = predict(run, f"base={tmp_path / 'moved'}")
    assert len(count_chunks) == 6
    np.testing.assert_array_equal(moved.probs, table.probs)


def test_predict_workers_and_batches_give_the_same_numbers(
    make_run: Any, predict: Any, damaged: Manifest, tmp_path: Path
) -> None:
    run = make_run()
    theirs = predict(run, manifest=damaged)
    for number, overrides in enumerate(
        [("inference.batch_size=1",), ("inference.batch_size=3", "inference.num_workers=2")]
    ):
        out = tmp_path / f"{number}.parquet"
        ours = predict(run, *overrides, manifest=damaged, out=out)
        np.testing.assert_allclose(ours.probs, theirs.probs, atol=1e-5)
        assert ours.reasons == theirs.reasons


def test_predict_bf16_is_near_float32(make_run: Any, predict: Any, tmp_path: Path) -> None:
    run = make_run()
    full = predict(run, out=tmp_path / "full.parquet")
    half = predict(run, "inference.precision=bf16", out=tmp_path / "half.parquet")
    assert half.probs.dtype == np.float32
    difference = np.abs(half.probs - full.probs).max()
    # bfloat16 keeps 8 bits: equal numbers would mean that it was not used at all.
    assert 1e-6 < difference < 0.05


def test_predict_csv_has_a_column_per_class(make_run: Any, predict: Any, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    table = predict(make_run(), out=out)
    header = out.read_text().splitlines()[0]
    assert header == "FileName,EmoClass," + ",".join(f"prob_{code}" for code in "ACDFHNSU")
    read = read_table(out).probs
    assert read is not None
    np.testing.assert_allclose(read, table.probs, atol=1e-6)
    assert (tmp_path / "table.problems.csv").read_text() == "utterance,reason\n"


@pytest.mark.parametrize(
    ("name", "with_embedding", "message"),
    [
        ("table.txt", False, r"table\.txt' must end in \.parquet or \.csv"),
        ("table.csv", True, r"A CSV holds no embeddings.*table\.csv.*\.parquet"),
    ],
)
def test_predict_table_that_cannot_be_written_raises_before_the_work(
    make_run: Any,
    predict: Any,
    count_chunks: list[int],
    tmp_path: Path,
    name: str,
    with_embedding: bool,
    message: str,
) -> None:
    with pytest.raises(BadValueError, match=message):
        predict(make_run(), out=tmp_path / name, with_embedding=with_embedding)
    assert count_chunks == []


def test_predict_from_the_checkpoint_folder_is_the_same(make_run: Any, predict: Any) -> None:
    run = make_run()
    table = predict(run)
    # Of one digest, so this is the very table.
    assert predict(run / "best").meta == table.meta


def test_predict_run_without_best_raises(make_config: Any, predict: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("member: wavlm\n")
    message = r"is no checkpoint: classes\.json, .* are missing.*finished abhinaya train"
    with pytest.raises(MissingFileError, match=message):
        predict(tmp_path / "run")


def test_predict_with_a_config_raises(make_config: Any, manifest: Manifest, tmp_path: Path) -> None:
    request = PredictRequest(manifest, ("all",), tmp_path / "t.parquet")
    message = "member 'wavlm' must be trained before it predicts.*Run abhinaya train"
    with pytest.raises(BadValueError, match=message):
        load_member("wavlm").predict(make_config(tmp_path / "run"), request)


def test_predict_weights_of_another_head_raise(make_run: Any, predict: Any) -> None:
    with pytest.raises(CheckpointError, match=r"do not fit .* the model of its config.*head\."):
        predict(make_run(), "head.hidden=4")


def test_predict_damaged_weights_raise(make_run: Any, predict: Any) -> None:
    run = make_run()
    weights = run / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"model\.safetensors' cannot be read.*damaged"):
        predict(run)


def test_table_that_another_process_writes_raises(
    make_run: Any, predict: Any, tmp_path: Path
) -> None:
    """The slower of two once died, because the other had removed its parts."""
    run, out = make_run(), tmp_path / "table.parquet"
    with (
        sole_writer(out, "--out"),
        pytest.raises(BadValueError, match=r"is being written by process \d+ on .*another --out"),
    ):
        predict(run, out=out)
    predict(run, out=out)
    assert not (tmp_path / ".table.parquet.lock").exists()
