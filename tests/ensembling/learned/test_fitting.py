from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from abhinaya.data.labels import ABSTAIN, EmotionSet
from abhinaya.data.predictions import PredictionTable
from abhinaya.errors import BadValueError, ClassOrderError, UnknownNameError
from abhinaya.evaluation.scoring import Truth
from ensembling.aligned import align_predictions
from ensembling.learned.cross_fitting import cross_fit, speaker_folds
from ensembling.learned.fitting import apply_recipe, fit_recipe
from ensembling.learned.recipes import read_recipe, write_recipe
from ensembling.learned.rules import LEARNED, load_learned
from ensembling.voting.vote_tables import vote_tables
from ensembling.voting.votes import plurality

ON_PROBABILITIES = (
    "cma",
    "confusions",
    "greedy",
    "log-odds",
    "stacking",
    "temperature",
    "thresholds",
    "weights",
)


def truth_of(tables, labels, speakers):
    return Truth(tables[0].utterances, labels, tables[0].emotions, tuple(speakers), where="m.csv")


def macro_f1(truth, predicted, n_classes=4):
    return f1_score(truth, predicted, labels=range(n_classes), average="macro", zero_division=0)


@pytest.fixture
def corpus(make_corpus):
    tables, labels, speakers = make_corpus()
    return tables, truth_of(tables, labels, speakers)


def test_the_rules_of_this_test_are_all_there_are_on_probabilities():
    assert set(ON_PROBABILITIES) == set(LEARNED) - {"adaptation"}


@pytest.mark.parametrize("rule", ON_PROBABILITIES)
def test_fit_scores_out_of_fold_and_applies_to_other_rows(corpus, make_corpus, rule, tmp_path):
    tables, truth = corpus
    result = fit_recipe(rule, tables, truth, n_resamples=50, n_folds=3, seed=4)

    aligned = align_predictions(tables)
    folds = speaker_folds(truth.labels, truth.speakers, n_folds=3, seed=4)
    held_out = cross_fit(load_learned(rule), aligned, truth.labels, truth.speakers, {}, folds)
    by_name = {score.name: score for score in result.scores}
    assert list(by_name) == [f"{rule}, cross-fitted", "plain vote", "m0", "m1", "m2"]
    for name, labels in [
        (f"{rule}, cross-fitted", held_out.labels),
        ("plain vote", plurality(aligned.labels, 4).labels),
        ("m1", tables[1].labels),
    ]:
        score = by_name[name]
        assert score.macro_f1 == pytest.approx(macro_f1(truth.labels, labels), rel=1e-12)
        assert score.interval[0] < score.macro_f1 < score.interval[1]
        assert score.n_utts == 60
    np.testing.assert_array_equal(result.out_of_fold.labels, held_out.labels)
    assert result.recipe.facts["macro_f1_cross_fitted"] == result.scores[0].macro_f1
    assert result.recipe.facts["n_speakers"] == 10

    # The stored recipe says of fresh rows what the rule fitted on all rows says.
    write_recipe(result.recipe, tmp_path / "r.json")
    fresh, _, _ = make_corpus(seed=1, prefix="fresh")
    # Tables are matched by name, whatever their order.
    fused = apply_recipe(read_recipe(tmp_path / "r.json"), [fresh[2], fresh[0], fresh[1]])
    learned = load_learned(rule)
    parameters = learned.fit(aligned, truth.labels, truth.speakers, {})
    expected = learned.apply(parameters, align_predictions(fresh), [None] * 60)
    np.testing.assert_array_equal(fused.labels, expected.labels)
    np.testing.assert_allclose(fused.probs, expected.probs, rtol=1e-6)
    assert (fused.name, fused.meta["rule"], fused.meta["n_fitted_rows"]) == (rule, rule, 0)


def test_apply_takes_the_mean_attributes_of_the_tables(corpus, make_corpus):
    """They are no matter of the rule, which is about classes."""
    tables, truth = corpus
    recipe = fit_recipe("temperature", tables, truth, n_resamples=10, n_folds=2, seed=4).recipe
    others, _, _ = make_corpus(seed=9, prefix="other")
    values = np.full((len(others[0]), 3), np.nan, dtype=np.float32)
    values[:, 1] = 2
    told = [replace(others[0], attributes=values), replace(others[1], attributes=values + 3)]
    fused = apply_recipe(recipe, [*told, *others[2:]])
    assert (fused.attributes[:, 1] == 3.5).all()
    assert np.isnan(fused.attributes[:, [0, 2]]).all()
    assert apply_recipe(recipe, others).attributes is None


