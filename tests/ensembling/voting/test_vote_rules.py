from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from abhinaya.data.labels import ABSTAIN, MSP_PODCAST, EmotionSet
from abhinaya.data.predictions import PredictionTable
from abhinaya.errors import BadValueError, UnknownNameError
from ensembling.voting.vote_tables import vote_tables

EMOTIONS = EmotionSet.from_codes("AHN")


def table(name, *rows):
    """A table whose rows are probabilities, a letter without any, or None."""
    probs = np.full((len(rows), 3), np.nan, dtype=np.float32)
    labels = []
    for idx, row in enumerate(rows):
        if isinstance(row, tuple):
            probs[idx] = row
            labels.append(EMOTIONS.codes[int(np.argmax(row))])
        else:
            labels.append(row)
    utterances = tuple(f"u{idx}" for idx in range(len(rows)))
    return PredictionTable(name, EMOTIONS, utterances, EMOTIONS.encode(labels), probs=probs)


def letters_of(result):
    return "".join(code or "-" for code in result.emotions.decode(result.labels))


def test_strict_vote_lets_the_tiebreaker_win_with_a_class_of_its_own():
    tables = [table(name, letter) for name, letter in zip("abcde", "AAHHN", strict=True)]
    result = vote_tables(tables, rule="strict", tiebreakers=["e"])
    assert letters_of(result) == "N"
    assert result.decided_by == ("e",)
    np.testing.assert_allclose(result.probs, [[0.4, 0.4, 0.2]], rtol=1e-6)
    assert letters_of(vote_tables(tables, tiebreakers=["e"])) == "A"
    assert result.meta["rule"] == "strict"


@pytest.mark.parametrize(
    ("rule", "weights", "expected"),
    [
        # (.5 + .05) / 2 = .275, (.3 + .75) / 2 = .525, .2
        ("soft", None, [0.275, 0.525, 0.2]),
        # (3 * .5 + .05) / 4 = .3875, (.9 + .75) / 4 = .4125, .2
        ("soft", {"p": 3, "q": 1}, [0.3875, 0.4125, 0.2]),
        ("weighted", {"p": 3, "q": 1}, [0.75, 0.25, 0]),
    ],
)
def test_rule_writes_its_means_as_probabilities(rule, weights, expected):
    tables = [table("p", (0.5, 0.3, 0.2)), table("q", (0.05, 0.75, 0.2))]
    result = vote_tables(tables, rule=rule, weights=weights)
    np.testing.assert_allclose(result.probs, [expected], rtol=1e-6)
    assert result.labels[0] == int(np.argmax(expected))
    assert result.meta["rule"] == rule
    assert result.meta.get("weights") == weights
    # Where nothing is counted, nothing has a majority.
    assert result.decided_by == ("majority" if rule == "weighted" else "probabilities",)


def test_geometric_vote_differs_from_the_mean():
    # sqrt(.9 * .01) = .095 against sqrt(.09 * .5) = .212; the mean says .455 against .295
    tables = [table("p", (0.9, 0.09, 0.01)), table("q", (0.01, 0.5, 0.49))]
    assert letters_of(vote_tables(tables, rule="soft")) == "A"
    assert letters_of(vote_tables(tables, rule="geometric")) == "H"


def test_soft_vote_tie_goes_to_the_tiebreaker_and_nobody_to_the_fallback():
    tables = [table("p", (0.6, 0.4, 0), None), table("q", (0.4, 0.6, 0), None)]
    result = vote_tables(tables, rule="soft", tiebreakers=["q"], fallback="N")
    assert letters_of(result) == "HN"
    assert result.decided_by == ("q", "fallback")
    assert np.isnan(result.probs[1]).all()
    with pytest.raises(BadValueError, match="Every member abstained on 1 of 2 utterances: 'u1'"):
        vote_tables(tables, rule="soft")


