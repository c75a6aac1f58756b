from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_set import LENGTHS, WAVS, WHISPER, golden, read_json
from safetensors.torch import load_file
from torch import Tensor, nn

from abhinaya.config import check_config
from abhinaya.data.audio import read_audio
from abhinaya.demo.checkpoints.encoders import write_whisper
from abhinaya.errors import BadValueError, ProblemsError
from abhinaya.member import Utterance
from abhinaya.nn.backbone import freeze
from abhinaya.nn.whisper import load_encoder, load_feature_extractor
from abhinaya.registry import load_member
from members.whisper_encoder.config import WhisperEncoderConfig
from members.whisper_encoder.member import LogMelInputs
from members.whisper_encoder.model import WhisperBackbone


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("whisper")
    write_whisper(folder, chunk_s=2, n_layers=3, n_features=32)
    return str(folder)


def make_batch(base: str, lengths: tuple[int, ...]) -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    inputs = LogMelInputs(load_feature_extractor(base))
    clips = [rng.normal(0, 0.1, n).astype(np.float32) for n in lengths]
    return inputs.collate([inputs.encode(Utterance("a.wav", clip)) for clip in clips])


@pytest.mark.parity
def test_log_mel_matches_reference() -> None:
    inputs = LogMelInputs(load_feature_extractor(str(WHISPER)))
    for file, expected in zip(WAVS, golden("salmonn")["whisper_input_features"], strict=True):
        ours = inputs.encode(Utterance("", read_audio(file)))["input_features"]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-4)


@pytest.mark.parity
def test_encoder_on_golden_log_mel_matches_reference() -> None:
    arrays = golden("salmonn")
    backbone = WhisperBackbone(load_encoder(str(WHISPER)), pointwise=())
    features = torch.from_numpy(arrays["whisper_input_features"])
    n_frames = read_json("whisper", "config.json")["max_source_positions"]
    with torch.no_grad():
        states, mask = backbone.forward_pretrained(features, torch.full((len(features),), n_frames))
    assert mask.all()
    ours = states[:, 0, ::3].numpy()
    np.testing.assert_allclose(ours, arrays["whisper_feats_every3"], rtol=0, atol=2e-5)