@pytest.mark.parametrize("rule", ON_PROBABILITIES)
def test_one_table_is_enough_and_abstentions_stay(make_corpus, rule):
    tables, labels, speakers = make_corpus(strengths=(2.0,), n_abstained=9)
    truth = truth_of(tables, labels, speakers)
    result = fit_recipe(rule, tables, truth, n_resamples=10)
    assert (result.out_of_fold.labels == ABSTAIN).sum() == 9
    assert result.out_of_fold.reasons.count("every member abstained") == 9


@pytest.mark.parametrize("rule", ON_PROBABILITIES)
def test_order_of_utterances_and_a_silent_member_change_no_decision(corpus, make_corpus, rule):
    tables, truth = corpus
    silent = replace(tables[0], name="silent", labels=np.full(60, ABSTAIN), probs=None, reasons=())
    fresh, _, _ = make_corpus(seed=1, prefix="fresh")
    fresh_silent = replace(silent, utterances=fresh[0].utterances)
    shuffled = np.random.default_rng(0).permutation(60)

    plain = apply_recipe(fit_recipe(rule, tables, truth, n_resamples=1).recipe, fresh)
    other = apply_recipe(
        fit_recipe(rule, [*tables, silent], truth, n_resamples=1).recipe,
        [table.take(shuffled) for table in [*fresh, fresh_silent]],
    )
    np.testing.assert_array_equal(other.labels, plain.labels[shuffled])


def test_fit_is_the_same_twice_and_with_tables_in_other_rows_order(corpus):
    tables, truth = corpus
    shuffled = np.random.default_rng(0).permutation(60)
    recipes = [
        fit_recipe("stacking", given, truth, n_resamples=20).recipe
        for given in (tables, tables, [tables[0], *(t.take(shuffled) for t in tables[1:])])
    ]
    assert recipes[0] == recipes[1] == recipes[2]


def test_fit_is_the_same_in_whatever_order_the_tables_are_listed(make_corpus):
    """The plain vote's ties went to the table listed first, so the gain hung on the listing."""
    tables, labels, speakers = make_corpus(strengths=(0.5, 1.0, 0.5, 2.0))
    truth = truth_of(tables, labels, speakers)
    listings = list(permutations(tables))[::5]
    votes = [vote_tables(listing).labels for listing in listings]
    assert len({macro_f1(labels, vote) for vote in votes}) > 1  # here the listing matters
    for rule in ("weights", "stacking"):
        results = [fit_recipe(rule, given, truth, n_resamples=5) for given in listings]
        assert len(results) == 5
        for result in results:
            assert (result.recipe, result.scores) == (results[0].recipe, results[0].scores)
            assert result.out_of_fold.utterances == results[0].out_of_fold.utterances
            np.testing.assert_array_equal(result.out_of_fold.labels, results[0].out_of_fold.labels)


def test_fit_compares_with_the_vote_that_one_would_submit(make_corpus):
    tables, labels, speakers = make_corpus(strengths=(0.5, 1.0, 0.5, 2.0))
    truth = truth_of(tables, labels, speakers)
    single = {table.name: macro_f1(labels, table.labels) for table in tables}
    best_first = sorted(single, key=lambda name: -single[name])
    assert best_first[0] == "m3"
    for tiebreakers in ([], ["m2"], ["m2", "m0"]):
        found = fit_recipe("weights", tables, truth, tiebreakers=tiebreakers, n_resamples=5)
        in_line = list(dict.fromkeys([*tiebreakers, *best_first]))
        assert found.recipe.facts["tiebreakers"] == in_line
        vote = vote_tables(tables, tiebreakers=in_line)
        assert found.scores[1].macro_f1 == pytest.approx(macro_f1(labels, vote.labels), rel=1e-12)
    with pytest.raises(UnknownNameError, match=r"Unknown tiebreaker 'm4'\. .*m0, m1, m2, m3"):
        fit_recipe("weights", tables, truth, tiebreakers=["m4"])
    with pytest.raises(BadValueError, match="'m1' is given more than once"):
        fit_recipe("weights", tables, truth, tiebreakers=["m1", "m1"])


def test_of_members_with_shared_errors_pools_and_stacks_beat_a_vote_and_weights_do_not():
    """What the help of `fit` says; the vote's ties go to the best member."""
    rng = np.random.default_rng(0)
    labels = np.arange(800) % 4
    shared = rng.normal(size=(800, 4))
    tables = []
    for number, strength in enumerate((1.6, 1.4, 1.2, 1.0, 0.8)):
        # 30 % of the noise's variance is common to all members.
        logits = 0.3**0.5 * shared + 0.7**0.5 * rng.normal(size=(800, 4))
        logits[np.arange(800), labels] += strength
        probs = np.exp(strength * logits)
        probs /= probs.sum(axis=1, keepdims=True)
        names = tuple(f"u{idx}" for idx in range(800))
        emotions = EmotionSet.from_codes("ACDF")
        table = PredictionTable(f"m{number}", emotions, names, probs.argmax(axis=1), probs=probs)
        tables.append(table)
    truth = truth_of(tables, labels, [f"s{idx % 50}" for idx in range(800)])
    gains = {}
    for rule in ("weights", "log-odds", "temperature", "stacking"):
        options = {"mean": "geometric"} if rule == "temperature" else {}
        settings = {"options": options, "tiebreakers": ["m0"], "n_resamples": 1}
        fitted, vote, *_ = fit_recipe(rule, tables, truth, **settings).scores
        gains[rule] = fitted.macro_f1 - vote.macro_f1
    assert gains.pop("weights") < 0.01
    assert min(gains.values()) > 0.02


