"""A classifier of the public code, predicted with from a config, through the whole member."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import salmonn_golden as G
import soundfile
import soxr
import torch
from golden_set import LENGTHS, WAVS, classifier_of

from abhinaya.data.audio import read_audio
from abhinaya.data.labels import MSP_PODCAST, EmotionSet
from abhinaya.data.manifest import make_manifest
from abhinaya.data.transcripts import write_transcripts
from abhinaya.errors import BadValueError, CheckpointError, ClassOrderError, MissingFileError
from abhinaya.member import PredictRequest
from abhinaya.nn.checkpoint import read_info

NAMES = tuple(file.name for file in WAVS)
N_HIDDEN, N_FEATURES = G.HEAD["hidden"], G.CONFIG["llama"]["hidden_size"]


def write_corpus(folder, texts=None, *, source="human", emotions=MSP_PODCAST):
    """The golden clips, shortest first, with their transcripts."""
    texts = dict(zip(NAMES, G.CONFIG["st1_transcripts"], strict=True)) if texts is None else texts
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        shutil.copyfile(G.GOLDEN / "wav" / name, folder / name)
    rows = [{"utterance": n, "audio": n, "split": "test"} for n in NAMES]
    write_transcripts(
        [{"utterance": n, "source": source, "text": t} for n, t in texts.items()],
        folder / "transcripts.parquet",
    )
    return make_manifest(rows, emotions, folder)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def config_of(system, folder, **changes):
    data = {"manifest": "manifest.parquet", "transcripts": {"predict": "human"}}
    settings = {"data": data, "inference": {"batch_size": 2}}
    return G.make_config(system, folder, **settings | changes)


def predict(source, corpus, out, *overrides, system="s2", **options):
    request = PredictRequest(corpus, ("test",), out, overrides=overrides, **options)
    return G.member_of(system).predict(source, request)


def golden_logits(system):
    arrays = G.golden(system)
    return np.concatenate([arrays[f"single{idx}_logits"] for idx in G.ROWS])


def golden_probs(system):
    return torch.from_numpy(golden_logits(system)).softmax(dim=1).numpy()


# ------------------------------------------------------------------ the numbers


@pytest.mark.parity
@pytest.mark.parametrize("batch_size", [1, len(NAMES)])
@pytest.mark.parametrize("system", ["s2", "st1"])
def test_table_holds_the_published_logits_of_single_clips(tmp_path, corpus, system, batch_size):
    config = config_of(system, tmp_path, inference={"batch_size": batch_size})
    table = predict(config, corpus, tmp_path / "table.parquet", system=system, with_embedding=True)
    assert table.utterances == NAMES
    assert table.reasons == (None,) * len(NAMES)
    head = table.meta["head"]
    logits = table.embeddings @ np.array(head["weight"]).T + np.array(head["bias"])
    expected = golden_logits(system)
    np.testing.assert_allclose(logits, expected, atol=5e-5, rtol=0)
    np.testing.assert_allclose(table.probs, golden_probs(system), atol=2e-5, rtol=0)
    np.testing.assert_array_equal(table.labels, expected.argmax(axis=1))


@pytest.mark.parity
def test_published_mode_gives_the_published_logits_of_a_batch(tmp_path, corpus):
    """S2's clips share one prompt, so no row of padding with random numbers takes part."""
    config = config_of("s2", tmp_path, compat="published", inference={"batch_size": len(NAMES)})
    table = predict(config, corpus, tmp_path / "table.parquet")
    logits = torch.from_numpy(G.golden("s2")["batch_logits"])
    np.testing.assert_allclose(table.probs, logits.softmax(dim=1), atol=2e-5, rtol=0)
    # There the short clips come out otherwise than alone.
    assert np.abs(table.probs - golden_probs("s2")).max() > 1e-3


# ------------------------------------------------------------------ the run directory


def test_best_is_made_once_and_used_again(tmp_path, corpus, monkeypatch):
    config = config_of("s2", tmp_path)
    first = predict(config, corpus, tmp_path / "first.parquet")
    best = config.run_dir / "best"
    assert read_info(best).emotions == MSP_PODCAST
    assert [path.name for path in config.run_dir.iterdir()] == ["best"]
    before = (best / "model.safetensors").stat().st_mtime_ns

    def fail(*args):
        pytest.fail("the classifier was read again")

    monkeypatch.setattr("members.salmonn.member.load_published", fail)
    second = predict(config, corpus, tmp_path / "second.parquet")
    assert (best / "model.safetensors").stat().st_mtime_ns == before
    np.testing.assert_array_equal(first.probs, second.probs)