@pytest.mark.parity
def test_encoder_on_sound_files_matches_reference_where_there_is_sound() -> None:
    theirs = golden("salmonn")["whisper_feats_every3"]
    folder = str(WHISPER)
    inputs = LogMelInputs(load_feature_extractor(folder))
    waveforms = [read_audio(file) for file in WAVS]
    batch = inputs.collate([inputs.encode(Utterance("", waveform)) for waveform in waveforms])
    with torch.no_grad():
        states, mask = WhisperBackbone(load_encoder(folder), pointwise=()).forward_pretrained(
            **batch
        )
    frames = [-(-n_samples // 320) for n_samples in LENGTHS]
    assert mask.sum(dim=1).tolist() == frames
    for row, n_frames in enumerate(frames):
        ours = states[row, 0, :n_frames:3].numpy()
        np.testing.assert_allclose(ours, theirs[row, : len(ours)], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("n_samples", "n_frames"), [(1, 1), (320, 1), (321, 2), (16000, 50), (32000, 100)]
)
def test_inputs_count_a_frame_per_320_samples_begun(
    base: str, n_samples: int, n_frames: int
) -> None:
    batch = make_batch(base, (n_samples,))
    assert batch["n_frames"].tolist() == [n_frames]
    assert batch["input_features"].shape == (1, 80, 200)  # 2 s at 100 mel frames per second


def test_inputs_clip_longer_than_the_window_raises(base: str) -> None:
    message = r"'b.wav' has 2.5 s, but the model hears 2 s at once. Set audio.max_audio_s to 2"
    inputs = LogMelInputs(load_feature_extractor(base))
    with pytest.raises(BadValueError, match=message):
        inputs.encode(Utterance("b.wav", np.zeros(40000, np.float32)))


def test_inputs_without_waveform_raises(base: str) -> None:
    inputs = LogMelInputs(load_feature_extractor(base))
    with pytest.raises(BadValueError, match=r"'b.wav' comes without a waveform"):
        inputs.encode(Utterance("b.wav", None, "some text"))


def test_encode_row_does_not_depend_on_its_neighbours(base: str) -> None:
    backbone = WhisperBackbone(load_encoder(base), layer_weights=True).eval()
    batch = make_batch(base, (4000, 32000, 320, 16000))
    with torch.no_grad():
        states, mask = backbone.forward_pretrained(**batch)
        for row in range(4):
            alone = {key: value[row : row + 1] for key, value in batch.items()}
            expected, expected_mask = backbone.forward_pretrained(**alone)
            n_frames = int(mask[row].sum())
            assert expected_mask.shape == (1, n_frames)
            ours = states[row : row + 1, :, :n_frames]
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_encode_layer_weights_gives_convolutions_every_block_and_final_norm(base: str) -> None:
    encoder = load_encoder(base)
    batch = make_batch(base, (32000,))
    with torch.no_grad():
        states, _ = WhisperBackbone(encoder, layer_weights=True).forward_pretrained(**batch)
        hidden = nn.functional.gelu(encoder.conv1(batch["input_features"]))
        hidden = nn.functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
        hidden = hidden + encoder.embed_positions.weight
        expected = [hidden]
        for block in encoder.layers:
            hidden = block(hidden, None)
            expected.append(hidden)
        expected[-1] = encoder.layer_norm(hidden)
    assert states.shape == (1, 4, 100, 32)
    torch.testing.assert_close(states, torch.stack(expected, dim=1), rtol=0, atol=1e-5)


def test_encode_average_frames_is_the_mean_of_the_real_ones(base: str) -> None:
    batch = make_batch(base, (640, 32000))
    with torch.no_grad():
        states, _ = WhisperBackbone(load_encoder(base)).forward_pretrained(**batch)
        averages, mask = WhisperBackbone(
            load_encoder(base), average_frames=True
        ).forward_pretrained(**batch)
    assert averages.shape == (2, 1, 1, 32)
    assert mask.tolist() == [[True], [True]]
    # 640 samples are two frames.
    expected = torch.stack([(states[0, 0, 0] + states[0, 0, 1]) / 2, states[1, 0].mean(dim=0)])
    torch.testing.assert_close(averages[:, 0, 0], expected, rtol=0, atol=1e-5)


def test_mix_is_linear_layers_on_each_frame_with_relu_between(base: str) -> None:
    backbone = WhisperBackbone(load_encoder(base), pointwise=(2, 1)).eval()
    first, second = (layer for layer in backbone.pointwise if isinstance(layer, nn.Linear))
    with torch.no_grad():
        for layer in (first, second):
            layer.weight.zero_()
            layer.bias.zero_()
        first.weight[0, 0], first.weight[1, 0] = 1.0, -1.0
        second.weight.copy_(torch.tensor([[10.0, 1.0]]))
    states = torch.zeros(1, 1, 2, 32)
    states[0, 0, :, 0] = torch.tensor([3.0, -4.0])
    features, _ = backbone.forward_trained(states, torch.ones(1, 2, dtype=torch.bool))
    # 10 * max(x, 0) + max(-x, 0): 30 and 4
    assert features.flatten().tolist() == [30.0, 4.0]
    assert backbone.n_features == 1


def test_mix_without_pointwise_layers_is_the_last_state(base: str) -> None:
    backbone = WhisperBackbone(load_encoder(base), pointwise=())
    states = torch.randn(1, 1, 3, 32)
    assert torch.equal(
        backbone.forward_trained(states, torch.ones(1, 3, dtype=torch.bool))[0], states[:, 0]
    )
    assert backbone.n_features == 32


def test_frozen_encoder_in_training_keeps_no_graph(base: str) -> None:
    encoder = load_encoder(base)
    freeze(encoder)
    backbone = WhisperBackbone(encoder).train()
    states, mask = backbone.forward_pretrained(**make_batch(base, (8000,)))
    assert not states.requires_grad
    assert not backbone.encoder.training
    assert backbone.forward_trained(states, mask)[0].requires_grad


def test_gradient_checkpointing_gives_the_same_gradients(base: str) -> None:
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = WhisperBackbone(
            load_encoder(base), layer_weights=True, pointwise=(8,), pointwise_dropout=0.0
        ).train()
        if checkpointing:
            backbone.enable_gradient_checkpointing()
        features, _ = backbone(make_batch(base, (8000, 640)))
        features.square().sum().backward()
        grads.append({n: p.grad for n, p in backbone.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert len(grads[0]) > 40
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-6, msg=name)


def make_config(base: str, **changes: object) -> dict[str, object]:
    return {
        "member": "whisper-encoder",
        "name": "w",
        "run_dir": "runs/w",
        "data": {"manifest": "manifest.parquet"},
        "base": base,
        "audio": {"max_audio_s": 2},
        "training": {"global_batch_size": 16},
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "n_trained"),
    [({}, 0), ({"lora": {"rank": 2}}, 8), ({"freeze": "nothing"}, 51)],
    ids=["frozen", "lora", "trained"],
)
def test_member_trains_of_the_encoder_what_its_config_says(
    base: str, changes: dict[str, object], n_trained: int
) -> None:
    """Two of three blocks get two adapters of two matrices; positions are never trained."""
    member: Any = load_member("whisper-encoder")
    config = check_config(make_config(base, **changes), WhisperEncoderConfig, "w.yaml")
    backbone = member.build_backbone(config)
    trained = [n for n, p in backbone.encoder.named_parameters() if p.requires_grad]
    # Per block 15: 4 projections (one without bias), 2 linear, 2 norms. Besides 2 convolutions and
    # the final norm: 3 * 15 + 6 = 51.
    assert len(trained) == n_trained
    assert "embed_positions.weight" not in trained
    assert backbone.n_features == 256
    assert backbone.encode_settings == {"layer_weights": False, "average_frames": False}


def test_member_clips_longer_than_the_window_raise_before_training(base: str) -> None:
    config = check_config(
        make_config(base, audio={"max_audio_s": 10}), WhisperEncoderConfig, "w.yaml"
    )
    member: Any = load_member("whisper-encoder")
    with pytest.raises(BadValueError, match=r"audio.max_audio_s is 10, but .* hears 2 s at once"):
        member.build_inputs(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": {}, "freeze": "nothing"}, "lora is set but freeze is 'nothing'"),
        ({"standardize": True, "freeze": "nothing"}, "standardize is true but the encoder is"),
        ({"average_frames": True, "lora": {}}, "average_frames is true but the encoder is"),
        ({"lora": {"rnak": 4}}, "lora.rnak is unknown, did you mean lora.rank"),
        ({"pointwise": [256, 0]}, "pointwise.1 is 0"),
    ],
)
def test_config_contradiction_raises(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ProblemsError, match=message):
        check_config(make_config("x", **changes), WhisperEncoderConfig, "w.yaml")


@pytest.mark.weights
def test_real_encoder_in_both_layouts_says_the_same(material: Path) -> None:
    folders = material / "weights"
    hub = folders / "whisper-tiny-en-encoder-hf"
    openai = folders / "whisper-tiny-en-encoder-openai" / "tiny.en-encoder.pt"
    if not (hub.is_dir() and openai.is_file()):
        pytest.skip("the Whisper tiny.en encoder is not in ABHINAYA_MATERIAL/weights")
    ours, theirs = load_encoder(str(hub)), load_encoder(str(openai))
    assert len(load_file(hub / "encoder.safetensors")) == len(ours.state_dict()) == 67
    inputs = LogMelInputs(load_feature_extractor(str(openai)))
    encoded = inputs.encode(Utterance("", read_audio(WAVS[0])))
    features = torch.from_numpy(encoded["input_features"])[None]
    with torch.no_grad():
        expected = theirs(features).last_hidden_state
        torch.testing.assert_close(ours(features).last_hidden_state, expected, rtol=0, atol=1e-5)
    assert inputs.window_s == 30