def test_fit_drops_and_counts_rows_without_a_label(corpus):
    tables, truth = corpus
    labels = truth.labels.copy()
    labels[:6] = ABSTAIN
    result = fit_recipe("weights", tables, replace(truth, labels=labels), n_resamples=10)
    assert result.recipe.facts["n_dropped"] == 6
    assert result.scores[0].n_utts == 54
    assert result.out_of_fold.utterances == tables[0].utterances[6:]
    # Only the rows used are remembered, so the dropped ones may be decided later.
    assert len(result.recipe.fitted_on) == 54
    assert len(apply_recipe(result.recipe, [table.take(range(6)) for table in tables])) == 6


def test_fit_by_speaker_widens_the_interval_of_speakers_that_differ(corpus):
    tables, truth = corpus
    # A table that is right for half of the speakers and wrong for the others.
    is_good = np.arange(60) % 10 < 5
    labels = np.where(is_good, truth.labels, (truth.labels + 1) % 4)
    table = replace(tables[0], labels=labels, probs=None)
    width = {}
    for by_speaker in (False, True):
        result = fit_recipe("weights", [table], truth, by_speaker=by_speaker, n_resamples=500)
        low, high = result.scores[2].interval
        width[by_speaker] = high - low
    assert width[True] > 1.3 * width[False]


def test_unknown_speakers_are_counted_and_cannot_be_resampled(corpus):
    tables, truth = corpus
    unknown = replace(truth, speakers=(None,) * 60)
    facts = fit_recipe("weights", tables, unknown, n_resamples=10).recipe.facts
    assert (facts["n_speakers"], facts["n_unknown_speakers"]) == (0, 60)
    with pytest.raises(BadValueError, match="names no speaker of the 60 labelled utterances"):
        fit_recipe("weights", tables, unknown, by_speaker=True)


def test_fit_of_tables_of_labels_says_what_it_lacks(make_corpus):
    tables, labels, speakers = make_corpus(label_only=("m1",))
    truth = truth_of(tables, labels, speakers)
    for rule in ("thresholds", "temperature", "log-odds"):
        with pytest.raises(BadValueError, match="only labels from 'm1'"):
            fit_recipe(rule, tables, truth)
    for rule in ("weights", "stacking"):
        assert fit_recipe(rule, tables, truth, n_resamples=5).scores[0].macro_f1 > 0.3


def test_fit_wrong_input_raises(corpus):
    tables, truth = corpus
    with pytest.raises(UnknownNameError, match=r"learned rule 'threshold'\. Did you mean"):
        fit_recipe("threshold", tables, truth)
    with pytest.raises(BadValueError, match="None of the 60 utterances of the tables has a label"):
        fit_recipe("weights", tables, replace(truth, labels=np.full(60, ABSTAIN)))
    others = replace(truth, utterances=tuple(f"x{idx}" for idx in range(60)))
    with pytest.raises(BadValueError, match=r"of the tables are not in m\.csv: 'u000'"):
        fit_recipe("weights", tables, others)
    with pytest.raises(BadValueError, match="does not cover the same utterances"):
        fit_recipe("weights", [tables[0], tables[1].take(range(30))], truth)
    with pytest.raises(BadValueError, match="11 folds cannot be made"):
        fit_recipe("weights", tables, truth, n_folds=11)
    turned = replace(truth, emotions=EmotionSet.from_codes("FDCA"))
    with pytest.raises(ClassOrderError, match=r"Table 'm0' has .* but m.csv has"):
        fit_recipe("weights", tables, turned)


