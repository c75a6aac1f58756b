from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import whisper
from tiny_whisper import ENGLISH, Layouts, end_early, write_tiny

from abhinaya.asr.decoding import (
    Decoded,
    DecodingSettings,
    Recognizer,
    cut_windows,
    join_windows,
)
from abhinaya.asr.model import halve_weights, load_whisper
from abhinaya.errors import BadValueError

CPU = torch.device("cpu")
RATE_HZ = 16_000


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Layouts:
    return write_tiny(tmp_path_factory.mktemp("tiny"), end_early)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> whisper.Whisper:
    """A model that hears two seconds."""
    layouts = write_tiny(tmp_path_factory.mktemp("short"), end_early, chunk_s=2, n_layers=1)
    return load_whisper(str(layouts.openai), CPU)


@pytest.fixture(scope="module")
def speech(material: Path) -> list[np.ndarray]:
    """Twelve clips of EmoDB: 1.1 to 2 s of real speech of several speakers."""
    files = sorted((material / "data" / "emodb" / "flac").glob("*.flac"))
    if not files:
        pytest.skip("EmoDB is not among the material")
    clips = [soundfile.read(file, dtype="float32")[0] for file in files[::45]]
    assert len(clips) == 12
    # The clips that are handed out have two seconds each.
    return [clip[: 16_000 + 1_300 * (number + 1)] for number, clip in enumerate(clips)]


@pytest.fixture(scope="module")
def noises() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [0.1 * rng.standard_normal(16_000 + 900 * n).astype(np.float32) for n in range(8)]


def one_by_one(model: whisper.Whisper, clip: np.ndarray, **options: object):
    """openai-whisper's own decoding of one clip, as its README shows it."""
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(clip), model.dims.n_mels)
    return whisper.decode(model, mel, whisper.DecodingOptions(fp16=False, **options))


@pytest.mark.parity
@pytest.mark.parametrize("layout", ["hub", pytest.param("openai", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"language": "de"}, {"language": "de"}),
        pytest.param({"language": None}, {"language": None}, marks=pytest.mark.slow),
        pytest.param(
            {"language": "en", "timestamps": False},
            {"language": "en", "without_timestamps": True},
            marks=pytest.mark.slow,
        ),
        ({"language": "de", "beam_size": 2}, {"language": "de", "beam_size": 2}),
    ],
    ids=["language", "detected", "without-timestamps", "beams"],
)
def test_batched_texts_equal_those_of_openai_whisper_one_by_one(tiny, speech, layout, ours, theirs):
    clips = speech[:4] if "beam_size" in ours else speech
    settings = DecodingSettings(temperatures=(0.0,), **ours)
    recognizer = Recognizer(load_whisper(str(getattr(tiny, layout)), CPU), settings)
    found = dict(
        recognizer._pass([(str(n), 0) for n in range(len(clips))], clips, recognizer.language)
    )
    reference = whisper.load_model(str(tiny.openai), device="cpu")
    for number, clip in enumerate(clips):
        decoded, expected = found[str(number), 0], one_by_one(reference, clip, **theirs)
        assert decoded.tokens == tuple(expected.tokens)
        assert (decoded.text, decoded.language) == (expected.text, expected.language)
        assert decoded.avg_logprob == pytest.approx(expected.avg_logprob, rel=1e-4)
        assert decoded.no_speech_prob == pytest.approx(expected.no_speech_prob, rel=1e-4)
        assert decoded.compression_ratio == expected.compression_ratio
    # Most clips are told apart, and some texts end while others of the batch go on.
    assert len({decoded.tokens for decoded in found.values()}) > len(clips) // 2
    assert "beam_size" in ours or len({len(decoded.tokens) for decoded in found.values()}) > 3


@pytest.mark.weights
def test_real_model_in_batches_equals_openai_whisper_one_by_one(speech):
    path = os.environ.get("ABHINAYA_WHISPER", "")
    if not path:
        pytest.skip("ABHINAYA_WHISPER names no full Whisper model (.pt file or folder)")
    model = load_whisper(path, CPU)
    language = "de" if model.is_multilingual else "en"
    recognizer = Recognizer(model, DecodingSettings(language, temperatures=(0.0,)))
    keys = [(str(number), 0) for number in range(len(speech))]
    found = dict(recognizer._pass(keys, speech, recognizer.language))
    expected = [tuple(one_by_one(model, clip, language=language).tokens) for clip in speech]
    assert [found[key].tokens for key in keys] == expected


