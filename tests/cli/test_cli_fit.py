from __future__ import annotations

import json

import numpy as np
import pytest

from abhinaya.data.labels import EmotionSet
from abhinaya.data.manifest import make_manifest, read_manifest, write_manifest
from abhinaya.data.predictions import PredictionTable, read_table, write_table
from ensembling.learned.rules import LEARNED

EMOTIONS = EmotionSet.from_codes("AHN")


@pytest.fixture
def corpus(tmp_path):
    """A manifest of 60 train and 60 test rows of 12 speakers, and tables p and q of both splits."""
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(120) < 0.5, 2, np.arange(120) % 3)
    rows = [
        {
            "utterance": f"u{idx:03d}",
            "label": EMOTIONS.codes[label],
            "split": "train" if idx < 60 else "test",
            "speaker": f"s{idx // 10}",
        }
        for idx, label in enumerate(labels)
    ]
    write_manifest(make_manifest(rows, EMOTIONS, tmp_path), tmp_path / "m.parquet")
    for name in ("p", "q"):
        logits = rng.normal(size=(120, 3))
        logits[np.arange(120), labels] += 1.5
        probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        for split, part in (("train", slice(60)), ("test", slice(60, 120))):
            table = PredictionTable(
                name,
                EMOTIONS,
                tuple(row["utterance"] for row in rows[part]),
                probs[part].argmax(axis=1),
                probs=probs[part].astype(np.float32),
            )
            write_table(table, tmp_path / f"{name}-{split}.parquet")
    return tmp_path


def fit(run_cli, corpus, rule, *args, split="train"):
    tables = [corpus / f"{name}-{split}.parquet" for name in ("p", "q")]
    return run_cli(
        "fit",
        rule,
        *tables,
        "--manifest",
        corpus / "m.parquet",
        "--out",
        corpus / "r.json",
        "--resamples",
        50,
        *args,
    )


def test_fit_prints_the_rule_beside_the_vote_and_each_table(run_cli, corpus):
    result = fit(run_cli, corpus, "thresholds")
    assert result.code == 0, result.err
    title, heading, *rows = result.out.splitlines()
    assert title == f"{corpus / 'r.json'}: thresholds of p, q"
    assert heading.split() == ["decided", "by", "rows", "macro-F1", "95", "%", "interval"]
    names = [row.rsplit(maxsplit=3)[0] for row in rows]
    assert names == ["thresholds, cross-fitted", "plain vote", "p", "q"]
    for row in rows:
        n_rows, macro_f1, interval = row.split()[-3:]
        low, high = map(float, interval.split("-"))
        assert n_rows == "60"
        assert low < float(macro_f1) < high
    assert result.err == ""


def test_fit_then_apply_then_score(run_cli, corpus):
    assert (
        fit(run_cli, corpus, "stacking", "--option", "model=mlp", "--option", "hidden=4").code == 0
    )
    tables = [corpus / f"{name}-test.parquet" for name in ("q", "p")]
    out = corpus / "stacked.parquet"
    result = run_cli("apply", corpus / "r.json", *tables, "--out", out, "--json")
    assert result.code == 0, result.err
    counts = {row["class"]: row["rows"] for row in json.loads(result.out)}
    assert sum(counts.values()) == 60
    table = read_table(out)
    assert (table.name, table.meta["tables"]) == ("stacking", ["p", "q"])
    assert [counts[code] for code in "AHN"] == np.bincount(table.labels, minlength=3).tolist()
    scored = run_cli("score", out, "--manifest", corpus / "m.parquet", "--resamples", 10, "--json")
    assert json.loads(scored.out)["tables"][0]["macro_f1"] > 0.5


def test_fit_json_has_every_number(run_cli, corpus):
    result = fit(run_cli, corpus, "weights", "--folds", 3, "--by-speaker", "--json")
    report = json.loads(result.out)
    assert [score["decided_by"] for score in report["scores"]] == [
        "weights, cross-fitted",
        "plain vote",
        "p",
        "q",
    ]
    assert report["facts"]["n_folds"] == 3
    assert report["facts"]["n_speakers"] == 6
    assert report["facts"]["macro_f1_cross_fitted"] == report["scores"][0]["macro_f1"]
    stored = json.loads((corpus / "r.json").read_text())
    assert stored["facts"] == report["facts"]


def test_fit_tiebreaker_is_that_of_vote(run_cli, corpus):
    tables = [corpus / f"{name}-train.parquet" for name in ("p", "q")]
    for name in ("p", "q"):
        report = json.loads(fit(run_cli, corpus, "weights", "--tiebreaker", name, "--json").out)
        out = corpus / "vote.parquet"
        assert run_cli("vote", *tables, "--tiebreaker", name, "--out", out).code == 0
        scored = run_cli(
            "score", out, "--manifest", corpus / "m.parquet", "--resamples", 10, "--json"
        )
        (plain,) = json.loads(scored.out)["tables"]
        assert report["scores"][1]["macro_f1"] == plain["macro_f1"]
        assert report["facts"]["tiebreakers"][0] == name
    wrong = fit(run_cli, corpus, "weights", "--tiebreaker", "r")
    assert (wrong.code, "Unknown tiebreaker 'r'" in wrong.err) == (1, True)


def test_fit_out_of_fold_table_scores_as_the_fit_says(run_cli, corpus):
    held_out = corpus / "oof.parquet"
    report = json.loads(
        fit(run_cli, corpus, "temperature", "--out-of-fold", held_out, "--json").out
    )
    scored = run_cli(
        "score", held_out, "--manifest", corpus / "m.parquet", "--resamples", 10, "--json"
    )
    assert json.loads(scored.out)["tables"][0]["macro_f1"] == report["scores"][0]["macro_f1"]


