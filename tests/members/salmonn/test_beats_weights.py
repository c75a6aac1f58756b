from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from golden_set import BEATS, CONFIG

from abhinaya.demo.checkpoints.beats import write_beats
from abhinaya.errors import CheckpointError, MissingFileError
from members.salmonn.beats.fbank import kaldi_fbank
from members.salmonn.beats.weights import load_beats, read_beats_shapes

SIZES = CONFIG["beats_cfg"]
TABLE = "encoder.layers.{}.self_attn.relative_attention_bias.weight"


@pytest.fixture
def file(tmp_path):
    write_beats(tmp_path / "BEATs.pt")
    return tmp_path / "BEATs.pt"


def edit(file, change):
    """Rewrite a checkpoint after `change(cfg, model)`."""
    content = torch.load(file, weights_only=True)
    change(content["cfg"], content["model"])
    torch.save(content, file)


def tones(*frequencies):
    times = np.arange(16_000) / 16_000
    waves = [0.3 * np.sin(2 * np.pi * frequency * times) for frequency in frequencies]
    return torch.stack([torch.from_numpy(kaldi_fbank(wave)) for wave in waves])


def test_published_file_gives_its_tensors():
    stored = torch.load(BEATS, weights_only=True)["model"]
    model = load_beats(BEATS)
    ours = model.state_dict()
    assert not model.training
    assert model.config.encoder_layers == SIZES["encoder_layers"]
    assert model.config.finetuned_model
    kept = {key: value for key, value in stored.items() if key in ours}
    assert len(kept) == len(ours) - 3  # all but the table and the convolution, compared below
    for key, value in kept.items():
        assert torch.equal(ours[key], value), key
    assert torch.equal(ours["encoder.relative_attention_bias.weight"], stored[TABLE.format(0)])
    theirs = torch.nn.utils.parametrizations.weight_norm(
        torch.nn.Conv1d(
            SIZES["encoder_embed_dim"],
            SIZES["encoder_embed_dim"],
            SIZES["conv_pos"],
            groups=SIZES["conv_pos_groups"],
        ),
        dim=2,
    )
    theirs.parametrizations.weight.original0.data = stored["encoder.pos_conv.0.weight_g"]
    theirs.parametrizations.weight.original1.data = stored["encoder.pos_conv.0.weight_v"]
    torch.testing.assert_close(ours["encoder.pos_conv.weight"], theirs.weight, rtol=1e-6, atol=1e-7)
    assert torch.equal(ours["encoder.pos_conv.bias"], stored["encoder.pos_conv.0.bias"])


def test_loaded_weights_do_not_depend_on_the_file(file):
    model = load_beats(file)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with file.open("r+b") as stream:
        stream.write(bytes(os.path.getsize(file)))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_file_becomes_float32(file, dtype):
    edit(file, lambda cfg, model: model.update({k: v.to(dtype) for k, v in model.items()}))
    model = load_beats(file)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model(tones(300.0)).isfinite().all()


def test_pre_trained_file_without_classifier_fits(tmp_path):
    for name, fine_tuned in (("tuned.pt", True), ("plain.pt", False)):
        write_beats(tmp_path / name, fine_tuned=fine_tuned)
    plain, tuned = load_beats(tmp_path / "plain.pt"), load_beats(tmp_path / "tuned.pt")
    assert not plain.config.finetuned_model
    # The classifier is drawn last, so the encoders are the same.
    assert torch.equal(plain(tones(300.0)), tuned(tones(300.0)))


def test_table_of_later_layers_may_be_absent(file):
    expected = load_beats(file)(tones(300.0))
    edit(file, lambda cfg, model: model.pop(TABLE.format(1)))
    assert torch.equal(load_beats(file)(tones(300.0)), expected)


def test_table_of_later_layers_that_differs_raises(file):
    edit(file, lambda cfg, model: model[TABLE.format(1)].add_(1))
    with pytest.raises(CheckpointError, match=r"1 tables .* differ .*layers.1.* share one"):
        load_beats(file)


def test_missing_unexpected_and_misshapen_keys_are_all_named(file):
    def damage(cfg, model):
        del model["layer_norm.bias"], model[TABLE.format(0)]
        model["encoder.layers.2.fc1.weight"] = torch.zeros(1)
        model["encoder.pos_conv.0.weight_g"] = torch.zeros(128)

    edit(file, damage)
    with pytest.raises(CheckpointError) as caught:
        load_beats(file)
    message = str(caught.value)
    # Per layer 19: five linear maps and two of the feed-forward part, weight and bias, two norms,
    # the gate. Around: patches, projection 2, convolution 3, two norms 4, one table.
    assert message.startswith("4 of 49 keys do not fit between")
    assert f"missing: '{TABLE.format(0)}', 'layer_norm.bias'" in message
    assert "unexpected: 'encoder.layers.2.fc1.weight'" in message
    assert "size mismatch for encoder.pos_conv.0.weight_g" in message


