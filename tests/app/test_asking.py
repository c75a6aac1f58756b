"""A prompt on one utterance: as it is sent, and what a model answers."""

from __future__ import annotations

import shutil

import pytest
from chat_server import ChatServer, likeliest
from zero_shot_runs import question_about

from abhinaya.app.asking import ask, find_models, find_sources, save_prompt, shipped_text, show_chat
from abhinaya.app.listening import Listener
from abhinaya.app.run import open_run
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.transcripts import write_transcripts
from abhinaya.errors import AbhinayaError, BadValueError, ProblemsError

OWN = "---\nname: own-v1\nversion: 1\nslots: [transcript]\n---\n## user\nSo: {{ transcript }}\n"


@pytest.fixture
def spoken(chain, corpus, tmp_path):
    """The chain, with a corpus that has transcripts."""
    folder = shutil.copytree(corpus, tmp_path / "corpus")
    rows = [
        {"utterance": "n6.wav", "source": source, "text": text}
        for source, text in (("human", "oh no"), ("machine", "oh"))
    ]
    write_transcripts(rows, folder / "transcripts.parquet")
    return open_run(chain, manifest=folder / "manifest.parquet")


def test_chat_is_shown_as_it_is_sent(spoken, tmp_path):
    [turn] = show_chat(spoken, save_prompt(OWN, tmp_path), "n6.wav", "machine")
    assert (turn.role, turn.text) == ("user", "So: oh")
    shipped = save_prompt(shipped_text("zero-shot-v1"), tmp_path)
    assert show_chat(spoken, shipped, "n6.wav", "human", "t1")[-1].text == question_about("oh no")


def test_models_and_sources_are_those_of_the_run(spoken, run):
    assert list(find_models(spoken)) == ["t1"]
    assert find_sources(spoken) == ["human", "machine"]  # t1 reads the first
    assert find_sources(run) == []


def test_model_answers_the_prompt_as_it_was_shown(spoken, tmp_path):
    config = spoken.folder / "configs/t1.yaml"
    with ChatServer() as server, Listener(spoken) as listener:
        config.write_text(config.read_text().replace("http://127.0.0.1:9/v1", server.url))
        found = ask(listener, save_prompt(OWN, tmp_path), "n6.wav", "machine", "t1")
    assert found.utterances == ("n6.wav",)
    assert MSP_PODCAST.names[found.labels[0]] == likeliest("So: oh")


def test_model_that_is_not_there_is_told_at_once(spoken, tmp_path):
    with Listener(spoken) as listener, pytest.raises(AbhinayaError, match=r"127\.0\.0\.1:9"):
        ask(listener, save_prompt(OWN, tmp_path), "n6.wav", "machine", "t1")


def test_prompt_that_cannot_be_used_is_told(spoken, tmp_path):
    with pytest.raises(BadValueError, match=r"does not say its name\. Begin it with"):
        save_prompt("Which emotion is it?", tmp_path)
    wrong = save_prompt(OWN.replace("{{ transcript }}", "{{ transcrip }}"), tmp_path)
    with pytest.raises(ProblemsError, match="Did you mean 'transcript'"):
        show_chat(spoken, wrong, "n6.wav", "human")
    prompt = save_prompt(OWN, tmp_path)
    with pytest.raises(BadValueError, match=r"The corpus has no utterance 'x.wav'"):
        show_chat(spoken, prompt, "x.wav", "human")
    with pytest.raises(ProblemsError, match="it needs transcripts"):
        show_chat(spoken, prompt, "n7.wav", "human")


def test_run_without_corpus_says_how_to_name_one(run, tmp_path):
    from dataclasses import replace

    with pytest.raises(BadValueError, match="Start the page with --manifest"):
        show_chat(replace(run, manifest=None), save_prompt(OWN, tmp_path), "n6.wav", "human")
