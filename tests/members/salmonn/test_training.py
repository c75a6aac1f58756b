"""SALMONN in use: batches, number types, training, stored features, saved adapters."""

from __future__ import annotations

import csv
import json
import warnings

import numpy as np
import peft
import pytest
import salmonn_golden as G
import torch
from golden_set import WHISPER_WIDTH
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from abhinaya.config import apply_overrides
from abhinaya.data.labels import ABSTAIN
from abhinaya.demo.checkpoints.beats import write_beats
from abhinaya.demo.checkpoints.encoders import write_whisper
from abhinaya.demo.checkpoints.llama import write_llama
from abhinaya.demo.checkpoints.salmonn import write_salmonn
from abhinaya.member import PredictRequest
from abhinaya.member_config import check_member_config
from members.salmonn.member import SPEECH_TEXT
from members.salmonn.weights import read_salmonn

# ------------------------------------------------------------------ batches and number types


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [{}, {"stride_s": 0.2}, {"window_s": 1.0, "stride_s": 1.5}, {"llm_weights": "bf16"}],
    ids=["windows", "overlapping", "with gaps", "bf16"],
)
def test_trimmed_clip_gets_the_same_logits_in_any_batch(tmp_path, changes):
    config = G.make_config("st1", tmp_path, trim_padding=True, **changes)
    model = G.load_classifier(config)
    # In bfloat16 the sums of longer sequences round otherwise: one digit is 1/256.
    tolerance = 0.05 if "llm_weights" in changes else 1e-5
    alone = [model(G.batch_of(config, ((row, 0),))).logits[0] for row in G.ROWS]
    last = G.ROWS[-1]
    for rows in [tuple(G.ROWS), (last, 0, 1), (1, 1, 0), (last, last)]:
        logits = model(G.batch_of(config, tuple((row, 0) for row in rows))).logits
        for got, row in zip(logits, rows, strict=True):
            torch.testing.assert_close(got, alone[row], atol=tolerance, rtol=0)
    # It is another computation than that of the whole window.
    whole = G.load_classifier(G.make_config("st1", tmp_path, **changes))
    assert (whole(G.batch_of(config, ((0, 0),))).logits[0] - alone[0]).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("weights", ["bf16", "fp16"])
def test_half_precision_weights_give_logits_near_those_of_float32(tmp_path, weights):
    config = G.make_config("st1", tmp_path, llm_weights=weights, whisper_weights=weights)
    model = G.load_classifier(config)
    kept = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
    assert set(kept.values()) == {torch.float32}
    assert {p.dtype for p in model.backbone.encoder.beats.parameters()} == {torch.float32}
    logits = model(G.batch_of(config, G.CASES["single1"])).logits
    expected = torch.from_numpy(G.golden("st1")["single1_logits"])
    torch.testing.assert_close(logits.float(), expected, atol=0.1, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("trim_padding", [False, True])
def test_autocast_leaves_beats_in_float32(tmp_path, trim_padding):
    config = G.make_config("st1", tmp_path, trim_padding=trim_padding, llm_weights="bf16")
    model = G.load_classifier(config)
    batch = G.batch_of(config, G.CASES["batch"])
    expected = model(batch).logits.float()
    heard = {key: value for key, value in batch.items() if key not in model.backbone.context}
    states, _ = model.backbone.forward_pretrained(**heard)
    with torch.autocast("cpu", torch.bfloat16):
        ours, _ = model.backbone.forward_pretrained(**heard)
        logits = model(batch).logits
    assert ours.dtype == torch.float32
    # Whisper's features are the first ones; they were computed in bfloat16.
    n_whisper = WHISPER_WIDTH
    assert torch.equal(ours[..., n_whisper:], states[..., n_whisper:])
    assert not torch.equal(ours[..., :n_whisper], states[..., :n_whisper])
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.float(), expected, atol=0.2, rtol=0)


