"""A T2 classifier of the public code, predicted with from a config, through the whole member."""

from __future__ import annotations

import json
import os
import shutil

import llama_golden as G
import numpy as np
import pytest
import torch
from golden_set import BEATS, classifier_of

from abhinaya.data.labels import MSP_PODCAST, EmotionSet
from abhinaya.data.manifest import make_manifest
from abhinaya.data.transcripts import write_transcripts
from abhinaya.errors import BadValueError, CheckpointError, ClassOrderError, MissingFileError
from abhinaya.member import PredictRequest
from abhinaya.member_config import load_member_config
from members.llama_lora.member import MEMBER
from members.llama_lora.weights import read_classifier

NAMES = tuple(f"{n}.wav" for n in range(len(G.TOKENS["texts"])))


def write_corpus(folder, *, source="human", emotions=MSP_PODCAST):
    """The golden texts as transcripts of clips that are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = zip(NAMES, G.TOKENS["texts"], strict=True)
    write_transcripts(
        [{"utterance": n, "source": source, "text": t} for n, t in texts],
        folder / "transcripts.parquet",
    )
    return make_manifest([{"utterance": n, "split": "test"} for n in NAMES], emotions, folder)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def predict(source, corpus, out, *overrides, **options):
    request = PredictRequest(corpus, ("test",), out, overrides=overrides, **options)
    return MEMBER.predict(source, request)


@pytest.mark.parity
@pytest.mark.parametrize("batch_size", [1, 3])
def test_table_holds_the_published_logits(tmp_path, corpus, batch_size):
    config = G.make_config(tmp_path, inference={"batch_size": batch_size})
    table = predict(config, corpus, tmp_path / "table.parquet", with_embedding=True)
    assert table.utterances == NAMES
    assert table.reasons == (None,) * len(NAMES)
    head = table.meta["head"]
    logits = table.embeddings @ np.array(head["weight"]).T + np.array(head["bias"])
    expected = G.golden()["logits"]
    np.testing.assert_allclose(logits, expected, atol=2e-5, rtol=0)
    probs = torch.from_numpy(expected).softmax(dim=1)
    np.testing.assert_allclose(table.probs, probs, atol=1e-5, rtol=0)
    # Vector scaling frees the logits of the class prior.
    counts = np.array(G.CONFIG["class_counts"])
    np.testing.assert_allclose(table.meta["absorbed_prior"], counts / counts.sum())


def test_best_predicts_alone_without_the_classifiers_file(tmp_path, corpus):
    file = tmp_path / "classifier.pth"
    shutil.copyfile(G.CLASSIFIER, file)
    config = G.make_config(tmp_path, classifier=str(file))
    expected = predict(config, corpus, tmp_path / "first.parquet")
    file.unlink()
    table = predict(config.run_dir, corpus, tmp_path / "again.parquet")
    np.testing.assert_array_equal(table.probs, expected.probs)
    assert (config.run_dir / "best" / "adapter" / "adapter_model.safetensors").is_file()
    with pytest.raises(MissingFileError, match=r"no file '.*classifier\.pth'\. Correct classifier"):
        predict(config, corpus, tmp_path / "third.parquet")


def test_config_without_classifier_must_be_trained_first(tmp_path, corpus):
    with pytest.raises(BadValueError, match=r"'llama-8b-lora' must be trained before it predicts"):
        predict(G.make_config(tmp_path, classifier=None), corpus, tmp_path / "table.parquet")


@pytest.mark.parametrize("changes", [{"suffix": ""}, {"max_tokens": 64}, {"pooling": "mean"}])
def test_another_run_in_the_folder_raises(tmp_path, corpus, changes):
    predict(G.make_config(tmp_path), corpus, tmp_path / "table.parquet")
    with pytest.raises(CheckpointError, match=r"run' holds another run\. Choose another run_dir"):
        predict(G.make_config(tmp_path, **changes), corpus, tmp_path / "other.parquet")


def test_what_matters_in_prediction_alone_may_change(tmp_path, corpus):
    first = predict(G.make_config(tmp_path), corpus, tmp_path / "first.parquet")
    other = write_corpus(tmp_path / "other", source="machine")
    data = {"manifest": "manifest.parquet", "transcripts": {"predict": "machine"}}
    config = G.make_config(tmp_path, data=data, inference={"batch_size": 1})
    second = predict(config, other, tmp_path / "second.parquet")
    np.testing.assert_allclose(second.probs, first.probs, atol=1e-6)


def test_weights_beside_the_config_are_found_from_anywhere(tmp_path, corpus, monkeypatch):
    """Another working directory meant no base, and after the first run another run."""
    project = tmp_path / "project"
    config = G.make_config(tmp_path)
    shutil.copytree(config.base, project / "base")
    shutil.copyfile(config.classifier, project / "classifier.pth")
    content = config.model_dump(mode="json") | {"base": "base", "classifier": "classifier.pth"}
    (project / "t2.yaml").write_text(json.dumps(content))
    monkeypatch.chdir(project)
    first = predict(load_member_config("t2.yaml"), corpus, tmp_path / "1.parquet")
    monkeypatch.chdir(tmp_path)
    again = predict(load_member_config(project / "t2.yaml"), corpus, tmp_path / "2.parquet")
    np.testing.assert_array_equal(again.probs, first.probs)
    monkeypatch.chdir("/")
    alone = predict(config.run_dir, corpus, tmp_path / "3.parquet")
    np.testing.assert_array_equal(alone.probs, first.probs)


RANK, WIDTH, N_HIDDEN = G.LORA["r"], G.SIZES["hidden_size"], G.HEAD["hidden"]
N_KEYS = G.N_ADAPTERS + 2
"""Adapters and norm."""
MISMATCH = rf"{G.N_ADAPTERS} of {N_KEYS} keys .*\({RANK}, {WIDTH}\) against \({RANK + 1}, {WIDTH}\)"
LORA = "llama.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"


@pytest.mark.parametrize(
    ("change", "changes", "expected"),
    [
        (lambda t: t.pop("out.bias"), {}, r"1 of \d+ keys .* missing: 'head\.out\.bias'"),
        (
            lambda t: t.pop("ln.bias"),
            {},
            rf"1 of {N_KEYS} keys .* adapters and norm .*: 'norm\.bias'",
        ),
        (
            lambda t: t.pop(LORA),
            {},
            rf"1 of {N_KEYS} keys .*: missing: 'encoder\.layers\.0\.self_attn",
        ),
        (lambda t: None, {"lora": G.LORA_KEYS | {"rank": RANK + 1}}, MISMATCH),
        (
            lambda t: None,
            {"lora": G.LORA_KEYS | {"target_modules": ["q_proj", "k_proj"]}},
            rf"{G.N_ADAPTERS} of {N_KEYS} keys .* missing: .*k_proj.*; unexpected: .*v_proj",
        ),
        (
            lambda t: None,
            {"head": {"hidden": 2 * N_HIDDEN, "norm": "none"}},
            rf"3 of \d+ keys .* size mismatch for .*\({N_HIDDEN}, {2 * WIDTH}\) against "
            rf"\({2 * N_HIDDEN}, {2 * WIDTH}\)",
        ),
        (lambda t: None, {"pooling": "mean"}, r"unexpected: 'pooling"),
        (
            lambda t: t.update({"vad.weight": torch.zeros(1), "epoch": 3}),
            {},
            r"2 of \d+ entries of .* neither adapters .*: 'epoch', 'vad\.weight'.*correct class",
        ),
    ],
)
def test_classifier_that_does_not_fit_is_named(tmp_path, corpus, change, changes, expected):
    tensors = torch.load(G.CLASSIFIER, weights_only=True)
    change(tensors)
    torch.save(tensors, tmp_path / "edited.pth")
    config = G.make_config(tmp_path, classifier=str(tmp_path / "edited.pth"), **changes)
    with pytest.raises(CheckpointError, match=expected) as caught:
        predict(config, corpus, tmp_path / "table.parquet")
    assert repr(str(tmp_path / "edited.pth")) in str(caught.value)
    assert not (config.run_dir / "best").exists()


def test_adapters_saved_by_an_earlier_peft_are_the_same(tmp_path):
    tensors = torch.load(G.CLASSIFIER, weights_only=True)
    torch.save({k.replace(".default", ""): v for k, v in tensors.items()}, tmp_path / "old.pth")
    ours, theirs = read_classifier(tmp_path / "old.pth"), read_classifier(G.CLASSIFIER)
    assert ours.keys() == theirs.keys()
    assert len([name for name in ours if ".lora_" in name]) == G.N_ADAPTERS


@pytest.mark.parametrize("file", [classifier_of("s2"), BEATS])
def test_another_models_file_raises(file):
    with pytest.raises(
        CheckpointError, match=r"no keys that begin with 'llama\.', expected a T2 classifier"
    ):
        read_classifier(file)


class RunsCode:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_pickle_with_code_in_it_is_refused_and_not_run(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    torch.save({"llama.x": RunsCode()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil\.pth' would run code .* so it was not"):
        read_classifier(tmp_path / "evil.pth")
    assert not ran


def test_corpus_of_other_classes_raises(tmp_path):
    emotions = EmotionSet(("S", "A"), ("sad", "angry"))
    other = write_corpus(tmp_path / "corpus", emotions=emotions)
    with pytest.raises(ClassOrderError, match=r"order S A, but .* has A C D F H N S U"):
        predict(G.make_config(tmp_path), other, tmp_path / "table.parquet")
