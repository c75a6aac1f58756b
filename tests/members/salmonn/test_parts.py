"""The parts of SALMONN by themselves: encoders, windows, Q-Former, sequence."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import salmonn_golden as G
import torch
from golden_set import BEATS, LENGTHS, WHISPER
from transformers import Blip2QFormerConfig, Blip2QFormerModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from abhinaya.nn.language_model import load_tokenizer
from abhinaya.nn.whisper import load_encoder, load_feature_extractor
from members.salmonn.answer import generate_ids
from members.salmonn.beats.fbank import kaldi_fbank
from members.salmonn.beats.weights import load_beats
from members.salmonn.build import build_backbone, window_frames
from members.salmonn.encoders import SpeechEncoders
from members.salmonn.model import assemble
from members.salmonn.qformer import SpeechAdapter

WINDOW = window_frames(G.CONFIG["salmonn"]["second_per_window"])


@pytest.fixture(scope="module")
def whisper():
    return load_encoder(str(WHISPER))


@pytest.fixture(scope="module")
def beats():
    return load_beats(BEATS)


def inputs_of(waveforms):
    """What `SpeechEncoders.forward` takes, for clips of any length."""
    extractor = load_feature_extractor(str(WHISPER))
    mels = extractor(waveforms, sampling_rate=16_000, return_tensors="pt")["input_features"]
    fbanks = [kaldi_fbank(waveform) for waveform in waveforms]
    longest = max(map(len, fbanks))
    fbank = np.stack([np.pad(f, ((0, longest - len(f)), (0, 0))) for f in fbanks])
    return {
        "input_features": mels,
        "fbank": torch.from_numpy(fbank),
        "n_samples": torch.tensor([len(waveform) for waveform in waveforms]),
        "n_fbank_frames": torch.tensor([len(fbank) for fbank in fbanks]),
    }


@pytest.mark.parity
@torch.no_grad()
def test_features_of_the_base_checkpoint_match_published(whisper, beats):
    golden = G.golden("salmonn")
    batch = inputs_of([utterance.waveform for utterance in G.utterances()])
    np.testing.assert_allclose(
        batch["input_features"].numpy(), golden["whisper_input_features"], atol=2e-4
    )
    encoders = SpeechEncoders(whisper, beats, window_frames=WINDOW)
    features, mask = encoders(**batch)
    n_whisper, n_beats = whisper.config.d_model, beats.config.encoder_embed_dim
    n_frames = whisper.config.max_source_positions
    assert features.shape == (len(G.ROWS), n_frames, n_whisper + n_beats + 1)
    assert mask.all()
    np.testing.assert_allclose(
        features[:, ::3, :n_whisper].numpy(), golden["whisper_feats_every3"], atol=1e-4
    )
    for idx in G.ROWS:
        alone = golden[f"single{idx}_beats_feats"][0]
        n_tokens = len(alone)
        heard = features[idx, :n_tokens, n_whisper:]
        np.testing.assert_allclose(heard[:, :-1].numpy(), alone, atol=5e-4)
        # Behind them nothing, and the last column says so.
        assert not features[idx, n_tokens:, n_whisper:].any()
        assert heard[:, -1].eq(1).all()


@pytest.mark.parity
@torch.no_grad()
@pytest.mark.parametrize("idx", G.ROWS)
def test_speech_tokens_and_hidden_states_of_the_base_checkpoint_match_published(tmp_path, idx):
    config = G.make_config("s2", tmp_path, classifier=None)
    backbone = build_backbone(config).eval()
    golden = G.golden("salmonn")
    batch = G.batch_of(config, ((idx, 0),))
    context = {name: batch.pop(name) for name in backbone.context}
    states, mask = backbone.forward_pretrained(**batch)
    tokens, _ = backbone.adapter(states.squeeze(1), mask)
    expected = golden[f"single{idx}_qformer_proj"]
    np.testing.assert_allclose(tokens.numpy(), expected, atol=3e-4)
    embeds, attention = backbone.embed(states, mask, context)
    hidden = backbone.language_model(
        inputs_embeds=embeds, attention_mask=attention.long()
    ).last_hidden_state
    np.testing.assert_allclose(hidden.numpy(), golden[f"single{idx}_last_hidden"], atol=5e-4)


def test_a_third_of_a_second_is_17_frames():
    # 0.333333 s * 50 frames per second = 16.67
    assert window_frames(0.333333) == 17
    assert window_frames(0.02) == 1
    with pytest.raises(ValueError, match=r"at least 0\.02, one frame of Whisper, got 0\.001"):
        window_frames(0.001)


@torch.no_grad()
def test_cut_clips_are_encoded_as_by_a_whisper_of_that_window(whisper, beats):
    """The oracle is transformers' own encoder with fewer positions."""
    waveforms = [utterance.waveform for utterance in G.utterances()]
    batch = inputs_of(waveforms)
    encoders = SpeechEncoders(whisper, beats, window_frames=17, trim_padding=True)
    features, mask = encoders(**batch)
    # In the public set 1.3, 5 and 10 s are 65, 250 and 500 frames: 4, 15 and 30 windows of 17.
    heard = [17 * math.ceil(math.ceil(n_samples / 320) / 17) for n_samples in LENGTHS]
    assert mask.sum(dim=1).tolist() == heard
    assert features.shape[1] == max(heard)
    for idx, n_frames in enumerate(heard):
        config = type(whisper.config).from_dict(
            whisper.config.to_dict() | {"max_source_positions": n_frames}
        )
        small = WhisperEncoder(config).eval()
        state = dict(whisper.state_dict())
        state["embed_positions.weight"] = state["embed_positions.weight"][:n_frames]
        small.load_state_dict(state)
        mel = batch["input_features"][idx : idx + 1, :, : 2 * n_frames]
        expected = small(mel).last_hidden_state[0]
        torch.testing.assert_close(
            features[idx, :n_frames, : config.d_model], expected, atol=1e-5, rtol=0
        )


