"""One training from manifest to run directory."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from sklearn.metrics import f1_score

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import Manifest
from abhinaya.loading.clips import Clip, Cropping, load_segments
from abhinaya.nn.build import build_classifier
from abhinaya.nn.checkpoint import load_weights, read_info
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.registry import load_member
from abhinaya.training.train import training_digest

MakeConfig = Callable[..., ClassifierConfig]
Train = Callable[..., Path]

# So quick a learner that its score goes up and down.
SEVERAL_EPOCHS = (
    "training.num_train_epochs=5",
    "training.save_total_limit=9",
    "training.learning_rate=0.1",
    "freeze=encoder",
    "layer_weights=true",
    "standardize=true",
    "loss.class_weights=inverse",
    "head.dropout=0",
)


def read_log(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def validation_logits(
    config: ClassifierConfig, manifest: Manifest, folder: Path
) -> list[torch.Tensor]:
    """Logits (1, K) of each labelled validation clip, by the shortest way there is."""
    member: Any = load_member("wavlm")
    model = build_classifier(member, config, len(MSP_PODCAST)).eval()
    load_weights(folder, model)
    inputs = member.build_inputs(config)
    found = []
    for row in manifest.select("development:A,C,D,F,H,N,S,U").itertuples():
        clip = Clip(str(row.utterance), manifest.audio_path(str(row.audio)))
        (segment,) = load_segments(clip, Cropping("centre", 0.4))
        with torch.no_grad():
            found.append(model(inputs.collate([inputs.encode(segment)])).logits)
    return found


def test_train_keeps_the_checkpoint_of_highest_macro_f1(
    trained: Train, make_config: MakeConfig, manifest: Manifest
) -> None:
    run = trained(*SEVERAL_EPOCHS)
    config = make_config(run, *SEVERAL_EPOCHS)
    # 34 usable rows in batches of 8: 5 steps per epoch.
    logged = {int(row["step"]): float(row["eval_macro_f1"]) for row in read_log(run)}
    assert list(logged) == [5, 10, 15, 20, 25]
    truth = MSP_PODCAST.encode(manifest.select("development:A,C,D,F,H,N,S,U")["label"])
    for step, macro_f1 in logged.items():
        logits = validation_logits(config, manifest, run / f"checkpoint-{step}")
        predicted = [int(one.argmax()) for one in logits]
        theirs = f1_score(truth, predicted, labels=range(8), average="macro", zero_division=0)
        assert macro_f1 == pytest.approx(theirs, abs=1e-9)
    assert len(set(logged.values())) > 1, "all checkpoints are alike: this proves nothing"
    best = max(logged, key=lambda step: logged[step])  # of equal ones the first
    metrics = json.loads((run / "best" / "metrics.json").read_text())
    assert metrics == {"macro_f1": logged[best], "step": best, "n_steps": 25}
    kept = load_file(run / "best" / "model.safetensors")
    expected = load_file(run / f"checkpoint-{best}" / "model.safetensors")
    assert kept.keys() == expected.keys()
    assert all(torch.equal(kept[name], expected[name]) for name in kept)


@pytest.mark.parametrize("reduction", ["mean", "weight-normalised"])
def test_validation_loss_is_that_of_all_rows_whatever_the_batches(
    trained: Train, make_config: MakeConfig, manifest: Manifest, reduction: str
) -> None:
    """A mean of batches counted the rows of a short last batch more than others."""
    once = ("training.num_train_epochs=1", "head.dropout=0", "loss.name=cross-entropy")
    weights = (8.0, 1.0, 1.0, 1.0, 4.0, 2.0, 1.0, 1.0)
    settings = (*once, f"loss.class_weights={list(weights)}", f"loss.reduction={reduction}")
    run = trained(*settings)
    logits = torch.cat(validation_logits(make_config(run, *settings), manifest, run / "best"))
    truth = MSP_PODCAST.encode(manifest.select("development:A,C,D,F,H,N,S,U")["label"])
    costs = -logits.log_softmax(dim=1)[range(9), truth]
    of_rows = torch.tensor(weights)[truth]
    total = (costs * of_rows).sum()
    expected = total / 9 if reduction == "mean" else total / of_rows.sum()
    for batch_size in (2, 4, 16):
        (row,) = read_log(trained(*settings, f"inference.batch_size={batch_size}"))
        assert float(row["eval_loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_train_without_validation_keeps_the_last_checkpoint(trained: Train) -> None:
    run = trained("data.validation=null")
    metrics = json.loads((run / "best" / "metrics.json").read_text())
    assert metrics == {"macro_f1": None, "step": 10, "n_steps": 10}
    last = run / "checkpoint-10" / "model.safetensors"
    assert (run / "best" / "model.safetensors").read_bytes() == last.read_bytes()
    assert "eval_macro_f1" not in read_log(run)[0]


def test_train_writes_what_prediction_needs(
    trained: Train, make_config: MakeConfig, manifest: Manifest
) -> None:
    run = trained(*SEVERAL_EPOCHS)
    config = make_config(run, *SEVERAL_EPOCHS)
    info = read_info(run / "best")
    assert info.emotions == MSP_PODCAST
    assert info.config["training"]["learning_rate"] == 0.1
    assert info.config["head"]["norm"] == "layer"
    assert info.facts["digest"] == training_digest(config, manifest)
    assert info.facts["absorbed_prior"] is None
    assert set(info.facts["versions"]) == {"abhinaya", "torch", "transformers"}
    assert yaml.safe_load((run / "config.yaml").read_text()) == info.config


def test_train_loss_that_absorbs_the_prior_says_so(trained: Train) -> None:
    run = trained("loss.name=logit-adjustment", "data.validation=null", "training.max_steps=1")
    facts = read_info(run / "best").facts
    # A 4, C 3, D 2, F 2, H 8, N 9, S 4, U 2 of 34 training rows.
    assert facts["class_counts"] == [4, 3, 2, 2, 8, 9, 4, 2]
    assert facts["absorbed_prior"] == pytest.approx([n / 34 for n in (4, 3, 2, 2, 8, 9, 4, 2)])


@pytest.mark.parametrize(
    ("member", "overrides", "moving", "n_frozen"),
    [
        ("wavlm", ("freeze=convolutions",), ("encoder.encoder.layers.0", "head."), 7),
        ("wavlm", ("freeze=encoder", "layer_weights=true"), ("layer_mix.weights", "head."), 1),
        (
            "whisper-encoder",
            ("lora.rank=2", "pointwise=[8]", "audio.max_audio_s=0.4"),
            ("lora_A", "lora_B", "pointwise.0", "head."),
            1,
        ),
    ],
)
def test_train_moves_trained_parts_and_leaves_frozen_ones(
    make_config: MakeConfig,
    manifest: Manifest,
    whisper: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    member: str,
    overrides: tuple[str, ...],
    moving: tuple[str, ...],
    n_frozen: int,
) -> None:
    base = (f"base={whisper}",) if member == "whisper-encoder" else ()
    few = ("data.validation=null", "training.max_steps=2", "training.warmup_steps=0")
    config = make_config(tmp_path / "run", f"member={member}", *base, *overrides, *few)
    models = []
    states = []

    def build(*args: Any) -> Any:
        models.append(build_classifier(*args))
        states.append({name: t.clone() for name, t in models[0].state_dict().items()})
        return models[0]

    monkeypatch.setattr("abhinaya.training.train.build_classifier", build)
    load_member(member).train(config, manifest)
    (model,), (before,) = models, states
    after = model.state_dict()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed <= trained
    frozen = {name for name in after if "feature_extractor" in name or "conv1" in name}
    assert len(frozen) >= n_frozen
    assert not frozen & changed
    for part in moving:
        assert any(part in name for name in changed), f"{part} did not move"
    assert set(load_file(tmp_path / "run" / "best" / "model.safetensors")) == trained


def test_pooling_and_head_learn_at_a_rate_of_their_own(
    make_config: MakeConfig, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(
        tmp_path / "run",
        "data.validation=null",
        "pooling=attention",
        "head.activation=gelu",
        "head.learning_rate=1e-2",
        "training.learning_rate=1e-3",
        "training.max_steps=1",
        "training.warmup_steps=0",
        "training.weight_decay=0",
        "training.lr_scheduler_type=constant",
    )
    states = []

    def build(*args: Any) -> Any:
        model = build_classifier(*args)
        assert isinstance(model.head.activation, torch.nn.GELU)
        states.append({name: t.clone() for name, t in model.state_dict().items()})
        return model

    monkeypatch.setattr("abhinaya.training.train.build_classifier", build)
    load_member("wavlm").train(config, manifest)
    after = load_file(tmp_path / "run" / "best" / "model.safetensors")
    moved = {name: float((after[name] - states[0][name]).abs().max()) for name in after}
    # AdamW's first step is its rate for every weight, whatever the gradient.
    heads = {name for name in after if name.startswith(("pooling.", "head."))}
    assert {name.split(".")[0] for name in heads} == {"pooling", "head"}
    assert max(moved[name] for name in heads) == pytest.approx(1e-2, rel=1e-3)
    assert max(moved[name] for name in set(moved) - heads) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    "override",
    [
        "run_dir=elsewhere",
        "inference.batch_size=3",
        "training.per_device_train_batch_size=2",
        "training.per_device_eval_batch_size=2",
        "training.dataloader_num_workers=2",
        "training.report_to=tensorboard",
        "training.ddp_timeout=99",
        "training.logging_steps=7",
        "training.save_total_limit=5",
        "training.save_steps=7",  # where checkpoints are saved by epochs
    ],
)
def test_digest_ignores_how_the_work_is_spread(
    make_config: MakeConfig, manifest: Manifest, override: str
) -> None:
    digest = training_digest(make_config(Path("run")), manifest)
    assert training_digest(make_config(Path("run"), override), manifest) == digest


@pytest.mark.parametrize(
    "override",
    [
        "seed=4",
        "base=elsewhere",
        "data.train=balanced",
        "data.validation=null",
        "audio.train_crop=first",
        "head.dropout=0.1",
        "loss.name=focal",
        "freeze=nothing",
        "training.global_batch_size=16",
        "training.learning_rate=0.02",
        "training.max_grad_norm=0.5",
    ],
)
def test_digest_changes_with_what_decides_the_result(
    make_config: MakeConfig, manifest: Manifest, override: str
) -> None:
    digest = training_digest(make_config(Path("run")), manifest)
    assert training_digest(make_config(Path("run"), override), manifest) != digest


def test_digest_knows_the_steps_at_which_the_best_is_sought(
    make_config: MakeConfig, manifest: Manifest
) -> None:
    """Without validation the last checkpoint is taken, wherever others were saved."""
    for further, counts in (((), True), (("data.validation=null",), False)):
        digests = {
            training_digest(
                make_config(
                    Path("run"),
                    *("training.save_strategy=steps", f"training.save_steps={steps}", *further),
                ),
                manifest,
            )
            for steps in (2, 3)
        }
        assert (len(digests) == 2) is counts


def test_digest_changes_with_the_labels(make_config: MakeConfig, manifest: Manifest) -> None:
    rows = manifest.rows.copy()
    rows.loc[0, "label"] = "A" if rows.loc[0, "label"] != "A" else "C"
    config = make_config(Path("run"))
    other = Manifest(rows, manifest.emotions, manifest.root, manifest.subsets)
    assert training_digest(config, other) != training_digest(config, manifest)


def test_digest_knows_the_number_type_of_the_cache_and_not_its_place(
    make_config: MakeConfig, manifest: Manifest
) -> None:
    frozen = ("freeze=encoder", "audio.train_crop=first")

    def digest(*overrides: str) -> str:
        return training_digest(make_config(Path("run"), *frozen, *overrides), manifest)

    assert digest("cache.dir=x") == digest("cache.dir=y", "cache.max_gb=1") == digest()
    assert digest("cache.dir=x", "cache.dtype=float16") != digest()
