"""What each part of an audit computes: data frames with every single number."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abhinaya.evaluation.metrics import scores
from abhinaya.pipeline.audit.bundle import Bundle
from abhinaya.pipeline.audit.config import AuditConfig
from abhinaya.probing.inlp import decode_linearly, find_null_space
from abhinaya.probing.probe import Probe, ProbeRun, ProbeSettings, predict, train_probes
from abhinaya.probing.rsa import compare_geometry
from abhinaya.probing.splits import Rows, Split, draw_shots, make_splits, split_speakers

__all__ = [
    "Frames",
    "compare_languages",
    "probe_corpus",
    "project_speakers",
    "sweep_point",
    "transfer",
]

Frames = dict[str, pd.DataFrame]
"""Results by the name of the table that they are rows of."""

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
_Records = list[dict[str, Any]]

POOLED = "all"
"""Fold whose row scores the test rows of all folds together."""


def probe_corpus(config: AuditConfig, bundle: Bundle, encoder: str, corpus: str) -> Frames:
    """Train probes of each taxonomy, split, head and seed within one corpus."""
    assert config.probes is not None
    values = bundle.load(encoder, corpus)
    found: _Records = []
    curves: _Records = []
    splits: list[pd.DataFrame] = []
    for taxonomy in config.probes.taxonomies:
        classes = config.classes if taxonomy == "common" else bundle.own_classes[corpus]
        chosen, rows = bundle.rows(corpus, classes)
        utterances = bundle.tables[corpus]["utterance"].to_numpy()[chosen]
        for kind in config.probes.splits:
            folds = {seed: make_splits(rows, kind, seed) for seed in config.seeds}
            place: dict[str, Any] = {"corpus": corpus, "taxonomy": taxonomy, "split": kind}
            splits += [
                _listed(place | {"seed": seed}, split, utterances)
                for seed, every in folds.items()
                for split in every
            ]
            for hidden in config.probes.hidden:
                settings = config.probe.model_copy(update={"hidden": hidden})
                scored, shares = _probe(values[chosen], rows, folds, settings)
                own = place | {"encoder": encoder, "hidden": hidden}
                found += [own | record for record in scored]
                curves += [own | record for record in shares]
    return {
        "scores": pd.DataFrame(found),
        "layers": pd.DataFrame(curves),
        "splits": pd.concat(splits, ignore_index=True),
    }


def transfer(config: AuditConfig, bundle: Bundle, encoder: str) -> Frames:
    """Score probes of each language on each other one, without and with examples of it."""
    assert config.transfer is not None
    groups = {name: _group(config, bundle, encoder, own) for name, own in config.languages.items()}
    n_classes = len(config.classes)
    runs = {
        (name, seed): ProbeRun(values, rows.labels, split_speakers(rows, seed)[0], seed, n_classes)
        for name, (values, rows, _) in groups.items()
        for seed in config.seeds
    }
    sources = dict(zip(runs, train_probes(list(runs.values()), config.probe), strict=True))
    few = config.probe.model_copy(update={"epochs": config.transfer.epochs})
    found: _Records = []
    drawn: _Records = []
    for source, target in permutations(groups, 2):
        values, rows, utterances = groups[target]
        keys: list[tuple[int, int, int]] = []
        shots: list[IntArray] = []
        for seed in config.seeds:
            for n_shots in config.transfer.shots:
                for sample in range(config.transfer.samples if n_shots else 1):
                    keys.append((seed, n_shots, sample))
                    shots.append(draw_shots(rows, n_shots, _mixed(seed, sample)))
        further = [
            ProbeRun(values, rows.labels, own, seed, n_classes, start=sources[source, seed])
            for (seed, n_shots, _), own in zip(keys, shots, strict=True)
            if n_shots
        ]
        trained = iter(train_probes(further, few))
        for (seed, n_shots, sample), own in zip(keys, shots, strict=True):
            probe = next(trained) if n_shots else sources[source, seed]
            test = np.setdiff1d(np.arange(len(rows)), own)
            place = {"source": source, "target": target, "seed": seed, "shots": n_shots}
            place |= {"sample": sample, "encoder": encoder}
            found.append(place | _scored(rows, test, predict(probe, values[test])))
            drawn += [
                {"corpus": target, "split": f"{n_shots} shots, draw {sample}", "seed": seed}
                | {"taxonomy": "common", "fold": "0", "role": "shot", "utterance": utterances[row]}
                for row in own
            ]
    return {"transfer": pd.DataFrame(found), "splits": pd.DataFrame(drawn)}


def project_speakers(config: AuditConfig, bundle: Bundle, encoder: str, corpus: str) -> Frames:
    """Take the speakers out of a probe's representation, and see what is left of both."""
    assert config.inlp is not None
    chosen, rows = bundle.rows(corpus, config.classes)
    values = bundle.load(encoder, corpus)[chosen]
    found: _Records = []
    for seed in config.seeds:
        train, test = split_speakers(rows, seed)
        run = ProbeRun(values, rows.labels, train, seed, len(rows.classes))
        vectors = _standardized(train_probes([run], config.probe)[0], values, train)
        null = find_null_space(
            vectors[train], rows.speakers[train], seed=seed, max_rounds=config.inlp.max_rounds
        )
        cleaned = vectors @ null.projection
        # The control: as many directions taken out, drawn at random.
        rng = np.random.default_rng(seed)
        other, _ = np.linalg.qr(rng.standard_normal((vectors.shape[1], null.rank)))
        record: dict[str, Any] = {"encoder": encoder, "corpus": corpus, "seed": seed}
        record |= {"rounds": len(null.accuracies) - 1, "rank": null.rank}
        record |= {"at_chance": null.is_at_chance}
        for part, own in (("fitted", train), ("held_out", test)):
            for when, space in (("before", vectors), ("after", cleaned)):
                accuracy, chance = decode_linearly(space[own], rows.speakers[own], seed=seed)
                record |= {f"speaker_{part}_{when}": accuracy, f"speaker_{part}_chance": chance}
        for when, space in (
            ("before", vectors),
            ("after", cleaned),
            ("control", vectors - vectors @ other @ other.T),
        ):
            flat = space.astype(np.float32)[:, None]
            again = ProbeRun(flat, rows.labels, train, seed, len(rows.classes))
            probe = train_probes([again], config.probe)[0]
            scored = _scored(rows, test, predict(probe, flat[test]))
            record |= {f"{name}_{when}": scored[name] for name in ("accuracy", "macro_f1")}
        found.append(record)
    return {"inlp": pd.DataFrame(found)}


