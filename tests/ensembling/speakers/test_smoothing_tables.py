from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from abhinaya import __version__
from abhinaya.data.labels import EmotionSet
from abhinaya.data.predictions import PredictionTable, read_table, write_table
from abhinaya.errors import BadValueError, ClassOrderError, UnknownNameError
from abhinaya.evaluation.scoring import Truth
from ensembling.speakers.prior import estimate_prior
from ensembling.speakers.smooth_tables import smooth_table
from ensembling.speakers.standardize import standardize_speakers
from ensembling.voting.soft_votes import softmax

EMOTIONS = EmotionSet.from_codes("AH")
EMBEDDINGS = np.array([(6, 0), (6, 1), (3, 2), (0, 6), (1, 6), (2, 3), (2, 3), (9, 9)], np.float32)
SPEAKERS = (*"pppqqqr", None)
"""The two speakers of test_smoothing, a third one with one utterance, and nobody known."""


def member(**fields):
    probs = softmax(EMBEDDINGS.astype(float)).astype(np.float32)
    columns = {
        "probs": probs,
        "embeddings": EMBEDDINGS,
        "reasons": (None,) * 8,
        "meta": {"head": {"weight": [[1, 0], [0, 1]], "bias": [0, 0]}, "seed": 3},
    }
    return PredictionTable(
        "m", EMOTIONS, tuple(f"u{i}" for i in range(8)), probs.argmax(axis=1), **columns | fields
    )


def truth_of(table, speakers=SPEAKERS):
    return Truth(table.utterances, np.zeros(len(table), np.int64), EMOTIONS, tuple(speakers))


def test_smooth_table_adapts_and_counts():
    table = member()
    smoothed, report = smooth_table(table, truth_of(table))
    assert smoothed.name == "m-smooth"
    assert smoothed.labels.tolist() == [0, 0, 1, 1, 1, 0, 1, 0]
    assert smoothed.utterances == table.utterances
    assert smoothed.embeddings is None
    assert smoothed.decided_by == (*("cluster",) * 6, None, None)
    assert list(report.counts.items()) == [
        ("adapted", (2, 6, 2)),
        ("speaker unknown", (0, 1, 0)),
        ("too few utterances of the speaker", (1, 1, 0)),
    ]
    assert smoothed.meta == {
        "rule": "smooth",
        "tables": ["m"],
        "embeddings": None,
        "method": "cluster",
        "settings": {"min_utts": 2},
        "version": __version__,
    }


def test_smooth_table_survives_the_disk(tmp_path):
    table = member()
    smoothed, _ = smooth_table(table, truth_of(table), cluster={"seed": 4}, name="final")
    write_table(smoothed, tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet")
    assert read.name == "final"
    assert read.labels.tolist() == smoothed.labels.tolist()
    assert read.decided_by == smoothed.decided_by
    assert read.meta["settings"] == {"min_utts": 2, "seed": 4}


def test_smooth_table_standardize_and_prior_do_what_their_modules_do():
    table = member()
    by_standardizing, _ = smooth_table(
        table, truth_of(table), method="standardise", shrinkage=1.0, min_utts=3
    )
    whole = EMBEDDINGS.astype(float)
    moved = standardize_speakers([whole[:3]], whole.mean(axis=0), whole.std(axis=0), shrinkage=1.0)[
        0
    ]
    np.testing.assert_allclose(by_standardizing.probs[:3], softmax(moved), rtol=1e-5)
    assert by_standardizing.decided_by[0] == "standardise"
    by_prior, _ = smooth_table(
        table, truth_of(table), method="prior", strength=2.0, training_prior="balanced"
    )
    _, expected = estimate_prior(table.probs[:3].astype(float), np.array([0.5, 0.5]), strength=2.0)
    np.testing.assert_allclose(by_prior.probs[:3], expected, rtol=1e-5)
    assert by_prior.meta["settings"] == {
        "min_utts": 2,
        "strength": 2.0,
        "training_prior": "balanced",
    }


def test_smooth_table_fused_table_clusters_a_members_embeddings_by_its_own_shares():
    # The lender has further rows, another order and, as a recalibrated form may, the same name.
    lender = member().take([7, 6, 5, 4, 3, 2, 1, 0])
    shares = np.array([[0.75, 0.25]] * 2 + [[1, 0]] + [[0.5, 0.5]] * 4, np.float32)
    fused = PredictionTable(
        "m", EMOTIONS, lender.utterances[:0:-1], np.zeros(7, np.int64), probs=shares
    )
    assert fused.utterances[0] == "u0"
    smoothed, _ = smooth_table(fused, truth_of(fused, SPEAKERS[:7]), embeddings=lender)
    # p: {u0, u1} have (.75, .25), {u2} has (1, 0), which comes first; by the lender's head it would
    # be the other way round. q: all equal, so the lower cluster takes the lower class.
    assert smoothed.labels.tolist() == [1, 1, 0, 0, 0, 1, 0]
    assert smoothed.meta["embeddings"] == "m"


def test_smooth_table_keeps_reasons_and_rows_without_probabilities():
    table = member()
    probs, labels = table.probs.copy(), table.labels.copy()
    probs[0], labels[0] = np.nan, -1
    table = replace(table, probs=probs, labels=labels, reasons=("unreadable", *(None,) * 7))
    smoothed, report = smooth_table(table, truth_of(table))
    assert smoothed.labels[0] == -1
    assert smoothed.reasons[0] == "unreadable"
    assert smoothed.has_probs.tolist() == [False, *(True,) * 7]
    assert report.counts["abstained"] == (1, 1, 0)


def test_smooth_table_labels_without_probabilities_can_follow_the_head():
    table = member(probs=None)
    smoothed, _ = smooth_table(table, truth_of(table))
    assert smoothed.labels.tolist() == [0, 0, 1, 1, 1, 0, 1, 0]
    assert smoothed.has_probs.tolist() == [True] * 6 + [False] * 2


def test_smooth_table_wrong_input_raises():
    table = member()
    truth = truth_of(table)
    other = EmotionSet.from_codes("HA")
    cases = [
        (BadValueError, (table, truth_of(table.take([0, 1]), "pp")), {}, "6 of 8 utterances of"),
        (BadValueError, (table, truth_of(table, (None,) * 8)), {}, "No speaker is known of the 8"),
        (
            BadValueError,
            (table, truth),
            {"embeddings": member().take([0, 1, 2])},
            "should lend its embeddings, lacks 5 of the 8 utterances of table 'm': 'u3'",
        ),
        (
            ClassOrderError,
            (table, truth),
            {"embeddings": replace(member(), emotions=other)},
            "class order H A",
        ),
        (
            BadValueError,
            (member(embeddings=None, probs=None), truth),
            {},
            r"has no embeddings, which the space 'embedding' needs.*--embeddings TABLE",
        ),
        (UnknownNameError, (table, truth), {"method": "clusters"}, "Unknown method 'clusters'"),
    ]
    for error, arguments, options, match in cases:
        with pytest.raises(error, match=match):
            smooth_table(*arguments, **options)


def test_smooth_table_unites_its_marks_with_those_of_the_lender():
    table = member(trained_on=np.arange(8) == 1)
    lender = member(trained_on=np.arange(8) == 2).take([2, 1, 0, 3, 4, 5, 6, 7])
    for one, other, expected in [
        (table, lender, [1, 2]),
        (member(), lender, [2]),
        (table, member(), [1]),
        (table, None, [1]),
    ]:
        smoothed, _ = smooth_table(one, truth_of(table), embeddings=other)
        assert np.flatnonzero(smoothed.trained_on).tolist() == expected