def test_best_predicts_alone_without_the_classifiers_file(tmp_path, corpus):
    file = tmp_path / "classifier.pth"
    shutil.copyfile(classifier_of("st1"), file)
    config = config_of("st1", tmp_path, classifier=str(file))
    expected = predict(config, corpus, tmp_path / "first.parquet", system="st1")
    file.unlink()
    run = config.run_dir
    table = predict(run, corpus, tmp_path / "again.parquet", system="st1")
    np.testing.assert_array_equal(table.probs, expected.probs)
    assert (run / "best" / "adapter" / "adapter_model.safetensors").is_file()
    with pytest.raises(MissingFileError, match=r"no file '.*classifier\.pth'\. Correct classifier"):
        predict(config, corpus, tmp_path / "third.parquet", system="st1")


def test_what_matters_in_prediction_alone_may_change(tmp_path, corpus):
    """The stored config would else go on with what stood there first, and nobody would know."""
    spoken = predict(config_of("st1", tmp_path), corpus, tmp_path / "spoken.parquet", system="st1")
    other = write_corpus(tmp_path / "other", dict.fromkeys(NAMES, ""), source="machine")
    data = {"manifest": "manifest.parquet", "transcripts": {"predict": "machine"}}
    config = config_of("st1", tmp_path, data=data, inference={"batch_size": 1})
    silent = predict(config, other, tmp_path / "silent.parquet", system="st1")
    assert silent.reasons == (None,) * len(NAMES)
    assert np.abs(silent.probs - spoken.probs).max() > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {"pooling": "mean"},
        {"name": "other"},
        {"classifier": str(classifier_of("st1"))},
        {"prompt_template": "{}"},
    ],
)
def test_another_run_in_the_folder_raises(tmp_path, corpus, changes):
    config = config_of("s2", tmp_path)
    predict(config, corpus, tmp_path / "table.parquet")
    before = (config.run_dir / "best" / "config.yaml").read_bytes()
    with pytest.raises(CheckpointError, match=r"run' holds another run\. Choose another run_dir"):
        predict(config_of("s2", tmp_path, **changes), corpus, tmp_path / "other.parquet")
    assert (config.run_dir / "best" / "config.yaml").read_bytes() == before


def test_training_that_has_only_begun_in_the_folder_raises(tmp_path, corpus):
    config = config_of("s2", tmp_path)
    config.run_dir.mkdir()
    (config.run_dir / "digest.json").write_text('{"digest": "0"}')
    with pytest.raises(CheckpointError, match=r"run' holds another run\. Choose another run_dir"):
        predict(config, corpus, tmp_path / "table.parquet")
    assert not (config.run_dir / "best").exists()


def test_training_into_the_folder_of_a_published_classifier_raises(tmp_path, corpus):
    config = config_of("s2", tmp_path)
    predict(config, corpus, tmp_path / "table.parquet")
    with pytest.raises(BadValueError, match=r"holds files but no run of abhinaya: best"):
        G.member_of("s2").train(config, corpus)


def test_config_without_classifier_must_be_trained_first(tmp_path, corpus):
    with pytest.raises(BadValueError, match=r"'salmonn-13b' must be trained before it predicts"):
        predict(config_of("s2", tmp_path, classifier=None), corpus, tmp_path / "table.parquet")


# ------------------------------------------------------------------ files that do not fit


@pytest.mark.parametrize(
    ("change", "changes", "expected"),
    [
        (lambda t: t.pop("out.bias"), {}, r"1 of \d+ keys .* missing: 'head\.out\.bias'"),
        (
            lambda t: [t.pop("ln.weight"), t.pop("ln.bias")],
            {},
            r"2 of \d+ keys .* missing: 'backbone\.norm",
        ),
        (
            lambda t: t.pop("ln.bias"),
            {},
            r"1 of 2 keys .* the norm before pooling: missing: 'bias'",
        ),
        (
            lambda t: None,
            {"head": {"hidden": 2 * N_HIDDEN, "norm": "none"}},
            rf"3 of \d+ keys .* size mismatch for .*\({N_HIDDEN}, {2 * N_FEATURES}\) against "
            rf"\({2 * N_HIDDEN}, {2 * N_FEATURES}\)",
        ),
        (
            lambda t: None,
            {"head": {"hidden": N_HIDDEN}},
            r"2 of \d+ keys .* missing: 'head\.ln\.bias', 'head\.ln\.weight'",
        ),
        (lambda t: None, {"pooling": "mean"}, r"unexpected: 'pooling"),
        (
            lambda t: t.update(
                {"out.weight": torch.zeros(4, N_HIDDEN), "out.bias": torch.zeros(4)}
            ),
            {},
            rf"2 of \d+ keys .* size mismatch for .*\(4, {N_HIDDEN}\) against \(8, {N_HIDDEN}\)",
        ),
        (
            lambda t: t.update({"vad.weight": torch.zeros(1)}),
            {},
            r"1 of \d+ tensors .*'vad\.weight'",
        ),
    ],
)
def test_classifier_that_does_not_fit_is_named(tmp_path, corpus, change, changes, expected):
    tensors = torch.load(classifier_of("s2"), weights_only=True)
    change(tensors)
    torch.save(tensors, tmp_path / "edited.pth")
    config = config_of("s2", tmp_path, classifier=str(tmp_path / "edited.pth"), **changes)
    with pytest.raises(CheckpointError, match=expected) as caught:
        predict(config, corpus, tmp_path / "table.parquet")
    assert repr(str(tmp_path / "edited.pth")) in str(caught.value)
    assert not (config.run_dir / "best").exists()


