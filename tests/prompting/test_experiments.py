from __future__ import annotations

import logging

import numpy as np
import pytest
import soundfile
import yaml
from member_recipes import tiny_salmonn

from abhinaya.config import check_config, load_yaml
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import make_manifest, write_manifest
from abhinaya.data.predictions import read_table
from abhinaya.data.transcripts import write_transcripts
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError, UnknownNameError
from abhinaya.files import sole_writer
from abhinaya.prompting.experiments import PromptExperiment, choose_source, plan_trials, run_trials
from members.salmonn.build import build_backbone

# Paths of weights are looked at when a trial is computed, not before.
SALMONN = {
    "member": "salmonn-zero-shot",
    "name": "ears",
    **dict.fromkeys(("base", "whisper", "beats", "salmonn"), "nowhere"),
    "prompt": ["salmonn-speech-v1", "salmonn-speech-v2"],
    "prompt_pool": {"file": "pool.json"},
    "data": {"transcripts": {"predict": "old"}},
}
CHAT = {
    "member": "llama-70b-zero-shot",
    "name": "chat",
    "base": "some/model",
    "prompt": "zero-shot-v1",
    "filling": {"n_context": 1},
}
OWN = "---\nname: {name}\nversion: 1\nslots: [speech]\n---\n## user\n{{{{ speech }}}} One word:\n"


@pytest.fixture
def corpus(tmp_path):
    """Three clips in `dev`, one without sound, as `manifest.parquet` with text from a machine."""
    rng = np.random.default_rng(0)
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", rng.normal(size=16_000) * 0.1, 16_000)
    rows = [{"utterance": name, "audio": f"{name}.wav", "split": "dev"} for name in "ab"]
    rows += [{"utterance": "c", "split": "dev", "label": "A"}, {"utterance": "d", "split": "bare"}]
    manifest = make_manifest(rows, MSP_PODCAST, tmp_path)
    write_manifest(manifest, tmp_path / "manifest.parquet")
    write_texts(tmp_path, "machine")
    return manifest


def write_texts(folder, *sources):
    rows = [{"utterance": u, "source": s, "text": f"{u}?"} for s in sources for u in "abc"]
    write_transcripts(rows, folder / "transcripts.parquet")


@pytest.fixture
def write_model(tmp_path):
    """A function that writes a config and returns its path as text."""

    def write(stem, settings=SALMONN, **changes):
        path = tmp_path / f"{stem}.yaml"
        path.write_text(yaml.safe_dump(settings | changes))
        return str(path)

    return write


@pytest.fixture
def own(tmp_path):
    """A function that writes a prompt of sound alone and returns its path as text."""

    def write(name, folder="own"):
        path = tmp_path / folder / f"{name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(OWN.format(name=name))
        return str(path)

    return write


def experiment_of(corpus, **keys):
    content = {
        "manifest": str(corpus.root / "manifest.parquet"),
        "select": "dev",
        "out": str(corpus.root / "out"),
        "prompts": "salmonn-zero-shot-v1",
    } | keys
    return check_config(content, PromptExperiment, "the test")


def problems_of(corpus, **keys):
    with pytest.raises(ProblemsError, match="in the prompt experiment") as caught:
        plan_trials(experiment_of(corpus, **keys), corpus)
    return caught.value.problems


# Planning