def test_dawid_skene_vote_believes_those_who_agree_and_knows_who_swaps():
    emotions = EmotionSet.from_codes(("A", "H", "N"))
    names = tuple(f"u{idx}" for idx in range(31))
    truth = np.arange(31) % 2
    said = {"p": truth.copy(), "q": truth.copy(), "r": 1 - truth}
    for labels in said.values():
        labels[-1] = -1  # nobody knows the last one
    said["p"][0], said["q"][1] = 2, 2
    tables = [PredictionTable(name, emotions, names, labels) for name, labels in said.items()]
    result = vote_tables(tables, rule="dawid-skene", fallback="N")
    assert result.labels[:-1].tolist() == truth[:-1].tolist()
    assert result.labels[-1] == 2
    assert np.isnan(result.probs[-1]).all()
    assert result.decided_by == ("probabilities",) * 30 + ("fallback",)
    assert result.meta["rule"] == "dawid-skene"
    with pytest.raises(BadValueError, match="the labels of 2 tables"):
        vote_tables(tables[:2], rule="dawid-skene", fallback="N")
    with pytest.raises(BadValueError, match="counts all tables alike, but weights were given"):
        vote_tables(tables, rule="dawid-skene", weights={"p": 1, "q": 1, "r": 2}, fallback="N")


def test_soft_vote_of_labels_alone_raises():
    with pytest.raises(BadValueError, match="only labels from 'q' on 1 of 1"):
        vote_tables([table("p", (1, 0, 0)), table("q", "A")], rule="soft")


def test_weights_that_do_not_fit_raise():
    tables = [table("p", "A"), table("q", "H")]
    with pytest.raises(
        BadValueError, match=r"'weighted' needs a weight for each of p, q.*--weights"
    ):
        vote_tables(tables, rule="weighted")
    with pytest.raises(BadValueError, match=r"no weight for the table 'q'. Give --weights"):
        vote_tables(tables, rule="weighted", weights={"p": 1})
    with pytest.raises(UnknownNameError, match="Unknown table in the weights 'r'"):
        vote_tables(tables, rule="weighted", weights={"p": 1, "q": 1, "r": 1})
    with pytest.raises(BadValueError, match=r"A weight is 0.0, expected positive"):
        vote_tables(tables, rule="weighted", weights={"p": 1, "q": 0})
    for rule in ("plurality", "strict"):
        with pytest.raises(BadValueError, match=f"'{rule}' counts all tables alike.*soft"):
            vote_tables(tables, rule=rule, weights={"p": 1, "q": 1})


def test_unknown_vote_rule_raises():
    with pytest.raises(UnknownNameError, match=r"vote rule 'sotf'. Did you mean 'soft'\?"):
        vote_tables([table("p", "A")], rule="sotf")


@pytest.mark.parametrize("rule", ["plurality", "strict", "soft", "geometric", "weighted"])
def test_a_vote_in_small_blocks_is_that_over_all_rows(monkeypatch, rule):
    rng = np.random.default_rng(0)
    tables = []
    for name in "abcde":
        probs = rng.dirichlet(np.ones(8), 11).astype(np.float32)
        labels = np.where(rng.random(11) < 0.2, ABSTAIN, probs.argmax(axis=1))
        utterances = [f"u{number}" for number in rng.permutation(11)]
        tables.append(PredictionTable(name, MSP_PODCAST, utterances, labels, probs=probs))
    weights = dict(zip("abcde", (1.0, 2.0, 1.0, 3.0, 0.5), strict=True))
    options = {"rule": rule, "fallback": "N", "weights": weights if rule == "weighted" else None}
    whole = vote_tables(tables, **options)
    monkeypatch.setattr("ensembling.voting.vote_tables._BLOCK_SIZE", 3)
    blocks = vote_tables(tables, **options)
    assert blocks.labels.tolist() == whole.labels.tolist()
    np.testing.assert_array_equal(blocks.probs, whole.probs)
    assert blocks.decided_by == whole.decided_by
    if rule in ("soft", "geometric"):
        bare = replace(tables[0], probs=None, labels=np.zeros(11, dtype=np.int64))
        with pytest.raises(BadValueError, match="only labels from 'a' on 11 of 11 utterances"):
            vote_tables([bare, *tables[1:]], **options)
