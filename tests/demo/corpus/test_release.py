import csv
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.demo.corpus.release import write_corpus
from abhinaya.errors import BadValueError

# `make demo` and the tests of other rooms stand on it every time.
pytestmark = pytest.mark.slow

PRIMARY_CODES = {
    "Angry": "A",
    "Contempt": "C",
    "Disgust": "D",
    "Fear": "F",
    "Happy": "H",
    "Neutral": "N",
    "Sad": "S",
    "Surprise": "U",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def labels(corpus):
    return read_rows(corpus.release / "Labels" / "labels_consensus.csv")


@pytest.fixture(scope="module")
def truth(corpus):
    return read_rows(corpus.test3_truth)


def read_rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def files_below(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_release_has_the_published_layout(corpus):
    names = {p.name for p in corpus.release.iterdir()}
    assert names == {
        "readme.txt",
        "Speaker_ids.txt",
        "Partitions.txt",
        "Audios",
        "Labels",
        "Transcripts",
    }
    assert {p.name for p in (corpus.release / "Labels").iterdir()} == {
        "labels.txt",
        "labels_consensus.csv",
        "labels_consensus.json",
        "labels_detailed.csv",
        "labels_detailed.json",
    }
    assert "synthetic" in (corpus.release / "readme.txt").read_text()


def test_counts_per_split_and_class(corpus, labels, truth):
    assert corpus.n_clips == {"Train": 280, "Development": 96, "Test1": 44, "Test3": 80}
    assert len(list((corpus.release / "Audios").iterdir())) == 500
    per_split = defaultdict(Counter)
    for row in labels:
        per_split[row["Split_Set"]][row["EmoClass"]] += 1
    train = per_split["Train"]
    assert {code: train[code] for code in "NHDF"} == {"N": 70, "H": 60, "D": 14, "F": 14}
    assert min(train[code] for code in MSP_PODCAST.codes) == 14
    assert all(per_split["Development"][code] == 11 for code in MSP_PODCAST.codes)
    assert all(per_split[split][code] > 0 for split in per_split for code in "OX")
    assert Counter(row["EmoClass"] for row in truth) == dict.fromkeys(MSP_PODCAST.codes, 10)


def test_test3_stands_in_no_file_of_the_release_but_its_sounds(corpus, truth):
    hidden = {row["FileName"] for row in truth}
    assert hidden == {f"MSP-PODCAST_test3_{idx:04d}.wav" for idx in range(1, 81)}
    assert hidden <= {p.name for p in (corpus.release / "Audios").iterdir()}
    texts = [p for p in corpus.release.rglob("*") if p.suffix in {".txt", ".csv", ".json"}]
    assert len(texts) == 3 + 5 + 420
    for path in texts:
        if path.name != "readme.txt":
            assert "test3" not in path.name + path.read_text(encoding="utf-8")


def test_recognized_text_of_every_clip_is_the_spoken_one_with_words_lost(corpus):
    said = {
        path.with_suffix(".wav").name: path.read_text(encoding="utf-8").strip()
        for path in (corpus.release / "Transcripts").iterdir()
    }
    heard = {row["FileName"]: row["Transcript"] for row in read_rows(corpus.recognized)}
    assert len(heard) == 500
    n_said = n_heard = 0
    for name, text in said.items():
        words = text.split()
        rest = iter(words)
        assert all(word in rest for word in heard[name].split()), (text, heard[name])
        n_said += len(words)
        n_heard += len(heard[name].split())
    assert 0.05 < 1 - n_heard / n_said < 0.09


def test_every_labelled_clip_is_in_every_file(corpus, labels):
    names = [row["FileName"] for row in labels]
    assert len(names) == len(set(names)) == 420
    assert names == sorted(names)
    lines = (corpus.release / "Partitions.txt").read_text().splitlines()
    assert [line.split("; ") for line in lines] == [[r["Split_Set"], r["FileName"]] for r in labels]
    stems = {p.stem for p in (corpus.release / "Transcripts").iterdir()}
    assert stems == {Path(name).stem for name in names}
    consensus = json.loads((corpus.release / "Labels" / "labels_consensus.json").read_text())
    assert list(consensus) == names
    assert all(str(consensus[r["FileName"]]["EmoVal"]) == r["EmoVal"] for r in labels)


def test_splits_share_no_speaker_and_some_speakers_are_unknown(corpus, labels, truth):
    speakers = defaultdict(set)
    for row in labels:
        speakers[row["Split_Set"]].add(row["SpkrID"])
        assert (row["SpkrID"] == "Unknown") == (row["Gender"] == "Unknown")
    speakers["Test3"] = {row["SpkrID"] for row in truth}
    assert "Unknown" in speakers["Train"]
    assert {split: len(ids - {"Unknown"}) for split, ids in speakers.items()} == {
        "Train": 12,
        "Development": 4,
        "Test1": 2,
        "Test3": 6,
    }
    known = [speaker for ids in speakers.values() for speaker in ids - {"Unknown"}]
    assert len(known) == len(set(known)) == 24
    lines = (corpus.release / "Speaker_ids.txt").read_text().splitlines()
    head, rows = lines[: lines.index("")], lines[lines.index("") + 1 :]
    assert Counter(line.split("; ")[1] for line in head) == {"Female": 9, "Male": 9}
    assert rows == [f"{row['FileName']}; {row['SpkrID']}" for row in labels]


def test_a_recording_has_one_speaker_and_turns_in_order(labels):
    speakers = defaultdict(set)
    for row in labels:
        _, recording, turn = Path(row["FileName"]).stem.split("_")
        assert len(recording) == len(turn) == 4
        speakers[recording].add(row["SpkrID"])
    assert 30 < len(speakers) <= 36  # two for each of 18 speakers
    assert all(len(ids - {"Unknown"}) <= 1 for ids in speakers.values())


def test_consensus_follows_from_the_detailed_ratings(corpus, labels):
    ratings = defaultdict(list)
    for row in read_rows(corpus.release / "Labels" / "labels_detailed.csv"):
        ratings[row["FileName"]].append(row["EmoDetail"].rstrip(";").split("; "))
    n_agreed = Counter()
    for row in labels:
        details = ratings[row["FileName"]]
        assert len(details) >= 5
        votes = Counter(PRIMARY_CODES.get(detail[1], detail[1][0]) for detail in details)
        (top, n_top), *others = votes.most_common()
        winner = "X" if others and others[0][1] == n_top else top
        assert winner == row["EmoClass"]
        means = [np.mean([float(detail[idx][2:]) for detail in details]) for idx in (-3, -2, -1)]
        attributes = [float(row[name]) for name in ("EmoAct", "EmoVal", "EmoDom")]
        assert attributes == pytest.approx(means, abs=1e-5)
        n_agreed["all" if len(votes) == 1 else "some"] += 1
    assert n_agreed["some"] > n_agreed["all"] > 0


def test_text_labels_say_what_the_tables_say(corpus, labels):
    blocks = (corpus.release / "Labels" / "labels.txt").read_text().strip().split("\n\n")
    detailed = read_rows(corpus.release / "Labels" / "labels_detailed.csv")
    as_json = json.loads((corpus.release / "Labels" / "labels_detailed.json").read_text())
    assert len(blocks) == len(labels)
    rater_lines = []
    for block, row in zip(blocks, labels, strict=True):
        head, *lines = block.split("\n")
        name, label, arousal, *_ = head.split("; ")
        assert (name, label) == (row["FileName"], row["EmoClass"])
        assert arousal == f"A:{float(row['EmoAct']):.6f}"
        assert [line.split("; ")[0] for line in lines] == list(as_json[name])
        rater_lines += lines
    assert rater_lines == [row["EmoDetail"] for row in detailed]


def test_sounds_are_sixteen_bit_mono_of_one_to_three_seconds(corpus):
    total_s = 0.0
    for path in (corpus.release / "Audios").iterdir():
        info = sf.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert 0.99 <= info.duration <= 3.01
        total_s += info.duration
        samples, _ = sf.read(path)
        assert np.abs(samples).max() < 0.91
        assert -45 < 20 * np.log10(samples.std()) < -12
        silent = np.lib.stride_tricks.sliding_window_view(samples == 0, 40).all(axis=1)
        assert not silent.any()  # no stretch of digital silence
    assert corpus.duration_s == pytest.approx(total_s, abs=0.01)


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("first", 1), ("second", 1), ("other", 2)):
        write_corpus(tmp_path / name, seed=seed, n_speakers=8, n_clips=40)
    first, second, other = (files_below(tmp_path / name) for name in ("first", "second", "other"))
    # 40 sounds, 5 label files, 3 texts, 2 files beside the release, a transcript per labelled clip.
    n_labelled = len(first["release/Partitions.txt"].splitlines())
    assert len(first) == 40 + 5 + 3 + 2 + n_labelled
    assert first == second
    assert other["release/Labels/labels.txt"] != first["release/Labels/labels.txt"]


def test_small_corpus_has_every_class_in_every_split(tmp_path):
    summary = write_corpus(tmp_path, n_speakers=8, n_clips=32)
    assert summary.n_clips == dict.fromkeys(("Train", "Development", "Test1", "Test3"), 8)
    rows = read_rows(summary.release / "Labels" / "labels_consensus.csv")
    assert Counter(row["EmoClass"] for row in rows) == dict.fromkeys(MSP_PODCAST.codes, 3)


def test_earlier_synthetic_release_is_replaced(tmp_path):
    write_corpus(tmp_path, seed=1, n_speakers=8, n_clips=40)
    (tmp_path / "release" / "leftover.txt").write_text("old")
    write_corpus(tmp_path, seed=1, n_speakers=8, n_clips=32)
    assert not (tmp_path / "release" / "leftover.txt").exists()
    assert len(list((tmp_path / "release" / "Audios").iterdir())) == 32


@pytest.mark.parametrize("readme", [None, "MSP-Podcast release 1.12"])
def test_other_release_is_not_replaced_raises(tmp_path, readme):
    (tmp_path / "release").mkdir()
    if readme:
        (tmp_path / "release" / "readme.txt").write_text(readme)
    with pytest.raises(BadValueError, match=r"is not a synthetic corpus.*another folder"):
        write_corpus(tmp_path)
    assert (tmp_path / "release").is_dir()


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"n_clips": 31}, "n_clips is 31, expected at least 32: one for each of 8 classes"),
        ({"n_speakers": 6}, "n_speakers is 6, expected an even number of at least 8"),
        ({"n_speakers": 9}, "n_speakers is 9, expected an even number"),
    ],
)
def test_too_small_counts_raise(tmp_path, counts, message):
    with pytest.raises(BadValueError, match=message):
        write_corpus(tmp_path, **counts)
    assert not any(tmp_path.iterdir())


