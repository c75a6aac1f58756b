"""Prompts of SALMONN: SALMONN's own pools, the draw of one, and those that do not suit a member."""

from __future__ import annotations

import json

import numpy as np
import pytest
import salmonn_golden as G

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.errors import BadValueError, ProblemsError, UnknownNameError
from abhinaya.member import Utterance
from members.salmonn.build import build_inputs
from members.salmonn.member import SPEECH, SPEECH_TEXT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("prompts")


def write_prompt(folder, user, assistant=None, slots="[speech]"):
    """A prompt file of these turns; its name."""
    turns = f"## user\n{user}\n" + (f"## assistant\n{assistant}\n" if assistant else "")
    file = folder / "mine-v1.md"
    file.write_text(f"---\nname: mine-v1\nversion: 1\nslots: {slots}\n---\n{turns}")
    return str(file)


# ------------------------------------------------------------------ prompts by chance


@pytest.fixture(scope="module")
def drawing(folder):
    """Inputs of S2 that draw one of three prompts, and which of them a row has."""
    texts = [f"<SpeechHere> {word}" for word in ("one", "two", "three")]
    (folder / "pool.json").write_text(json.dumps({"ask": texts}))
    pool = {"file": str(folder / "pool.json"), "task": "ask"}

    def build(seed):
        config = G.make_config("s2", folder, prompt_pool=pool, prompt_sampling="random", seed=seed)
        inputs = SPEECH.build_inputs(config)
        ids = [inputs.tokens._ids(f" {w}\nASSISTANT:") for w in ("one", "two", "three")]

        def drawn(name, epoch):
            return ids.index(inputs.encode_context(Utterance(name, epoch=epoch))["after"])

        return drawn

    return build


NAMES = [f"clip{number}.wav" for number in range(60)]


def test_prompt_is_drawn_by_seed_epoch_and_utterance(drawing):
    ours, other_seed = drawing(3), drawing(4)
    first = {name: ours(name, 0) for name in NAMES}
    again = {name: drawing(3)(name, 0) for name in NAMES[-1:9:-10]}
    assert len(again) == 5
    assert again.items() <= first.items()
    # A third of 60 is 20; with fair draws fewer than 8 of one is as good as impossible.
    counts = np.bincount(list(first.values()), minlength=3)
    assert counts.min() >= 8
    for other in ([ours(name, 1) for name in NAMES], [other_seed(name, 0) for name in NAMES]):
        n_same = sum(a == b for a, b in zip(other, first.values(), strict=True))
        assert 8 <= n_same <= 35  # a third of them by chance


def test_outside_training_the_first_prompt_is_taken(drawing):
    drawn = drawing(3)
    assert {drawn(name, None) for name in NAMES} == {0}


def test_fixed_sampling_takes_the_first_prompt_in_every_epoch(folder):
    inputs = SPEECH.build_inputs(G.make_config("s2", folder))
    assert len(inputs.tokens.prompts) == 2
    first = inputs.encode_context(Utterance("a"))
    for epoch in range(10):
        assert inputs.encode_context(Utterance("a", epoch=epoch)) == first


def test_several_shipped_prompts_are_drawn_from(folder):
    config = G.make_config(
        "s2",
        folder,
        prompt=["salmonn-speech-v1", "salmonn-speech-v2"],
        prompt_pool=None,
        prompt_sampling="random",
    )
    inputs = SPEECH.build_inputs(config)
    after = {tuple(inputs.encode_context(Utterance(n, epoch=0))["after"]) for n in NAMES}
    assert len(after) == 2


# ------------------------------------------------------------------ prompts that do not suit