@pytest.mark.gpu
def test_half_precision_on_the_device_says_what_openai_whisper_says_there(tiny, noises):
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    device = torch.device("cuda")
    model = load_whisper(str(tiny.openai), device)
    halve_weights(model)
    recognizer = Recognizer(model, DecodingSettings("en", (0.0,)), in_half=True)
    # One clip per pass on both sides: half precision rounds too much to compare batches.
    found = [recognizer.transcribe(["a"], [[clip]], batch_size=1)[0].text for clip in noises]
    content = torch.load(tiny.openai, weights_only=True)
    content["model_state_dict"] = {k: v.half() for k, v in content["model_state_dict"].items()}
    theirs = whisper.load_model(str(tiny.openai), device=device)
    theirs.load_state_dict(content["model_state_dict"])
    options = whisper.DecodingOptions(language="en", fp16=True)
    for text, clip in zip(found, noises, strict=True):
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(clip), 80, device=device)
        assert text == whisper.decode(theirs, mel, options).text


@pytest.mark.parity
def test_english_model_needs_no_language(tmp_path, speech):
    layouts = write_tiny(tmp_path, n_tokens=ENGLISH)
    recognizer = Recognizer(
        load_whisper(str(layouts.hub), CPU), DecodingSettings(temperatures=(0.0,))
    )
    found = recognizer.transcribe(["a", "b"], [[speech[0]], [speech[1]]], batch_size=2)
    reference = whisper.load_model(str(layouts.openai), device="cpu")
    expected = [one_by_one(reference, clip, language="en").text for clip in speech[:2]]
    assert [transcript.text for transcript in found] == expected
    assert {transcript.language for transcript in found} == {"en"}


def test_english_model_refuses_another_language(tmp_path):
    layouts = write_tiny(tmp_path, n_tokens=ENGLISH, chunk_s=1)
    with pytest.raises(BadValueError, match=r"language is 'de', but this model knows English only"):
        Recognizer(load_whisper(str(layouts.hub), CPU), DecodingSettings(language="de"))


def fallback_settings(model, clips, **changes: object) -> DecodingSettings:
    """Settings by which half of the clips look unsure at temperature 0."""
    greedy = Recognizer(model, DecodingSettings("en", temperatures=(0.0,)))
    names = [str(number) for number in range(len(clips))]
    first = greedy.transcribe(names, [[clip] for clip in clips], batch_size=99)
    middle = float(np.median([transcript.avg_logprob for transcript in first]))
    rest = {"temperatures": (0.0, 0.5, 1.0), "max_compression_ratio": 99.0} | changes
    return DecodingSettings("en", min_logprob=middle, **rest)


@pytest.mark.slow
def test_clip_that_falls_back_equals_itself_in_any_batch(short, noises):
    settings = fallback_settings(short, noises)
    recognizer = Recognizer(short, settings)
    names = [f"clip{number}" for number in range(len(noises))]
    together = dict(
        zip(
            names,
            recognizer.transcribe(names, [[clip] for clip in noises], batch_size=8),
            strict=True,
        )
    )
    fell_back = [name for name in names if together[name].temperature > 0]
    # Half of them, by the choice of the threshold.
    assert len(fell_back) == 4
    for batch in ([0, 1, 2], [2, 1, 0, 7, 5], [3], [4], [5], [6], [7, 6]):
        chosen = [names[number] for number in batch]
        again = recognizer.transcribe(chosen, [[noises[n]] for n in batch], batch_size=8)
        for name, transcript in zip(chosen, again, strict=True):
            assert transcript.text == together[name].text
            if name in fell_back:
                # To the last digit: it was decoded on its own each time.
                assert transcript == together[name]


def test_samples_depend_on_seed_and_utterance_and_leave_the_callers_random_numbers_alone(
    short, noises
):
    def sample(name: str, seed: int) -> str:
        settings = DecodingSettings("en", temperatures=(1.0,), seed=seed)
        return Recognizer(short, settings).transcribe([name], [[noises[0]]], batch_size=1)[0].text

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    texts = [sample("a", 0), sample("a", 0), sample("b", 0), sample("a", 1)]
    assert torch.equal(torch.rand(1), expected)
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


