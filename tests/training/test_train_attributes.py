"""Members that learn attributes, gender and secondary emotions beside the class."""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from abhinaya.config import config_digest
from abhinaya.data.attributes import SECONDARY
from abhinaya.data.manifest import Manifest
from abhinaya.errors import BadValueError, ProblemsError
from abhinaya.nn.attribute_heads import AttributeHeads
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.nn.recipe.attributes import AttributesConfig
from abhinaya.training.attributes import attribute_metrics

Train = Callable[..., Path]
MakeConfig = Callable[..., ClassifierConfig]

ALL = "attributes={arousal: 0.5, valence: 0.5, dominance: 0.5, gender: 0.1, secondary: 0.1}"
QUICK = ("training.max_steps=1", "data.validation=null", "freeze=encoder")


def with_column(manifest: Manifest, **columns: object) -> Manifest:
    return replace(manifest, rows=manifest.rows.assign(**columns))


def log_of(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_train_with_all_heads_logs_their_concordance_and_saves_them(
    train: Train, manifest: Manifest
) -> None:
    secondary = np.resize(["Happy:0.8 Amused:0.4", "Sad:1", None], len(manifest.rows))
    changed = with_column(manifest, secondary=pd.Series(secondary, dtype=object))
    run = train(ALL, "freeze=encoder", "head.hidden=8", manifest=changed)
    rows = [row for row in log_of(run) if row["eval_macro_f1"]]
    assert len(rows) == 2
    for row in rows:
        found = [float(row[f"eval_ccc_{name}"]) for name in ("arousal", "valence", "dominance")]
        assert all(-1 <= value <= 1 for value in found)
    state = load_file(run / "best" / "model.safetensors")
    widths = {"arousal": 1, "valence": 1, "dominance": 1, "gender": 1, "secondary": len(SECONDARY)}
    for task, width in widths.items():
        assert state[f"attribute_heads.out.{task}.weight"].shape == (width, 8)
    # The best checkpoint is still the one of highest macro-F1.
    best = max(float(row["eval_macro_f1"]) for row in rows)
    assert f'"macro_f1": {best}' in (run / "best" / "metrics.json").read_text()


def test_train_loss_of_validation_holds_all_tasks(train: Train, manifest: Manifest) -> None:
    """What is logged is what is minimised: with a weight of 1000 the attribute is nearly all."""
    options = ("freeze=encoder", "training.num_train_epochs=1")
    alone = train(*options)
    both = train(*options, "attributes={arousal: 1000, loss: mse}")
    losses = [
        float(row["eval_loss"]) for run in (alone, both) for row in log_of(run) if row["eval_loss"]
    ]
    assert losses[0] < 5
    assert losses[1] > 100


def test_train_where_only_arousal_is_known_and_not_of_every_clip(
    train: Train, manifest: Manifest
) -> None:
    values = manifest.rows["arousal"].where(np.arange(len(manifest.rows)) % 2 == 0)
    changed = with_column(manifest, arousal=values, valence=np.nan, dominance=np.nan, gender=None)
    run = train("attributes={arousal: 1}", *QUICK, manifest=changed)
    assert (run / "best").is_dir()
    with pytest.raises(
        BadValueError, match=r"'tiny' shall learn valence, gender, which .* knows of"
    ):
        train("attributes={arousal: 1, valence: 1, gender: 1}", *QUICK, manifest=changed)


def test_train_with_attributes_that_the_manifest_lacks_raises(
    train: Train, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("abhinaya.training.train.build_classifier", pytest.fail)  # before weights
    message = r"none of the 34 training rows\. Fill the column .* remove attributes\.secondary"
    with pytest.raises(BadValueError, match=message):
        train("attributes={secondary: 1}", *QUICK)
    rows = manifest.rows["arousal"].copy()
    rows.iloc[:2] = [0.5, 9]
    with pytest.raises(
        ProblemsError, match=r"arousal of \d rows is outside \[1, 7\]: '(0\.5|9) \("
    ):
        train("attributes={arousal: 1}", *QUICK, manifest=with_column(manifest, arousal=rows))
    for cell in ("Happy:1.5", "Joy:0.5", "Happy"):
        changed = with_column(manifest, secondary=cell)
        with pytest.raises(
            ProblemsError, match=rf"secondary of 37 rows cannot be read: '{cell} \("
        ):
            train("attributes={secondary: 1}", *QUICK, manifest=changed)


def test_attributes_none_keep_the_digest(make_config: MakeConfig, tmp_path: Path) -> None:
    plain = make_config(tmp_path)
    assert "attributes" not in plain.model_dump()
    assert config_digest(plain) == config_digest(make_config(tmp_path, "attributes=null"))
    assert config_digest(plain) != config_digest(make_config(tmp_path, "attributes={arousal: 1}"))


def test_train_warns_that_concordance_depends_on_how_a_batch_is_split(
    train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    split = (*QUICK, "training.per_device_train_batch_size=4")
    message = "the concordance of arousal is that of each 4 rows that one device sees at once"
    with caplog.at_level(logging.WARNING, logger="abhinaya"):
        train("attributes={arousal: 1}", *split)
        assert message in caplog.text
        caplog.clear()
        train("attributes={arousal: 1, loss: mse}", *split)
        train("attributes={gender: 1}", *split)
        train("attributes={arousal: 1}", *QUICK)
    assert "concordance" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["ccc", "mse"])
def test_member_learns_the_attributes_of_sixteen_clips(
    train: Train, manifest: Manifest, wavlm_without_dropout: str, loss: str
) -> None:
    rows = manifest.select("train:A,C,D,F,H,N,S,U").groupby("label").head(2)
    subsets = {**manifest.subsets, "sixteen": tuple(rows["utterance"])}
    run = train(
        f"base={wavlm_without_dropout}",
        "data.train=sixteen",
        "data.validation=sixteen",
        "audio.train_crop=centre",
        "head.dropout=0",
        "head.hidden=32",
        "spec_augment=false",
        "freeze=encoder",
        "standardize=true",
        "pooling=attentive-statistics",
        "training.num_train_epochs=50",
        "training.global_batch_size=16",
        f"attributes={{arousal: 1, valence: 1, dominance: 1, loss: {loss}}}",
        manifest=replace(manifest, subsets=subsets),
    )
    log = log_of(run)
    losses = [float(row["loss"]) for row in log if row["loss"]]
    assert losses[-1] < 0.5 * losses[0]
    for name in ("arousal", "valence", "dominance"):
        found = [float(row[f"eval_ccc_{name}"]) for row in log if row[f"eval_ccc_{name}"]]
        assert found[-1] > max(0.8, found[0])


def test_attribute_metrics_leave_out_what_has_no_concordance() -> None:
    """log.csv gets an empty cell rather than NaN, which a checkpoint's JSON could not hold."""
    heads = AttributeHeads(2, AttributesConfig(arousal=2, dominance=1, loss="mse"))
    outputs = np.array([[1, 4], [3, 4]], dtype=np.float32)
    targets = np.array([[2, np.nan], [4, 5]], dtype=np.float32)
    found = attribute_metrics(heads, outputs, targets)
    # cov 1, variances 1, means 1 apart: 2 / 3. 2 * 1 and half of 1.
    assert found == {"ccc_arousal": pytest.approx(2 / 3), "loss": pytest.approx(2.5)}


@pytest.mark.slow
def test_train_with_attributes_resumes_to_the_same_bytes(
    train: Train, manifest: Manifest, tmp_path: Path
) -> None:
    options = (
        "attributes={arousal: 1, gender: 1}",
        "freeze=encoder",
        "training.save_total_limit=9",
    )
    whole = train(*options)
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "best")
    last = max((tmp_path / "run").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    shutil.rmtree(last)
    again = train(*options, run_dir=tmp_path / "run")
    weights = "best/model.safetensors"
    assert (again / weights).read_bytes() == (whole / weights).read_bytes()
    assert log_of(again)[-1]["eval_ccc_arousal"] == log_of(whole)[-1]["eval_ccc_arousal"]
