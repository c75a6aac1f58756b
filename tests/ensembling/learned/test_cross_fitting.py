from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from abhinaya.errors import BadValueError
from ensembling.aligned import align_predictions
from ensembling.learned.cross_fitting import cross_fit, speaker_folds
from ensembling.learned.recipes import Fused


def test_folds_keep_each_speaker_together_and_spread_the_classes(make_corpus):
    _, truth, speakers = make_corpus(n_utts=400, n_speakers=40)
    folds = speaker_folds(truth, speakers, n_folds=4, seed=3)
    of_speaker = {}
    for speaker, fold in zip(speakers, folds, strict=True):
        assert of_speaker.setdefault(speaker, fold) == fold
    # 100 rows of each of 4 classes; 10 speakers of 10 rows per fold.
    per_fold = np.array([np.bincount(truth[folds == fold], minlength=4) for fold in range(4)])
    assert per_fold.sum(axis=1).tolist() == [100] * 4
    assert per_fold.min() >= 18


def test_folds_take_each_unknown_speaker_for_another():
    truth = np.array([0, 1] * 10)
    folds = speaker_folds(truth, ["s"] * 4 + [None] * 16, n_folds=5)
    assert len(set(folds[:4])) == 1
    # Were the unknown ones a single speaker, only two folds would have any rows.
    assert np.bincount(folds).min() >= 3


def test_folds_without_speakers_are_plain_stratified_ones():
    truth = np.array([0, 0, 1] * 10)
    ours = speaker_folds(truth, [None] * 30, n_folds=3, seed=5)
    theirs = StratifiedKFold(3, shuffle=True, random_state=5).split(truth, truth)
    for fold, (_, held_out) in enumerate(theirs):
        assert np.flatnonzero(ours == fold).tolist() == held_out.tolist()


def test_folds_depend_on_the_seed_alone():
    truth, speakers = np.array([0, 1] * 30), [f"s{idx % 20}" for idx in range(60)]
    first = speaker_folds(truth, speakers, seed=1)
    assert np.array_equal(first, speaker_folds(truth, speakers, seed=1))
    assert not np.array_equal(first, speaker_folds(truth, speakers, seed=2))


@pytest.mark.filterwarnings("error")
def test_folds_with_a_class_rarer_than_folds_are_made_without_a_warning():
    folds = speaker_folds(np.array([0] * 9 + [1]), [None] * 10, n_folds=5)
    assert np.bincount(folds).tolist() == [2] * 5


@pytest.mark.parametrize(
    ("truth", "speakers", "n_folds"),
    [
        ([0, 1] * 5, ["s"] * 10, 2),  # one speaker
        ([0, 1] * 5, [None] * 10, 1),
        ([0, 1, 2, 3], [None] * 4, 3),  # no class has three rows
    ],
)
def test_folds_that_cannot_be_made_raise(truth, speakers, n_folds):
    with pytest.raises(BadValueError, match=rf"{n_folds} folds cannot be made from .*--folds"):
        speaker_folds(np.array(truth), speakers, n_folds=n_folds)


class RemembersRows:
    """Answers class 1 for utterances and speakers that it was fitted on, else class 0."""

    name = "remembers"

    def __init__(self, with_probs):
        self.with_probs = with_probs

    def fit(self, aligned, truth, speakers, options):
        assert len(aligned) == len(truth) == len(speakers)
        return {"seen": [*aligned.utterances, *speakers], **options}

    def apply(self, parameters, aligned, speakers):
        assert parameters["option"] == "kept"
        labels = np.array(
            [
                int(utterance in parameters["seen"] or speaker in parameters["seen"])
                for utterance, speaker in zip(aligned.utterances, speakers, strict=True)
            ]
        )
        return Fused(labels, np.eye(len(aligned.emotions))[labels] if self.with_probs else None)


@pytest.mark.parametrize("with_probs", [True, False])
def test_cross_fit_never_shows_a_row_or_its_speaker_to_the_fit(make_corpus, with_probs):
    tables, truth, speakers = make_corpus()
    aligned = align_predictions(tables)
    folds = speaker_folds(truth, speakers)
    fused = cross_fit(
        RemembersRows(with_probs), aligned, truth, speakers, {"option": "kept"}, folds
    )
    assert fused.labels.tolist() == [0] * 60
    assert (fused.probs is not None) == with_probs
    if with_probs:
        assert (fused.probs[:, 0] == 1).all()
