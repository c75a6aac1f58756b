from __future__ import annotations

import json
import re

import numpy as np
import pytest
from scipy.stats import t
from sklearn.metrics import f1_score

from abhinaya.data.labels import EmotionSet
from abhinaya.data.predictions import PredictionTable
from abhinaya.errors import BadValueError, UnknownNameError
from abhinaya.evaluation.scoring import Truth
from ensembling.aligned import align_predictions
from ensembling.learned.adaptation import ADAPTATION
from ensembling.learned.fitting import apply_recipe, fit_recipe
from ensembling.learned.rules import load_learned
from ensembling.speakers.expected_gain import expect_gain
from ensembling.speakers.pseudo_tests import draw_pseudo_test
from ensembling.speakers.rows import speaker_rows
from ensembling.speakers.variants import VARIANTS, adapt, lacking_for, usable_variants
from ensembling.voting.soft_votes import softmax

EMOTIONS = EmotionSet.from_codes("AHNS")
FAST = {"pseudo_tests": 4, "resamples": 300}


def draw_table(
    *, n_speakers=24, voice=3.0, noise=1.0, n_clips=24, seed=0, name="m", prefix="u", head=True
):
    """A member's table whose embeddings are emotion + voice + noise, the truth and the speakers."""
    rng = np.random.default_rng(seed)
    n_utts = n_speakers * n_clips
    weight = np.eye(4, 10) * 3
    speaker_idx = np.repeat(np.arange(n_speakers), n_clips)
    truth = rng.integers(0, 4, n_utts)
    embeddings = weight[truth] / 3 * 2 + rng.normal(size=(n_utts, 10)) * noise / 2
    embeddings += rng.normal(size=(n_speakers, 10))[speaker_idx] * voice / 2
    probs = softmax(embeddings @ weight.T)
    table = PredictionTable(
        name,
        EMOTIONS,
        tuple(f"{prefix}{idx:04d}" for idx in range(n_utts)),
        probs.argmax(axis=1),
        probs=probs.astype(np.float32),
        embeddings=embeddings.astype(np.float32),
        meta={"head": {"weight": weight.tolist(), "bias": [0.0] * 4}} if head else {},
    )
    return table, truth, [f"s{idx}" for idx in speaker_idx]


def bare(table, **fields):
    """The table without embeddings and head."""
    columns = {"labels": table.labels, "probs": table.probs, **fields}
    return PredictionTable(table.name, EMOTIONS, table.utterances, **columns)


def test_gate_applies_what_helps_and_says_why():
    table, truth, speakers = draw_table()
    found = ADAPTATION.fit(align_predictions([table]), truth, speakers, FAST)
    best = found["candidates"][found["variant"]]
    assert best["gain"] > 0.1
    assert best["interval"][0] > 0
    assert best["macro_f1"] == pytest.approx(found["macro_f1"] + best["gain"])
    assert all(
        other["expected_gain"] <= best["expected_gain"] for other in found["candidates"].values()
    )
    assert found["reason"].startswith(f"{found['variant']} moves macro-F1 from ")
    assert ") on 4 balanced pseudo-tests of " in found["reason"]
    assert found["reason"].endswith(
        "is expected on other speakers, and a gain is 100% certain: applied."
    )
    assert found["pseudo_tests"]["clips_per_speaker"] == pytest.approx(12.5, rel=0.1)
    assert "asked for" not in found["reason"]
    # What goes through JSON comes back.
    assert json.loads(json.dumps(found)) == found


def test_gate_leaves_the_table_alone_where_nothing_helps():
    # No voices to remove, and clusters of the noise in dimensions that tell nothing.
    table, truth, speakers = draw_table(voice=0.0, noise=1.5)
    options = {**FAST, "variants": "cluster-embedding,cluster-logits"}
    found = ADAPTATION.fit(align_predictions([table]), truth, speakers, options)
    assert found["variant"] == "none"
    assert list(found["candidates"]) == ["cluster-embedding", "cluster-logits"]
    assert found["candidates"]["cluster-embedding"]["gain"] < 0
    assert found["reason"].startswith("cluster-logits moves macro-F1 from ")
    assert found["reason"].endswith("and is the best tried: not applied, since nothing helps.")
    applied = ADAPTATION.apply(found, align_predictions([table]), speakers)
    assert applied.labels.tolist() == table.labels.tolist()


