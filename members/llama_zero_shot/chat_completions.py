"""What a server with OpenAI's chat interface sends back: answers, and errors in our terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from members.llama_zero_shot.config import OpenAIConfig
from members.llama_zero_shot.engine import Answer
from members.llama_zero_shot.probabilities import Place, find_probs

__all__ = [
    "FatalError",
    "RefusedError",
    "TransientError",
    "read_completion",
    "translate_error",
]

_MOST_SHOWN = 300


class FatalError(Exception):
    """Something that asking again cannot mend.

    Args:
        message: what the server does, to go on behind its name.
        kind: what it is about.
    """

    def __init__(
        self, message: str, kind: Literal["model", "key", "request", "answer", "down"]
    ) -> None:
        super().__init__(message)
        self.kind = kind


class RefusedError(Exception):
    """A question that the server will not answer, such as one that is too long."""


class TransientError(Exception):
    """Something that may go better the next time.

    Args:
        message: what happened.
        may_be_the_question: whether the question may be the cause: not when there was no server, or
            too many questions.
        is_no_interface: whether something else than a chat interface seems to have answered.
    """

    def __init__(
        self, message: str, *, may_be_the_question: bool, is_no_interface: bool = False
    ) -> None:
        super().__init__(message)
        self.may_be_the_question = may_be_the_question
        self.is_no_interface = is_no_interface


def read_completion(completion: Any, words: Sequence[str] | None) -> Answer:
    """Return the answer in a completion.

    Args:
        completion: what openai's client returned. It does not check what it reads.
        words: class words for class probabilities; `None` for none.

    Raises:
        TransientError: if it is no completion.
    """
    if isinstance(completion, str | bytes | None):
        shown = str(completion)[:60]
        raise _no_interface(f"it sent no JSON but {shown!r}")
    try:
        choice = completion.choices[0]
        # Servers with a parser of thoughts may leave the whole answer among them.
        places = ("content", "refusal", "reasoning_content", "reasoning")
        said = (getattr(choice.message, place, None) for place in places)
        text = next(filter(None, said), "")
        usage = completion.usage
        answer = Answer(
            # A server may escape half of a surrogate pair, which no file can hold.
            text.encode(errors="replace").decode(),
            None if words is None else _read_probs(choice.logprobs, words),
            None if usage is None else int(usage.prompt_tokens),
            None if usage is None else int(usage.completion_tokens),
        )
    except (AttributeError, TypeError, ValueError, LookupError) as err:
        raise _no_interface("it sent JSON that is no chat completion") from err
    return answer


def _no_interface(message: str) -> TransientError:
    return TransientError(message, may_be_the_question=True, is_no_interface=True)


def _read_probs(logprobs: Any, words: Sequence[str]) -> tuple[float, ...] | None:
    content = getattr(logprobs, "content", None)
    if not content:
        return None  # not every server has them
    places = [
        Place(
            entry.token,
            {entry.token: entry.logprob}
            | {other.token: other.logprob for other in entry.top_logprobs or ()},
        )
        for entry in content
    ]
    return find_probs(places, words)


def translate_error(err: Exception, key: str | None, server: OpenAIConfig) -> Exception:
    """Return what an exception of a request means; one of the three above, or the exception itself.

    Args:
        err: what was raised.
        key: to be kept out of every message.
        server: for messages.
    """
    import openai

    if isinstance(err, FatalError | RefusedError | TransientError):
        return err
    if isinstance(err, TimeoutError | openai.APITimeoutError):
        message = f"no answer within {server.timeout_s:g} s (openai.timeout_s)"
        return TransientError(message, may_be_the_question=True)
    if isinstance(err, openai.APIConnectionError):
        # The client's own message says nothing; the cause does.
        cause = str(err.__cause__ or "").strip() or type(err.__cause__ or err).__name__
        return TransientError(f"no connection ({_shorten(cause, key)})", may_be_the_question=False)
    if isinstance(err, openai.APIStatusError):
        return _translate_status(err, key)
    if isinstance(err, openai.APIError | ValueError):  # such as JSON that breaks off
        return _no_interface(f"it sent no whole JSON ({_shorten(str(err), key)})")
    return err


def _translate_status(err: Any, key: str | None) -> Exception:
    status, said = int(err.status_code), _shorten(_message_of(err), key)
    told = f"{status}, {said!r}"
    if status == 429 and err.code != "insufficient_quota":
        return TransientError(told, may_be_the_question=False)
    if status in (401, 403, 429):
        return FatalError(f"refuses the key ({told})", "key")
    if status == 404:
        return FatalError(f"does not have what was asked for ({told})", "model")
    if status in (408, 409, 425) or status >= 500:
        return TransientError(told, may_be_the_question=True)
    return RefusedError(told)


def _message_of(err: Any) -> str:
    """Return the server's own sentence where there is one, else the whole body."""
    body = err.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        found = inner.get("message") if isinstance(inner, dict) else inner
        return str(found or body)
    return str(body or err.message)


def _shorten(text: str, key: str | None) -> str:
    if key:
        text = text.replace(key, "[key]")
    text = " ".join(text.split())
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} ..."