def test_fit_prior_from_a_selection_of_the_manifest(run_cli, corpus):
    result = fit(run_cli, corpus, "log-odds", "--prior-from", "train", "--json", split="test")
    assert result.code == 0, result.err
    prior = json.loads(result.out)["options"]["prior"]
    assert len(prior) == 3
    assert sum(prior) == 60
    assert prior[2] == max(prior)
    log_priors = json.loads((corpus / "r.json").read_text())["parameters"]["log_priors"]
    np.testing.assert_allclose(np.exp(log_priors), [np.array(prior) / 60] * 2, rtol=1e-9)
    wrong = fit(run_cli, corpus, "weights", "--prior-from", "train")
    assert wrong.code == 1
    assert "Unknown option of the rule 'weights' 'prior'" in wrong.err
    wrong = fit(run_cli, corpus, "log-odds", "--prior-from", "trian")
    assert "Unknown split or subset 'trian'. Did you mean 'train'?" in wrong.err


def test_fit_on_csv_tables_and_labels_without_speakers_says_so(run_cli, tmp_path):
    letters = "AHN" * 8
    truth, table = tmp_path / "truth.csv", tmp_path / "llm.csv"
    truth.write_text(
        "FileName,EmoClass\n" + "".join(f"u{i},{c}\n" for i, c in enumerate(letters)) + "x,O\n"
    )
    said = letters[:20] + "AAAA"
    table.write_text(
        "FileName,EmoClass\n" + "".join(f"u{i},{c}\n" for i, c in enumerate(said)) + "x,A\n"
    )
    out = tmp_path / "r.json"
    result = run_cli("fit", "weights", table, "--manifest", truth, "--out", out)
    assert result.code == 0, result.err
    assert result.err == (
        "Note: 1 rows without a true label were not used.\n"
        "Note: 24 of 24 rows have no known speaker. Each stands for itself, so a speaker may have "
        "been both learned from and scored.\n"
    )
    result = run_cli("fit", "thresholds", table, "--manifest", truth, "--out", out)
    assert result.code == 1
    assert "only labels from 'llm' on 24 of 24 utterances" in result.err


@pytest.mark.parametrize("n_speakers", [4, 3, 2])
@pytest.mark.parametrize("rule", ["weights", "stacking", "thresholds"])
def test_fit_on_few_speakers_makes_fewer_folds_and_says_so(run_cli, corpus, rule, n_speakers):
    """The demo has four, and every rule failed on the five folds that nobody had asked for."""
    few = rows_of_few_speakers(corpus, n_speakers)
    result = fit(run_cli, corpus, rule, "--manifest", few, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["facts"]["n_folds"] == n_speakers
    assert f"Note: {n_speakers} folds instead of 5: the labelled rows have no more" in result.err
    # A number that was asked for is as it is.
    assert fit(run_cli, corpus, rule, "--manifest", few, "--folds", 6).code == 1


def test_fit_on_one_speaker_says_that_more_data_is_needed(run_cli, corpus):
    few = rows_of_few_speakers(corpus, 1)
    result = fit(run_cli, corpus, "weights", "--manifest", few)
    assert result.code == 1
    assert "cannot be made from 60 labelled utterances of 1 speaker, " in result.err
    assert "No number of --folds helps; label more data." in result.err
    assert not (corpus / "r.json").exists()


def rows_of_few_speakers(corpus, n_speakers):
    manifest = read_manifest(corpus / "m.parquet")
    rows = manifest.rows.to_dict("records")
    for idx, row in enumerate(rows):
        row["speaker"] = f"s{idx % n_speakers}"
    path = corpus / "few.parquet"
    write_manifest(make_manifest(rows, EMOTIONS, corpus), path)
    return path


def test_fit_wrong_input_exits_1_with_a_message_and_writes_nothing(run_cli, corpus):
    cases = [
        (["threshold"], "Unknown learned rule 'threshold'. Did you mean 'thresholds'?"),
        (["weights", "--option", "per=klass"], "Unknown value of the option per"),
        (["weights", "--option", "per"], "per"),
        (["weights", "--folds", 7], "7 folds cannot be made from 60 labelled utterances of 6"),
    ]
    for args, message in cases:
        result = fit(run_cli, corpus, *args)
        assert result.code == 1, args
        assert result.err.startswith("Error: "), args
        assert message in result.err, args
    mixed = run_cli(
        "fit",
        "weights",
        corpus / "p-train.parquet",
        corpus / "q-test.parquet",
        "--manifest",
        corpus / "m.parquet",
        "--out",
        corpus / "r.json",
    )
    assert "does not cover the same utterances as 'p'" in mixed.err
    assert not (corpus / "r.json").exists()


def test_fit_wrong_command_line_exits_2(run_cli, corpus):
    assert run_cli("fit", "weights", corpus / "p-train.parquet").code == 2
    assert fit(run_cli, corpus, "weights", "--folds", 1).code == 2
    result = fit(run_cli, corpus, "weights", "--out-of-fold", "oof.txt")
    assert (result.code, "'oof.txt' must end in .parquet or .csv" in result.err) == (2, True)
    result = fit(run_cli, corpus, "weights", "--out", "r.yaml")
    assert (result.code, "'r.yaml' must end in .json" in result.err) == (2, True)


def test_fit_help_names_every_rule(run_cli):
    text = run_cli("fit", "--help").out
    assert len(LEARNED) >= 5
    missing = [name for name in LEARNED if name not in text]
    assert not missing, f"{missing}: name these in the help of RULE in abhinaya/cli/fit.py."
