"""Gen-SER as a member: what it trains on, its cosines, its temperature, its noise, its errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from member_recipes import RECIPES, make_config
from safetensors.numpy import load_file
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from two_processes import run_two

from abhinaya.config import apply_overrides, dump_yaml
from abhinaya.data.labels import MSP_PODCAST, EmotionSet
from abhinaya.data.manifest import Manifest
from abhinaya.data.predictions import PredictionTable
from abhinaya.demo.checkpoints.encoders import write_wavlm
from abhinaya.errors import BadValueError, ProblemsError
from abhinaya.member import PredictRequest, Utterance
from abhinaya.member_config import check_member_config
from abhinaya.nn.backbone import Backbone
from abhinaya.nn.build import build_classifier
from abhinaya.nn.classifier_config import AudioConfig
from abhinaya.registry import load_member
from members.gen_ser.config import GenSerConfig
from members.gen_ser.member import MEMBER, SeededInputs
from members.gen_ser.model import LayerMeans, TransportClassifier, fit_temperature
from members.gen_ser.transport import Bridge, taxonomy
from members.wavlm.member import WaveformInputs

WIDTH, N_LAYERS = 32, 3


class Means(Backbone):
    """Stands for an encoder: gives back the means that it gets."""

    n_features = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Identity()

    def forward_pretrained(self, states: Any, mask: Any) -> Any:
        return states, mask

    def forward_trained(self, states: Any, mask: Any) -> Any:
        raise AssertionError("the layers are mixed by gen-ser itself")


def config(*overrides: str) -> GenSerConfig:
    content: dict[str, Any] = {
        "member": "gen-ser",
        "name": "tiny",
        "run_dir": "run",
        "data": {"manifest": "manifest.parquet"},
        "base": "weights",
        "training": {"global_batch_size": 4},
    }
    checked = check_member_config(apply_overrides(content, overrides), "the test")
    assert isinstance(checked, GenSerConfig)
    return checked


def build(*overrides: str, n_classes: int = 8) -> TransportClassifier:
    from members.gen_ser.model import TransportBackbone

    torch.manual_seed(0)
    backbone = TransportBackbone(Means(), N_LAYERS, standardize=False)
    return TransportClassifier(backbone, config(*overrides), n_classes).eval()


def batch(n_rows: int = 5) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return {
        "states": torch.randn(n_rows, N_LAYERS, 1, WIDTH, generator=rng),
        "mask": torch.ones(n_rows, 1, dtype=torch.bool),
        "seeds": torch.arange(n_rows),
    }


def test_features_are_the_last_layer_and_the_condition_a_mix_of_those_before():
    means = LayerMeans(3, 2, standardize=False)
    means.weights.data = torch.log(torch.tensor([1.0, 3.0]))
    states = torch.tensor([[[[4.0, 0.0]], [[8.0, 4.0]], [[5.0, 6.0]]]])
    # A quarter of (4, 0) and three of (8, 4).
    torch.testing.assert_close(means(states), torch.tensor([[[5.0, 6.0, 7.0, 3.0]]]))


def test_logit_is_the_cosine_to_an_encoding_over_the_temperature():
    model = build("temperature=0.25", "sampler.steps=1")
    output = model(batch())
    codes = taxonomy(8, WIDTH)
    for row, embedding in enumerate(output.embeddings):
        cosines = [F.cosine_similarity(embedding, code, dim=0) for code in codes]
        torch.testing.assert_close(output.logits[row], torch.stack(cosines) / 0.25)
        assert embedding.norm().item() == pytest.approx(1, abs=1e-6)


def test_training_loss_is_the_distance_of_one_estimate_on_the_bridge_to_the_encoding():
    model = build("estimator.dropout=0").train()
    inputs, labels = batch(), torch.tensor([0, 3, 7, 3, 1])
    ours = model(inputs, labels).loss
    bridge, codes = Bridge(slope=10, sigma_max=0.5, t_min=0.03, t_max=0.97), taxonomy(8, WIDTH)
    costs = []
    for row, label in enumerate(labels):
        generator = torch.Generator().manual_seed(row)
        t = 0.03 + 0.94 * torch.rand(1, generator=generator)
        noise = torch.randn(WIDTH, generator=generator)
        features = inputs["states"][row, -1]
        condition = inputs["states"][row, :-1].mean(dim=0)
        x = bridge.mean(codes[label], features, t) + bridge.deviation(t) * noise
        costs.append((model.estimator(x, condition, t) - codes[label]).square().mean())
    torch.testing.assert_close(ours, torch.stack(costs).mean())


def test_rows_of_several_segments_average_cosines():
    model = build("sampler.steps=2")
    alone, labels = model(batch(4)), torch.tensor([2, 5])
    joined = model(batch(4), labels, torch.tensor([0, 0, 0, 1]))
    torch.testing.assert_close(joined.logits[0], alone.logits[:3].mean(dim=0))
    torch.testing.assert_close(joined.logits[1], alone.logits[3])
    whole = model(batch(4), labels[[0, 0, 0, 1]])
    torch.testing.assert_close(joined.loss, whole.loss)


def test_noise_of_a_row_follows_from_its_seed_alone():
    model = build("sampler.start=noisy", "sampler.steps=3")
    inputs = batch()
    together = model(inputs).logits
    order = torch.tensor([3, 1])
    torch.testing.assert_close(
        model({name: value[order] for name, value in inputs.items()}).logits, together[order]
    )
    other = model({**inputs, "seeds": inputs["seeds"] + 9}).logits
    assert ((other - together).abs().amax(dim=1) > 1e-3).all()


def test_without_noise_seeds_change_nothing():
    model, inputs = build(), batch()
    other = {**inputs, "seeds": inputs["seeds"] + 9}
    assert torch.equal(model(inputs).logits, model(other).logits)


def test_seed_follows_from_run_utterance_and_epoch():
    def seed(run: int, name: str, epoch: int | None) -> int:
        inputs = SeededInputs(WaveformInputs(), run)
        return int(inputs.encode_context(Utterance(name, epoch=epoch))["seed"])

    cases = [(0, "a", None), (1, "a", None), (0, "b", None), (0, "a", 0), (0, "a", 1)]
    seeds = [seed(*case) for case in cases]
    assert len(set(seeds)) == len(cases)
    assert seeds == [seed(*case) for case in cases]


def test_temperature_is_the_one_that_fits_best():
    rng = np.random.default_rng(0)
    truth = rng.integers(4, size=400)
    cosines = rng.uniform(-0.5, 0.5, (400, 4))
    cosines[np.arange(400), truth] += 0.25

    def loss(t: float) -> float:
        return float(-log_softmax(cosines / t, axis=1)[np.arange(400), truth].mean())

    ours = fit_temperature(cosines, truth)
    best = min(np.linspace(0.05, 1, 2000), key=loss)
    assert ours == pytest.approx(best, abs=1e-3)
    assert minimize_scalar(loss, bounds=(0.05, 1)).x == pytest.approx(ours, abs=1e-3)
    model = build()
    assert model.temperature == pytest.approx(0.1)
    model.calibrate((cosines / model.temperature).astype(np.float32), truth)
    assert model.temperature == pytest.approx(ours, rel=1e-4)


@pytest.fixture(scope="module")
def trained(manifest: Manifest, manifest_file: Path, tmp_path_factory: Any) -> Path:
    """A run whose temperature was fitted."""
    folder = tmp_path_factory.mktemp("gen-ser")
    made = make_config(RECIPES["gen-ser-whisper-noisy"], folder, manifest_file)
    made = made.model_copy(update={"audio": AudioConfig(max_audio_s=2, train_crop=2, eval_crop=2)})
    return MEMBER.train(made, manifest)


def predict(run: Path, manifest: Manifest, out: Path, *overrides: str) -> PredictionTable:
    request = PredictRequest(manifest, ("development",), out, overrides=overrides)
    return MEMBER.predict(run, request)


@pytest.mark.slow
def test_run_keeps_the_temperature_that_fits_its_validation_rows(
    trained: Path, manifest: Manifest, tmp_path: Path
):
    head = load_file(trained / "best" / "model.safetensors")["head.out.weight"]
    (temperature,) = set(np.round(1 / np.linalg.norm(head, axis=1), 4))
    last = load_file(trained / "checkpoint-10" / "model.safetensors")["head.out.weight"]
    np.testing.assert_allclose(np.linalg.norm(last, axis=1), 10, rtol=1e-5)  # not fitted yet
    table = predict(trained, manifest, tmp_path / "table.parquet")
    truth = MSP_PODCAST.encode(manifest.select("development")["label"])
    kept = table.has_probs & (truth >= 0)
    assert table.probs is not None
    cosines = np.log(table.probs[kept].astype(np.float64)) * temperature
    assert fit_temperature(cosines, truth[kept]) == pytest.approx(temperature, rel=0.01)


def test_sampler_is_chosen_when_predicting(trained: Path, manifest: Manifest, tmp_path: Path):
    tables = [
        predict(trained, manifest, tmp_path / f"{name}.parquet", f"sampler.{name}")
        for name in ("steps=1", "steps=9", "method=exact", "start=features")
    ]
    probs = [table.probs for table in tables]
    assert all(not np.allclose(one, probs[0], equal_nan=True) for one in probs[1:])


def test_stored_features_are_those_of_the_plain_member(
    trained: Path, manifest: Manifest, manifest_file: Path, tmp_path: Path
):
    store = f"cache.dir={tmp_path / 'store'}"
    fresh = predict(trained, manifest, tmp_path / "fresh.parquet")
    stored = predict(trained, manifest, tmp_path / "stored.parquet", store)
    np.testing.assert_allclose(stored.probs, fresh.probs, atol=1e-5)
    made = {file: file.stat().st_ino for file in (tmp_path / "store").rglob("*.npy")}
    assert len(made) == 11 - 2
    plain = {
        "member": "whisper-encoder",
        "name": "plain",
        "run_dir": str(tmp_path / "plain"),
        "data": {"manifest": str(manifest_file), "train": "development", "validation": None},
        "base": str(trained.parent / "base"),
        "layer_weights": True,
        "average_frames": True,
        "audio": {"max_audio_s": 2.0, "train_crop": 2, "eval_crop": 2},
        "head": {"hidden": 0},
        "cache": {"dir": str(tmp_path / "store")},
        "training": {"global_batch_size": 4, "max_steps": 1, "use_cpu": True},
    }
    load_member("whisper-encoder").train(check_member_config(plain, "the test"), manifest)
    after = {file: file.stat().st_ino for file in (tmp_path / "store").rglob("*.npy")}
    assert after == made


def test_gender_is_a_set_of_two_classes(manifest: Manifest, manifest_file: Path, tmp_path: Path):
    rows = manifest.rows.assign(label=manifest.rows["gender"], votes=None)
    genders = replace(manifest, rows=rows, emotions=EmotionSet.from_codes(("female", "male")))
    assert set(rows["label"].dropna()) == {"female", "male"}
    made = make_config(RECIPES["gen-ser"], tmp_path, manifest_file)
    run = MEMBER.train(made, genders)
    table = predict(run, genders, tmp_path / "table.parquet")
    assert table.probs is not None
    assert table.probs.shape[1] == 2
    np.testing.assert_allclose(table.probs[table.has_probs].sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sampler.steps=0"], "sampler.steps is 0, expected greater than 0"),
        (["backbone=beats"], "backbone is 'beats', expected 'hubert' or 'whisper'"),
        (["bridge.t_min=0"], "bridge.t_min is 0, expected greater than 0"),
        (
            ["bridge.t_min=0.5", "bridge.t_max=0.4"],
            "bridge: t_min is 0.5, expected less than t_max, which is 0.4",
        ),
        (["data.validation=null"], "temperature is fitted on data.validation, which is None"),
        (["loss.name=focal"], "loss: gen-ser trains on the distance to the encoding. Remove it"),
        (["head.hidden=8"], "head: gen-ser has no such head to set. Remove it"),
        (["mixing.manifold={}"], "mixing: gen-ser has no loss on averaged targets. Remove it"),
        (["pooling=attentive-statistics"], "pooling is 'attentive-statistics', expected 'mean'"),
    ],
)
def test_bad_config_gets_one_clear_line(overrides: list[str], message: str):
    with pytest.raises(ProblemsError) as caught:
        config(*overrides)
    assert message in str(caught.value)
    assert "1 problem in the test" in str(caught.value)


def test_base_too_narrow_for_the_classes_raises(tmp_path: Path):
    write_wavlm(tmp_path, n_layers=1, n_features=16, n_conv_features=8)
    with pytest.raises(BadValueError, match="8 classes need encodings of at least 17 numbers"):
        build_classifier(MEMBER, config(f"base={tmp_path}"), len(MSP_PODCAST))


def test_one_class_raises():
    with pytest.raises(BadValueError, match="n_classes=1, expected at least 2"):
        build(n_classes=1)


@pytest.mark.slow
def test_two_processes_train_and_calibrate_what_one_does(
    manifest: Manifest, manifest_file: Path, tmp_path: Path
):
    """Times and noise follow from utterance and epoch, the temperature from all validation rows."""
    made = make_config(RECIPES["gen-ser-whisper-noisy"], tmp_path, manifest_file)
    # Without dropout, and with steps as large as the gradient, there is nothing to hide behind.
    changes = ["estimator.dropout=0", "training.max_steps=3"]
    changes += ["training.optim=sgd", "training.learning_rate=0.1"]
    content = apply_overrides(made.model_dump(mode="json"), changes)
    alone = MEMBER.train(check_member_config(content, "the test"), manifest)
    # Both halves of a batch are seen by one of two processes each.
    (tmp_path / "two.yaml").write_text(
        dump_yaml(check_member_config({**content, "run_dir": str(tmp_path / "two")}, "the test"))
    )
    done = run_two(tmp_path, "-m", "abhinaya", "train", str(tmp_path / "two.yaml"))
    assert done.returncode == 0, done.stderr
    ours, theirs = (
        load_file(run / "best" / "model.safetensors") for run in (tmp_path / "two", alone)
    )
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        np.testing.assert_allclose(ours[name], expected, atol=1e-4, err_msg=name)
