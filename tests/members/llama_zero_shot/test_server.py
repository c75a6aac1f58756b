"""The member with the engine `openai`: tables, requests, and that nothing is asked twice."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from chat_server import PROBE, WORDS, ChatServer, find_probs_of, likeliest
from zero_shot_runs import make_corpus, question_about, run_zero_shot

from abhinaya.data.predictions import read_table
from members.llama_zero_shot.chat_completions import read_completion

TEXTS = [f"this is sentence {number}" for number in range(40)]
DRAWN = {"temperature": 0.7, "top_p": 0.7, "top_k": 50, "max_tokens": 512}


def test_table_has_the_servers_answers_and_probabilities(tmp_path):
    manifest = make_corpus(tmp_path, TEXTS)
    with ChatServer() as server:
        table = run_zero_shot(manifest, tmp_path / "t.parquet", server)
    questions = [question_about(text) for text in TEXTS]
    assert table.utterances == tuple(f"{number}.wav" for number in range(40))
    assert table.raw == tuple(likeliest(question) for question in questions)
    np.testing.assert_array_equal(table.labels, [WORDS.index(likeliest(q)) for q in questions])
    np.testing.assert_allclose(table.probs, [find_probs_of(q) for q in questions], atol=1e-6)
    assert set(table.reasons) == {None}
    assert table.raw == read_table(tmp_path / "t.parquet").raw


def test_request_is_constrained_and_greedy_by_default(tmp_path):
    manifest = make_corpus(tmp_path, ["hello"])
    with ChatServer() as server:
        run_zero_shot(manifest, tmp_path / "t.parquet", server)
    assert len(server.bodies) == 2
    probe, body = server.bodies
    messages = body.pop("messages")
    assert body == {
        "model": "tiny",
        "temperature": 0.0,
        "max_tokens": 16,
        "logprobs": True,
        "top_logprobs": 20,
        "structured_outputs": {"choice": list(WORDS)},
    }
    assert [message["role"] for message in messages] == ["system", "user"]
    assert messages[1]["content"] == question_about("hello")
    # The first question is short and of the same form.
    assert [message["role"] for message in probe["messages"]] == ["system", "user"]
    assert {key: value for key, value in probe.items() if key != "messages"} == body


def test_request_of_the_published_decoding(tmp_path):
    manifest = make_corpus(tmp_path, ["hello"])
    with ChatServer() as server:
        settings = {"decoding": DRAWN | {"constrained": False}}
        table = run_zero_shot(manifest, tmp_path / "t.parquet", server, settings)
    body = server.bodies[-1]
    assert {key: body[key] for key in DRAWN} == DRAWN
    assert isinstance(body["seed"], int)
    assert not {"structured_outputs", "logprobs", "top_logprobs"} & body.keys()
    # "That sounds ... to me." is searched for its class.
    assert table.raw == (f"That sounds {likeliest(question_about('hello'))} to me.",)
    assert WORDS[table.labels[0]] == likeliest(question_about("hello"))
    assert table.probs is None


def test_requests_run_at_once_up_to_the_limit(tmp_path):
    manifest = make_corpus(tmp_path, TEXTS)
    for limit in (1, 8):
        with ChatServer(delay_s=0.02) as server:
            settings = {"openai": {"concurrency": limit}, "answers": str(tmp_path / f"a{limit}")}
            run_zero_shot(manifest, tmp_path / f"{limit}.parquet", server, settings)
        assert server.n_answers == 40
        assert server.most_at_once == limit


def test_concurrency_changes_nothing_in_the_table(tmp_path):
    manifest = make_corpus(tmp_path, TEXTS)
    files = []
    with ChatServer() as server:
        for limit in (1, 64):
            settings = {"openai": {"concurrency": limit}, "answers": str(tmp_path / f"a{limit}")}
            files.append(tmp_path / f"{limit}.parquet")
            run_zero_shot(manifest, files[-1], server, settings)
    assert server.n_answers == 80
    assert files[0].read_bytes() == files[1].read_bytes()


def test_rerun_asks_nothing_not_even_for_another_table(tmp_path):
    manifest = make_corpus(tmp_path, TEXTS)
    with ChatServer() as server:
        first = run_zero_shot(manifest, tmp_path / "t.parquet", server)
        n_requests = len(server.bodies)
        again = run_zero_shot(manifest, tmp_path / "t.parquet", server)
        other = run_zero_shot(manifest, tmp_path / "other.parquet", server)
        # Other classes of rows of the same folder are known too.
        part = make_corpus(tmp_path, TEXTS[:7])
        some = run_zero_shot(part, tmp_path / "some.parquet", server)
    assert n_requests == 41
    assert len(server.bodies) == 41
    assert first.raw == again.raw == other.raw
    assert some.raw == first.raw[:7]
    assert first.meta["n_prompt_tokens"] == other.meta["n_prompt_tokens"] > 40 * 100


def test_same_words_are_asked_about_once(tmp_path):
    manifest = make_corpus(tmp_path, ["Yes.", "No.", "Yes.", "Yes."])
    with ChatServer() as server:
        table = run_zero_shot(manifest, tmp_path / "t.parquet", server)
    assert sorted(server.answered.values()) == [1, 1, 1]  # the probe among them
    assert table.raw[0] == table.raw[2] == table.raw[3]


def test_another_model_prompt_or_decoding_is_asked_again(tmp_path):
    manifest = make_corpus(tmp_path, ["hello"])
    changes = [
        {"prompt": "definitions-v1"},
        {"decoding": {"max_tokens": 8}},
        {"decoding": {"constrained": False}},
        {"base": "other"},
    ]
    with ChatServer() as server:
        run_zero_shot(manifest, tmp_path / "t.parquet", server)
        for number, change in enumerate(changes[:3]):
            run_zero_shot(manifest, tmp_path / f"{number}.parquet", server, change)
    assert server.n_answers == 4
    with ChatServer(model="other") as server:
        run_zero_shot(manifest, tmp_path / "3.parquet", server, changes[3])
    assert server.n_answers == 1


def test_seed_counts_for_drawn_answers_only(tmp_path):
    manifest = make_corpus(tmp_path, ["hello"])
    drawn = {"decoding": DRAWN}
    with ChatServer() as server:
        for seed in (0, 1):
            run_zero_shot(manifest, tmp_path / f"{seed}.parquet", server, {"seed": seed})
        assert server.n_answers == 1
        for seed in (0, 1):
            settings = drawn | {"seed": seed}
            run_zero_shot(manifest, tmp_path / f"drawn-{seed}.parquet", server, settings)
    assert server.n_answers == 3
    assert server.bodies[-1]["seed"] != server.bodies[-3]["seed"]


def test_samples_become_shares(tmp_path):
    manifest = make_corpus(tmp_path, ["hello"])
    said = ["Sad.", "sad", "I cannot tell.", "It is fear", "sad, I think"]
    with ChatServer(
        script=lambda question, n: None if question == PROBE else said[n - 1]
    ) as server:
        settings = {
            "decoding": DRAWN | {"constrained": False, "n_samples": 5},
            "openai": {"concurrency": 1},
        }
        table = run_zero_shot(manifest, tmp_path / "t.parquet", server, settings)
    # Of the four that name a class three say sad and one fear.
    np.testing.assert_allclose(table.probs[0], [0, 0, 0, 0.25, 0, 0, 0.75, 0])
    assert table.labels.tolist() == [6]
    assert sorted(json.loads(table.raw[0])) == sorted(said)
    assert len({body["seed"] for body in server.bodies[1:]}) == 5


def test_tokens_and_price_are_told(tmp_path):
    manifest = make_corpus(tmp_path, ["one two three", "one"])
    price = {"input": 0.88, "output": 0.9, "currency": "EUR"}
    with ChatServer() as server:
        table = run_zero_shot(manifest, tmp_path / "t.parquet", server, {"price": price})
    asked = [body["messages"] for body in server.bodies[1:]]
    # The server counts words.
    expected = sum(len(turn["content"].split()) for turns in asked for turn in turns)
    assert table.meta["n_prompt_tokens"] == expected
    pieces = [2 if len(word) > 3 else 1 for word in table.raw]
    assert table.meta["n_answer_tokens"] == sum(pieces)
    assert table.meta["price"] == price
    assert (table.meta["prompt"], table.meta["model"]) == ("zero-shot-v1", "tiny")


def test_row_without_transcript_abstains_and_is_not_asked(tmp_path):
    manifest = make_corpus(tmp_path, ["hello", None])
    with ChatServer() as server:
        table = run_zero_shot(manifest, tmp_path / "t.parquet", server)
    assert server.n_answers == 1
    assert table.reasons[1] == "there is no transcript of the source 'machine'"
    assert table.labels[1] == -1
    problems = Path(tmp_path / "t.problems.csv").read_text()
    assert "1.wav,there is no transcript" in problems


def test_prompt_that_begins_the_answer_is_sent_as_such(tmp_path):
    manifest = make_corpus(tmp_path, ["hello"])
    prompt = tmp_path / "begun-v1.md"
    prompt.write_text(
        "---\nname: begun-v1\nversion: 1\nslots: [transcript]\n---\n\n"
        "## user\n\n{{ transcript }}\n\n"
        "## assistant\n\nThe emotion is\n"
    )
    with ChatServer() as server:
        run_zero_shot(manifest, tmp_path / "t.parquet", server, {"prompt": str(prompt)})
    for body in server.bodies:
        assert [message["role"] for message in body["messages"]] == ["user", "assistant"]
        assert body["continue_final_message"] is True
        assert body["add_generation_prompt"] is False


@pytest.mark.parametrize("words", ["", "one"])
def test_works_within_a_running_event_loop(tmp_path, words):
    import asyncio

    manifest = make_corpus(tmp_path, [words])

    async def in_a_notebook() -> None:
        table = run_zero_shot(manifest, tmp_path / "t.parquet", server)
        assert table.raw == (likeliest(question_about(words)),)

    with ChatServer() as server:
        asyncio.run(in_a_notebook())


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": "sad", "reasoning_content": "angry?"}, "sad"),
        ({"content": None, "reasoning_content": "It is sad."}, "It is sad."),
        ({"content": None, "reasoning": "sad"}, "sad"),
        ({"content": "", "refusal": "I cannot", "reasoning": "sad"}, "I cannot"),
        ({"content": None, "reasoning_content": None}, ""),
    ],
)
def test_answer_among_the_thoughts_is_read_where_there_is_no_other(message, expected):
    choice = SimpleNamespace(message=SimpleNamespace(**message), logprobs=None)
    completion = SimpleNamespace(choices=[choice], usage=None)
    assert read_completion(completion, None).text == expected


def test_letters_of_a_prompt_are_read_as_the_prompt_means_them(tmp_path):
    """A is the code of angry, but here the prompt gave it to neutral."""
    manifest = make_corpus(tmp_path, ["hello"])
    prompt = tmp_path / "lettered-v1.md"
    prompt.write_text(
        "---\nname: lettered-v1\nversion: 1\nslots: [transcript]\nanswer: text\n---\n\n## user\n\n"
        "{{ transcript }}\n\n(A) neutral (B) sad (C) happy\n"
    )
    settings = {"prompt": str(prompt), "decoding": {"constrained": False, "max_tokens": 300}}

    def script(question, n):
        return None if question == PROBE else "A"

    with ChatServer(script=script) as server:
        table = run_zero_shot(manifest, tmp_path / "t.parquet", server, settings)
    assert [table.emotions.names[idx] for idx in table.labels] == ["neutral"]
