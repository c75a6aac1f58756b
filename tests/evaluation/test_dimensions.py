from __future__ import annotations

import numpy as np

from abhinaya.data.labels import MSP_PODCAST, EmotionSet
from abhinaya.evaluation.dimensions import DIMENSIONS, group_confusion

FOUR = EmotionSet.from_codes(["anger", "happiness", "neutral", "sadness"])


def test_confusion_is_summed_over_arousal_and_valence_by_hand():
    confusion = np.array(
        [
            [5, 2, 1, 0],  # anger: high, negative
            [3, 6, 0, 1],  # happiness: high, positive
            [0, 1, 7, 4],  # neutral: low
            [1, 0, 2, 8],  # sadness: low, negative
        ]
    )
    arousal = group_confusion(confusion, FOUR, "arousal")
    assert arousal.groups == ("high", "low")
    assert arousal.counts.tolist() == [[5 + 2 + 3 + 6, 1 + 1], [1 + 1, 7 + 4 + 2 + 8]]
    # Without the right ones: 5 + 6 of high, 7 + 8 of low.
    assert arousal.errors.tolist() == [[5, 2], [2, 6]]
    assert arousal.share_within == (5 + 6) / 15
    valence = group_confusion(confusion, FOUR, "valence")
    assert valence.groups == ("positive", "neutral", "negative")
    assert valence.counts.tolist() == [[6, 0, 3 + 1], [1, 7, 4], [2, 1 + 2, 5 + 0 + 1 + 8]]
    assert valence.errors.tolist() == [[0, 0, 4], [1, 0, 4], [2, 3, 1]]
    assert valence.left_out == ()


def test_classes_of_unknown_arousal_are_left_out_and_named():
    emotions = EmotionSet.from_codes(["a", "b"], ["angry", "amused"])
    found = group_confusion(np.array([[3, 1], [2, 4]]), emotions, "arousal")
    assert (found.groups, found.left_out) == (("high",), ("b",))
    assert found.counts.tolist() == [[3]]
    assert found.share_within is None
    nobody = group_confusion(np.eye(2, dtype=int), EmotionSet.from_codes(["x", "y"]), "valence")
    assert (nobody.groups, nobody.counts.shape, nobody.left_out) == ((), (0, 0), ("x", "y"))


def test_every_word_has_one_arousal_and_one_valence():
    words = {
        dimension: [word for names in groups.values() for word in names.split()]
        for dimension, groups in DIMENSIONS.items()
    }
    assert sorted(words["arousal"]) == sorted(words["valence"])
    assert len(set(words["arousal"])) == len(words["arousal"]) == 22
    assert set(MSP_PODCAST.names) <= set(words["arousal"])
