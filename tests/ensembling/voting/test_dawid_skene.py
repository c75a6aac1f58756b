from __future__ import annotations

import numpy as np
import pytest

from abhinaya.errors import BadValueError
from ensembling.voting.dawid_skene import dawid_skene, log_likelihoods, smoothed

SAID = (
    "210202210101110022021020111102222021122220022000021101021002110010122011001102221221020221",
    "-----2211101000002021121002100220201222000022000021101021102010021222012001002110221120201",
    "001022211101112022001121111102200000222020022120021100001202110001122011111212101222020220",
    "220102112000112012021121112222222012020121022000211101101002020012120012001202121201020121",
)
"""Four members on 90 utterances of three classes; the second kept silent on the first five."""


def labels_of(*said):
    return np.array([[-1 if c == "-" else int(c) for c in row] for row in said])


def test_prior_confusions_and_posterior_equal_those_of_crowd_kit():
    # crowd-kit 1.4.1, DawidSkene(n_iter=3000, tol=-1), rounded
    prior = [0.2853723, 0.3508484, 0.3637793]
    confusions = [
        [[1.0, 0.0, 0.0], [0.1367, 0.815573, 0.047727], [0.0, 0.068637, 0.931363]],
        [
            [0.868722, 0.089941, 0.041338],
            [0.218763, 0.654155, 0.127082],
            [0.249982, 0.026417, 0.723601],
        ],
        [[0.650529, 0.196657, 0.152814], [0.16735, 0.790122, 0.042528], [0.275131, 0, 0.724869]],
        [
            [0.806175, 0.07287, 0.120955],
            [0.106947, 0.63749, 0.255563],
            [0.150201, 0.213769, 0.63603],
        ],
    ]
    posterior = {0: [0, 0.011935, 0.988065], 1: [0, 0.736904, 0.263096], 2: [0.917787, 0.082213, 0]}
    found = dawid_skene(labels_of(*SAID), 3, smoothing=1e-12, max_rounds=5000, tolerance=1e-13)
    np.testing.assert_allclose(found.prior, prior, atol=1e-6)
    np.testing.assert_allclose(found.confusions, confusions, atol=2e-6)
    for utt, expected in posterior.items():
        np.testing.assert_allclose(found.posterior[utt], expected, atol=2e-6)


def test_rows_that_say_the_same_count_as_often_as_they_are_there():
    labels = labels_of("0011", "0111", "0012")
    three_times = dawid_skene(np.tile(labels, 3), 3, smoothing=3.0)
    once = dawid_skene(labels, 3, smoothing=1.0)
    np.testing.assert_allclose(three_times.confusions, once.confusions, rtol=1e-12)
    np.testing.assert_allclose(three_times.posterior, np.tile(once.posterior, (3, 1)), rtol=1e-12)


def test_row_on_which_all_abstained_gets_the_prior_and_teaches_nothing():
    labels = labels_of("0011", "0111", "0012")
    silent = np.hstack([labels, np.full((3, 5), -1)])
    found, without = dawid_skene(silent, 3), dawid_skene(labels, 3)
    np.testing.assert_allclose(found.confusions, without.confusions, rtol=1e-9)
    np.testing.assert_allclose(found.posterior[4:], np.tile(found.prior, (5, 1)), rtol=1e-5)


def test_known_counts_outweigh_what_few_rows_say():
    # Two members, which alone could not be told apart: the first is known to swap the classes.
    known = np.array([[[0, 1000], [1000, 0]], [[600, 400], [400, 600]]], dtype=np.float64)
    found = dawid_skene(labels_of("0101", "0011"), 2, known=known)
    assert found.posterior.argmax(axis=1).tolist() == [1, 0, 1, 0]
    with pytest.raises(BadValueError, match="the labels of 2 tables: who errs is told by a third"):
        dawid_skene(labels_of("0101", "0011"), 2)
    with pytest.raises(BadValueError, match="the labels of 1 table: "):
        dawid_skene(labels_of("0101"), 2)


def test_log_likelihood_is_the_sum_over_those_that_spoke():
    confusions = smoothed(np.array([[[7.0, 1], [0, 2]], [[1, 0], [3, 3]]]), 1.0)
    # (7+1)/(7+1+2) of class 0; (0+1)/(0+2+2) of class 1
    np.testing.assert_allclose(confusions[0], [[0.8, 0.2], [0.25, 0.75]])
    found = log_likelihoods(labels_of("0-", "11"), confusions)
    expected = [[0.8 * 1 / 3, 0.25 * 0.5], [1 / 3, 0.5]]
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-12)