@torch.no_grad()
def test_trimming_leaves_a_clip_of_the_whole_window_as_it_is(whisper, beats):
    rng = np.random.default_rng(0)
    batch = inputs_of([rng.normal(0, 0.1, 480_000).astype(np.float32)])
    whole, _ = SpeechEncoders(whisper, beats, window_frames=17)(**batch)
    trimmed, mask = SpeechEncoders(whisper, beats, window_frames=17, trim_padding=True)(**batch)
    assert mask.shape == (1, 1500)
    torch.testing.assert_close(trimmed, whole, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("trim_padding", [False, True])
def test_clip_is_encoded_alike_alone_and_beside_longer_ones(whisper, beats, trim_padding):
    waveforms = [utterance.waveform for utterance in G.utterances()]
    encoders = SpeechEncoders(whisper, beats, window_frames=17, trim_padding=trim_padding)
    together, mask = encoders(**inputs_of(waveforms))
    for idx, waveform in enumerate(waveforms):
        alone, own_mask = encoders(**inputs_of([waveform]))
        n_frames = int(own_mask.sum())
        assert int(mask[idx].sum()) == n_frames
        torch.testing.assert_close(together[idx, :n_frames], alone[0, :n_frames], atol=1e-5, rtol=0)


def make_adapter(n_queries=1, stride=17):
    torch.manual_seed(0)
    config = Blip2QFormerConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        encoder_hidden_size=12,
        cross_attention_frequency=1,
        use_qformer_text_input=False,
    )
    adapter = SpeechAdapter(
        config,
        widths=(8, 4),
        n_queries=n_queries,
        n_features=6,
        window_frames=17,
        stride_frames=stride,
    )
    torch.nn.init.normal_(adapter.query_tokens)
    return adapter


@pytest.mark.parametrize("n_queries", [1, 3])
def test_folded_attention_equals_transformers_own_with_all_gradients(n_queries):
    adapter = make_adapter(n_queries).eval()
    plain = Blip2QFormerModel(adapter.qformer.config).eval()
    plain.load_state_dict(adapter.qformer.state_dict())
    frames = torch.randn(5, 17, 12)
    queries = torch.randn(5, n_queries, 16)
    results = []
    for model in (adapter.qformer, plain):
        model.zero_grad()
        out = model(query_embeds=queries, encoder_hidden_states=frames).last_hidden_state
        out.square().sum().backward()
        results.append((out, {name: p.grad for name, p in model.named_parameters()}))
    (ours, our_grads), (theirs, their_grads) = results
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert our_grads.keys() == their_grads.keys()
    for name, grad in our_grads.items():
        assert grad is not None, name  # data-parallel training would wait for it
        torch.testing.assert_close(grad, their_grads[name], atol=1e-4, rtol=1e-4, msg=name)