def test_plan_trials_crosses_all_and_names_each(corpus, write_model, own):
    experiment = experiment_of(
        corpus,
        prompts=["salmonn-zero-shot-v1", own("curt-v1")],
        models=[write_model("one"), "b=" + write_model("two")],
        decodings={
            "greedy": {"decoding": {"n_beams": 1}},
            "wide": {"decoding": {"n_beams": 9}, "name": "x", "prompt": "salmonn-speech-v1"},
        },
    )
    trials = plan_trials(experiment, corpus)
    assert [trial.name for trial in trials] == [
        "salmonn-zero-shot-v1__ears__greedy",
        "curt-v1__ears__greedy",
        "salmonn-zero-shot-v1__ears__wide",
        "curt-v1__ears__wide",
        "salmonn-zero-shot-v1__b__greedy",
        "curt-v1__b__greedy",
        "salmonn-zero-shot-v1__b__wide",
        "curt-v1__b__wide",
    ]
    last = trials[-1]
    assert (last.prompt.name, last.model, last.decoding) == ("curt-v1", "b", "wide")
    # What the trial says stands over the decoding's keys, and these over the file's.
    assert last.config.name == last.name
    assert last.config.prompt == (experiment.prompts[1],)
    assert last.config.decoding.n_beams == 9
    assert last.config.decoding.max_new_tokens == 10
    assert last.config.data.manifest == experiment.manifest
    # A pool would ask other questions, and text that the prompt has no slot for is not read.
    assert last.config.prompt_pool is None
    assert last.config.data.transcripts is None


def test_plan_trials_reads_the_machine_text_where_a_prompt_needs_text(corpus, write_model):
    write_texts(corpus.root, "human", "machine")
    keys = {"prompts": "salmonn-speech-text-v1", "models": write_model("one")}
    (trial,) = plan_trials(experiment_of(corpus, **keys), corpus)
    assert trial.name == "salmonn-speech-text-v1__ears__default"
    assert trial.config.data.transcripts.predict == "machine"
    (trial,) = plan_trials(experiment_of(corpus, **keys, transcripts="human"), corpus)
    assert trial.config.data.transcripts.predict == "human"


@pytest.mark.parametrize("sources", [("human",), ("a", "b"), ("human", "a", "b")])
def test_choose_source_that_is_open_raises(corpus, write_model, sources):
    write_texts(corpus.root, *sources)
    message = (
        rf"has text from {', '.join(sorted(sources))}, so it is open which .*--transcripts SOURCE"
    )
    with pytest.raises(BadValueError, match=message):
        choose_source(corpus)
    experiment = experiment_of(corpus, prompts="salmonn-speech-text-v1", models=write_model("one"))
    with pytest.raises(BadValueError, match=message):
        plan_trials(experiment, corpus)


def test_choose_source_takes_a_single_one_of_people_where_that_is_asked(corpus):
    """`prompts show` called a single source ambiguous."""
    write_texts(corpus.root, "human")
    assert choose_source(corpus, people=True) == "human"
    write_texts(corpus.root, "human", "machine")
    assert choose_source(corpus, people=True) == "machine"


def test_plan_trials_without_transcripts_raises_only_where_text_is_needed(corpus, write_model):
    (corpus.root / "transcripts.parquet").unlink()
    model = write_model("one")
    plan_trials(experiment_of(corpus, models=model), corpus)
    with pytest.raises(MissingFileError, match="There are no transcripts"):
        plan_trials(experiment_of(corpus, models=model, prompts="salmonn-speech-text-v1"), corpus)
    with pytest.raises(MissingFileError, match="There are no transcripts"):
        plan_trials(experiment_of(corpus, models=model, transcripts="machine"), corpus)


def test_plan_trials_tells_all_problems_at_once(corpus, write_model, own):
    found = problems_of(
        corpus,
        select=["dev", "bare"],
        prompts=["salmonn-zero-shot-v1", "zero-shot-v1", own("curt-v1", "x"), own("curt-v1", "y")],
        models=[
            write_model("one"),
            "members/wavlm.yaml",
            "members/salmonn-13b.yaml",
            "a b=" + write_model("two"),
            write_model("three", name="bad", beats=None),
        ],
        decodings={"default": {}, "a/b": {"decoding": {"n_beam": 1}}},
    )
    text = " | ".join(found)
    for essential in (
        "the decoding name 'a/b' may hold",
        "the prompt 'salmonn-zero-shot-v1': it needs audio, but the manifest names no audio file "
        "for 'bare'",
        "the prompt 'zero-shot-v1': it needs transcripts, but the source has none for 'bare'",
        "the model 'wavlm': the member 'wavlm' is not asked with a prompt",
        "the model 'salmonn-13b': the member 'salmonn-13b' is not asked with a prompt in predictio",
        "the model name 'a b' may hold",
        "ears, a/b: decoding.n_beam is unknown, did you mean decoding.n_bea",
        "bad, default: beats is None",
        "2 trials are named 'curt-v1__ears__default'; rename a prompt's file, or a model",
    ):
        assert essential in text
    assert len(found) == len(set(found))


