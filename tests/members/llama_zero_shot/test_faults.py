"""Servers that fail in every way: rows end in a label or an abstention, runs with a reason."""

from __future__ import annotations

import email.utils
import logging
import time
from pathlib import Path

import pytest
from chat_server import DRIP, DROP, HANG, PROBE, WORDS, ChatServer, Fault, Script, likeliest
from zero_shot_runs import make_corpus, question_about, run_zero_shot

from abhinaya.errors import BadValueError
from members.llama_zero_shot.engine import EngineError

TEXTS = ["I won the game", "leave me alone", "it is Monday"]
BAD = question_about(TEXTS[1])
HTML = Fault(200, b"<html><body>Please log in</body></html>", {"Content-Type": "text/html"})
HALF = Fault(200, b'{"id": "chat", "choices": [{"index": 0, "mess')
OTHER_JSON = Fault(200, b'{"status": "ok"}')
REFUSED = Fault(
    400, b'{"error": {"message": "maximum context length is 512 tokens, you asked for 600"}}'
)


def fails_at_first(fault: Fault, n_times: int = 1) -> Script:
    """Every question meets the fault so many times, and is answered then."""
    return lambda question, n: fault if n <= n_times else None


def fails_always(fault: Fault | str) -> Script:
    """One question meets the fault whenever it is asked."""
    return lambda question, n: fault if question == BAD else None


@pytest.mark.parametrize(
    "fault",
    [Fault(429), Fault(500), Fault(503), HTML, HALF, OTHER_JSON, Fault(DROP)],
    ids=["429", "500", "503", "HTML", "half a JSON", "other JSON", "dropped"],
)
def test_question_is_asked_again_after_a_fault(tmp_path, fault):
    manifest = make_corpus(tmp_path, TEXTS)
    with ChatServer(script=fails_at_first(fault, 2)) as server:
        table = run_zero_shot(manifest, tmp_path / "t.parquet", server)
    assert table.raw == tuple(likeliest(question_about(text)) for text in TEXTS)
    assert {server.received[question_about(text)] for text in TEXTS} == {3}
    assert set(server.answered.values()) == {1}


def test_question_is_asked_again_after_the_timeout(tmp_path):
    manifest = make_corpus(tmp_path, TEXTS[:1])
    with ChatServer(script=fails_at_first(Fault(HANG))) as server:
        settings = {"openai": {"timeout_s": 0.2}}
        table = run_zero_shot(manifest, tmp_path / "t.parquet", server, settings)
    assert table.reasons == (None,)
    assert server.received[question_about(TEXTS[0])] == 2


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_kept(tmp_path, form):
    manifest = make_corpus(tmp_path, TEXTS)
    times: dict[str, list[float]] = {}

    def script(question: str, n_times: int) -> Fault | None:
        times.setdefault(question, []).append(time.time())
        if question == PROBE or n_times > 1:
            return None
        # A date has whole seconds.
        value = "0.6" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
        return Fault(429, headers={"Retry-After": value, "Content-Type": "application/json"})

    with ChatServer(script=script) as server:
        table = run_zero_shot(manifest, tmp_path / "t.parquet", server)
    assert set(table.reasons) == {None}
    asked = [found for question, found in times.items() if question != PROBE]
    least_s = 0.6 if form == "seconds" else 1.0
    assert min(found[1] for found in asked) - max(found[0] for found in asked) > least_s - 0.1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(500), r"no answer in 4 tries: 500, 'a made-up fault'"),
        (HTML, r"no answer in 4 tries: it sent no JSON but '<html><body>Please log in"),
        (HALF, r"no answer in 4 tries: it sent no whole JSON \("),
        (OTHER_JSON, r"no answer in 4 tries: it sent JSON that is no chat completion"),
        (Fault(HANG), r"no answer in 4 tries: no answer within 0.3 s \(openai.timeout_s\)"),
        (Fault(DRIP), r"no answer in 4 tries: no answer within 0.3 s \(openai.timeout_s\)"),
        (REFUSED, r"the server refused the question: 400, 'maximum context length is 512"),
    ],
    ids=["500", "HTML", "half a JSON", "other JSON", "never", "never all", "too long"],
)
def test_question_that_no_server_survives_abstains_and_the_others_are_answered(
    tmp_path, fault, reason
):
    import re

    manifest = make_corpus(tmp_path, TEXTS)
    with ChatServer(script=fails_always(fault)) as server:
        settings = {"openai": {"timeout_s": 0.3, "patience_s": 3}}
        table = run_zero_shot(manifest, tmp_path / "t.parquet", server, settings)
    assert [label != -1 for label in table.labels] == [True, False, True]
    assert re.match(reason, table.reasons[1])
    assert table.raw[1] is None
    assert table.has_probs.tolist() == [True, False, True]
    assert reason[:10] in Path(tmp_path / "t.problems.csv").read_text()


