"""Which rows a training uses, and what it says of the others."""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from abhinaya.data.manifest import Manifest
from abhinaya.data.predictions import read_table, write_table
from abhinaya.errors import BadValueError, CheckpointError
from abhinaya.files import write_json
from abhinaya.member import PredictRequest
from abhinaya.nn.checkpoint import read_info
from abhinaya.nn.losses.build import build_loss
from abhinaya.registry import load_member

Train = Callable[..., Path]

QUICK = ("training.max_steps=1", "data.validation=null", "freeze=encoder")


def problems_of(run: Path) -> list[dict[str, str]]:
    with (run / "problems.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def with_rows(manifest: Manifest, split: str = "train", **columns: object) -> Manifest:
    """The manifest with some cells of the first rows of a split replaced."""
    rows = manifest.rows.copy()
    idx = rows.index[rows["split"] == split]
    for column, values in columns.items():
        assert isinstance(values, list)
        for at, value in zip(idx, values, strict=False):
            rows.at[at, column] = value
    return replace(manifest, rows=rows)


def test_train_leaves_out_rows_without_a_class_and_counts_them(
    train: Train, manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    # Of the first five rows none may have a class any more; three others are O or X already.
    n_classless = int(manifest.select("train")["label"].iloc[5:].isin(["O", "X"]).sum())
    changed = with_rows(manifest, label=["O", "X", None, None, "O"])
    with caplog.at_level(logging.INFO, logger="abhinaya"):
        run = train(*QUICK, manifest=changed)
    expected = f"tiny: {5 + n_classless} of 37 rows of train have no label of the emotion set"
    assert expected in caplog.text
    assert f"tiny: {32 - n_classless} training clips, 0 for validation, 0 unusable" in caplog.text
    assert problems_of(run) == []
    assert sum(read_info(run / "best").facts["class_counts"]) == 32 - n_classless


@pytest.mark.parametrize(
    "loss", ["{name: focal, class_weights: inverse}", "{name: vector-scaling}"]
)
def test_train_without_a_row_of_some_classes_names_them(
    train: Train, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    labels = ["N" if label in ("F", "U") else label for label in manifest.select("train")["label"]]
    changed = with_rows(manifest, label=labels)
    monkeypatch.setattr("abhinaya.training.train.build_classifier", pytest.fail)  # before weights
    message = r"No training row of 'tiny' has the class 'F', 'U', but the loss .*loss\.class_counts"
    with pytest.raises(BadValueError, match=message):
        train(*QUICK, f"loss={loss}", manifest=changed)


def test_train_weighs_classes_by_the_rows_of_the_manifest_unless_counts_are_stated(
    train: Train, manifest: Manifest
) -> None:
    built = []

    def stop(member: object, config: Any, n_classes: int, counts: list[int]) -> None:
        loss: Any = build_loss(config.loss, counts)
        built.append(loss)
        raise BadValueError("that is all")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("abhinaya.training.train.build_classifier", stop)
        for stated in ("", ", class_counts: [8, 4, 2, 1, 1, 2, 4, 8]"):
            with pytest.raises(BadValueError, match="that is all"):
                train(*QUICK, f"loss={{name: focal, class_weights: inverse{stated}}}")
    labels = manifest.select("train")["label"]
    ours = torch.tensor([int((labels == code).sum()) for code in manifest.emotions.codes])
    for loss, counts in zip(built, (ours, torch.tensor([8, 4, 2, 1, 1, 2, 4, 8])), strict=True):
        # N / (K n)
        torch.testing.assert_close(loss.class_weights, counts.sum() / (8 * counts))


def test_train_soft_loss_uses_rows_with_votes_whatever_their_label(
    train: Train, manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    # Eight classes, then O. The first row has no agreement but votes; the second has neither a
    # label nor a vote for a class; the third has no votes, but a label.
    some, none = np.array([1, 1, 0, 0, 0, 0, 0, 0, 3]), np.array([0] * 8 + [5])
    changed = with_rows(manifest, label=["X", None, "H"], votes=[some, none, None])
    with caplog.at_level(logging.INFO, logger="abhinaya"):
        train(*QUICK, "loss.name=soft-cross-entropy", manifest=changed)
    assert "1 of 37 rows of train have no label" in caplog.text
    assert "36 training clips" in caplog.text


def test_train_soft_loss_validates_on_rows_with_a_class_only(
    train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    # 11 rows for validation have votes, but macro-F1 cannot use the two that are O or X.
    with caplog.at_level(logging.INFO, logger="abhinaya"):
        run = train("training.max_steps=1", "freeze=encoder", "loss.name=kl-divergence")
    assert "9 for validation" in caplog.text
    assert 0 <= read_info(run / "best").metrics["macro_f1"] <= 1


def test_train_lists_unusable_audio_and_leaves_it_out(
    train: Train, manifest: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.wav"
    soundfile.write(broken, np.zeros(8000), 16000)
    broken.write_bytes(broken.read_bytes()[:-100])
    labelled = with_rows(manifest, label=["A", "A", "A", "A"])
    changed = with_rows(labelled, audio=[str(broken), str(tmp_path / "absent.wav"), None])
    with caplog.at_level(logging.INFO, logger="abhinaya"):
        run = train(*QUICK, manifest=changed)
    names = changed.select("train")["utterance"].iloc[:3]
    reasons = {row["utterance"]: row["reason"] for row in problems_of(run)}
    assert sorted(reasons) == sorted(names)
    for name, reason in zip(
        names,
        ("broken.wav is truncated", "absent.wav does not exist", "names no audio file"),
        strict=True,
    ):
        assert reason in reasons[name]
    assert "3 unusable" in caplog.text
    n_usable = int(changed.select("train")["label"].iloc[3:].isin(list("ACDFHNSU")).sum())
    assert f"{n_usable} training clips" in caplog.text


def test_train_without_a_usable_row_raises_with_the_reasons(
    train: Train, manifest: Manifest, tmp_path: Path
) -> None:
    lost = replace(manifest, audio_root=tmp_path)
    with pytest.raises(
        BadValueError,
        match=r"No row of the selection 'train' can be used for 'tiny': 3 have no label of the "
        r"emotion set, 34 have a problem \(.*: .* does not exist.*\)\. Correct the selection",
    ):
        train(*QUICK, manifest=lost)
    with pytest.raises(BadValueError, match=r"'development:O,X' .* 2 have no label .*, 0 have a"):
        train("data.train=development:O,X", "data.validation=null")


def test_train_validation_without_a_class_raises(train: Train) -> None:
    with pytest.raises(BadValueError, match=r"No row of the selection 'development:X'"):
        train("data.validation=development:X")
    with pytest.raises(
        BadValueError, match=r"No row of data\.validation 'development:X' has a label .*, or null"
    ):
        train("data.validation=development:X", "loss.name=soft-cross-entropy")


def test_predicted_rows_that_a_run_was_trained_on_are_marked(
    trained: Train, manifest: Manifest, tmp_path: Path
) -> None:
    """Scores on them flatter, and a table did not say which they are."""
    run = trained(*QUICK)
    request = PredictRequest(manifest, ("all",), tmp_path / "all.parquet")
    table = load_member("wavlm").predict(run, request)
    rows = manifest.select("train")
    used = set(rows.loc[~rows["label"].isin(["O", "X"]), "utterance"])
    assert table.trained_on is not None
    assert set(np.array(table.utterances)[table.trained_on]) == used
    # The table was made before such lists were kept: it is made again, now with marks.
    write_table(replace(table, trained_on=None, meta={**table.meta, "digest": "old"}), request.out)
    load_member("wavlm").predict(run, request)
    again = read_table(request.out)
    assert again.trained_on is not None
    assert again.trained_on.tolist() == table.trained_on.tolist()

    old = tmp_path / "old"
    shutil.copytree(run, old)
    (old / "best" / "training_rows.json").write_text('["another.wav"]')
    with pytest.raises(CheckpointError, match=r"training_rows.json'.*holds other names"):
        load_member("wavlm").predict(old, request)
    (old / "best" / "training_rows.json").unlink()
    with pytest.raises(CheckpointError, match=r"training_rows.json'.*is missing.* as a whole"):
        load_member("wavlm").predict(old, request)
    # A run from before then knows nothing, and predicts as it did.
    facts = read_info(old / "best").facts
    write_json(old / "best" / "facts.json", {k: v for k, v in facts.items() if "rows" not in k})
    assert load_member("wavlm").predict(old, request).trained_on is None