def test_plan_trials_prompt_without_speech_for_a_member_that_hears_raises(corpus, write_model):
    assert problems_of(corpus, prompts="zero-shot-v1", models=write_model("one")) == (
        "zero-shot-v1__ears__default: the prompt has no slot {{ speech }}, but the member "
        "'salmonn-zero-shot' hears; use a prompt such as salmonn-zero-shot-v1",
    )


def test_plan_trials_fills_chats_of_texts_by_the_models_own_settings(corpus, write_model):
    experiment = experiment_of(
        corpus,
        prompts="zero-shot-v1",
        models=write_model("chat", CHAT),
        decodings={"greedy": {}, "free": {"filling": {"n_context": 2}}},
    )
    greedy, free = plan_trials(experiment, corpus)
    assert (greedy.config.prompt, greedy.config.data.transcripts.predict) == (
        "zero-shot-v1",
        "machine",
    )
    assert (greedy.config.filling.n_context, free.config.filling.n_context) == (1, 2)


def test_plan_trials_prompt_that_a_chat_of_texts_cannot_fill_raises(corpus, write_model):
    write_texts(corpus.root, "human", "machine")
    found = problems_of(
        corpus,
        prompts=["salmonn-zero-shot-v1", "few-shot-v1", "context-v1", "hints-gender-v1"],
        models=write_model("chat", CHAT, filling={"examples": {"select": "dev"}}),
    )
    assert [problem.split(";")[0] for problem in found] == [
        "the prompt 'context-v1': it needs the turns before, but no utterance of 'dev' has a "
        "transcribed one in the same recording (the manifest's columns recording and turn)",
        "the prompt 'hints-gender-v1': it needs the speaker's gender, but the manifest has none "
        "for 'dev'",
        "salmonn-zero-shot-v1__chat__default: it has the slot {{ speech }}, but a chat of texts "
        "holds no sound",
        "few-shot-v1__chat__default: 1 of each class are to be shown as examples, but of "
        "'contempt' there are 0 with a transcript of the source 'human' in 'dev' that 'a' shares "
        "neither speaker nor recording with (of 0 in all). Set filling.examples.per_class lower, "
        "or filling.examples.select to more rows",
    ]


def test_plan_trials_unknown_names_raise(corpus, write_model):
    model = write_model("one")
    cases = [
        ({"prompts": "zero-v1"}, UnknownNameError, "Unknown prompt 'zero-v1'"),
        ({"prompts": "no.md"}, MissingFileError, "There is no prompt file 'no.md'"),
        ({"models": "no.yaml"}, MissingFileError, r"There is no config 'no\.yaml'"),
        ({"models": write_model("x", member="ear")}, UnknownNameError, "Unknown member 'ear'"),
        ({"select": "devel"}, UnknownNameError, "Unknown split or subset 'devel'"),
        (
            {"transcripts": "machin", "prompts": "salmonn-speech-text-v1"},
            UnknownNameError,
            "transcript source 'machin'. Did you mean 'machine'",
        ),
    ]
    for keys, error, message in cases:
        with pytest.raises(error, match=message):
            plan_trials(experiment_of(corpus, **({"models": model} | keys)), corpus)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"models": []}, "models is .*at least 1 item"),
        ({}, "models is missing"),
        ({"models": "m.yaml", "prompts": ()}, "prompts is .*at least 1 item"),
        ({"models": "m.yaml", "decodings": {}}, "decodings is .*at least 1 item"),
        ({"models": "m.yaml", "prompt": "x"}, "prompt is unknown, did you mean prompts"),
    ],
)
def test_experiment_without_one_of_each_raises(corpus, keys, message):
    with pytest.raises(ProblemsError, match=message):
        experiment_of(corpus, **keys)


