from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import soundfile as sf
import torch
from golden_set import BEATS, LENGTHS, ROWS, WAVS, golden
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from abhinaya.errors import BadShapeError, BadValueError, CheckpointError
from members.salmonn.beats.fbank import kaldi_fbank, n_fbank_frames
from members.salmonn.beats.model import Beats, BeatsConfig, published_token_padding, token_padding
from members.salmonn.beats.weights import load_beats

GOLDEN = golden("salmonn")
LONGEST = max(LENGTHS)
N_TOKENS = GOLDEN["beats_feats"].shape[1]

SMALL = BeatsConfig(
    encoder_layers=2,
    encoder_embed_dim=24,
    encoder_ffn_embed_dim=40,
    encoder_attention_heads=3,
    embed_dim=16,
    conv_pos=32,
    conv_pos_groups=4,
    num_buckets=32,
    max_distance=60,
    conv_bias=False,
)

PUBLISHED = {
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "conv_bias": False,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "relative_position_embedding": True,
    "num_buckets": 320,
    "max_distance": 800,
    "gru_rel_pos": True,
    "deep_norm": True,
    "input_patch_size": 16,
    "embed_dim": 512,
}


@pytest.fixture(scope="module")
def golden_beats():
    return load_beats(BEATS)


def random_beats(config=SMALL, seed=0):
    torch.manual_seed(seed)
    model = Beats(config).eval()
    torch.nn.init.normal_(model.encoder.relative_attention_bias.weight)
    return model


def golden_fbank(utterance, padded_samples=None):
    waveform, _ = sf.read(WAVS[utterance])
    if padded_samples is not None:
        waveform = np.pad(waveform, (0, padded_samples - len(waveform)))
    return torch.from_numpy(kaldi_fbank(waveform))


def assert_near(ours, theirs, atol):
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=0, atol=atol)