@pytest.mark.slow
def test_first_good_temperature_ends_the_search(short, noises):
    names = [str(number) for number in range(len(noises))]
    windows = [[clip] for clip in noises]

    def decode(temperatures: tuple[float, ...], min_logprob: float):
        settings = DecodingSettings(
            "en", temperatures, min_logprob=min_logprob, max_compression_ratio=99.0
        )
        return Recognizer(short, settings).transcribe(names, windows, batch_size=8)

    # So near to each other that chance decides which is the best.
    ladder = (1.0, 1.01, 1.02, 1.03, 1.04)
    alone = [decode((temperature,), -99.0) for temperature in ladder]
    bound = float(np.median([transcript.avg_logprob for step in alone for transcript in step]))
    found = decode(ladder, bound)
    expected = [
        next((t for t in tries if t.avg_logprob >= bound), tries[-1])
        for tries in zip(*alone, strict=True)
    ]
    assert [(t.temperature, t.text) for t in found] == [(t.temperature, t.text) for t in expected]
    # Some stop at once, some on the way.
    assert len({transcript.temperature for transcript in found} - {1.04}) >= 2


@pytest.mark.slow
def test_last_temperature_counts_where_none_is_good(short, noises):
    windows = [[clip] for clip in noises]
    names = [str(number) for number in range(len(noises))]
    # No text is sure enough: every clip goes through to the end.
    never = DecodingSettings("en", temperatures=(0.0, 0.5, 1.0), min_logprob=0.0)
    hopeless = Recognizer(short, never).transcribe(names, windows, batch_size=8)
    assert {transcript.temperature for transcript in hopeless} == {1.0}
    assert {transcript.flag for transcript in hopeless} <= {"unsure", "repetitive"}
    # Every text is: none leaves the batch.
    always = DecodingSettings("en", min_logprob=-99.0, max_compression_ratio=99.0)
    fine = Recognizer(short, always).transcribe(names, windows, batch_size=8)
    assert {(transcript.temperature, transcript.flag) for transcript in fine} == {(0.0, None)}


def test_long_clip_is_its_windows_joined_in_the_language_of_the_first(short, noises):
    clip = np.concatenate(noises)[: 5 * RATE_HZ]
    settings = DecodingSettings(None, temperatures=(0.0,), max_no_speech_prob=1.0)
    recognizer = Recognizer(short, settings)
    segments = cut_windows(clip, recognizer.window_samples)
    assert len(segments) == 3
    [whole] = recognizer.transcribe(["long"], [segments], batch_size=1)
    [first] = recognizer.transcribe(["part"], [segments[:1]], batch_size=1)
    fixed = Recognizer(
        short, DecodingSettings(first.language, temperatures=(0.0,), max_no_speech_prob=1.0)
    )
    parts = fixed.transcribe(["0", "1", "2"], [[segment] for segment in segments], batch_size=1)
    assert whole.text == " ".join(part.text for part in parts if part.text)
    assert (whole.n_windows, whole.language) == (3, first.language)
    assert whole.avg_logprob == pytest.approx(min(part.avg_logprob for part in parts), rel=1e-5)


@pytest.mark.parametrize(
    ("no_speech_prob", "avg_logprob", "compression_ratio", "silent", "wrong"),
    [
        (0.1, -0.3, 1.2, False, False),
        (0.1, -1.1, 1.2, False, True),
        (0.1, -0.3, 2.5, False, True),
        # The bounds themselves are fine, as in openai-whisper.
        (0.1, -1.0, 2.4, False, False),
        # No speech and an unsure text: silence, which no temperature can mend.
        (0.7, -1.1, 2.5, True, False),
        # The model is sure of its text, whatever it says about speech.
        (0.7, -0.9, 1.2, False, False),
        (0.7, -0.9, 2.5, False, True),
        (0.6, -1.1, 1.2, False, True),
    ],
)
def test_rules_of_fallback_and_silence(
    no_speech_prob, avg_logprob, compression_ratio, silent, wrong
):
    decoded = Decoded((1,), "x", "en", 0.0, avg_logprob, compression_ratio, no_speech_prob)
    assert DecodingSettings().is_silent(decoded) == silent
    assert DecodingSettings().looks_wrong(decoded) == wrong


def window(text, temperature=0.0, avg_logprob=-0.2, compression_ratio=1.0, no_speech_prob=0.1):
    return Decoded((1,), text, "en", temperature, avg_logprob, compression_ratio, no_speech_prob)