# Running


@pytest.fixture
def tiny(corpus, write_model):
    """The config of a tiny SALMONN."""
    return write_model("tiny", **tiny_salmonn(corpus.root / "base"), audio={"max_audio_s": 2.0})


def test_run_trials_into_a_folder_that_another_run_writes_raises(corpus):
    experiment = experiment_of(corpus, prompts=["salmonn-zero-shot-v1"], models="m.yaml")
    with (
        sole_writer(experiment.out, "--out"),
        pytest.raises(BadValueError, match=r"is being written by process \d+ on .*another --out"),
    ):
        list(run_trials([], experiment, corpus))
    assert not experiment.out.exists()


def test_model_is_loaded_once_for_all_prompts_and_decodings(corpus, tiny, own, monkeypatch):
    """Each trial loaded it anew; only other weights need that."""
    loaded = []

    def count(config, **options):
        loaded.append(config.window_s)
        return build_backbone(config, **options)

    monkeypatch.setattr("members.salmonn.zero_shot.build_backbone", count)
    short = {"decoding": {"n_beams": 1, "max_new_tokens": 1}}
    experiment = experiment_of(
        corpus,
        prompts=["salmonn-zero-shot-v1", own("curt-v1")],
        models=tiny,
        decodings={"short": short, "wide": short | {"window_s": 0.5}},
    )
    tables = list(run_trials(plan_trials(experiment, corpus), experiment, corpus))
    assert len(tables) == 4
    assert loaded == [0.333333, 0.5]
    # Afterwards the memory is free again, and a prediction alone loads its own.
    (experiment.out / "curt-v1__ears__wide.parquet").unlink()
    list(run_trials(plan_trials(experiment, corpus), experiment, corpus))
    assert loaded == [0.333333, 0.5, 0.5]


def test_run_trials_writes_tables_and_computes_none_again(corpus, tiny, own, caplog):
    experiment = experiment_of(
        corpus,
        prompts=["salmonn-zero-shot-v1", own("curt-v1")],
        models=tiny,
        decodings={"short": {"decoding": {"n_beams": 1, "max_new_tokens": 2}}},
    )

    def run(experiment):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            tables = list(run_trials(plan_trials(experiment, corpus), experiment, corpus))
        return tables, sum("is there already" in message for message in caplog.messages)

    (first, second), n_there = run(experiment)
    assert n_there == 0
    assert (first.name, second.name) == (
        "salmonn-zero-shot-v1__ears__short",
        "curt-v1__ears__short",
    )
    for table in (first, second):
        stored = read_table(experiment.out / f"{table.name}.parquet")
        assert stored.utterances == ("a", "b", "c")
        assert (stored.name, stored.meta["prompt"]) == (table.name, table.name.split("__")[0])
        assert stored.raw == table.raw
        assert stored.reasons[2] == "the manifest names no audio file"
    assert first.raw[:2] != second.raw[:2] or first.meta["digest"] != second.meta["digest"]

    # What is written beside the tables is the experiment, and runs it again.
    again = check_config(
        load_yaml(experiment.out / "experiment.yaml"), PromptExperiment, "experiment.yaml"
    )
    assert again == experiment
    written = {path: path.stat().st_mtime_ns for path in experiment.out.glob("*.parquet")}
    assert len(written) == 2
    _, n_there = run(again)
    assert n_there == 2
    assert {path: path.stat().st_mtime_ns for path in written} == written

    # One trial is lost, and one decoding is new: two of three are computed.
    (experiment.out / "curt-v1__ears__short.parquet").unlink()
    _, n_there = run(experiment)
    assert n_there == 1
