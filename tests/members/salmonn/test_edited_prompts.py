"""A prompt is its text: an edited file is another one, and changes no trained run."""

from __future__ import annotations

import numpy as np
import pytest
from member_recipes import RECIPES, make_config

from abhinaya.member import PredictRequest
from abhinaya.nn.checkpoint import read_info
from abhinaya.registry import load_member
from abhinaya.training.train import training_digest
from members.salmonn.sequence import load_prompts, store_prompts

PROMPT = "---\nname: mine-v1\nversion: 1\nslots: [speech{}]\n---\n## user\n{{{{ speech }}}} {}\n"


@pytest.fixture
def file(tmp_path):
    """A function that writes the one prompt file with other words."""

    def write(words, slots=""):
        path = tmp_path / "mine-v1.md"
        path.write_text(PROMPT.format(slots, words))
        return str(path)

    return write


def predict(source, manifest, out, *overrides):
    request = PredictRequest(manifest, ("development",), out, overrides=overrides)
    member = load_member("salmonn-13b" if not hasattr(source, "member") else source.member)
    return member.predict(source, request)


def test_zero_shot_asks_again_with_an_edited_prompt(tmp_path, manifest, manifest_file, file):
    config = make_config(RECIPES["salmonn-zero-shot"], tmp_path / "run", manifest_file)
    config = config.model_copy(update={"prompt": (file("{{ classes }}?", ", classes"),)})
    first = predict(config, manifest, tmp_path / "table.parquet")
    written = (tmp_path / "table.parquet").stat().st_mtime_ns
    again = predict(config, manifest, tmp_path / "table.parquet")
    assert (tmp_path / "table.parquet").stat().st_mtime_ns == written
    file("What does the voice say: {{ classes }}?", ", classes")
    other = predict(config, manifest, tmp_path / "table.parquet")
    assert first.meta["digest"] == again.meta["digest"] != other.meta["digest"]
    assert (tmp_path / "table.parquet").stat().st_mtime_ns != written


def test_zero_shot_tables_of_other_batches_are_others_in_published_mode_only(
    tmp_path, manifest, manifest_file, monkeypatch
):
    """There BEATs hears the padding of the batch."""
    monkeypatch.setattr("members.salmonn.zero_shot._load_backbone", lambda config: None)
    monkeypatch.setattr(
        "members.salmonn.zero_shot.predict_outcomes", lambda clips, answer, problems, plan: plan
    )
    config = make_config(RECIPES["salmonn-zero-shot"], tmp_path / "run", manifest_file)
    digests = {}
    for compat in ("none", "published"):
        for size in (1, 2):
            inference = config.inference.model_copy(update={"batch_size": size})
            changed = config.model_copy(update={"compat": compat, "inference": inference})
            plan = predict(changed, manifest, tmp_path / "table.parquet")
            digests[compat, size] = plan.meta["digest"]
    assert digests["none", 1] == digests["none", 2]
    assert len(set(digests.values())) == 3


def test_training_goes_on_under_the_same_text_only(tmp_path, manifest, manifest_file, file):
    config = make_config(RECIPES["salmonn-13b"], tmp_path / "run", manifest_file)
    config = config.model_copy(update={"prompt": (file("Which emotion?"),)})
    digests = []
    for words in ("Which emotion?", "Which feeling?", "Which emotion?"):
        file(words)
        digests.append(training_digest(store_prompts(config), manifest))
    assert digests[0] == digests[2] != digests[1]


def test_trained_run_reads_the_prompt_that_it_was_trained_with(
    tmp_path, manifest, manifest_file, file
):
    config = make_config(RECIPES["salmonn-13b"], tmp_path / "run", manifest_file)
    name = file("Which emotion?")
    training = type(config.training).model_validate(
        {"global_batch_size": 8, "max_steps": 1, "use_cpu": True}
    )
    config = config.model_copy(update={"prompt": (name,), "training": training})
    run = load_member("salmonn-13b").train(config, manifest)
    first = predict(run, manifest, tmp_path / "first.parquet")
    file("It is a long way from here to there, is it not?")
    second = predict(run, manifest, tmp_path / "second.parquet")
    np.testing.assert_array_equal(first.probs, second.probs)
    (tmp_path / "mine-v1.md").unlink()
    stored = type(config).model_validate(read_info(run / "best").config)
    (kept,) = load_prompts(stored, needs_text=False)
    assert (kept.name, kept.turns[0].text) == ("mine-v1", "{{ speech }} Which emotion?")
    # Another name is read from its file.
    renamed = stored.model_copy(update={"prompt": ("salmonn-speech-v2",)})
    assert load_prompts(renamed, needs_text=False)[0].name == "salmonn-speech-v2"