def test_gate_gain_that_may_be_luck_is_not_applied():
    # Five speakers tell little about others.
    table, truth, speakers = draw_table(n_speakers=5, voice=0.5, noise=1.5, seed=2)
    options = {**FAST, "variants": "standardise"}
    found = ADAPTATION.fit(align_predictions([table]), truth, speakers, options)
    candidate = found["candidates"]["standardise"]
    assert candidate["gain"] > 0 > candidate["interval"][0]
    assert found["variant"] == "none"
    assert candidate["certainty"] < 0.9
    assert found["reason"].endswith("% certain: not applied, since 90% is wanted.")
    # What other corpora say tips the balance, either way.
    told = {**options, "prior": "standardise:0.1:0.02"}
    assert ADAPTATION.fit(align_predictions([table]), truth, speakers, told)["variant"] != "none"
    told = {**options, "prior": "standardise:-0.1:0.02"}
    found = ADAPTATION.fit(align_predictions([table]), truth, speakers, told)
    assert found["reason"].endswith("and is the best tried: not applied, since nothing helps.")


def test_gate_of_few_speakers_leaves_the_table_alone_however_much_it_gained():
    table, truth, speakers = draw_table(n_speakers=4)
    found = ADAPTATION.fit(align_predictions([table]), truth, speakers, FAST)
    assert max(candidate["gain"] for candidate in found["candidates"].values()) > 0.1
    assert found["variant"] == "none"
    few = r"not applied, since 4 speakers, [34]\.\d in a pseudo-test with 1\d\.\d clips each, are "
    assert re.search(few + r"too few to tell; 5, 3 and 6\.25 are wanted\.$", found["reason"])


def test_gate_leaves_the_table_alone_where_the_labelled_clips_have_another_shape():
    table, truth, speakers = draw_table(n_clips=5)
    found = ADAPTATION.fit(align_predictions([table]), truth, speakers, FAST)
    assert max(candidate["certainty"] for candidate in found["candidates"].values()) > 0.9
    assert found["variant"] == "none"
    assert found["reason"].endswith("are too few to tell; 5, 3 and 6.25 are wanted.")


@pytest.mark.parametrize(
    ("gain", "half", "prior", "expected", "certainty"),
    [
        # Error .0392 / 1.96 = .02, weight .02^2 / (.02^2 + .02^2) = 1/2; .02 / (sqrt(1/2) .02) =
        # 1.4142, below which lie .9214 of the normal distribution.
        (0.04, 0.0392, (0.0, 0.02), 0.02, 0.9214),
        # Halfway from the prior's mean: (-.06 + .04) / 2 = -.01, z = -.7071.
        (0.04, 0.0392, (-0.06, 0.02), -0.01, 0.2398),
        # A wide prior leaves the gain as it is: z = 2, .9772.
        (0.04, 0.0392, (0.0, 1.0), 0.04, 0.9772),
        (0.01, 0.0, (0.0, 0.05), 0.01, 1.0),
        (0.0, 0.0, (0.0, 0.05), 0.0, 0.0),
    ],
)
def test_expected_gain_by_hand(gain, half, prior, expected, certainty):
    found = expect_gain(gain, (gain - half, gain + half), prior)
    assert found.gain == pytest.approx(expected, abs=2e-5)
    assert found.certainty == pytest.approx(certainty, abs=2e-4)


