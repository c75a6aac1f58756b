"""Joined clips: exact samples, texts and targets, and the same pairs in every process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from torch.utils.data import DataLoader

from abhinaya.data.labels import EmotionSet
from abhinaya.errors import BadValueError, ProblemsError, UnknownNameError
from abhinaya.loading.clips import Clip, Cropping, load_segments
from abhinaya.loading.mixing import MixedClips, join_waveforms
from abhinaya.nn.recipe.mixing import ClipMixing

EMOTIONS = EmotionSet(("A", "F", "N"), ("angry", "fear", "neutral"))
# Seven neutral clips, two angry ones, one of fear; the mean class has 3.3.
TRUTH = np.array([2] * 7 + [0, 0, 1])


def encode(utterance: Any) -> dict[str, Any]:
    return {"waveform": utterance.waveform, "text": utterance.text, "name": utterance.name}


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Clip n lasts n + 1 tenths of a second, all of its samples are (n + 1) / 32, its text is n."""
    found = []
    for idx in range(len(TRUTH)):
        path = tmp_path / f"{idx}.wav"
        soundfile.write(path, np.full(1_600 * (idx + 1), (idx + 1) / 32), 16_000, subtype="FLOAT")
        found.append(Clip(path.name, path, str(idx), 0.1 * (idx + 1)))
    return found


def mixed(
    clips: list[Clip], truth: Any = TRUTH, crop: Any = None, attributes: Any = None, **mixing: Any
) -> MixedClips:
    cropping = crop or Cropping("first", 2.0, seed=3)

    def load(clip: Clip, epoch: int | None) -> list[dict[str, Any]]:
        return [encode(segment) for segment in load_segments(clip, cropping, epoch)]

    targets = np.eye(3, dtype=np.float32)[np.where(np.array(truth) < 0, 1, truth)]
    settings = {"probability": 1, "overlap_probability": 0, "max_silence_s": 0} | mixing
    return MixedClips(
        clips,
        load,
        targets,
        attributes,
        truth=np.array(truth),
        emotions=EMOTIONS,
        mixing=ClipMixing(**settings),
        inputs=SimpleNamespace(encode=encode),
        cropping=cropping,
    )


def numbers(row: dict[str, Any]) -> list[int]:
    """Return the clips that a joined row is made of, by its transcript."""
    (segment,) = row["segments"]
    return [int(word) for word in segment["text"].split()]


def test_join_by_hand():
    ones, halves = np.ones(4, np.float32), np.full(2, 0.5, np.float32)
    assert join_waveforms(halves, ones, 99, silence=2).tolist() == [0.5, 0.5, 0, 0, 1, 1, 1, 1]
    # Half of the shorter one is one sample; 1.0 + 0.5 is cut off at full scale.
    assert join_waveforms(ones, halves, 99, overlap=0.5).tolist() == [1, 1, 1, 1, 0.5]
    assert join_waveforms(halves / 2, halves, 99, overlap=1.0).tolist() == [0.75, 0.75]
    # Six samples do not fit into five: the longer one gives way. Then both do.
    assert join_waveforms(ones, halves, 5).tolist() == [1, 1, 1, 0.5, 0.5]
    assert join_waveforms(halves, ones, 5, silence=1).tolist() == [0.5, 0.5, 0, 1, 1]
    assert join_waveforms(ones, -ones, 5).tolist() == [1, 1, 1, -1, -1]


def test_majority_clip_is_joined_with_a_minority_clip_in_the_order_of_the_sound(clips):
    rows = mixed(clips)
    orders = set()
    for idx in range(7):
        for epoch in range(5):
            row = rows[idx, epoch]
            first, second = numbers(row)
            assert idx in (first, second)
            partner = first + second - idx
            assert partner >= 7
            waveform = row["segments"][0]["waveform"]
            expected = [(n + 1) / 32 for n in (first, second) for _ in range(1_600 * (n + 1))]
            assert waveform.tolist() == expected
            assert row["target"].tolist() == [[0.5, 0, 0.5], [0, 0.5, 0.5]][partner == 9]
            assert row["segments"][0]["name"] == f"{idx}.wav"
            orders.add(first == idx)
    assert orders == {True, False}
    # Clips of rare classes stay alone, and so do all outside training.
    assert [numbers(rows[idx, 0]) for idx in (7, 8, 9)] == [[7], [8], [9]]
    assert numbers(rows[0]) == [0]
    assert rows[0]["target"].tolist() == [0, 0, 1]


def test_attributes_of_a_pair_are_averaged_and_unknown_where_one_is(clips):
    # Clip n has arousal n / 2 and no valence but for the rare ones.
    attributes = np.array([[n / 2, np.nan if n < 7 else 4] for n in range(10)], np.float32)
    row = mixed(clips, attributes=attributes)[3, 0]
    arousal, valence = row["attributes"].tolist()
    assert arousal == sum(numbers(row)) / 4
    assert np.isnan(valence)


def test_minority_classes_are_equally_likely_and_pairs_as_frequent_as_wished(clips):
    rows = mixed(clips, probability=0.25)
    # The row itself is clip 0, so the sum is the partner.
    partners = Counter(sum(numbers(rows[0, epoch])) for epoch in range(800))
    # Of 800 epochs 200 have a partner: 100 of fear, 50 each of the angry ones; 4 deviations.
    assert partners[0] == pytest.approx(600, abs=49)
    assert partners[9] == pytest.approx(100, abs=38)
    assert partners[7] == pytest.approx(50, abs=28)
    assert partners[8] == pytest.approx(50, abs=28)


