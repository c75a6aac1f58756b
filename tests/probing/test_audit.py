"""A whole audit on planted features: its files, its resumption, its errors."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml

from abhinaya.cli import main
from abhinaya.data.labels import EmotionSet
from abhinaya.data.manifest import make_manifest, write_manifest
from abhinaya.demo.checkpoints.encoders import write_wavlm
from abhinaya.errors import (
    BadValueError,
    MissingFileError,
    MissingPackageError,
    ProblemsError,
)
from abhinaya.files import hash_file, write_json
from abhinaya.pipeline.audit import run as runner
from abhinaya.pipeline.audit.config import load_audit
from abhinaya.pipeline.audit.run import run_audit

CLASSES = ("angry", "happy", "sad")
SWEEP = {
    "corpus": "de",
    "first": "good",
    "second": "bad",
    "gap": 0.05,
    "settings": {"learning_rate": [0.001, 0.05], "split": ["speakers", "random"]},
}
PARTS = {
    "probes": {"taxonomies": ["common", "own"], "splits": ["speakers", "leave-one-out"]},
    "transfer": {"shots": [0, 6], "samples": 2, "epochs": 3},
    "inlp": {},
    "rsa": {"shuffles": 50},
    "sweep": SWEEP,
}


def write_bundle(folder) -> None:
    """Two encoders on two corpora of six speakers: one hears the classes, one hears nothing."""
    rng = np.random.default_rng(0)
    centroids = 4 * rng.standard_normal((3, 8))
    for language in ("de", "en"):
        labels = np.tile(np.arange(3), 30)
        table = pd.DataFrame(
            {
                "utterance": [f"{language}{row}.wav" for row in range(90)],
                "label": np.array(CLASSES)[labels],
                "speaker": np.repeat(list("abcdef"), 15),
                "gender": "",
            }
        )
        (folder / "rows").mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / "rows" / f"{language}.parquet", index=False)
        for encoder, strength in (("good", 1), ("bad", 0)):
            values = rng.standard_normal((90, 2, 8))
            values[:, 1] += strength * centroids[labels]
            (folder / "features" / encoder).mkdir(parents=True, exist_ok=True)
            np.save(folder / "features" / encoder / f"{language}.npy", values.astype(np.float32))
    files = [file for file in sorted(folder.rglob("*.*")) if file.is_file()]
    hashes = {file.relative_to(folder).as_posix(): hash_file(file) for file in files}
    classes = {"de": CLASSES, "en": CLASSES}
    write_json(folder / "bundle.json", {"digest": "", "classes": classes, "files": hashes})


@pytest.fixture
def config(tmp_path):
    """The path of a config on such a bundle."""
    write_bundle(tmp_path / "bundle")
    content = {
        "name": "planted",
        "out": str(tmp_path / "out"),
        "features": str(tmp_path / "bundle"),
        "encoders": {"good": {"base": "good"}, "bad": {"base": "bad"}},
        "corpora": {"de": {"manifest": "de"}, "en": {"manifest": "en"}},
        "classes": list(CLASSES),
        "seeds": [1, 2, 3],
        "probe": {"epochs": 20, "learning_rate": 0.01},
        **PARTS,
    }
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return tmp_path / "audit.yaml"


@pytest.mark.slow
def test_all_parts_tell_a_good_encoder_from_a_bad_one(config, tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(config), "--quiet"])
    assert ended.value.code == 0
    assert "planted is done" in capsys.readouterr().out
    out = tmp_path / "out"
    tables = {file.stem for file in (out / "tables").glob("*.md")}
    assert tables >= {"probes", "encoders", "layers", "transfer", "inlp", "rsa", "sweep"}
    assert {file.stem for file in (out / "tables").glob("*.tex")} == tables
    pictures = {file.name.split(".")[0] for file in (out / "figures").glob("*.svg")}
    assert pictures == {"layers", "transfer", "distances", "sweep"}

    scores = pd.read_parquet(out / "scores.parquet")
    pooled = scores[scores["fold"] == "all"].groupby("encoder")["accuracy"].mean()
    assert pooled["good"] > 0.9
    assert pooled["bad"] < 0.5
    transfer = pd.read_parquet(out / "transfer.parquet")
    assert len(transfer) == 2 * 2 * 3 * (1 + 2)  # encoders, pairs, seeds, draws
    assert transfer[transfer["encoder"] == "good"]["accuracy"].mean() > 0.8
    assert set(transfer[transfer["shots"] == 6]["n_test"]) == {84}
    rsa = pd.read_parquet(out / "rsa.parquet")
    assert rsa[rsa["encoder"] == "good"]["correlation"].mean() > 0.9
    sweep = pd.read_parquet(out / "sweep.parquet")
    assert sweep["point"].nunique() == 4
    assert "Spearman" in (out / "tables" / "rsa.md").read_text()

    # The exact splits: no speaker on both sides, all rows there.
    splits = pd.read_parquet(out / "splits.parquet")
    one = splits[(splits["split"] == "speakers") & (splits["seed"] == 1)]
    one = one[(one["corpus"] == "de") & (one["taxonomy"] == "common")]
    assert len(one) == 90
    assert len(splits[splits["role"] == "shot"]) == 2 * 3 * 2 * 6

    # Again: nothing is computed, and all files keep their bytes.
    def refuse(*_, **__):
        raise AssertionError("this was done already")

    before = {file: hash_file(file) for file in out.rglob("*.*") if file.is_file()}
    for name in ("probe_corpus", "transfer", "project_speakers", "compare_languages"):
        monkeypatch.setattr(runner, name, refuse)
    run_audit(load_audit(config))
    assert {file: hash_file(file) for file in before} == before
    listed = json.loads((out / "audit.json").read_text())
    assert listed["files"]["scores.parquet"] == hash_file(out / "scores.parquet")


ONLY_PROBES = ["transfer=null", "inlp=null", "rsa=null", "sweep=null", "figures=false"]


def test_a_stopped_audit_goes_on_and_a_damaged_piece_is_made_again(config, tmp_path, monkeypatch):
    done: list[str] = []
    compute = runner.probe_corpus

    def stop_after_two(config, bundle, *, encoder, corpus):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(f"{encoder}.{corpus}")
        return compute(config, bundle, encoder=encoder, corpus=corpus)

    monkeypatch.setattr(runner, "probe_corpus", stop_after_two)
    checked = load_audit(config, ONLY_PROBES)
    with pytest.raises(KeyboardInterrupt):
        run_audit(checked)
    assert done == ["good.de", "good.en"]
    (tmp_path / "out/parts/probes.good.en/scores.parquet").write_bytes(b"half")
    done.clear()

    def count(config, bundle, *, encoder, corpus):
        done.append(f"{encoder}.{corpus}")
        return compute(config, bundle, encoder=encoder, corpus=corpus)

    monkeypatch.setattr(runner, "probe_corpus", count)
    run_audit(checked)
    assert done == ["good.en", "bad.de", "bad.en"]
    done.clear()
    run_audit(load_audit(config, [*ONLY_PROBES, "probe.epochs=2", "probes.splits=[speakers]"]))
    assert len(done) == 4  # another config: another result


def test_a_bundle_is_made_from_clips_and_does_without_them(tmp_path):
    """The second audit has neither audio nor weights, and finds the same."""
    write_wavlm(tmp_path / "m", n_layers=1, n_features=16, n_conv_features=8)
    rng = np.random.default_rng(0)
    cells = []
    for idx in range(24):
        soundfile.write(tmp_path / f"{idx}.wav", 0.1 * rng.standard_normal(1_600), 16_000)
        label = None if idx == 23 else ("W", "F", "T")[idx % 3]
        cells.append(
            {"utterance": f"{idx}.wav", "audio": f"{idx}.wav", "label": label}
            | {"speaker": str(idx % 4)}
        )
    manifest = make_manifest(cells, EmotionSet.from_codes(["W", "F", "T"]), tmp_path)
    write_manifest(manifest, tmp_path / "manifest.parquet")
    content = {
        "name": "clips",
        "out": str(tmp_path / "out"),
        "encoders": {"wavlm": {"base": str(tmp_path / "m")}},
        "corpora": {
            "mine": {
                "manifest": str(tmp_path / "manifest.parquet"),
                "rename": {"W": "angry", "F": "happy", "T": "sad"},
            }
        },
        "classes": list(CLASSES),
        "seeds": [1],
        "cache": {"dir": str(tmp_path / "cache")},
        "figures": False,
        "probe": {"epochs": 1},
        "probes": {"taxonomies": ["own"], "splits": ["leave-one-out"]},
    }
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    run_audit(load_audit(tmp_path / "audit.yaml"))
    problems = (tmp_path / "out/bundle/problems.csv").read_text()
    assert "23.wav,the manifest gives it no label" in problems
    for file in tmp_path.glob("*.wav"):
        file.unlink()
    again = [f"features={tmp_path / 'out/bundle'}", f"out={tmp_path / 'again'}"]
    again += ["encoders.wavlm.base=nowhere", "corpora.mine.manifest=nowhere"]
    run_audit(load_audit(tmp_path / "audit.yaml", again))
    ours, theirs = (pd.read_parquet(tmp_path / d / "scores.parquet") for d in ("out", "again"))
    pd.testing.assert_frame_equal(ours, theirs)
    assert ours.loc[ours["fold"] == "all", "n_test"].tolist() == [23]

    with pytest.raises(BadValueError, match=r"rename has 'Z'; the corpus has W F T"):
        run_audit(load_audit(tmp_path / "audit.yaml", ["corpora.mine.rename={Z: angry}"]))


def test_a_bundle_that_lacks_something_or_is_damaged_is_refused(config, tmp_path):
    checked = load_audit(config, [*ONLY_PROBES, "encoders.third={base: x}"])
    with pytest.raises(MissingFileError, match=r"has no features/third/de.npy; it has"):
        run_audit(checked)
    with pytest.raises(MissingFileError, match="no bundle of features"):
        run_audit(load_audit(config, [*ONLY_PROBES, f"features={tmp_path}"]))
    (tmp_path / "bundle/features/bad/en.npy").write_bytes(b"half")
    with pytest.raises(BadValueError, match=r"en.npy' is not the file that bundle.json lists"):
        run_audit(load_audit(config, ONLY_PROBES))
    (tmp_path / "bundle/bundle.json").write_text("{}")
    with pytest.raises(BadValueError, match="lists no files"):
        run_audit(load_audit(config, ONLY_PROBES))


def test_a_class_that_a_corpus_lacks_is_refused(config):
    with pytest.raises(BadValueError, match=r"'de' has no rows of 'neutral'; it has angry, happy"):
        run_audit(load_audit(config, [*ONLY_PROBES, "classes=[angry,neutral]"]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("classes=[a,a]", "must be unique"),
        ("sweep.first=godo", "Unknown encoder 'godo'. Did you mean 'good'"),
        ("sweep.corpus=fr", "Unknown corpus 'fr'"),
        ("sweep.settings={rate: [1]}", "Unknown setting 'rate'"),
        ("sweep.settings={split: [half]}", "settings.split needs values"),
        ("sweep.settings={epochs: [0]}", "greater than 0"),
        ("corpora={de: {manifest: m}}", "there is one; add a corpus"),
        ("encoders={a/b: {base: m}}", "other than letters"),
    ],
)
def test_mistakes_of_a_config_are_named(config, override, message):
    with pytest.raises(ProblemsError, match=message):
        load_audit(config, [override])


def test_a_config_without_parts_is_refused(config):
    parts = [f"{name}=null" for name in PARTS]
    with pytest.raises(ProblemsError, match="no part is asked for"):
        load_audit(config, parts)


@pytest.mark.parametrize("name", ["audit/emodb-whisper.yaml", "audit/six-corpora.yaml"])
def test_shipped_audits_are_valid(name):
    checked = load_audit(name)
    if checked.sweep is not None:
        assert len(checked.sweep.points) == 192


def test_pictures_without_matplotlib_are_refused_at_once(config, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"figures=false.*abhinaya\[audit\]"):
        run_audit(load_audit(config))


def test_a_corpus_without_speakers_is_refused(config, tmp_path):
    cells = [{"utterance": "a.wav", "label": "W"}]
    manifest = make_manifest(cells, EmotionSet.from_codes(["W", "F"]), tmp_path)
    write_manifest(manifest, tmp_path / "manifest.parquet")
    overrides = [f"corpora={{mine: {{manifest: {tmp_path}/manifest.parquet}}}}", "features=null"]
    with pytest.raises(BadValueError, match="'mine' has no row with label and speaker, such as"):
        run_audit(load_audit(config, [*ONLY_PROBES, *overrides]))