@pytest.mark.slow
def test_gate_scores_equal_scikit_learns_and_intervals_a_plain_bootstrap():
    table, truth, speakers = draw_table(n_speakers=10, n_clips=16)
    options = {**FAST, "pseudo_tests": 2, "resamples": 2000, "variants": "standardise", "seed": 7}
    options["clips_per_speaker"] = 8.0
    found = ADAPTATION.fit(align_predictions([table]), truth, speakers, options)
    rows = speaker_rows(align_predictions([table]), speakers)
    drawn = []
    for seed in (7, 8):
        idx = draw_pseudo_test(truth, speakers, clips_per_speaker=8.0, seed=seed).indices
        after = adapt(rows.take(idx), "standardise", seed=7).labels
        drawn.append((truth[idx], table.labels[idx], after, np.array(speakers)[idx]))

    def mean_f1(which, weights):
        values = []
        for labels, before, after, names in drawn:
            weight = [weights[name] for name in names]
            predicted = (before, after)[which]
            values.append(f1_score(labels, predicted, average="macro", sample_weight=weight))
        return float(np.mean(values))

    ones = dict.fromkeys(speakers, 1)
    assert found["macro_f1"] == pytest.approx(mean_f1(0, ones))
    assert found["candidates"]["standardise"]["macro_f1"] == pytest.approx(mean_f1(1, ones))
    rng = np.random.default_rng(0)
    names = sorted(set(speakers))
    gains = []
    for _ in range(300):
        again = rng.choice(names, len(names)).tolist()
        weights = {name: again.count(name) for name in names}
        gains.append(mean_f1(1, weights) - mean_f1(0, weights))
    # Student's t of nine degrees of freedom is 2.262
    # at .975; the spread has the divisor 10 instead of 9. 300 resamples are good to some percent.
    candidate = found["candidates"]["standardise"]
    low, high = candidate["interval"]
    assert (low + high) / 2 == pytest.approx(candidate["gain"])
    assert (high - low) / 2 == pytest.approx(2.262 * np.std(gains) * (10 / 9) ** 0.5, rel=0.12)


def test_gate_pools_the_spread_of_its_candidates_in_part():
    table, truth, speakers = draw_table(n_speakers=6)
    aligned = align_predictions([table])

    def variances(names):
        found = ADAPTATION.fit(aligned, truth, speakers, {**FAST, "variants": names})
        n_heard = found["pseudo_tests"]["speakers_in_all"]
        df = n_heard - 1 + 2 * ("," in names)
        halves = [np.ptp(one["interval"]) / 2 for one in found["candidates"].values()]
        return (np.array(halves) / t.ppf(0.975, df)) ** 2, n_heard - 1

    (prior, _), (soft, df) = variances("prior"), variances("soft-logits")
    mean = (prior[0] + soft[0]) / 2
    both, _ = variances("prior,soft-logits")
    expected = [(2 * mean + df * own[0]) / (2 + df) for own in (prior, soft)]
    np.testing.assert_allclose(both, expected, rtol=1e-9)


def test_gate_says_when_the_labelled_clips_cannot_have_the_shape():
    table, truth, speakers = draw_table(n_clips=6)
    options = {**FAST, "variants": "prior"}
    found = ADAPTATION.fit(align_predictions([table]), truth, speakers, options)
    assert found["pseudo_tests"]["clips_per_speaker"] < 6
    assert "(asked for 12.5, which the labelled clips do not give)" in found["reason"]


def test_gate_abstentions_count_as_wrong():
    table, truth, speakers = draw_table(n_speakers=6)
    silent = bare(table, labels=np.full(len(table), -1))
    found = ADAPTATION.fit(
        align_predictions([silent]), truth, speakers, {**FAST, "variants": "prior"}
    )
    assert found["macro_f1"] == 0
    assert found["candidates"]["prior"]["gain"] == 0
    assert found["reason"].endswith("not applied, since nothing helps.")


def test_gate_in_two_processes_decides_the_same(monkeypatch):
    monkeypatch.setattr("ensembling.learned.adaptation._MIN_WORK_FOR_PROCESSES", 1)
    table, truth, speakers = draw_table(n_speakers=6)
    aligned = align_predictions([table])
    one, two = (ADAPTATION.fit(aligned, truth, speakers, {**FAST, "jobs": jobs}) for jobs in (1, 2))
    assert one == two