def test_failure_is_asked_again_by_the_next_run(tmp_path):
    manifest = make_corpus(tmp_path, TEXTS)
    with ChatServer(script=fails_always(REFUSED)) as server:
        run_zero_shot(manifest, tmp_path / "t.parquet", server)
    (tmp_path / "t.parquet").unlink()
    with ChatServer() as server:
        table = run_zero_shot(manifest, tmp_path / "t.parquet", server)
    assert server.n_answers == 1
    assert set(table.reasons) == {None}


@pytest.mark.parametrize(
    ("answer", "label", "reason"),
    [
        ("I'm sorry, but I cannot assist with that.", None, "refused"),
        ("", None, "empty answer"),
        ("It could be anything.", None, "no class named"),
        ("Sad or happy.", None, "several classes: happy, sad"),
        ("**Disgust**", "disgust", None),
        ("I think the person is furious!", "angry", None),
        ('{"emotion": "Fear"}', "fear", None),
        ("joyous \U0001f600", "happy", None),
    ],
)
def test_server_that_ignores_the_constraint_ends_in_a_label_or_an_abstention(
    tmp_path, answer, label, reason
):
    manifest = make_corpus(tmp_path, TEXTS)
    # The script's empty text stands for no content at all.
    said: Fault | str = answer
    if not answer:
        content = b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": null}}]}'
        said = Fault(200, content)
    with ChatServer(script=fails_always(said)) as server:
        table = run_zero_shot(manifest, tmp_path / "t.parquet", server)
    assert table.reasons[1] == reason
    assert table.emotions.decode(table.labels)[1] == (
        None if label is None else table.emotions.codes[WORDS.index(label)]
    )
    assert table.raw[1] == answer


def test_answer_that_was_cut_says_so(tmp_path):
    manifest = make_corpus(tmp_path, TEXTS)
    script = fails_always("Let me think. The person")
    with ChatServer(script=script) as server:
        # The server counts two tokens.
        table = run_zero_shot(
            manifest, tmp_path / "t.parquet", server, {"decoding": {"max_tokens": 2}}
        )
    assert table.reasons[1] == "no class named, cut at decoding.max_tokens 2"


def test_half_of_a_surrogate_pair_in_an_answer_does_no_harm(tmp_path):
    manifest = make_corpus(tmp_path, TEXTS)
    body = (
        b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "sad \\ud83d"}}]}'
    )
    with ChatServer(script=fails_always(Fault(200, body))) as server:
        table = run_zero_shot(manifest, tmp_path / "t.parquet", server)
    assert table.raw[1] == "sad ?"
    assert table.reasons[1] is None
    # Such a server does not tell its tokens either.
    assert table.meta["n_prompt_tokens"] is None


def test_unknown_model_ends_at_once_with_the_models_there_are(tmp_path):
    manifest = make_corpus(tmp_path, TEXTS)
    start = time.monotonic()
    message = (
        r"does not have .* \(404, 'The model `tinny` does not exist.'\). Did you mean 'tiny'\?"
    )
    with ChatServer() as server, pytest.raises(EngineError, match=message) as error:
        run_zero_shot(manifest, tmp_path / "t.parquet", server, {"base": "tinny"})
    assert "It has: tiny. Set base to one of them." in str(error.value)
    assert time.monotonic() - start < 5
    assert sum(server.received.values()) == 1


def test_wrong_path_says_how_it_mostly_ends(tmp_path):
    manifest = make_corpus(tmp_path, TEXTS)
    message = "404.* It tells no models either. Correct openai.url; mostly it ends in /v1"
    with ChatServer() as server:
        settings = {"openai": {"url": server.url.removesuffix("/v1")}}
        with pytest.raises(EngineError, match=message):
            run_zero_shot(manifest, tmp_path / "t.parquet", settings=settings)


def test_something_else_than_a_chat_server_ends_after_a_few_tries(tmp_path):
    manifest = make_corpus(tmp_path, TEXTS)
    message = "gives no answer: it sent no JSON but '<html>.*Correct openai.url"
    with ChatServer(script=lambda question, n: HTML) as server:
        with pytest.raises(EngineError, match=message):
            run_zero_shot(manifest, tmp_path / "t.parquet", server)
    assert server.received == {PROBE: 4}


