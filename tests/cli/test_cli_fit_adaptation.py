from __future__ import annotations

import json

import numpy as np
import pytest

from abhinaya.data.labels import EmotionSet
from abhinaya.data.manifest import make_manifest, write_manifest
from abhinaya.data.predictions import PredictionTable, read_table, write_table

EMOTIONS = EmotionSet.from_codes("AHN")
N_SPEAKERS, N_CLIPS = 12, 20
FAST = (
    "--option",
    "pseudo_tests=2",
    "--option",
    "resamples=200",
    "--option",
    "variants=standardise,prior",
    "--resamples",
    50,
    "--folds",
    2,
)


@pytest.fixture
def corpus(tmp_path):
    """A manifest and tables `fit` and `new` of 12 voices each, which move the embeddings by far.

    The manifest names no speaker; its column `estimated` gives the voices other names, and
    `one` takes all of them for a single speaker.
    """
    rng = np.random.default_rng(0)
    rows = []
    for split in ("fit", "new"):
        labels = np.tile(np.arange(N_CLIPS) % 3, N_SPEAKERS)
        voices = np.repeat(np.arange(N_SPEAKERS), N_CLIPS)
        embeddings = np.eye(3)[labels] * 2 + rng.normal(size=(len(labels), 3)) * 0.5
        embeddings += rng.normal(size=(N_SPEAKERS, 3))[voices] * 2
        logits = 3 * embeddings
        probs = np.exp(logits - logits.max(axis=1, keepdims=True))
        utterances = tuple(f"{split}{idx:03d}" for idx in range(len(labels)))
        table = PredictionTable(
            "m",
            EMOTIONS,
            utterances,
            logits.argmax(axis=1),
            probs=(probs / probs.sum(axis=1, keepdims=True)).astype(np.float32),
            embeddings=embeddings.astype(np.float32),
            meta={"head": {"weight": (3 * np.eye(3)).tolist(), "bias": [0.0] * 3}},
        )
        write_table(table, tmp_path / f"{split}.parquet")
        rows += [
            {
                "utterance": utterance,
                "label": EMOTIONS.codes[label],
                "estimated": f"spk-{split}-{voice:04d}",
                "one": "spk-0001",
            }
            for utterance, label, voice in zip(utterances, labels, voices, strict=True)
        ]
    write_manifest(make_manifest(rows, EMOTIONS, tmp_path), tmp_path / "m.parquet")
    return tmp_path


def fit(run_cli, corpus, *args):
    return run_cli(
        "fit",
        "adaptation",
        corpus / "fit.parquet",
        "--manifest",
        corpus / "m.parquet",
        "--out",
        corpus / "r.json",
        *FAST,
        *args,
    )


def test_fit_adaptation_prints_the_reason_below_the_scores(run_cli, corpus):
    result = fit(run_cli, corpus, "--speakers", "estimated")
    assert result.code == 0, result.err
    title, heading, *rows, reason = result.out.splitlines()
    assert title == f"{corpus / 'r.json'}: adaptation of m"
    assert heading.split()[:2] == ["decided", "by"]
    names = [row.rsplit(maxsplit=3)[0] for row in rows]
    assert names == ["adaptation, cross-fitted", "plain vote", "m"]
    recipe = json.loads((corpus / "r.json").read_text())
    assert reason == recipe["parameters"]["reason"]
    assert reason.startswith("standardise moves macro-F1 from ")
    assert reason.endswith("% certain: applied.")
    # On voices that the fit did not hear, too.
    assert float(rows[0].split()[-2]) > float(rows[1].split()[-2]) + 0.1


def test_fit_adaptation_json_has_the_reason(run_cli, corpus):
    options = ("--option", "variants=prior", "--option", "seed=3", "--json")
    result = fit(run_cli, corpus, *options, "--speakers", "estimated")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    recipe = json.loads((corpus / "r.json").read_text())
    assert report["reason"] == recipe["parameters"]["reason"]
    assert report["reason"].startswith("prior moves macro-F1 from ")
    given = {"pseudo_tests": 2, "resamples": 200, "variants": "prior", "seed": 3}
    assert report["options"] == given
    assert report["rule"] == "adaptation"


def test_fit_of_another_rule_has_no_reason(run_cli, corpus):
    result = run_cli(
        "fit",
        "temperature",
        corpus / "fit.parquet",
        "--manifest",
        corpus / "m.parquet",
        "--out",
        corpus / "r.json",
        "--resamples",
        50,
        "--speakers",
        "estimated",
        "--json",
    )
    assert result.code == 0, result.err
    assert json.loads(result.out)["reason"] is None


def test_fit_adaptation_takes_estimated_speakers_from_a_column(run_cli, corpus):
    failed = fit(run_cli, corpus)
    assert failed.code == 1
    assert "No speaker is known" in failed.err
    assert not (corpus / "r.json").exists()
    done = fit(run_cli, corpus, "--speakers", "estimated", "--json")
    assert done.code == 0, done.err
    facts = json.loads(done.out)["facts"]
    assert (facts["n_speakers"], facts["n_unknown_speakers"]) == (N_SPEAKERS, 0)


def test_fit_adaptation_on_a_single_estimated_speaker_exits_1(run_cli, corpus):
    result = fit(run_cli, corpus, "--speakers", "one")
    assert result.code == 1
    assert "of 1 speaker" in result.err


def test_fit_adaptation_unknown_column_exits_1(run_cli, corpus):
    result = fit(run_cli, corpus, "--speakers", "estimatd")
    assert result.code == 1
    assert "Unknown column of" in result.err
    assert "'estimatd'. Did you mean 'estimated'?" in result.err
    assert not (corpus / "r.json").exists()


def test_fit_adaptation_then_apply_to_other_estimated_speakers(run_cli, corpus):
    assert fit(run_cli, corpus, "--speakers", "estimated").code == 0
    out = corpus / "adapted.parquet"
    args = ("apply", corpus / "r.json", corpus / "new.parquet", "--out", out)
    failed = run_cli(*args, "--manifest", corpus / "m.parquet")
    assert failed.code == 1
    assert "No speaker is known" in failed.err
    wrong = run_cli(*args, "--manifest", corpus / "m.parquet", "--speakers", "speakers")
    assert wrong.code == 1
    assert "'speakers'. Did you mean 'speaker'?" in wrong.err
    assert not out.exists()
    done = run_cli(*args, "--manifest", corpus / "m.parquet", "--speakers", "estimated")
    assert done.code == 0, done.err
    before = read_table(corpus / "new.parquet").labels
    truth = np.tile(np.arange(N_CLIPS) % 3, N_SPEAKERS)
    gain = (read_table(out).labels == truth).mean() - (before == truth).mean()
    assert gain > 0.1


def test_fit_help_names_every_option_of_the_rule(run_cli, corpus):
    refused = fit(run_cli, corpus, "--option", "variant=prior", "--speakers", "estimated")
    assert refused.code == 1
    assert "'variant'. Did you mean 'variants'?" in refused.err
    _, _, known = refused.err.partition("Known: ")
    options = known.strip().rstrip(".").split(", ")
    assert len(options) == 10
    text = run_cli("fit", "--help").out
    _, _, of_rule = " ".join(text.split()).partition("adaptation has ")
    assert not [option for option in options if option not in of_rule.partition("Arguments")[0]]
