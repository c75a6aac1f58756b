"""What each rule of fusion gains on the plain vote, where members share their errors and where not.

The members are simulated, since only then can the one thing that decides be turned by hand: the
share of utterances that sound like another class to everybody. Prints Markdown;
docs/results/fusion-rules.md is its output. Run: python benchmarks/fusion_rules.py
"""

from __future__ import annotations

from statistics import mean, stdev

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.predictions import PredictionTable
from abhinaya.evaluation.metrics import scores
from ensembling.aligned import AlignedTables, align_predictions
from ensembling.learned.rules import load_learned
from ensembling.voting.dawid_skene import dawid_skene
from ensembling.voting.soft_votes import soft_vote
from ensembling.voting.votes import plurality

K = len(MSP_PODCAST)
HEARD_INSTEAD = np.array([0.10, 0.04, 0.04, 0.03, 0.25, 0.35, 0.12, 0.07])
"""What a misleading utterance sounds like: shares of the classes A C D F H N S U, about those of
MSP-Podcast's training set."""

STRENGTHS = (1.6, 1.4, 1.2, 1.0, 0.8)
SURENESS = (1.0, 2.0, 0.7, 1.5, 1.0)
"""Above 1 a member is surer than it should be."""

N_TEST = 20_000
SEEDS = range(5)
SETTINGS = ((0.0, 2_400), (0.25, 2_400), (0.5, 2_400), (0.5, 600))
"""Share of misleading utterances, and labelled rows that a rule is fitted on."""

LEARNED: tuple[tuple[str, dict[str, str | int]], ...] = (
    ("weights", {}),
    ("confusions", {}),
    ("confusions", {"model": "dawid-skene"}),
    ("thresholds", {}),
    ("temperature", {}),
    ("temperature", {"mean": "geometric"}),
    ("log-odds", {}),
    ("greedy", {}),
    ("greedy", {"bags": 10}),
    ("cma", {}),
    ("cma", {"per": "class"}),
    ("stacking", {}),
)


def draw(n_utts: int, misleading: float, seed: int) -> tuple[AlignedTables, NDArray[np.int64]]:
    """Draw five members' tables, all classes alike often, best member first; and the truth."""
    rng, habits = np.random.default_rng(seed), np.random.default_rng(0)
    truth = rng.integers(K, size=n_utts)
    misleads = rng.random(n_utts) < misleading
    sounds_like = np.where(misleads, rng.choice(K, n_utts, p=HEARD_INSTEAD), truth)
    to_all = rng.normal(size=(n_utts, K)) * np.sqrt(misleading / 2)
    tables = []
    for member, (strength, sureness) in enumerate(zip(STRENGTHS, SURENESS, strict=True)):
        own = rng.normal(size=(n_utts, K)) * np.sqrt(1 - misleading / 2)
        logits = to_all + own + 0.3 * habits.normal(size=(K, K))[sounds_like]
        logits[np.arange(n_utts), sounds_like] += strength
        # Every other member leans to the frequent classes, as one trained without weights does.
        logits = sureness * (logits + member % 2 * 0.5 * np.log(HEARD_INSTEAD))
        probs = np.exp(logits - logits.max(axis=1, keepdims=True))
        probs /= probs.sum(axis=1, keepdims=True)
        names = tuple(f"{seed}-{utt}" for utt in range(n_utts))
        table = PredictionTable(
            f"m{member}", MSP_PODCAST, names, probs.argmax(axis=1), probs=probs.astype(np.float32)
        )
        tables.append(table)
    return align_predictions(tables), truth


def gains(misleading: float, n_fit: int, seed: int) -> dict[str, float]:
    """Return the plain vote's macro-F1 on the test, and what each rule adds to it."""
    fit, fit_truth = draw(n_fit, misleading, seed)
    test, truth = draw(N_TEST, misleading, 1_000 + seed)
    labels = {
        "the plain vote": plurality(test.labels, K).labels,
        "best member alone": test.labels[0],
        "`vote --rule soft`": soft_vote(test).labels,
        "`vote --rule geometric`": soft_vote(test, geometric=True).labels,
        "`vote --rule dawid-skene`": dawid_skene(test.labels, K).posterior.argmax(axis=1),
    }
    for rule, options in LEARNED:
        learned = load_learned(rule)
        parameters = learned.fit(fit, fit_truth, [None] * n_fit, options)
        shown = " ".join([f"`fit {rule}`", *(f"{key}={value}" for key, value in options.items())])
        labels[shown] = learned.apply(parameters, test, [None] * N_TEST).labels
    found = {name: scores(truth, said, K).macro_f1 for name, said in labels.items()}
    vote = found.pop("the plain vote")
    return {"macro-F1 of the plain vote": vote} | {k: v - vote for k, v in found.items()}


def main() -> None:
    columns = [[gains(*setting, seed) for seed in SEEDS] for setting in SETTINGS]
    heads = [f"{share:.0%} misleading, {n_fit:,} rows" for share, n_fit in SETTINGS]
    print(f"| | {' | '.join(heads)} |")
    print("|---" * (len(heads) + 1) + "|")
    for idx, name in enumerate(columns[0][0]):
        cells = []
        for runs in columns:
            values = [run[name] for run in runs]
            form = "{:.3f} ({:.3f})" if idx == 0 else "{:+.3f} ({:.3f})"
            cells.append(form.format(mean(values), stdev(values)))
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