@torch.no_grad()
def test_tokens_of_a_window_depend_on_its_frames_only():
    adapter = make_adapter(stride=10).eval()
    features = torch.cat([torch.randn(1, 60, 12), torch.ones(1, 60, 1)], dim=2)
    mask = torch.ones(1, 60, dtype=torch.bool)
    tokens, token_mask = adapter(features, mask)
    # Windows begin at 0, 10, 20, 30 and 40; the one at 50 would end behind the last frame.
    assert tokens.shape == (1, 5, 6)
    assert token_mask.all()
    changed = features.clone()
    changed[:, 27:37, :8] += torch.randn(1, 10, 8)
    moved = (adapter(changed, mask)[0] - tokens).abs().amax(dim=2)[0] > 1e-6
    # Frames 27 to 36 are in the windows 20-36 and 30-46, and not in 10-26.
    assert moved.tolist() == [False, False, True, True, False]


@torch.no_grad()
def test_windows_with_masked_frames_are_masked():
    adapter = make_adapter().eval()
    mask = torch.arange(51) < torch.tensor([[51], [34], [33]])
    _, token_mask = adapter(torch.randn(3, 51, 13), mask)
    assert token_mask.tolist() == [[True] * 3, [True, True, False], [True, False, False]]


def part(rows, width=1):
    """Embeddings that are their own names, and a mask; None is padding."""
    mask = torch.tensor([[value is not None for value in row] for row in rows])
    values = torch.tensor([[value or 0.0 for value in row] for row in rows])
    return values[..., None].expand(-1, -1, width).float(), mask


def test_sequence_closes_gaps_and_keeps_the_order():
    parts = [part([[1, None], [1, 2]]), part([[3, 4], [3, None]]), part([[5], [None]])]
    embeds, mask = assemble(parts)
    assert embeds[..., 0].masked_fill(~mask, 0).tolist() == [[1, 3, 4, 5], [1, 2, 3, 0]]
    assert mask.tolist() == [[True] * 4, [True, True, True, False]]


def test_sequence_to_be_continued_is_padded_on_the_left():
    parts = [part([[1, None], [1, 2]]), part([[3, None], [3, 4]])]
    embeds, mask = assemble(parts, pad="left")
    assert embeds[..., 0].masked_fill(~mask, 0).tolist() == [[0, 0, 1, 3], [1, 2, 3, 4]]
    assert mask.tolist() == [[False, False, True, True], [True] * 4]


def test_published_sequence_keeps_padding_where_it_is():
    parts = [part([[1, None], [1, 2]]), part([[3], [3]])]
    embeds, mask = assemble(parts, pad="kept")
    assert embeds[..., 0].tolist() == [[1, 0, 3], [1, 2, 3]]
    assert mask.tolist() == [[True, False, True], [True] * 3]


def put_pad_rows(backbone, head_row):
    """Give [PAD] the rows that the public code drew."""
    embed_row = torch.from_numpy(G.golden("salmonn")["pad_embed_row"])
    backbone.pad_row.copy_(embed_row)
    backbone.llm.get_input_embeddings().weight[-1] = embed_row
    backbone.llm.get_output_embeddings().weight[-1] = torch.as_tensor(head_row)


KINDS = {"greedy": 1} | {
    found[1]: int(found[2])
    for key in G.golden("generate")
    if (found := re.fullmatch(r"utt0_(beam(\d+))_ids", key))
}
"""Beams of each way to generate."""