def compare_languages(config: AuditConfig, bundle: Bundle, encoder: str) -> Frames:
    """Compare the geometry of the classes between languages, seen by one probe for all of them."""
    assert config.rsa is not None
    groups = {name: _group(config, bundle, encoder, own) for name, own in config.languages.items()}
    values = np.concatenate([own for own, _, _ in groups.values()])
    labels = np.concatenate([rows.labels for _, rows, _ in groups.values()])
    ends = np.cumsum([0, *(len(rows) for _, rows, _ in groups.values())])
    correlations: _Records = []
    distances: _Records = []
    for seed in config.seeds:
        train = np.concatenate(
            [
                at + split_speakers(rows, seed)[0]
                for at, (_, rows, _) in zip(ends[:-1], groups.values(), strict=True)
            ]
        )
        run = ProbeRun(values, labels, train, seed, len(config.classes))
        vectors = train_probes([run], config.probe)[0].represent(values).astype(np.float64)
        parts = {
            name: (vectors[at:to], labels[at:to])
            for name, at, to in zip(groups, ends[:-1], ends[1:], strict=True)
        }
        found = compare_geometry(
            parts, len(config.classes), n_shuffles=config.rsa.shuffles, seed=seed
        )
        place = {"encoder": encoder, "seed": seed}
        whole = {"mean": found.mean, "p": found.p, "shuffled": found.shuffled}
        correlations += [
            place | {"first": a, "second": b, "correlation": value} | whole
            for (a, b), value in found.correlations.items()
        ]
        distances += [
            place | {"language": name, "first": one, "second": two, "distance": matrix[i, j]}
            for name, matrix in found.distances.items()
            for i, one in enumerate(config.classes)
            for j, two in enumerate(config.classes)
        ]
    return {"rsa": pd.DataFrame(correlations), "distances": pd.DataFrame(distances)}


