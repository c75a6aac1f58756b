"""A small server with OpenAI's chat interface, with faults on demand. It runs in this process."""

from __future__ import annotations

import hashlib
import json
import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.prompting.answers import class_words

__all__ = [
    "DRIP",
    "DROP",
    "HANG",
    "PROBE",
    "WORDS",
    "ChatServer",
    "Fault",
    "find_probs_of",
    "likeliest",
]

PROBE = "Say a word"
"""What the client asks first."""

WORDS = class_words(MSP_PODCAST)


@dataclass(frozen=True)
class Fault:
    """Something else than an answer.

    Args:
        status: of the response; `HANG`, `DROP` (the connection) or `DRIP` (blanks without end).
        body: of the response.
        headers: of the response.
    """

    status: int
    body: bytes = b'{"error": {"message": "a made-up fault"}}'
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


HANG = 0
DROP = -1
DRIP = -2

Script = Callable[[str, int], "Fault | str | None"]
"""Out of a question and how often it came, this time included: a fault, the text of an answer, or
null for what the server says by itself."""


def find_probs_of(question: str) -> list[float]:
    """Class probabilities with which the server answers: by chance, but always the same."""
    digest = hashlib.sha256(question.encode()).digest()
    weights = [math.exp(byte / 64) for byte in digest[: len(WORDS)]]
    return [weight / sum(weights) for weight in weights]


def likeliest(question: str) -> str:
    """The class word with which the server answers."""
    probs = find_probs_of(question)
    return WORDS[probs.index(max(probs))]


class ChatServer:
    """Answers on a free port of this machine until it is stopped; may be started again there.

    It honours the choice of `structured_outputs`. Its tokens are the first three letters of a word
    and the rest.

    Args:
        model: the one that it serves.
        key: that it wants; null for none.
        script: what goes wrong, and when.
        delay_s: before each answer.
        port: 0 for any that is free.

    Attributes:
        received: how often each question (the last user turn) came.
        answered: how often it was answered, faults not counted.
        bodies: of all requests for answers, in order.
        headers: theirs.
        most_at_once: requests that were being answered at one time.
    """

    def __init__(
        self,
        *,
        model: str = "tiny",
        key: str | None = None,
        script: Script | None = None,
        delay_s: float = 0.0,
        port: int = 0,
    ) -> None:
        self.model = model
        self.key = key
        self.script: Script = script or (lambda question, n_times: None)
        self.delay_s = delay_s
        self.received: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self._n_at_once = 0
        self._lock = threading.Lock()
        self._port = port
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """What a config names."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def n_answers(self) -> int:
        """Questions answered, the client's own not counted."""
        return sum(n for question, n in self.answered.items() if question != PROBE)

    def reserve(self) -> Self:
        """Choose the port, without listening."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        return self

    def start(self) -> Self:
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def stop(self) -> None:
        """As killed: nobody who waits gets an answer."""
        server, self._server = self._server, None
        if server is None:
            return
        with self._lock:
            server.is_stopped.set()
        server.shutdown()
        server.server_close()
        for connection in list(server.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def respond(self, request: _Handler) -> None:
        """Answer one POST."""
        server = request.server
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        question = [turn["content"] for turn in body["messages"] if turn["role"] == "user"][-1]
        with self._lock:
            self.received[question] += 1
            n_times = self.received[question]
            self.bodies.append(body)
            self.headers.append({name.lower(): value for name, value in request.headers.items()})
            self._n_at_once += 1
            self.most_at_once = max(self.most_at_once, self._n_at_once)
        fault = self._refusal(request, body) or self.script(question, n_times)
        time.sleep(self.delay_s)
        if isinstance(fault, Fault) and fault.status == HANG:
            server.is_stopped.wait(30)
        if isinstance(fault, Fault) and fault.status == DRIP:
            request.drip(server.is_stopped)
        with self._lock:
            self._n_at_once -= 1
            if server.is_stopped.is_set() or (isinstance(fault, Fault) and fault.status <= 0):
                request.close_connection = True
                return
            if isinstance(fault, Fault):
                request.send(fault)
                return
            answer = json.dumps(self._completion(body, question, fault)).encode()
            request.send(Fault(200, answer))
            self.answered[question] += 1

    def _refusal(self, request: _Handler, body: dict[str, Any]) -> Fault | None:
        if self.key is not None and request.headers["Authorization"] != f"Bearer {self.key}":
            # Some services repeat the key.
            said = f"Incorrect API key: {request.headers['Authorization']}"
            return Fault(401, json.dumps({"error": {"message": said}}).encode())
        if body["model"] != self.model:
            said = f"The model `{body['model']}` does not exist."
            return Fault(404, json.dumps({"error": {"message": said}}).encode())
        return None

    def _completion(self, body: dict[str, Any], question: str, said: str | None) -> dict[str, Any]:
        choice = body.get("structured_outputs", {}).get("choice")
        word = likeliest(question)
        text = said or (word if choice else f"That sounds {word} to me.")
        pieces = [text[:3], text[3:]] if text[3:] else [text]
        message = {"role": "assistant", "content": text}
        logprobs = None
        if body.get("logprobs") and choice and said is None:
            probs = find_probs_of(question)
            first = {word[:3]: math.log(prob) for word, prob in zip(WORDS, probs, strict=True)}
            places = [first, *({piece: 0.0} for piece in pieces[1:])]
            logprobs = {
                "content": [
                    {
                        "token": piece,
                        "logprob": place[piece],
                        "top_logprobs": _likeliest_of(place, body["top_logprobs"]),
                    }
                    for piece, place in zip(pieces, places, strict=True)
                ]
            }
        n_words = sum(len(turn["content"].split()) for turn in body["messages"])
        return {
            "id": "chat",
            "object": "chat.completion",
            "created": 0,
            "model": self.model,
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": message,
                    "logprobs": logprobs,
                }
            ],
            "usage": {
                "prompt_tokens": n_words,
                "completion_tokens": len(pieces),
                "total_tokens": n_words + len(pieces),
            },
        }


def _likeliest_of(place: dict[str, float], n_shown: int) -> list[dict[str, Any]]:
    ordered = sorted(place.items(), key=lambda entry: -entry[1])
    return [{"token": token, "logprob": logprob} for token, logprob in ordered[:n_shown]]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], owner: ChatServer) -> None:
        self.owner = owner
        self.is_stopped = threading.Event()
        self.connections: list[socket.socket] = []
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that were broken off."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one piece, or the connection waits between them
    server: _Server

    def do_POST(self) -> None:
        if self.path != "/v1/chat/completions":
            self.send(Fault(404, b'{"detail": "Not Found"}'))
            return
        self.server.owner.respond(self)

    def do_GET(self) -> None:
        models = [{"id": self.server.owner.model, "object": "model", "created": 0, "owned_by": ""}]
        if self.path not in ("/v1/models", "/health"):
            self.send(Fault(404, b'{"detail": "Not Found"}'))
            return
        self.send(Fault(200, json.dumps({"object": "list", "data": models}).encode()))

    def send(self, response: Fault) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(response.body)
        self.wfile.flush()

    def drip(self, is_stopped: threading.Event) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        while not is_stopped.wait(0.05):
            self.wfile.write(b" ")
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing to the screen."""