@pytest.mark.parity
@torch.no_grad()
@pytest.mark.parametrize(
    ("compat", "kind"), [("none", "greedy"), *(("published", kind) for kind in KINDS)]
)
def test_generated_ids_match_published(tmp_path, compat, kind):
    config = G.make_config("s2", tmp_path, classifier=None)
    prompt = tmp_path / "ask-v1.md"
    prompt.write_text(
        "---\nname: ask-v1\nversion: 1\nslots: [speech]\n---\n## user\n{{ speech }}\n", "utf-8"
    )
    config = config.model_copy(update={"prompt": (str(prompt),), "compat": compat})
    backbone = build_backbone(config, with_vocabulary=True).eval()
    golden = G.golden("generate")
    if compat == "published":
        put_pad_rows(backbone, G.golden("salmonn")["pad_lm_head_row"])
    longest = max(golden[f"utt{idx}_{kind}_ids"].shape[1] - 1 for idx in G.ROWS)
    for idx in G.ROWS:
        batch = G.batch_of(config, ((idx, 0),))
        context = {name: batch[name] for name in backbone.context}
        embeds, attention = backbone.embed(*backbone.find_states(batch), context)
        np.testing.assert_allclose(embeds.numpy(), golden[f"utt{idx}_prefix_embeds"], atol=3e-4)
        logits = backbone.llm(inputs_embeds=embeds, attention_mask=attention.long()).logits[:, -1]
        # The last of the published columns is [PAD].
        expected = golden[f"utt{idx}_first_step_logits"][:, : logits.shape[1]]
        np.testing.assert_allclose(logits.numpy(), expected, atol=5e-4)
        ids = generate_ids(backbone, batch, n_beams=KINDS[kind], max_new_tokens=longest)
        # The published version returns BOS first.
        assert ids[0].tolist() == golden[f"utt{idx}_{kind}_ids"][0, 1:].tolist()


@torch.no_grad()
def search_by_hand(backbone, embeds, n_beams, n_steps):
    """Beam search for a fixed number of tokens, one sequence at a time; its likeliest one."""
    embed = backbone.llm.get_input_embeddings()
    beams = [(0.0, [])]
    for _ in range(n_steps):
        longer = []
        for score, ids in beams:
            whole = torch.cat([embeds, embed(torch.tensor([ids], dtype=torch.long))], dim=1)
            steps = backbone.llm(inputs_embeds=whole).logits[0, -1].log_softmax(dim=0)
            longer += [(score + step, [*ids, n]) for n, step in enumerate(steps.tolist())]
        beams = sorted(longer, reverse=True)[:n_beams]
    return beams[0][1]


@torch.no_grad()
def test_beams_are_normalised_over_the_pad_column_as_well_in_published_mode(tmp_path):
    """[PAD] takes a share that differs between beams, so another one wins without naming it."""
    found, n_tokens = {}, G.CONFIG["llama"]["vocab_size"]
    for compat in ("none", "published"):
        config = G.make_config("s2", tmp_path, classifier=None, compat=compat)
        backbone = build_backbone(config, with_vocabulary=True).eval()
        head = backbone.llm.get_output_embeddings().weight
        head *= 4  # so that a likely [PAD] is not the likeliest token at once
        batch = G.batch_of(config, ((0, 0),))
        context = {name: batch[name] for name in backbone.context}
        embeds, _ = backbone.embed(*backbone.find_states(batch), context)
        for seed in range(10):
            if compat == "published":
                generator = torch.Generator().manual_seed(seed)
                put_pad_rows(backbone, torch.randn(head.shape[1], generator=generator))
            ids = generate_ids(backbone, batch, n_beams=3, max_new_tokens=6)[0].tolist()
            assert ids == search_by_hand(backbone, embeds, 3, 6)
            found[compat] = ids
            if compat == "none" or (ids != found["none"] and n_tokens not in ids):
                break
    assert len(head) == n_tokens + 1
    assert found["none"] != found["published"]
    assert n_tokens not in found["published"]
    # Where it is an answer's token after all, it is no part of the text.
    assert load_tokenizer(config.base).batch_decode([[n_tokens]]) == [""]


@torch.no_grad()
def test_answers_of_a_batch_are_those_of_single_clips(tmp_path):
    config = G.make_config("s2", tmp_path, classifier=None)
    backbone = build_backbone(config, with_vocabulary=True).eval()
    rows = ((len(G.ROWS) - 1, 0), (0, 1), (1, 0))
    together = generate_ids(backbone, G.batch_of(config, rows), n_beams=1, max_new_tokens=8)
    for ids, row in zip(together, rows, strict=True):
        alone = generate_ids(backbone, G.batch_of(config, (row,)), n_beams=1, max_new_tokens=8)
        assert ids.tolist() == alone[0].tolist()