@pytest.mark.parity
def test_features_match_published_given_the_published_spectrogram(golden_beats):
    ours = golden_beats(torch.from_numpy(GOLDEN["single0_fbank"]))
    assert_near(ours, GOLDEN["single0_beats_feats"], atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("utterance", ROWS)
def test_features_of_clips_alone_match_published(golden_beats, utterance):
    ours = golden_beats(golden_fbank(utterance).unsqueeze(0))
    # Published: 5e-4 from the sound.
    assert_near(ours, GOLDEN[f"single{utterance}_beats_feats"], atol=1e-4)


@pytest.mark.parity
def test_features_of_a_padded_batch_match_published(golden_beats):
    fbank = torch.stack([golden_fbank(utterance, LONGEST) for utterance in ROWS])
    padding = published_token_padding(torch.tensor(LENGTHS), LONGEST, fbank.shape[1], N_TOKENS)
    # The features of padding are compared too: what follows uses them.
    assert_near(golden_beats(fbank, padding), GOLDEN["beats_feats"], atol=1e-4)


@pytest.mark.parity
def test_published_padding_is_matched_exactly():
    ours = published_token_padding(
        torch.tensor(LENGTHS), LONGEST, n_fbank_frames(LONGEST), N_TOKENS
    )
    np.testing.assert_array_equal(ours.numpy(), GOLDEN["beats_token_mask"])


@pytest.mark.parametrize(
    ("max_samples", "n_frames", "n_tokens"),
    [(20_800, 128, 64), (160_000, 998, 496), (2800, 16, 8), (5200, 31, 8), (33_333, 206, 96)],
)
def test_published_padding_equals_grouping_in_two_steps(max_samples, n_frames, n_tokens):
    def group(padding, n_groups):
        padding = padding[: len(padding) - len(padding) % n_groups]
        return padding.reshape(n_groups, -1).all(axis=1)

    lengths = [1, max_samples // 3, max_samples // 2 + 7, max_samples - 1, max_samples]
    ours = published_token_padding(torch.tensor(lengths), max_samples, n_frames, n_tokens)
    for row, length in zip(ours.numpy(), lengths, strict=True):
        theirs = group(group(np.arange(max_samples) >= length, n_frames), n_tokens)
        np.testing.assert_array_equal(row, theirs)


def test_token_padding_counts_full_patches_only():
    padding = token_padding(torch.tensor([16, 31, 32, 50]), 24)
    # 16 and 31 frames have one row of 8 tokens, 32 have two, 50 have three.
    expected = [[n > token for token in range(24)] for n in (8, 8, 16, 24)]
    assert (~padding).tolist() == expected


@pytest.mark.parametrize("garbage", [0.0, 1e4, float("nan"), float("inf")])
def test_padding_does_not_change_the_features_of_a_clip(garbage):
    model = random_beats()
    n_frames = [16, 200, 45, 330, 95]
    clips = [torch.randn(n, 128) for n in n_frames]
    batch = torch.full((len(clips), max(n_frames), 128), garbage)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    n_tokens = 8 * (330 // 16)
    with torch.no_grad():
        together = model(batch, token_padding(torch.tensor(n_frames), n_tokens))
        for clip, features in zip(clips, together, strict=True):
            alone = model(clip.unsqueeze(0))[0]
            assert alone.shape == (8 * (len(clip) // 16), 24)
            torch.testing.assert_close(features[: len(alone)], alone, rtol=0, atol=1e-5)
            assert features.isfinite().all()


def test_published_padding_does_change_them(golden_beats):
    """Why there are two rules: the golden batch moves by half a unit."""
    shortest = int(np.argmin(LENGTHS))
    alone = GOLDEN[f"single{shortest}_beats_feats"][0]
    together = GOLDEN["beats_feats"][shortest, : len(alone)]
    assert np.abs(alone - together).max() > 0.1
    fbank = torch.stack([golden_fbank(utterance, LONGEST) for utterance in ROWS])
    n_frames = [n_fbank_frames(n_samples) for n_samples in LENGTHS]
    features = golden_beats(fbank, token_padding(torch.tensor(n_frames), N_TOKENS))
    assert_near(features[shortest, : len(alone)], alone, atol=1e-4)


def test_frames_beyond_a_multiple_of_sixteen_do_not_matter():
    model = random_beats()
    fbank = torch.randn(2, 47, 128)
    features = model(fbank)
    assert features.shape == (2, 16, 24)
    torch.testing.assert_close(features, model(fbank[:, :32]), rtol=0, atol=0)


def test_tokens_are_ordered_by_time_then_by_frequency():
    """A patch alone is changed: without attention and convolution, one token moves."""
    model = random_beats(dataclasses.replace(SMALL, encoder_layers=1))
    for parameter in (
        model.encoder.pos_conv.weight,
        model.encoder.layers[0].self_attn.out_proj.weight,
    ):
        torch.nn.init.zeros_(parameter)
    fbank = torch.randn(1, 48, 128)
    changed = fbank.clone()
    changed[0, 32:48, 16:32] += 1  # third row of patches, second from below
    moved = (model(changed) - model(fbank)).abs().amax(dim=2)[0] > 1e-3
    assert moved.nonzero().flatten().tolist() == [2 * 8 + 1]


@pytest.mark.parametrize("num_buckets", [32, 320])
def test_attention_equals_wavlm_where_both_are_the_same(num_buckets):
    """WavLM gates by the input instead of the query; with the identity between them they agree.

    The 1000 tokens reach beyond `max_distance`, where the golden clips do not.
    """
    config = dataclasses.replace(SMALL, num_buckets=num_buckets, max_distance=800)
    model = random_beats(config)
    ours = model.encoder.layers[0].self_attn
    theirs = WavLMAttention(24, 3, num_buckets=num_buckets, max_distance=800)
    torch.nn.init.eye_(ours.q_proj.weight)
    torch.nn.init.zeros_(ours.q_proj.bias)
    torch.nn.init.normal_(ours.grep_a)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        getattr(theirs, name).load_state_dict(getattr(ours, name).state_dict())
    theirs.gru_rel_pos_linear.load_state_dict(ours.grep_linear.state_dict())
    theirs.gru_rel_pos_const.data = ours.grep_a.data
    theirs.rel_attn_embed.load_state_dict(model.encoder.relative_attention_bias.state_dict())

    seen = []
    ours.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    with torch.no_grad():
        model(torch.randn(1, 2000, 128))
        [(tokens, our_output)] = seen
        their_output = theirs.eval()(tokens)[0]
    assert tokens.shape == (1, 1000, 24)
    torch.testing.assert_close(our_output, their_output, rtol=0, atol=1e-5)


def test_autocast_leaves_float32_alone():
    model = random_beats()
    fbank, padding = torch.randn(2, 64, 128), token_padding(torch.tensor([40, 64]), 32)
    expected = model(fbank, padding)
    with torch.autocast("cpu", torch.bfloat16):
        ours = model(fbank, padding)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, expected)


def test_input_in_half_precision_is_computed_in_float32():
    model = random_beats()
    fbank = torch.randn(1, 32, 128).half()
    assert torch.equal(model(fbank), model(fbank.float()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_in_another_precision_raise(dtype):
    with pytest.raises(BadValueError, match=rf"BEATs are {dtype}, expected torch.float32"):
        random_beats().to(dtype)(torch.randn(1, 32, 128))


@pytest.mark.slow
def test_every_weight_gets_a_gradient():
    model = random_beats()
    model(torch.randn(1, 64, 128)).square().sum().backward()
    # Adding the same to all keys changes no attention weight.
    for name, parameter in model.named_parameters():
        if not name.endswith("k_proj.bias"):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 1e-8, name


@pytest.mark.parametrize(
    "change",
    [
        {"conv_pos": 31},  # an odd kernel
        {"embed_dim": 24},  # no projection
        {"conv_bias": True},
        {"encoder_layers": 1},
        {"encoder_embed_dim": 48, "encoder_attention_heads": 4, "conv_pos_groups": 16},
    ],
    ids=str,
)
def test_other_sizes_work(change):
    config = dataclasses.replace(SMALL, **change)
    model = random_beats(config)
    assert model(torch.randn(2, 33, 128)).shape == (2, 16, config.encoder_embed_dim)
    names = set(model.state_dict())
    assert ("post_extract_proj.weight" in names) == (config.embed_dim != config.encoder_embed_dim)
    assert ("patch_embedding.bias" in names) == config.conv_bias


def test_published_sizes_have_ninety_million_weights():
    with torch.device("meta"):
        model = Beats(BeatsConfig.from_dict(PUBLISHED))
    # Per layer: attention 4 (768^2 + 768), gate 8 (64 + 1) + 12, feed-forward
    # 2 * 768 * 3072 + 3072 + 768, two norms 4 * 768; together 7 088 404. Around them: patches
    # 512 * 256, norm 1024, projection 513 * 768, convolution 768 * 48 * 128 + 768, norm 1536, table
    # 320 * 12. In all 90 311 664, the paper says 90 million.
    around = 131_072 + 1024 + 393_984 + 4_719_360 + 1536 + 3840
    assert sum(p.numel() for p in model.parameters()) == 12 * 7_088_404 + around


@pytest.mark.parametrize("shape", [(1, 15, 128), (1, 32, 80), (32, 128)])
def test_other_spectrograms_raise(shape):
    with pytest.raises(BadShapeError, match=r"fbank has shape .* \(B, F, 128\) with at least 16"):
        random_beats()(torch.zeros(shape))


def test_padding_of_another_length_raises():
    with pytest.raises(BadShapeError, match=r"has shape \(1, 8\), expected \(1, 16\) for 40 frame"):
        random_beats()(torch.zeros(1, 40, 128), torch.zeros(1, 8, dtype=torch.bool))


def test_config_reads_sizes_and_ignores_what_is_for_training():
    config = BeatsConfig.from_dict({**PUBLISHED, "encoder_layers": 5, "dropout": 0.1, "new": None})
    assert config.encoder_layers == 5
    assert config.max_distance == 800
    assert not config.finetuned_model
    assert BeatsConfig.from_dict({**PUBLISHED, "finetuned_model": True}).finetuned_model


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"layer_norm_first": True}, "layer_norm_first is True, expected False"),
        ({"relative_position_embedding": False}, "relative_position_embedding is False, expected"),
        ({"gru_rel_pos": False}, "gru_rel_pos is False, expected True"),
        ({"deep_norm": False}, "deep_norm is False, expected True"),
        ({"activation_fn": "glu"}, "activation_fn is 'glu', expected 'gelu'"),
        ({"input_patch_size": 8}, "input_patch_size is 8, expected 16"),
        ({"encoder_layers": "12"}, "encoder_layers is '12', expected a whole number above 0"),
        ({"encoder_layers": 0}, "encoder_layers is 0, expected a whole number above 0"),
        ({"conv_bias": 1}, "conv_bias is 1, expected True or False"),
        ({"encoder_attention_heads": 7}, "encoder_attention_heads is 7, which does not divide"),
        ({"conv_pos_groups": 10}, "conv_pos_groups is 10, which does not divide encoder_embed_dim"),
        ({"num_buckets": 30}, "num_buckets is 30, expected a multiple of 4"),
        ({"max_distance": 80}, "max_distance is 80, expected above num_buckets / 4 = 80"),
    ],
    ids=str,
)
def test_config_of_another_kind_raises(change, problem):
    with pytest.raises(CheckpointError) as caught:
        BeatsConfig.from_dict({**PUBLISHED, **change})
    assert problem in str(caught.value)
    assert str(caught.value).count(";") == 0  # one problem only


def test_config_names_all_problems_at_once():
    cfg = {**PUBLISHED, "deep_norm": False, "conv_pos": -1}
    del cfg["embed_dim"], cfg["gru_rel_pos"]
    with pytest.raises(CheckpointError) as caught:
        BeatsConfig.from_dict(cfg)
    message = str(caught.value)
    for problem in ("deep_norm is False", "gru_rel_pos is missing", "conv_pos is -1", "embed_dim"):
        assert problem in message
    assert message.endswith("Take a published BEATs checkpoint.")