def test_gate_skips_what_a_table_cannot_do_and_says_so():
    table, truth, speakers = draw_table(n_speakers=6)
    found = ADAPTATION.fit(align_predictions([bare(table)]), truth, speakers, FAST)
    assert list(found["candidates"]) == ["cluster-probabilities", "soft-probabilities", "prior"]
    assert found["skipped"] == {
        "cluster-embedding": "table 'm' has no embeddings",
        "cluster-logits": "table 'm' has no embeddings",
        "standardise": "table 'm' has no embeddings",
    }


def test_gate_fused_table_can_borrow_a_members_embeddings():
    table, truth, speakers = draw_table(n_speakers=6, name="wavlm")
    fused = PredictionTable("vote", EMOTIONS, table.utterances, table.labels, probs=table.probs)
    aligned = align_predictions([fused, table])
    found = ADAPTATION.fit(aligned, truth, speakers, {**FAST, "embeddings": "wavlm"})
    assert found["embeddings"] == "wavlm"
    assert "cluster-embedding" in found["candidates"]
    assert found["skipped"] == {"standardise": "the embeddings of table 'vote' are another's"}
    forced = {**found, "variant": "cluster-embedding"}
    applied = ADAPTATION.apply(forced, aligned, speakers)
    rows = speaker_rows(aligned, speakers, embeddings="wavlm")
    assert applied.labels.tolist() == adapt(rows, "cluster-embedding").labels.tolist()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_can_be_rehearsed_and_applied(name):
    table, truth, speakers = draw_table(n_speakers=6)
    aligned = align_predictions([table])
    options = {**FAST, "pseudo_tests": 1, "variants": name}
    found = ADAPTATION.fit(aligned, truth, speakers, options)
    applied = ADAPTATION.apply({**found, "variant": name}, aligned, speakers)
    assert applied.labels.shape == (len(table),)
    np.testing.assert_allclose(applied.probs.sum(axis=1), 1, atol=1e-5)
    assert len(VARIANTS) == 9


def test_gate_through_a_recipe_is_cross_fitted_and_applied_to_other_speakers():
    table, truth, speakers = draw_table()
    labelled = Truth(table.utterances, truth, EMOTIONS, tuple(speakers))
    options = {**FAST, "variants": "standardise"}
    result = fit_recipe("adaptation", [table], labelled, options=options, n_folds=3)
    assert result.recipe.parameters["variant"] == "standardise"
    cross_fitted, plain = result.scores[0].macro_f1, result.scores[1].macro_f1
    assert cross_fitted > plain + 0.1

    other, other_truth, other_speakers = draw_table(seed=9, prefix="v")
    known = Truth(other.utterances, other_truth, EMOTIONS, tuple(other_speakers))
    applied = apply_recipe(result.recipe, [other], truth=known)
    assert (applied.labels == other_truth).mean() > (other.labels == other_truth).mean() + 0.1
    with pytest.raises(BadValueError, match="No speaker is known of the 576 utterances of"):
        apply_recipe(result.recipe, [other])