@pytest.mark.parametrize(
    ("member", "user", "assistant", "slots", "expected"),
    [
        (
            SPEECH,
            "Which emotion?",
            "It",
            "[]",
            r"slots none and the turns user, assistant\. SALMONN",
        ),
        (
            SPEECH,
            "{{ speech }}{{ transcript }}",
            None,
            "[speech, transcript]",
            r"has a transcript in .* salmonn-7b",
        ),
        (
            SPEECH_TEXT,
            "{{ speech }}",
            "So",
            "[speech]",
            r"has no transcript in it\. .* salmonn-13b",
        ),
        (
            SPEECH,
            "{{ speech }} {{ gender }}",
            None,
            "[speech, gender]",
            r"slots gender, which .* speech\. C",
        ),
        (
            SPEECH_TEXT,
            "{{ speech }} {{ context }}",
            "{{ transcript }} {{ hints }}",
            "[speech, context, transcript, hints]",
            r"slots context, hints, which .* it fills speech, transcript\. Choose another",
        ),
        (
            SPEECH,
            "{{ speech }} {{ classes }}",
            None,
            "[speech, classes]",
            r"slots classes, which this",
        ),
        (
            SPEECH,
            "{{ speech }} {{ speech }}",
            None,
            "[speech]",
            r"slot \{\{ speech \}\} 2 times, expected once",
        ),
        (
            SPEECH,
            "Hear",
            "{{ speech }}",
            "[speech]",
            r"has the slot \{\{ speech \}\} 0 times, expected once",
        ),
        (SPEECH, "{{ speech }}", "{{ speech }}", "[speech]", r"needs text for \{\{ speech \}\}"),
    ],
)
def test_prompt_that_does_not_suit_the_member_raises(
    tmp_path, member, user, assistant, slots, expected
):
    file = write_prompt(tmp_path, user, assistant, slots)
    config = G.make_config("s2", tmp_path, prompt=file, prompt_pool=None)
    with pytest.raises(BadValueError, match=expected) as caught:
        member.build_inputs(config)
    assert "'mine-v1'" in str(caught.value)


def test_system_turn_raises(tmp_path):
    file = tmp_path / "mine-v1.md"
    write_prompt(tmp_path, "{{ speech }}")
    file.write_text(file.read_text().replace("## user", "## system\nYou hear.\n## user"))
    config = G.make_config("s2", tmp_path, prompt=str(file), prompt_pool=None)
    with pytest.raises(BadValueError, match=r"turns system, user\. SALMONN takes a user turn"):
        SPEECH.build_inputs(config)


def test_pool_that_replaces_the_turn_with_the_transcript_raises(tmp_path):
    file = write_prompt(tmp_path, "{{ speech }} {{ transcript }}", "It is", "[speech, transcript]")
    config = G.make_config("st1", tmp_path, prompt=file)
    with pytest.raises(BadValueError, match=r"'mine-v1' has no transcript in it"):
        SPEECH_TEXT.build_inputs(config)


def test_pool_without_the_task_or_place_of_the_speech_raises(tmp_path):
    pool = tmp_path / "pool.json"
    pool.write_text(json.dumps({"asr": ["<SpeechHere>"], "bad": ["no place"]}))
    for task, error, expected in (
        ("asl", UnknownNameError, r"Unknown task of .*pool\.json.* Did you mean 'asr'"),
        ("bad", ProblemsError, r"placeholder <SpeechHere> 0 times, expected once"),
    ):
        changes = {"prompt_pool": {"file": str(pool), "task": task}}
        with pytest.raises(error, match=expected):
            SPEECH.build_inputs(G.make_config("s2", tmp_path, **changes))


def test_classes_are_listed_where_the_member_knows_them(tmp_path):
    file = write_prompt(tmp_path, "{{ speech }} One of {{ classes }}?", None, "[speech, classes]")
    config = G.make_config("s2", tmp_path, prompt=file, prompt_pool=None)
    inputs = build_inputs(config, needs_text=False, emotions=MSP_PODCAST)
    after = inputs.tokens.tokenizer.decode(inputs.encode_context(Utterance("a"))["after"])
    listed = "angry, contempt, disgust, fear, happy, neutral, sad, surprise"
    assert after == f"One of {listed}?\nASSISTANT:"
