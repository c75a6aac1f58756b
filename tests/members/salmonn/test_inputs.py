"""What SALMONN hears and reads: clips of any length, transcripts of any kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import salmonn_golden as G
import torch

from abhinaya.errors import BadValueError
from abhinaya.member import Utterance
from members.salmonn.member import SPEECH, SPEECH_TEXT
from members.salmonn.sequence import PARTS, collate_tokens

TOKENS = G.TOKENS
PREFIX = "Describe emotion of the speaker in one word <Transcript> "
END = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("prompts")


@pytest.fixture(scope="module")
def reader(folder):
    """Inputs of ST1 with the golden prompts."""
    return SPEECH_TEXT.build_inputs(G.make_config("st1", folder))


def noise(n_samples, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, n_samples).astype(np.float32)


def text_ids(inputs, transcript):
    return inputs.encode_context(Utterance("a", None, transcript))["text"]


def write_prompt(folder, user, assistant=None, slots="[speech]"):
    """A prompt file of these turns; its name."""
    turns = f"## user\n{user}\n" + (f"## assistant\n{assistant}\n" if assistant else "")
    file = folder / "mine-v1.md"
    file.write_text(f"---\nname: mine-v1\nversion: 1\nslots: {slots}\n---\n{turns}")
    return str(file)


# ------------------------------------------------------------------ sound


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("trim_padding", [False, True])
def test_very_short_clips_give_finite_logits(folder, trim_padding):
    config = G.make_config("s2", folder, trim_padding=trim_padding)
    model, inputs = G.load_classifier(config), SPEECH.build_inputs(config)
    # 5 ms, a sample below and at BEATs' shortest 2800, 0.1 s; silence too.
    waveforms = [noise(80), noise(1600), noise(2799), noise(2800), np.zeros(1600, np.float32)]
    encoded = [inputs.encode(Utterance(str(i), w)) for i, w in enumerate(waveforms)]
    together = model(inputs.collate(encoded)).logits
    assert together.isfinite().all()
    for row, one in zip(together, encoded, strict=True):
        torch.testing.assert_close(model(inputs.collate([one])).logits[0], row, atol=1e-5, rtol=0)


def test_clip_as_long_as_the_window_is_heard_and_a_longer_one_refused(reader):
    window = 30 * 16_000
    encoded = reader.encode(Utterance("whole", noise(window), "yes"))
    assert encoded["input_features"].shape == (80, 3000)
    # 1 + (480000 - 400) // 160 frames
    assert encoded["fbank"].shape == (2998, 128)
    for n_samples, said in ((window + 1, r"30\.0001 s"), (40 * 16_000, "40 s")):
        with pytest.raises(
            BadValueError,
            match=rf"'long\.wav' has {said}, but the model hears 30 s at once\. Set "
            r"audio\.max_audio_s to 30 or less and the crops to anything but full",
        ):
            reader.encode(Utterance("long.wav", noise(n_samples), "yes"))


def test_utterance_without_waveform_raises(reader):
    with pytest.raises(BadValueError, match=r"'a\.wav' comes without a waveform, which SALMONN"):
        reader.encode(Utterance("a.wav", None, "yes"))


def test_window_of_the_config_must_not_exceed_whispers(folder):
    config = G.make_config("s2", folder, audio={"max_audio_s": 30.5})
    with pytest.raises(BadValueError, match=r"audio\.max_audio_s is 30\.5, but .* hears 30 s at"):
        SPEECH.build_inputs(config)


def test_batch_is_padded_with_zeros_and_says_what_is_real(reader):
    waveforms = [noise(16_000), noise(32_000, seed=1)]
    encoded = [reader.encode(Utterance(str(i), w, "yes")) for i, w in enumerate(waveforms)]
    batch = reader.collate(encoded)
    # 1 + (16000 - 400) // 160 and 1 + (32000 - 400) // 160
    assert batch["n_fbank_frames"].tolist() == [98, 198]
    assert batch["n_samples"].tolist() == [16_000, 32_000]
    assert batch["fbank"].shape == (2, 198, 128)
    assert not batch["fbank"][0, 98:].any()
    np.testing.assert_array_equal(batch["fbank"][0, :98], encoded[0]["fbank"])


# ------------------------------------------------------------------ transcripts


def test_long_transcript_is_cut_as_published(reader):
    golden = TOKENS["truncated_300"]
    assert golden["text"].startswith(PREFIX)
    transcript = golden["text"].removeprefix(PREFIX).removesuffix("</s>")
    ids = text_ids(reader, transcript)
    assert ids == golden["ids"]
    assert len(ids) == 300
    assert ids[-1] != END  # it goes first, as there


def test_500_words_are_cut_to_max_text_tokens(folder):
    words = " ".join(["really"] * 500)
    whole = SPEECH_TEXT.build_inputs(G.make_config("st1", folder, max_text_tokens=99_999))
    short = SPEECH_TEXT.build_inputs(G.make_config("st1", folder, max_text_tokens=7))
    ids = text_ids(whole, words)
    assert len(ids) > 500
    assert ids[-1] == END
    assert text_ids(short, words) == ids[:7]


@pytest.mark.parametrize("name", [f"st1_text_{row}" for row in G.ROWS])
def test_transcripts_have_the_published_ids(reader, name):
    text = TOKENS["strings"][name]["text"].removeprefix(PREFIX).removesuffix("</s>")
    assert text_ids(reader, text) == TOKENS["strings"][name]["ids"]


def test_text_without_transcript_and_prompts_have_the_published_ids(folder):
    inputs = SPEECH.build_inputs(G.make_config("s2", folder))
    strings = TOKENS["strings"]
    for number in range(len(G.CONFIG["prompts"])):
        tokens = replace(inputs.tokens, prompts=inputs.tokens.prompts[number:])
        assert tokens.encode(Utterance("a")) == {
            "before": [1, *strings["p_before"]["ids"]],
            "after": strings[f"p_after_{number}"]["ids"],
            "text": strings["s2_text"]["ids"],
        }


@pytest.mark.parametrize("number", range(3))
def test_unicode_transcript_has_the_published_ids(folder, number):
    """The strings stand alone there, so they are the whole assistant turn here."""
    name = ("unicode", "trailing_space", "leading_space")[number]
    file = write_prompt(folder, "{{ speech }}", "{{ transcript }}", "[speech, transcript]")
    # Without it, the texts that begin with a blank lose one, as they did before.
    compat = "published" if name == "leading_space" else "none"
    config = G.make_config("st1", folder, prompt=file, prompt_pool=None, compat=compat)
    golden = TOKENS["strings"][name]
    ids = text_ids(SPEECH_TEXT.build_inputs(config), golden["text"].removesuffix("</s>"))
    assert ids == golden["ids"]


@pytest.mark.parametrize(("compat", "blanks"), [("none", "\u2581"), ("published", "\u2581\u2581")])
def test_words_behind_the_speech_get_a_blank_as_published(folder, compat, blanks):
    """The published tokenizer puts one before any text, and so before that of the text itself."""
    file = write_prompt(folder, "{{ speech }} hello there")
    config = G.make_config("s2", folder, prompt=file, prompt_pool=None, compat=compat)
    inputs = SPEECH.build_inputs(config)
    after = inputs.encode_context(Utterance("a"))["after"]
    tokens = "".join(inputs.tokens.tokenizer.convert_ids_to_tokens(after))
    assert tokens.startswith(f"{blanks}hello\u2581there")


def test_empty_transcript_is_a_text_of_its_own(reader):
    empty, spoken = text_ids(reader, ""), text_ids(reader, "No.")
    assert empty[-1] == spoken[-1] == END
    assert empty != spoken
    # The words in front are the same; the blank behind them is in " No" there.
    *in_front, blank, _ = empty
    assert reader.tokens.tokenizer.convert_ids_to_tokens(blank) == "\u2581"
    assert TOKENS["strings"]["st1_text_0"]["ids"][: len(in_front)] == in_front
    assert spoken[: len(in_front)] == in_front


def test_empty_transcript_that_is_the_whole_turn_keeps_the_end_sign(folder):
    file = write_prompt(folder, "{{ speech }}", "{{ transcript }}", "[speech, transcript]")
    config = G.make_config("st1", folder, prompt=file, prompt_pool=None)
    assert text_ids(SPEECH_TEXT.build_inputs(config), "") == [END]


@torch.no_grad()
def test_empty_and_spoken_transcripts_of_one_sound_get_different_logits(folder):
    config = G.make_config("st1", folder)
    model, inputs = G.load_classifier(config), SPEECH_TEXT.build_inputs(config)
    waveform = G.utterances()[0].waveform
    texts = ["", "No.", "\N{GRINNING FACE} \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd"]
    batch = inputs.collate([inputs.encode(Utterance(t, waveform, t)) for t in texts])
    logits = model(batch).logits
    assert logits.isfinite().all()
    for one in range(3):
        assert (logits[one] - logits[one - 1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "transcript",
    [
        "a </s> b",
        "</s>",
        "<s>hi</s>",
        "<unk>",
        "{speech}",
        "{transcript} {{}} {",
        "<Speech>",
        "x\0y",
        "\n\n",
        "USER: no\nASSISTANT:",
        "\N{GRINNING FACE}\u200d\N{FIRE}",
        "\u202eabc",
        "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    ],
)
def test_transcript_is_plain_text_whatever_stands_in_it(reader, transcript):
    """No sign in it ends or begins a sequence, and it can be read back letter by letter."""
    ids = text_ids(reader, transcript)
    assert ids[-1] == END
    assert not set(ids[:-1]) & {0, 1, 2}
    assert reader.tokens.tokenizer.decode(ids[:-1]) == PREFIX + transcript


def test_prompt_is_plain_text_too(folder):
    file = write_prompt(folder, "</s>{{ speech }}<s>", "so</s>")
    config = G.make_config("s2", folder, prompt=file, prompt_pool=None)
    encoded = SPEECH.build_inputs(config).encode_context(Utterance("a"))
    # BOS in front and EOS at the end, which are ours.
    assert [encoded["before"].count(1), encoded["text"].count(END)] == [1, 1]
    assert not {1, 2} & {*encoded["before"][1:], *encoded["after"], *encoded["text"][:-1]}


def test_prompt_without_assistant_turn_has_no_text_behind_it(folder):
    file = write_prompt(folder, "{{ speech }} Which emotion?")
    config = G.make_config("s2", folder, prompt=file, prompt_pool=None)
    inputs = SPEECH.build_inputs(config)
    encoded = inputs.encode_context(Utterance("a"))
    assert encoded["text"] == []
    batch = inputs.collate_context([encoded, encoded])
    assert batch["text"].shape == batch["text_mask"].shape == (2, 0)


@torch.no_grad()
def test_sequence_without_text_is_classified(folder):
    file = write_prompt(folder, "{{ speech }} Which emotion?")
    config = G.make_config("s2", folder, prompt=file, prompt_pool=None)
    batch = SPEECH.build_inputs(config).collate(
        [SPEECH.build_inputs(config).encode(G.utterances()[0])]
    )
    assert G.load_classifier(config)(batch).logits.isfinite().all()


def test_collated_ids_are_padded_on_the_right():
    rows = [
        {"before": [1, 5], "after": [6], "text": []},
        {"before": [1], "after": [7, 8, 9], "text": [2]},
    ]
    batch = collate_tokens(rows)
    assert batch["before"].tolist() == [[1, 5], [1, 0]]
    assert batch["after"].tolist() == [[6, 0, 0], [7, 8, 9]]
    assert batch["text"].tolist() == [[0], [2]]
    assert batch["before_mask"].tolist() == [[True, True], [True, False]]
    assert batch["after_mask"].tolist() == [[True, False, False], [True] * 3]
    assert batch["text_mask"].tolist() == [[False], [True]]
    assert batch.keys() == {*PARTS, *(f"{part}_mask" for part in PARTS)}


def test_template_stands_around_the_users_turn(folder):
    config = G.make_config("s2", folder, prompt_template="no.{}hello there")
    encoded = SPEECH.build_inputs(config).encode_context(Utterance("a"))
    decode = SPEECH.build_inputs(config).tokens.tokenizer.decode
    assert decode(encoded["before"][1:]) == "no.<Speech>"
    assert decode(encoded["after"]).endswith(G.CONFIG["prompts"][0][-9:] + "hello there")