def probe_macro_f1(corpus, labels, truth, features_of):
    """Macro-F1 on Test3 of a linear model of the training clips' features."""
    train = [r for r in labels if r["Split_Set"] == "Train" and r["EmoClass"] in MSP_PODCAST.codes]
    features, classes = [], []
    for rows in (train, truth):
        sounds = [sf.read(corpus.release / "Audios" / row["FileName"])[0] for row in rows]
        features.append(np.stack([features_of(samples) for samples in sounds]))
        classes.append([row["EmoClass"] for row in rows])
    linear = LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000)
    probe = make_pipeline(StandardScaler(), linear).fit(features[0], classes[0])
    return f1_score(classes[1], probe.predict(features[1]), average="macro")


def mean_pitch_and_energy(samples):
    frames = np.lib.stride_tricks.sliding_window_view(samples, 640)[::320]
    spectra = np.fft.rfft(frames - frames.mean(axis=1, keepdims=True), 2048)
    correlations = np.fft.irfft(np.abs(spectra) ** 2)[:, :270]
    correlations /= correlations[:, :1] + 1e-12
    lags = 40 + correlations[:, 40:].argmax(axis=1)  # 59 to 400 Hz
    is_voiced = correlations[np.arange(len(lags)), lags] > 0.4
    pitch = np.log(16_000 / lags[is_voiced]).mean() if is_voiced.any() else np.log(150)
    return np.array([pitch, np.log(np.mean(samples**2))])