def test_sizes_that_contradict_the_tensors_raise(file):
    edit(file, lambda cfg, model: cfg.update(encoder_ffn_embed_dim=65))
    with pytest.raises(CheckpointError, match=r"6 of 49 keys .* size mismatch for .*fc1.bias"):
        load_beats(file)


def test_variant_that_is_not_computed_raises_with_the_path(file):
    edit(file, lambda cfg, model: cfg.update(layer_norm_first=True))
    with pytest.raises(CheckpointError, match=r"BEATs.pt' cannot be used.* layer_norm_first is Tr"):
        load_beats(file)


def test_file_that_is_not_there_raises(tmp_path):
    with pytest.raises(MissingFileError, match=r"There is no file .*absent.pt'. Correct the path"):
        load_beats(tmp_path / "absent.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 and no more"])
def test_file_that_is_no_pickle_raises(tmp_path, content):
    (tmp_path / "broken.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"broken.pt' cannot be read as weights"):
        load_beats(tmp_path / "broken.pt")


class _Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_file_with_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"cfg": {}, "model": _Harmful()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil.pt' would run code .* so it was not: .*mkdir"):
        load_beats(tmp_path / "evil.pt")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "content",
    [{"weights": torch.zeros(1)}, [1], {"cfg": {}, "model": None}, {"cfg": None, "model": {}}],
    ids=["other-dict", "list", "no-tensors", "no-sizes"],
)
def test_file_of_something_else_raises(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(
        CheckpointError, match=r"other.pt' has no 'cfg' and 'model', expected a pub"
    ):
        load_beats(tmp_path / "other.pt")


def test_model_of_another_kind_raises(tmp_path):
    content = {"cfg": {"d_model": 8}, "model": {"layers.0.weight": torch.zeros(1)}}
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other.pt' cannot be used.*encoder_layers is miss"):
        load_beats(tmp_path / "other.pt")


def test_entry_that_is_no_tensor_raises(file):
    edit(file, lambda cfg, model: model.update(epoch=3))
    with pytest.raises(CheckpointError, match=r"1 of 53 entries under 'model' .* 'epoch'"):
        load_beats(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda cfg, model: cfg.update(quant_n=1024, quant_dim=256),
        lambda cfg, model: model.update({"quantize.embedding.weight": torch.zeros(2, 2)}),
    ],
    ids=["cfg", "model"],
)
def test_tokenizer_raises(file, change):
    edit(file, change)
    with pytest.raises(CheckpointError, match=r"is a BEATs tokenizer, .* without 'Tokenizer' in"):
        load_beats(file)


def test_shapes_are_read_without_building_the_model():
    config, shapes = read_beats_shapes(BEATS)
    assert config.encoder_embed_dim == SIZES["encoder_embed_dim"]
    assert shapes["patch_embedding.weight"] == (SIZES["embed_dim"], 1, 16, 16)
    assert shapes["predictor.bias"] == (SIZES["predictor_class"],)
    assert TABLE.format(SIZES["encoder_layers"] - 1) in shapes


def test_demo_file_has_the_keys_of_the_published_layout(file):
    theirs, ours = (torch.load(path, weights_only=True) for path in (BEATS, file))
    assert ours["cfg"].keys() == theirs["cfg"].keys()
    # The published numbers may have more layers than the demo's two.
    extra = [f".layers.{n}." for n in range(2, SIZES["encoder_layers"])]
    expected = {key for key in theirs["model"] if not any(layer in key for layer in extra)}
    assert ours["model"].keys() == expected
    assert {value.dtype for value in ours["model"].values()} == {torch.float32}


def test_demo_file_is_the_same_for_one_seed_only(tmp_path):
    state = torch.get_rng_state()
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_beats(tmp_path / name, seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    first, again, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == again
    assert first != other


@pytest.mark.parametrize("size", [{}, {"n_layers": 1}, {"n_features": 64, "embed_dim": 24}])
def test_demo_features_tell_sounds_apart(tmp_path, size):
    write_beats(tmp_path / "BEATs.pt", **size)
    with torch.no_grad():
        low, high = load_beats(tmp_path / "BEATs.pt")(tones(200.0, 1500.0))
    assert low.shape == (48, size.get("n_features", 32))
    # Features are normed to a deviation of about one; the position alone must not explain them.
    assert (low - high).square().mean().sqrt() > 0.5
    assert (low.mean(dim=0) - high.mean(dim=0)).square().mean().sqrt() > 0.2