def test_targets_of_an_epoch_are_averaged(clips):
    rows = mixed(clips, classes=("A", "N"))
    votes = np.eye(3, dtype=np.float32)[TRUTH]
    # In the second epoch the first clip has other votes.
    rows.target = lambda idx, epoch: np.float32([0.5, 0, 0.5]) if epoch else votes[idx]
    assert rows[0, 0]["target"].tolist() == [0, 0.5, 0.5]
    assert rows[0, 1]["target"].tolist() == [0.5, 0, 0.5]


def test_silence_and_overlap_are_drawn_within_their_ranges(clips):
    apart = mixed(clips, max_silence_s=0.25)
    gaps = [
        int((apart[0, epoch]["segments"][0]["waveform"] == 0).sum()) / 16_000 for epoch in range(60)
    ]
    assert 0 <= min(gaps) < 0.02
    assert 0.22 < max(gaps) <= 0.25
    under = mixed(clips, overlap_probability=1, overlap=(0.25, 0.5))
    for epoch in range(20):
        row = under[0, epoch]
        (partner,) = set(numbers(row)) - {0}
        # Clip 0 is the shorter one, of 1,600 samples.
        shared = 1_600 * (partner + 2) - len(row["segments"][0]["waveform"])
        assert 400 <= shared <= 800
        both = np.float32(1 / 32) + np.float32((partner + 1) / 32)
        assert (row["segments"][0]["waveform"] == both).sum() == shared


@pytest.mark.parametrize("where", ["first", "full", "random"])
def test_joined_clips_fit_and_are_scaled_as_one(clips, where):
    rows = mixed(clips, crop=Cropping(where, 0.5, normalize=True), max_silence_s=0.2)
    for idx in range(7):
        waveform = rows[idx, 0]["segments"][0]["waveform"]
        assert len(waveform) <= 8_000
        assert waveform.mean() == pytest.approx(0, abs=1e-4)
        assert waveform.std() == pytest.approx(1, abs=1e-3)


def test_pairs_are_the_same_for_any_workers_and_differ_by_epoch_and_seed(clips):
    rows = mixed(clips, probability=0.7, overlap_probability=0.5, max_silence_s=0.3)
    keys = [(idx, epoch) for epoch in (0, 1) for idx in range(10)]

    def heard(order: Any, workers: int) -> dict[Any, Any]:
        loader = DataLoader(rows, batch_size=2, sampler=order, num_workers=workers, collate_fn=list)
        found = [row for batch in loader for row in batch]
        return {
            key: (row["segments"][0]["waveform"].tobytes(), row["target"].tobytes())
            for key, row in zip(order, found, strict=True)
        }

    alone = heard(keys, 0)
    assert heard(keys[::-1], 2) == alone
    assert any(alone[idx, 0] != alone[idx, 1] for idx in range(7))
    rows.cropping = Cropping("first", 2.0, seed=4)
    assert heard(keys, 0) != alone


def test_members_that_only_read_get_joined_texts(clips):
    read = [Clip(clip.utterance, None, clip.text) for clip in clips]
    (segment,) = mixed(read)[0, 0]["segments"]
    assert segment["waveform"] is None
    assert len(segment["text"].split()) == 2
    silent = [Clip(clip.utterance, None, "") for clip in clips]
    assert mixed(silent)[0, 0]["segments"][0]["text"] == ""
    untold = [Clip(clip.utterance, clip.path, None) for clip in clips]
    assert mixed(untold)[0, 0]["segments"][0]["text"] is None


def test_majority_classes_may_be_named_and_a_row_without_label_has_its_votes(clips):
    rows = mixed(clips, classes=("A", "N"))
    assert rows.is_majority.tolist() == [True] * 9 + [False]
    # The last row has no label; its votes, by `mixed`, are all for fear.
    rows = mixed(clips, [*TRUTH[:9], -1])
    assert rows.partners.tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    ("truth", "mixing", "message"),
    [
        ([2], {}, r"the 1 usable training rows have 1 of them\. Add rows"),
        ([2, 2, 2], {}, r"the 3 usable training rows have 1 of them\. Add rows"),
        ([0, 1, 2], {}, r"no training clip of a majority class.*'A': 1, 'F': 1, 'N': 1"),
        ([0, 1, 1], {"classes": ("N",)}, "no training clip of a majority class"),
        ([0, 2, 2], {"classes": ("A", "N")}, "no training clip of a minority class to join"),
        ([0, 1, 1], {"classes": ("S",)}, r"Unknown class of mixing.clips.classes 'S'.*A, F, N"),
    ],
)
def test_nothing_to_join_raises(clips, truth, mixing, message):
    with pytest.raises((BadValueError, UnknownNameError), match=message):
        mixed(clips[: len(truth)], truth, **mixing)


SOFT = "loss.name=kl-divergence"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["mixing.clips={}"],
            r"averages the targets.* the loss 'cross-entropy' takes one class each; set loss.name "
            "to soft-cross-entropy or kl-divergence",
        ),
        (
            ["mixing.clips={}", SOFT, "freeze=encoder", "cache.dir=here"],
            "cache keeps .* but mixing.clips joins other clips in every epoch; remove one",
        ),
        (["mixing.clips.max_silence_s=2", SOFT], "which leaves no room for sound in audio.max_a"),
        (["mixing.clips.overlap=[0.5, 0.1]", SOFT], r"overlap is \[0.5, 0.1\], expected two"),
        (["mixing.clips.probability=2", SOFT], "mixing.clips.probability is 2"),
        (["mixing={}"], "mixing has neither clips nor manifold; set one of them"),
    ],
)
def test_unfit_mixing_is_said_in_one_line(
    make_config: Callable[..., Any], overrides: list[str], message: str
) -> None:
    with pytest.raises(ProblemsError, match=message) as caught:
        make_config(Path("run"), *overrides)
    assert len(caught.value.problems) == 1