def test_joined_windows_leave_out_silent_ones_and_their_numbers():
    silent = window("thanks for watching", 0.0, -2.0, 0.9, 0.9)
    windows = [window("so"), silent, window("well", 0.4, -0.8, 1.3, 0.2), window("")]
    joined = join_windows(windows, DecodingSettings())
    assert (joined.text, joined.flag, joined.n_windows) == ("so well", None, 4)
    assert (joined.temperature, joined.avg_logprob) == (0.4, -0.8)
    assert (joined.compression_ratio, joined.no_speech_prob) == (1.3, 0.2)
    nothing = join_windows([silent, silent], DecodingSettings())
    assert (nothing.text, nothing.flag, nothing.no_speech_prob) == ("", "silence", 0.9)


@pytest.mark.parametrize(
    ("windows", "flag"),
    [
        ([window("a", compression_ratio=2.5), window("b")], "repetitive"),
        ([window("a"), window("b", avg_logprob=-1.5)], "unsure"),
    ],
)
def test_one_doubtful_window_flags_the_clip(windows, flag):
    assert join_windows(windows, DecodingSettings()).flag == flag


def test_long_clip_is_cut_where_it_is_quiet():
    rng = np.random.default_rng(0)
    clip = rng.standard_normal(70 * RATE_HZ).astype(np.float32)
    for pause_s in (27.0, 55.0):
        clip[int(pause_s * RATE_HZ) : int((pause_s + 0.4) * RATE_HZ)] *= 0.01
    segments = cut_windows(clip, 30 * RATE_HZ)
    # The second window starts near 27.2 s and is searched from 52.2 s on.
    cuts_s = np.cumsum([len(segment) for segment in segments])[:-1] / RATE_HZ
    assert 27.0 < cuts_s[0] < 27.4
    assert 55.0 < cuts_s[1] < 55.4
    np.testing.assert_array_equal(np.concatenate(segments), clip)


@pytest.mark.parametrize("n_samples", [1, 31_999, 32_000])
def test_clip_that_fits_is_not_cut(n_samples):
    segments = cut_windows(np.ones(n_samples, np.float32), 32_000)
    assert [len(segment) for segment in segments] == [n_samples]


def test_segments_of_any_clip_fit_and_are_never_short():
    rng = np.random.default_rng(1)
    for n_samples in rng.integers(32_001, 400_000, 50):
        segments = cut_windows(rng.standard_normal(n_samples).astype(np.float32), 32_000)
        assert sum(map(len, segments)) == n_samples
        assert max(map(len, segments)) <= 32_000
        # A tenth of a second is left beyond the last cut.
        assert min(map(len, segments)) >= 1_600


def test_halved_weights_compute_what_openai_whisper_computes_in_half_precision(short, tmp_path):
    """It converts every weight at every step; the results must not differ by a bit."""
    layouts = write_tiny(tmp_path, end_early, chunk_s=2, n_layers=1)
    # As the official files do, this one holds half precision.
    content = torch.load(layouts.openai, weights_only=True)
    content["model_state_dict"] = {k: v.half() for k, v in content["model_state_dict"].items()}
    torch.save(content, layouts.openai)
    theirs = whisper.load_model(str(layouts.openai), device="cpu")
    ours = load_whisper(str(layouts.openai), CPU)
    halve_weights(ours)
    assert ours.decoder.blocks[0].mlp[0].weight.dtype == torch.float16
    mel = torch.randn(2, 80, 200, generator=torch.Generator().manual_seed(0)).half()
    tokens = torch.tensor([[50258, 50259, 50359], [50258, 50261, 50359]])
    with torch.no_grad():
        assert torch.equal(ours(mel, tokens), theirs(mel, tokens))


def test_defaults_are_those_of_openai_whisper():
    expected = "language=detect temperatures=0,0.2,0.4,0.6,0.8,1 beams=1 timestamps=yes seed=0 "
    assert DecodingSettings().describe() == f"{expected}thresholds=2.4,-1,0.6"


@pytest.mark.parametrize("temperatures", [(), (-0.2, 0.0), (0.0, 0.0), (0.4, 0.2)])
def test_temperatures_that_do_not_rise_raise(temperatures):
    with pytest.raises(BadValueError, match="expected at least one, from 0 on, each above"):
        DecodingSettings(temperatures=temperatures)


@pytest.mark.parametrize("changes", [{"beam_size": 1}, {"beam_size": 5, "temperatures": (0.5,)}])
def test_beams_without_greedy_start_or_less_than_two_raise(changes):
    with pytest.raises(BadValueError, match=r"beam size is \d.*at least 2 beams at temperature 0"):
        DecodingSettings(**changes)
