"""A recording goes to all members of a run, and they vote."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from chat_server import ChatServer, likeliest
from tiny_whisper import write_tiny
from zero_shot_runs import question_about

import abhinaya.inference.predict as prediction
from abhinaya.app.listening import Hearing, Listener
from abhinaya.app.run import open_run
from abhinaya.data.labels import ABSTAIN, MSP_PODCAST
from abhinaya.errors import AudioError
from abhinaya.pipeline.stages.recordings import run_recordings


def last(listener: Listener, recording: Path, transcript: str | None = None) -> Hearing:
    *_, found = listener.hear(recording, transcript)
    return found


def test_members_say_what_predict_says_and_vote(run, corpus):
    recording = corpus / "n3.wav"
    with Listener(run) as listener:
        steps = list(listener.hear(recording))
    assert [step.waiting for step in steps] == [("a", "b", "t1"), ("b", "t1"), ("t1",), ()]
    found = steps[-1]
    for table, name in zip(found.tables, "ab", strict=False):
        theirs = run_recordings(run.folder / "runs" / name, [str(recording)])
        assert table.name == name
        assert table.labels.tolist() == theirs.labels.tolist()
        assert table.probs == pytest.approx(theirs.probs)
    # Without a transcript T1 abstains, and says so.
    assert found.tables[2].labels.tolist() == [ABSTAIN]
    assert found.tables[2].reasons[0] == "it reads a transcript, and there is none"
    # Two votes: both the same, or a tie that b breaks.
    labels = [int(table.labels[0]) for table in found.tables[:2]]
    assert found.vote is not None
    assert found.vote.labels.tolist() == [labels[1]]
    assert found.vote.decided_by[0] == ("majority" if labels[0] == labels[1] else "b")
    assert [stage for stage, _ in found.times] == ["reading", "a", "b", "t1", "vote"]


def test_server_that_is_down_makes_t1_abstain_with_its_reason(run, corpus):
    with Listener(run) as listener:
        found = last(listener, corpus / "n0.wav", "oh no")
    assert found.tables[2].labels.tolist() == [ABSTAIN]
    assert "127.0.0.1:9" in found.tables[2].reasons[0]
    assert found.vote is not None


def test_transcript_reaches_t1_and_no_answer_stays_in_the_run(chain, corpus):
    config = chain / "configs/t1.yaml"
    with ChatServer() as server:
        config.write_text(config.read_text().replace("http://127.0.0.1:9/v1", server.url))
        run = open_run(chain)
        with Listener(run) as listener:
            found = last(listener, corpus / "n0.wav", " oh no ")
    said = likeliest(question_about("oh no"))
    assert MSP_PODCAST.names[found.tables[2].labels[0]] == said
    assert not list(run.folder.rglob("answers"))


def test_models_are_loaded_once(run, corpus, monkeypatch):
    loaded = []
    build = prediction.build_classifier

    def count(*args):
        loaded.append(args)
        return build(*args)

    monkeypatch.setattr(prediction, "build_classifier", count)
    with Listener(run) as listener:
        first = last(listener, corpus / "n1.wav")
        assert len(loaded) == 2
        again = last(listener, corpus / "n1.wav")
        last(listener, corpus / "n2.wav")
    assert len(loaded) == 2
    assert again.tables[0].probs.tolist() == first.tables[0].probs.tolist()
    run_recordings(run.folder / "runs/a", [str(corpus / "n1.wav")])
    assert len(loaded) == 3  # a closed page keeps nothing


def test_two_visitors_at_once_get_their_own_votes(run, corpus):
    found: dict[str, Hearing] = {}
    with Listener(run) as listener:
        alone = {name: last(listener, corpus / name) for name in ("n0.wav", "n5.wav")}

        def visit(name: str) -> None:
            found[name] = last(listener, corpus / name)

        threads = [threading.Thread(target=visit, args=(name,)) for name in alone]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    for name, theirs in alone.items():
        for ours, table in zip(found[name].tables, theirs.tables, strict=True):
            assert ours.utterances == table.utterances
            assert ours.labels.tolist() == table.labels.tolist()


def test_member_whose_checkpoint_is_broken_abstains(run, corpus):
    (run.folder / "runs/a/best/model.safetensors").write_bytes(b"nothing")
    with Listener(run) as listener:
        found = last(listener, corpus / "n0.wav")
    assert found.tables[0].labels.tolist() == [ABSTAIN]
    assert "model.safetensors" in found.tables[0].reasons[0]
    assert found.vote is not None
    assert found.vote.labels.tolist() == found.tables[1].labels.tolist()


def test_nobody_who_answers_gives_no_vote(run, corpus):
    for name in "ab":
        (run.folder / f"runs/{name}/best/model.safetensors").write_bytes(b"nothing")
    with Listener(run) as listener:
        assert last(listener, corpus / "n0.wav").vote is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("broken.wav", b"RIFF....", "broken.wav"),
        ("empty.wav", b"", "empty.wav"),
        ("long.wav", None, r"long.wav lasts 3 s, and this page takes 2 s at most"),
    ],
)
def test_recording_that_cannot_be_taken_is_told_before_any_member(
    run, tmp_path, name, content, message
):
    file = tmp_path / name
    if content is None:
        soundfile.write(file, np.zeros(48_000), 16_000)
    else:
        file.write_bytes(content)
    with Listener(run, max_seconds=2) as listener, pytest.raises(AudioError, match=message):
        next(listener.hear(file))


def test_transcriber_that_is_not_there_makes_those_who_read_abstain(run, corpus):
    with Listener(run, "nowhere.pt") as listener:
        found = last(listener, corpus / "n0.wav")
    assert "nobody wrote it down: Unknown file, folder or official" in found.tables[2].reasons[0]
    assert found.vote is not None


@pytest.mark.slow
def test_transcriber_writes_down_what_nobody_typed(run, corpus, tmp_path):
    model = write_tiny(tmp_path / "whisper").openai
    with Listener(run, str(model)) as listener:
        found = last(listener, corpus / "n0.wav")
        typed = last(listener, corpus / "n0.wav", "oh")
    assert found.transcript is not None
    assert [stage for stage, _ in found.times][:2] == ["reading", "transcribing"]
    assert typed.transcript == "oh"