def mel_filters(n_mels=80, n_fft=512):
    edges_hz = 700 * (
        10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), n_mels + 2) / 2595) - 1
    )
    freqs_hz = np.fft.rfftfreq(n_fft, 1 / 16_000)[:, None]
    rising = (freqs_hz - edges_hz[:-2]) / (edges_hz[1:-1] - edges_hz[:-2])
    falling = (edges_hz[2:] - freqs_hz) / (edges_hz[2:] - edges_hz[1:-1])
    return np.maximum(0, np.minimum(rising, falling))


MEL_FILTERS = mel_filters()


def log_mel_statistics(samples):
    frames = np.lib.stride_tricks.sliding_window_view(samples, 400)[::160] * np.hanning(400)
    log_mel = np.log(np.abs(np.fft.rfft(frames, 512)) ** 2 @ MEL_FILTERS + 1e-10)
    return np.r_[log_mel.mean(0), log_mel.std(0), np.diff(log_mel, axis=0).std(0)]


def test_mean_pitch_is_measured_well_enough_to_tell_women_from_men(corpus, labels):
    rows = [row for row in labels if row["Gender"] != "Unknown"]
    sounds = [sf.read(corpus.release / "Audios" / row["FileName"])[0] for row in rows]
    pitch_hz = np.exp([mean_pitch_and_energy(samples)[0] for samples in sounds])
    is_woman = np.array([row["Gender"] == "Female" for row in rows])
    assert np.mean((pitch_hz > 158) == is_woman) > 0.9


def test_mean_pitch_and_energy_alone_do_not_solve_it(corpus, labels, truth):
    assert probe_macro_f1(corpus, labels, truth, mean_pitch_and_energy) < 0.5


def test_log_mel_statistics_learn_it(corpus, labels, truth):
    assert probe_macro_f1(corpus, labels, truth, log_mel_statistics) > 0.55