def test_gate_wrong_input_raises():
    table, truth, speakers = draw_table(n_speakers=3)
    aligned, unknown = align_predictions([table]), [None] * len(table)
    fused = align_predictions([bare(table)])
    label_only = align_predictions([bare(table, probs=None)])
    cases = [
        (aligned, unknown, {}, "No speaker is known of the 72"),
        (aligned, ["s0"] * 72, FAST, "pseudo-tests have one speaker only"),
        (
            aligned,
            speakers,
            {"pseudo_tests": 0},
            "option pseudo_tests .* is 0, expected at least 1",
        ),
        (aligned, speakers, {"resamples": 0}, "option resamples .* is 0"),
        (aligned, speakers, {"certainty": 1.0}, r"option certainty .* is 1, expected 0\.5"),
        (aligned, speakers, {"prior": "prior:0.1"}, "'prior:0.1', expected NAME:GAIN:SD"),
        (aligned, speakers, {"prior": "prior:a:b"}, "'prior:a:b', expected NAME:GAIN:SD"),
        (aligned, speakers, {"prior": "prior:.1:0"}, "'prior' on other corpora .* deviation of 0"),
        (aligned, speakers, {"prior_sd": 0.0}, "standard deviation of 0, .* or prior_sd"),
        (aligned, speakers, {"clips_per_speaker": 1.0}, r"clips_per_speaker is 1\.0"),
        (aligned, speakers, {"variants": "none"}, "'none' cannot be tried: it is no adaptation"),
        (fused, speakers, {"variants": "standardise"}, "'standardise' cannot be tried: table 'm'"),
        (label_only, speakers, {}, "'m' has neither embeddings nor probabilities"),
    ]
    for given, names, options, match in cases:
        with pytest.raises(BadValueError, match=match):
            ADAPTATION.fit(given, truth, names, options)
    with pytest.raises(UnknownNameError, match=r"Unknown adaptation 'standardize'. Did you mean"):
        ADAPTATION.fit(aligned, truth, speakers, {"variants": "standardize"})
    with pytest.raises(UnknownNameError, match=r"Unknown adaptation 'priors'\. Did you mean"):
        ADAPTATION.fit(aligned, truth, speakers, {"prior": "priors:0.1:0.1"})
    with pytest.raises(UnknownNameError, match="option of the rule 'adaptation' 'variant'"):
        ADAPTATION.fit(aligned, truth, speakers, {"variant": "prior"})


@pytest.mark.parametrize(
    ("n_speakers", "clips_per_speaker", "there", "what", "needed"),
    [
        # Half of the speakers, as a fold leaves them.
        (2, 1.5, "8 labelled utterances of 1", "no balanced pseudo-test can be drawn", 3),
        (3, 12.5, "8 labelled utterances of 1", "the pseudo-tests have one speaker only", 2),
        # Room for two clips of each of two speakers, and four classes: seldom enough.
        (2, 1.01, "16 labelled utterances of 2", "no balanced pseudo-test can be drawn", 4),
    ],
)
def test_gate_on_too_small_a_selection_says_how_many_are_needed(
    n_speakers, clips_per_speaker, there, what, needed
):
    """It said that no speaker is known of 0 utterances, which were the pseudo-test's."""
    table, _, speakers = draw_table(n_speakers=n_speakers, n_clips=8)
    truth = Truth(table.utterances, np.arange(len(table)) % 4, EMOTIONS, tuple(speakers))
    options = {**FAST, "clips_per_speaker": clips_per_speaker}
    with pytest.raises(BadValueError, match="too few for the adaptation gate") as caught:
        fit_recipe("adaptation", [table], truth, options=options, n_folds=2, n_resamples=1)
    message = str(caught.value)
    assert re.match(f"{there} known speakers? in table 'm' are too few for the", message)
    assert what in message
    assert f"At least {needed} speakers are needed who between them have every class" in message
    assert message.endswith("or with more --folds, which leave out fewer speakers at a time.")


def test_adapt_hands_its_seed_to_the_clustering():
    # Twelve clips of pure noise have many clusterings.
    table, _, speakers = draw_table(n_speakers=30, n_clips=12, noise=9.0)
    rows = speaker_rows(align_predictions([table]), speakers)
    labels = [adapt(rows, "cluster-embedding", seed=seed).labels.tolist() for seed in (0, 0, 1)]
    assert labels[0] == labels[1]
    assert labels[0] != labels[2]


def test_adaptation_is_registered_under_its_name():
    assert load_learned("adaptation") is ADAPTATION
    assert ADAPTATION.name == "adaptation"


def test_lacking_for_names_what_is_missing():
    table, _, speakers = draw_table(n_speakers=2)
    headless, _, _ = draw_table(n_speakers=2, head=False)
    no_head = speaker_rows(align_predictions([headless]), speakers)
    assert lacking_for("cluster-logits", no_head).endswith("without the last layer of a head")
    assert lacking_for("cluster-embedding", no_head) == ""
    rows = speaker_rows(
        align_predictions([bare(table, probs=None, embeddings=table.embeddings)]), speakers
    )
    assert lacking_for("cluster-embedding", rows) == "table 'm' has no probabilities"
    assert lacking_for("none", rows) == ""
    assert usable_variants(rows) == []