def sweep_point(config: AuditConfig, bundle: Bundle, point: int) -> Frames:
    """Train probes on both encoders of a sweep in one of its settings."""
    assert config.sweep is not None
    split, settings = config.sweep.points[point]
    found: _Records = []
    for encoder in (config.sweep.first, config.sweep.second):
        chosen, rows = bundle.rows(config.sweep.corpus, config.classes)
        values = bundle.load(encoder, config.sweep.corpus)[chosen]
        folds = {seed: make_splits(rows, split, seed) for seed in config.seeds}
        place = {"point": point, "encoder": encoder, "split": split, **settings.model_dump()}
        found += [
            place | record
            for record in _probe(values, rows, folds, settings)[0]
            if record["fold"] == POOLED
        ]
    return {"sweep": pd.DataFrame(found)}


def _probe(
    values: FloatArray, rows: Rows, folds: dict[int, list[Split]], settings: ProbeSettings
) -> tuple[_Records, _Records]:
    """Return scores of each seed and fold, and of all folds together; and the layers' shares."""
    n_classes = len(rows.classes)
    runs = [
        ProbeRun(values, rows.labels, split.train, seed, n_classes)
        for seed, own in folds.items()
        for split in own
    ]
    trained = iter(train_probes(runs, settings))
    found: _Records = []
    curves: _Records = []
    for seed, own in folds.items():
        predicted = np.full(len(rows), -1)
        for split in own:
            probe = next(trained)
            predicted[split.test] = predict(probe, values[split.test])
            if len(own) > 1:
                place = {"seed": seed, "fold": split.fold}
                found.append(place | _scored(rows, split.test, predicted[split.test]))
            curves += [
                {"seed": seed, "fold": split.fold, "layer": layer, "weight": float(weight)}
                for layer, weight in enumerate(probe.layer_weights)
            ]
        test = np.flatnonzero(predicted >= 0)
        found.append({"seed": seed, "fold": POOLED} | _scored(rows, test, predicted[test]))
    return found, curves


def _scored(rows: Rows, test: IntArray, predicted: IntArray) -> dict[str, Any]:
    result = scores(rows.labels[test], predicted, len(rows.classes))
    return {
        "accuracy": result.accuracy,
        "macro_f1": result.macro_f1,
        "uar": result.uar,
        "n_test": len(test),
    }


def _standardized(probe: Probe, values: FloatArray, train: IntArray) -> NDArray[np.float64]:
    vectors = probe.represent(values).astype(np.float64)
    deviation = vectors[train].std(axis=0)
    scale = np.where(deviation > 1e-8, deviation, 1.0)
    return np.asarray((vectors - vectors[train].mean(axis=0)) / scale)


def _group(
    config: AuditConfig, bundle: Bundle, encoder: str, corpora: Sequence[str]
) -> tuple[FloatArray, Rows, NDArray[np.str_]]:
    """Return features, rows and utterances of the corpora of one language together."""
    parts = []
    for corpus in corpora:
        chosen, rows = bundle.rows(corpus, config.classes)
        speakers = np.array([f"{corpus} {name}" for name in rows.speakers])
        utterances = bundle.tables[corpus]["utterance"].to_numpy(dtype=object)[chosen]
        parts.append((bundle.load(encoder, corpus)[chosen], rows, speakers, utterances))
    rows = Rows(
        " and ".join(corpora),
        config.classes,
        np.concatenate([own.labels for _, own, _, _ in parts]),
        np.concatenate([speakers for _, _, speakers, _ in parts]),
        np.concatenate([own.genders for _, own, _, _ in parts]),
    )
    utterances = np.concatenate([own for _, _, _, own in parts]).astype(str)
    return np.concatenate([values for values, _, _, _ in parts]), rows, utterances


def _mixed(seed: int, sample: int) -> int:
    """Return another seed for each draw of shots."""
    return int(np.random.SeedSequence([seed, sample]).generate_state(1)[0])


def _listed(place: dict[str, Any], split: Split, utterances: NDArray[Any]) -> pd.DataFrame:
    roles = np.repeat(["train", "test"], [len(split.train), len(split.test)])
    rows = np.concatenate([split.train, split.test])
    return pd.DataFrame(place | {"fold": split.fold, "role": roles, "utterance": utterances[rows]})