def test_corpus_of_other_classes_raises(tmp_path):
    emotions = EmotionSet(("S", "A"), ("sad", "angry"))
    other = write_corpus(tmp_path / "corpus", emotions=emotions)
    with pytest.raises(ClassOrderError, match=r"order S A, but .* has A C D F H N S U"):
        predict(config_of("s2", tmp_path), other, tmp_path / "table.parquet")


# ------------------------------------------------------------------ clips


def test_row_without_transcript_abstains_with_its_reason(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", {NAMES[0]: None, NAMES[2]: ""})
    config = config_of("st1", tmp_path)
    table = predict(config, corpus, tmp_path / "table.parquet", system="st1")
    reason = "there is no transcript of the source 'human'"
    assert table.reasons[:3] == (reason, reason, None)
    assert table.labels[:2].tolist() == [-1, -1]
    assert np.isfinite(table.probs[2]).all()


def with_clip(corpus, folder, name, waveform, rate_hz):
    """The corpus with one clip more, as 16-bit WAV."""
    soundfile.write(folder / name, waveform, rate_hz)
    rows = pd.concat([corpus.rows, corpus.rows.tail(1).assign(utterance=name, audio=name)])
    return replace(corpus, rows=rows.reset_index(drop=True))


def test_clip_of_another_rate_is_resampled(tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    narrow = soxr.resample(G.utterances()[1].waveform, 16_000, 8_000)
    corpus = with_clip(corpus, corpus.root, "narrow.wav", narrow, 8_000)
    wide = read_audio(corpus.root / "narrow.wav")
    assert len(wide) == LENGTHS[1]
    soundfile.write(corpus.root / "wide.wav", wide, 16_000, subtype="FLOAT")
    rows = corpus.rows.tail(1).assign(utterance="wide.wav", audio="wide.wav")
    corpus = replace(corpus, rows=pd.concat([corpus.rows, rows]).reset_index(drop=True))
    table = predict(config_of("s2", tmp_path), corpus, tmp_path / "table.parquet")
    np.testing.assert_allclose(table.probs[-2], table.probs[-1], atol=1e-5)
    # Without what lies above 4 kHz it is another sound.
    assert np.abs(table.probs[-2] - table.probs[1]).max() > 1e-3


def test_clip_too_short_to_be_read_abstains(tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    corpus = with_clip(corpus, corpus.root, "click.wav", np.zeros(80), 16_000)
    table = predict(config_of("s2", tmp_path), corpus, tmp_path / "table.parquet")
    assert table.labels[-1] == -1
    assert "click.wav is too short: 0.005 s" in table.reasons[-1]


def test_long_clip_is_cropped_unless_it_shall_be_heard_in_full(tmp_path):
    corpus, longest = write_corpus(tmp_path / "corpus"), int(np.argmax(LENGTHS))
    sound = np.tile(G.utterances()[longest].waveform, 480_000 // LENGTHS[longest] + 1)
    corpus = with_clip(corpus, corpus.root, "long.wav", sound, 16_000)
    crop = {"max_audio_s": LENGTHS[longest] / 16_000, "eval_crop": "first"}
    config = config_of("s2", tmp_path, audio=crop)
    table = predict(config, corpus, tmp_path / "table.parquet")
    # It begins with the whole of the longest clip.
    np.testing.assert_allclose(table.probs[-1], table.probs[longest], atol=1e-6)
    with pytest.raises(BadValueError, match=r"'long\.wav' has [\d.]+ s, but the model hears 30 s"):
        predict(config.run_dir, corpus, tmp_path / "full.parquet", "audio.eval_crop=full")