def test_server_that_knows_no_constraint_ends_at_once_with_what_to_leave_out(tmp_path):
    manifest = make_corpus(tmp_path, TEXTS)
    fault = Fault(400, b'{"error": {"message": "Unrecognized argument: structured_outputs"}}')
    message = (
        "refuses what we ask for .*Unrecognized argument: structured_outputs.*"
        "decoding.constrained=false, decoding.logprobs=0"
    )
    with ChatServer(script=lambda question, n: fault) as server:
        with pytest.raises(EngineError, match=message):
            run_zero_shot(manifest, tmp_path / "t.parquet", server)
    assert sum(server.received.values()) == 1


def test_server_that_is_never_there_ends_when_patience_does(tmp_path):
    manifest = make_corpus(tmp_path, TEXTS)
    server = ChatServer().reserve()
    message = r"has answered nothing for \d s; at last: no connection .*run it again and it goes on"
    with pytest.raises(EngineError, match=message):
        run_zero_shot(manifest, tmp_path / "t.parquet", server, {"openai": {"patience_s": 0.5}})


def test_limit_that_never_ends_ends_when_patience_does_and_answers_are_kept(tmp_path):
    manifest = make_corpus(tmp_path, TEXTS)
    with ChatServer(script=fails_always(Fault(429))) as server:
        with pytest.raises(EngineError, match=r"has answered nothing for .* at last: 429"):
            run_zero_shot(manifest, tmp_path / "t.parquet", server, {"openai": {"patience_s": 0.5}})
    assert server.n_answers == 2
    with ChatServer() as server:
        run_zero_shot(manifest, tmp_path / "t.parquet", server)
    assert server.n_answers == 1


def test_quota_that_is_used_up_ends_at_once(tmp_path):
    manifest = make_corpus(tmp_path, TEXTS)
    said = b'{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
    with ChatServer(script=lambda question, n: Fault(429, said)) as server:
        with pytest.raises(EngineError, match=r"refuses the key .*You exceeded your quota"):
            run_zero_shot(manifest, tmp_path / "t.parquet", server)
    assert sum(server.received.values()) == 1


def test_missing_key_is_told_before_anything_is_asked(tmp_path, monkeypatch):
    manifest = make_corpus(tmp_path, TEXTS)
    monkeypatch.delenv("SERVICE_KEY", raising=False)
    settings = {"openai": {"api_key_env": "SERVICE_KEY"}}
    with ChatServer() as server, pytest.raises(BadValueError, match="'SERVICE_KEY' is not set"):
        run_zero_shot(manifest, tmp_path / "t.parquet", server, settings)
    assert not server.received


def test_server_that_wants_a_key_says_how_to_give_one(tmp_path):
    manifest = make_corpus(tmp_path, TEXTS)
    message = "refuses the key .* Name the environment variable .* in openai.api_key_env"
    with ChatServer(key="secret-1234") as server, pytest.raises(EngineError, match=message):
        run_zero_shot(manifest, tmp_path / "t.parquet", server)


def test_key_is_sent_but_neither_told_nor_stored(tmp_path, monkeypatch, caplog):
    manifest = make_corpus(tmp_path, TEXTS)
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SERVICE_KEY", "secret-1234")
    settings = {"openai": {"api_key_env": "SERVICE_KEY"}}
    with ChatServer(key="secret-1234") as server:
        table = run_zero_shot(manifest, tmp_path / "t.parquet", server, settings)
    assert server.n_answers == 3
    # This server repeats the key when it refuses it.
    with ChatServer(key="another") as server:
        with pytest.raises(EngineError, match=r"Bearer \[key\]") as error:
            run_zero_shot(manifest, tmp_path / "t.parquet", server, settings | {"base": "other"})
    assert "Correct the key in the environment variable 'SERVICE_KEY'" in str(error.value)
    assert error.value.__cause__ is None
    assert "secret-1234" not in str(error.value) + caplog.text + str(dict(table.meta))
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) >= 4
    assert not [file for file in files if b"secret-1234" in file.read_bytes()]


def test_keys_of_other_services_are_not_sent(tmp_path, monkeypatch):
    manifest = make_corpus(tmp_path, TEXTS)
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, f"secret-{name}")
    with ChatServer() as server:
        run_zero_shot(manifest, tmp_path / "t.parquet", server)
    assert len(server.headers) == 4
    assert not [value for sent in server.headers for value in sent.values() if "secret-" in value]