# ------------------------------------------------------------------ a tiny one, trained


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Keys of a config that name tiny weights; Whisper hears 4 s."""
    folder = tmp_path_factory.mktemp("weights")
    write_llama(folder / "llama", n_layers=2)
    write_whisper(folder / "whisper", chunk_s=4, n_layers=1, n_features=16, init_std=0.1)
    write_beats(folder / "beats.pt", n_layers=1)
    write_salmonn(folder / "salmonn.pth", whisper_width=16, beats_layers=1, llm_layers=2)
    return {
        "base": str(folder / "llama"),
        "whisper": str(folder / "whisper"),
        "beats": str(folder / "beats.pt"),
        "salmonn": str(folder / "salmonn.pth"),
        "llm_weights": "float32",
    }


@pytest.fixture(scope="module")
def make_config(weights, manifest_file):
    """A function that gives the config of a tiny ST1 in a folder, changed by overrides."""
    prompts = ["<Speech><SpeechHere></Speech> Which emotion?", "<SpeechHere> In one word:"]
    pool = manifest_file.parent / "pool.json"
    pool.write_text(json.dumps({"emotion_recognition": prompts}))

    def make(folder, *overrides):
        content = {
            "member": "salmonn-7b-speech-text",
            "name": "tiny",
            "run_dir": str(folder / "run"),
            "seed": 3,
            "data": {
                "manifest": str(manifest_file),
                "transcripts": {"train": "human", "predict": "human"},
            },
            "prompt": "salmonn-speech-text-v1",
            "prompt_pool": {"file": str(pool)},
            "prompt_sampling": "random",
            "audio": {"max_audio_s": 2.0},
            "head": {"hidden": 8},
            "training": {
                "global_batch_size": 8,
                "per_device_train_batch_size": 4,
                "use_cpu": True,
                "num_train_epochs": 2,
                "learning_rate": 0.003,
                "save_total_limit": 9,
                "save_strategy": "steps",
                "save_steps": 2,
            },
            **weights,
        }
        return check_member_config(apply_overrides(content, overrides), "the test")

    return make


@pytest.fixture(scope="module")
def trained(make_config, manifest, tmp_path_factory):
    """A run that drew crops, prompts and dropout, and its config: 10 steps of 8 clips."""
    config = make_config(tmp_path_factory.mktemp("trained"))
    return SPEECH_TEXT.train(config, manifest), config


def log_of(run):
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def predict(run, manifest, out, *overrides):
    request = PredictRequest(manifest, ("development",), out, overrides=overrides)
    return SPEECH_TEXT.predict(run, request)


def test_training_moves_adapters_qformer_and_head_and_nothing_else(trained):
    run, config = trained
    losses = [float(row["loss"]) for row in log_of(run) if row.get("loss")]
    assert losses
    assert np.isfinite(losses).all()
    state = load_file(run / "best" / "model.safetensors")
    before = read_salmonn(config.salmonn)
    # All that SALMONN trained, and of ours norm, pooling and head.
    inside = {name for name in state if name.startswith(("backbone.adapter.", "backbone.llm."))}
    assert {name.removeprefix("backbone.") for name in inside} == before.keys()
    outside = {name.split(".")[-2] for name in state.keys() - inside}
    assert {"norm", "fc", "out"} <= outside
    still = {
        name for name in before if torch.equal(state[f"backbone.{name}"], before[name].float())
    }
    # With one query, self-attention is over one position: its query and key do nothing.
    parts = ("attention.attention.query.", "attention.attention.key.")
    allowed = {name for name in before if any(f".{part}" in name for part in parts)}
    assert still <= {name for name in allowed if "crossattention" not in name}


def test_best_checkpoint_predicts_what_was_validated(trained, manifest, tmp_path):
    """The Trainer's own loss and macro-F1 against those of the table."""
    run, _ = trained
    table = predict(run, manifest, tmp_path / "table.parquet")
    rows = manifest.select(["development"])
    truth = np.array(
        [
            manifest.emotions.codes.index(label) if label in manifest.emotions.codes else ABSTAIN
            for label in rows["label"]
        ]
    )
    usable = (truth != ABSTAIN) & (table.labels != ABSTAIN)
    assert usable.sum() >= 5
    loss = -np.log(table.probs[usable, truth[usable]]).mean()
    from sklearn.metrics import f1_score

    f1 = f1_score(
        truth[usable],
        table.labels[usable],
        **{"labels": range(8), "average": "macro", "zero_division": 0},
    )
    metrics = json.loads((run / "best" / "metrics.json").read_text())
    logged = {row["step"]: row for row in log_of(run)}[str(metrics["step"])]
    assert loss == pytest.approx(float(logged["eval_loss"]), abs=1e-4)
    assert f1 == pytest.approx(metrics["macro_f1"], abs=1e-6)
    again = predict(run, manifest, tmp_path / "again.parquet", "inference.batch_size=3")
    np.testing.assert_allclose(again.probs, table.probs, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("trim_padding", ["false", "true"])
def test_stored_features_train_and_predict_as_fresh_ones(
    make_config, manifest, tmp_path, trim_padding
):
    settings = (
        "audio.train_crop=first",
        f"trim_padding={trim_padding}",
        "training.num_train_epochs=1",
        "training.save_strategy=no",
    )
    runs = {}
    for name, further in (("fresh", ()), ("stored", ("cache_encoders=true",))):
        config = make_config(tmp_path / name, *settings, *further)
        runs[name] = SPEECH_TEXT.train(config, manifest)
    files = sorted((tmp_path / "stored" / "encoder-cache").rglob("*.npy"))
    assert len(files) > 34
    # Two seconds are 100 frames: 6 windows of 17, or with all that Whisper hears 200.
    assert {np.load(file, mmap_mode="r").shape[1] for file in files} >= {
        "true": {102},
        "false": {200},
    }[trim_padding]
    fresh, stored = (load_file(run / "best" / "model.safetensors") for run in runs.values())
    assert fresh.keys() == stored.keys()
    for key, value in fresh.items():
        torch.testing.assert_close(stored[key], value, atol=1e-4, rtol=0, msg=key)
    tables = [
        predict(run, manifest, tmp_path / f"{number}.parquet", *overrides)
        for number, (run, *overrides) in enumerate(
            [(runs["fresh"],), (runs["stored"],), (runs["stored"], "cache=null")]
        )
    ]
    for table in tables[1:]:
        assert table.reasons == tables[0].reasons
        np.testing.assert_allclose(table.probs, tables[0].probs, atol=1e-4)


def test_adapter_loads_with_peft_alone(trained):
    run, config = trained
    folder = run / "best" / "adapter"
    full = LlamaForCausalLM.from_pretrained(config.base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # what PEFT gives for keys that it misses
        theirs = peft.PeftModel.from_pretrained(full, str(folder)).eval()
    assert json.loads((folder / "adapter_config.json").read_text())["lora_alpha"] == 32
    state = load_file(run / "best" / "model.safetensors")
    adapters = {name: value for name, value in theirs.named_parameters() if "lora_" in name}
    # 2 layers, 2 projections, 2 matrices
    assert len(adapters) == 8
    for name, value in adapters.items():
        ours = state[name.replace("base_model.model.model.", "backbone.llm.")]
        assert torch.equal(value, ours), name
        assert value.abs().max() > 0, name
    ids = torch.arange(1, 30)[None]
    with torch.no_grad():
        expected = theirs.base_model.model.model(input_ids=ids).last_hidden_state
        llm = SPEECH_TEXT.build_backbone(config).llm.eval()
        prefix = "backbone.llm."
        llm.load_state_dict(
            {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)},
            strict=False,
        )
        torch.testing.assert_close(llm(input_ids=ids).last_hidden_state, expected)