def test_apply_refuses_rows_that_were_fitted_on(corpus, make_corpus):
    tables, truth = corpus
    recipe = fit_recipe("thresholds", tables, truth, n_resamples=5).recipe
    with pytest.raises(
        BadValueError, match=r"fitted on 60 of these 60 utterances: 'u000'.*--allow-fitted-rows"
    ):
        apply_recipe(recipe, tables)
    fresh, _, _ = make_corpus(seed=1, prefix="v")
    mixed = [replace(table, utterances=("u007", *table.utterances[1:])) for table in fresh]
    with pytest.raises(BadValueError, match="fitted on 1 of these 60 utterances: 'u007'"):
        apply_recipe(recipe, mixed)
    assert apply_recipe(recipe, mixed, allow_fitted_rows=True).meta["n_fitted_rows"] == 1
    # The recipe tells nobody the names of a corpus.
    assert all(len(digest) == 12 and not digest.startswith("u") for digest in recipe.fitted_on)


def test_apply_missing_and_extra_tables_raise_and_name_both(corpus, make_corpus):
    tables, truth = corpus
    recipe = fit_recipe("weights", tables, truth, n_resamples=5).recipe
    fresh, _, _ = make_corpus(seed=1, prefix="v")
    wrong = [fresh[0], replace(fresh[1], name="other"), replace(fresh[2], name="third")]
    with pytest.raises(
        BadValueError,
        match=r"tables m0, m1, m2, but no table is named 'm1', 'm2' and it does not know 'other', "
        r"'third'.*NAME=TABLE",
    ):
        apply_recipe(recipe, wrong)
    with pytest.raises(BadValueError, match=r"but no table is named 'm2'\. Give exactly"):
        apply_recipe(recipe, fresh[:2])


def test_apply_fallback_fills_rows_on_which_nobody_spoke(corpus, make_corpus):
    tables, truth = corpus
    recipe = fit_recipe("stacking", tables, truth, n_resamples=5).recipe
    fresh, _, _ = make_corpus(seed=1, prefix="v")
    silent = []
    for table in fresh:
        labels, probs = table.labels.copy(), table.probs.copy()
        labels[3], probs[3] = ABSTAIN, np.nan
        silent.append(replace(table, labels=labels, probs=probs))
    without = apply_recipe(recipe, silent)
    assert (without.labels[3], without.reasons[3]) == (ABSTAIN, "every member abstained")
    filled = apply_recipe(recipe, silent, fallback="F", name="final")
    assert (filled.name, filled.labels[3], filled.reasons[3]) == ("final", 3, None)
    assert np.isnan(filled.probs[3]).all()
    np.testing.assert_array_equal(np.delete(filled.labels, 3), np.delete(without.labels, 3))
    with pytest.raises(UnknownNameError, match="Unknown class 'Q'"):
        apply_recipe(recipe, silent, fallback="Q")


def test_apply_other_class_order_or_unknown_rule_raises(corpus, make_corpus):
    tables, truth = corpus
    recipe = fit_recipe("weights", tables, truth, n_resamples=5).recipe
    fresh, _, _ = make_corpus(seed=1, prefix="v")
    turned = [replace(table, emotions=EmotionSet.from_codes("FDCA")) for table in fresh]
    with pytest.raises(ClassOrderError, match="the recipe has A C D F"):
        apply_recipe(recipe, turned)
    with pytest.raises(UnknownNameError, match="Unknown learned rule 'gone'"):
        apply_recipe(replace(recipe, rule="gone"), fresh)


class SpeakersOnly:
    """Class 1 for rows with a known speaker."""

    name = "speakers-only"

    def fit(self, aligned, truth, speakers, options):
        return {}

    def apply(self, parameters, aligned, speakers):
        from ensembling.learned.recipes import Fused

        return Fused(np.array([int(speaker is not None) for speaker in speakers]))


def test_a_rule_gets_speakers_from_the_truth_and_may_give_labels_only(
    corpus, make_corpus, monkeypatch
):
    monkeypatch.setattr("ensembling.learned.fitting.load_learned", lambda name: SpeakersOnly())
    tables, truth = corpus
    result = fit_recipe("speakers-only", tables, truth, n_resamples=5)
    assert result.out_of_fold.labels.tolist() == [1] * 60
    assert result.out_of_fold.probs is None
    fresh, labels, speakers = make_corpus(seed=1, prefix="v")
    assert apply_recipe(result.recipe, fresh).labels.tolist() == [0] * 60
    known = truth_of(fresh, labels, speakers)
    assert apply_recipe(result.recipe, fresh, truth=known).labels.tolist() == [1] * 60


def test_fit_and_apply_keep_the_marks_of_training_rows(corpus):
    tables, truth = corpus
    marks = np.arange(len(tables[0])) < 5
    marked = [replace(tables[0], trained_on=marks), *tables[1:]]
    result = fit_recipe("weights", marked, truth, n_resamples=10, n_folds=3)
    assert result.out_of_fold.trained_on.tolist() == marks.tolist()
    applied = apply_recipe(result.recipe, marked, allow_fitted_rows=True)
    assert applied.trained_on.tolist() == marks.tolist()
