"""Engine `openai`: any server with OpenAI's chat interface, asked many questions at once.

`vllm serve` in an environment of its own is such a server, and so are hosted ones. openai's client
asks again and backs off. What is ours beyond it: a restarted server is waited for, which takes
minutes where the client waits seconds; a reply of status 200 that is no answer, which the client
takes for one, is asked for again; and a question that fails while others are answered abstains.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from abhinaya.errors import BadValueError, MissingPackageError, did_you_mean
from abhinaya.prompting.prompts import Turn
from members.llama_zero_shot.chat_completions import (
    FatalError,
    RefusedError,
    TransientError,
    read_completion,
    translate_error,
)
from members.llama_zero_shot.config import Decoding, OpenAIConfig
from members.llama_zero_shot.engine import Answer, EngineError, Keep, Question, seed_of

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["OpenAIEngine"]

_ValueT = TypeVar("_ValueT")

_logger = logging.getLogger(__name__)

_LONGEST_WAIT_S = 30.0

_TELL_AFTER_S = 5.0


class OpenAIEngine:
    """Asks a server.

    Args:
        model: as the server calls it.
        words: one word per class, in class order.
        decoding: how answers come about.
        server: where it is and how patient we are.
        seed: of drawn answers.
        key: what a server of our own wants, instead of what an environment variable holds.

    Raises:
        BadValueError: if the environment variable with the key is not set.
        MissingPackageError: if the package openai is missing.
    """

    def __init__(
        self,
        model: str,
        words: Sequence[str],
        decoding: Decoding,
        server: OpenAIConfig,
        *,
        seed: int = 0,
        key: str | None = None,
    ) -> None:
        self._model = model
        self._words = tuple(words)
        self._decoding = decoding
        self._server = server
        self._seed = seed
        self._key = key or _read_key(server)
        self._probe: Question | None = None
        self._heard_at = 0.0
        self._is_silence_told = False
        try:
            importlib.import_module("openai")
        except ImportError as err:
            raise MissingPackageError("openai", "engine: openai", "openai") from err

    batch_size = 1  # the server makes its own, which nobody can have again

    @property
    def identity(self) -> str:
        """The model's name; servers change their addresses."""
        return f"openai:{self._model}"

    def ask(self, questions: Sequence[Question], keep: Keep) -> None:
        """Answer all questions; see `Engine.ask`.

        Raises:
            EngineError: if the server refuses the key, the model or the decoding, or has answered
                nothing for too long.
        """
        if questions:
            _run(self._ask_all(questions, keep))

    def models(self) -> list[str]:
        """Return names of the models that the server says it has, sorted; asked once.

        Raises:
            EngineError: if it does not answer, or not with models.
        """

        async def find() -> list[str]:
            async with self._connect(0) as client:
                return await self._find_models(client)

        try:
            return _run(find())
        except Exception as err:
            told = translate_error(err, self._key, self._server)
            raise EngineError(
                f"The server {self._server.url} tells no models: {told}. Start it, or correct "
                "openai.url; mostly it ends in /v1."
            ) from None

    def _connect(self, n_retries: int) -> AsyncOpenAI:
        from openai import AsyncOpenAI

        client = AsyncOpenAI(
            base_url=self._server.url,
            api_key=self._key or "none",
            timeout=self._server.timeout_s,
            max_retries=n_retries,
        )
        if not (urlsplit(self._server.url).hostname or "").endswith(".openai.com"):
            # The client takes them from OPENAI_ORG_ID and OPENAI_PROJECT_ID for any server.
            client.organization = client.project = None
        return client

    async def _ask_all(self, questions: Sequence[Question], keep: Keep) -> None:
        pending = iter(enumerate(questions))

        async def work() -> None:
            for idx, question in pending:
                keep(idx, await self._answer(client, patient, question))

        self._heard_at = time.monotonic()
        n_retries = self._server.n_tries - 1
        async with self._connect(0) as client, self._connect(n_retries) as patient:
            workers: list[asyncio.Task[None]] = []
            try:
                if self._probe is None:
                    # It tells whether server, key, model, decoding and the kinds of turns go
                    # together, before there is work that could be refused.
                    turns = questions[0].turns
                    self._probe = Question(tuple(Turn(turn.role, "Say a word") for turn in turns))
                    await self._answer(client, client, self._probe)
                for _ in range(min(self._server.concurrency, len(questions))):
                    workers.append(asyncio.create_task(work()))
                await asyncio.gather(*workers)
            except FatalError as err:
                # Without its cause, which shows what the server said about the key.
                raise await self._explain(client, err) from None
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _answer(
        self, client: AsyncOpenAI, patient: AsyncOpenAI, question: Question
    ) -> Answer:
        """Return the answer, or a failure that is this question's own.

        Args:
            client: asks once.
            patient: asks again by itself; not where the next try decides.
            question: to be answered.
        """
        server, is_probe = self._server, question is self._probe
        n_failed, wait_s = 0, server.backoff_s
        while True:
            # Whether the next try decides. A server that is alive just before it cannot be blamed.
            is_last = n_failed >= server.n_tries and (is_probe or await self._is_alive(client))
            try:
                answer = await self._request(client if is_last else patient, question)
            except RefusedError as err:
                if is_probe:
                    raise FatalError(f"refuses what we ask for ({err})", "request") from None
                return Answer("", failure=f"the server refused the question: {err}")
            except TransientError as err:
                if is_probe and is_last and err.is_no_interface:
                    raise FatalError(f"gives no answer: {err}", "answer") from None
                if is_last and not is_probe and err.may_be_the_question:
                    return Answer("", failure=f"no answer in {n_failed + 1} tries: {err}")
                if err.may_be_the_question:
                    n_failed += 1 if err.is_no_interface else patient.max_retries + 1
                await self._check_patience(client, err)
                _logger.debug("%s: %s; asking again", server.url, err)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            else:
                self._heard()
                return answer

    async def _check_patience(self, client: AsyncOpenAI, err: TransientError) -> None:
        """Give up where the server has answered nothing for too long."""
        silent_s = time.monotonic() - self._heard_at
        if silent_s > _TELL_AFTER_S and not self._is_silence_told:
            self._is_silence_told = True
            message = "%s has answered nothing for %.0f s (%s); it gets %g s in all"
            _logger.warning(message, self._server.url, silent_s, err, self._server.patience_s)
        if silent_s > self._server.patience_s:
            # The last question of all may be one that hangs, while the server is well.
            if err.may_be_the_question and await self._is_alive(client):
                return
            raise FatalError(f"has answered nothing for {silent_s:.0f} s; at last: {err}", "down")

    async def _is_alive(self, client: AsyncOpenAI) -> bool:
        """Tell whether the server answers another question now."""
        assert self._probe is not None
        try:
            await self._request(client, self._probe)
        except (TransientError, RefusedError):
            return False
        self._heard()
        return True

    def _heard(self) -> None:
        self._heard_at = time.monotonic()
        self._is_silence_told = False

    async def _request(self, client: AsyncOpenAI, question: Question) -> Answer:
        create: Any = client.chat.completions.create
        # The client's own limit is for each piece that comes, and a server may send many.
        limit_s = self._server.timeout_s
        if client.max_retries:  # its tries, and the waits of Retry-After between them
            limit_s = max(limit_s * (client.max_retries + 1), self._server.patience_s)
        try:
            async with asyncio.timeout(limit_s):
                completion = await create(**self._arguments(question))
            wants_probs = self._decoding.wants_logprobs
            return read_completion(completion, self._words if wants_probs else None)
        except Exception as err:
            raise translate_error(err, self._key, self._server) from None

    def _arguments(self, question: Question) -> dict[str, Any]:
        """Return arguments of a request; what OpenAI's interface lacks goes into the body."""
        decoding = self._decoding
        arguments: dict[str, Any] = {
            "model": self._model,
            "messages": question.messages(),
            "temperature": decoding.temperature,
            "max_tokens": decoding.max_tokens,
        }
        body: dict[str, Any] = {}
        if decoding.temperature > 0:
            arguments["seed"] = seed_of(self._seed, question.sample)
        if decoding.top_p < 1:
            arguments["top_p"] = decoding.top_p
        if decoding.top_k is not None:
            body["top_k"] = decoding.top_k
        if decoding.wants_logprobs:
            arguments |= {"logprobs": True, "top_logprobs": decoding.logprobs}
        if decoding.constrained:
            body["structured_outputs"] = {"choice": list(self._words)}
        if question.is_begun:
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        if body:
            arguments["extra_body"] = body
        return arguments

    async def _explain(self, client: AsyncOpenAI, err: FatalError) -> EngineError:
        where = f"The server {self._server.url} {err}."
        advice = "Answers that came before are kept: run it again and it goes on."
        if err.kind == "model":
            advice = await self._name_models(client)
        elif err.kind == "key":
            named = self._server.api_key_env
            advice = (
                f"Correct the key in the environment variable {named!r}."
                if named
                else "Name the environment variable that holds your key in openai.api_key_env."
            )
        elif err.kind == "request":
            advice = (
                "Ask for less: decoding.constrained=false, decoding.logprobs=0, "
                "decoding.top_k=null, or a prompt of a single user turn."
            )
        elif err.kind == "answer":
            advice = "Correct openai.url; mostly it ends in /v1."
        return EngineError(f"{where} {advice}")

    async def _find_models(self, client: AsyncOpenAI) -> list[str]:
        return sorted([str(model.id) async for model in client.models.list()])

    async def _name_models(self, client: AsyncOpenAI) -> str:
        """Return what to do about a model that the server does not have."""
        try:
            known = await self._find_models(client)
        except Exception:
            return "It tells no models either. Correct openai.url; mostly it ends in /v1."
        near = did_you_mean(self._model, known).strip()
        listed = ", ".join(known) or "none"
        return f"{near} It has: {listed}. Set base to one of them.".strip()


def _read_key(server: OpenAIConfig) -> str | None:
    if server.api_key_env is None:
        return None
    key = os.environ.get(server.api_key_env, "").strip()
    if not key:
        raise BadValueError(
            f"The environment variable {server.api_key_env!r} is not set, but openai.api_key_env "
            "names it as the place of the key. Set it, or set openai.api_key_env to null for a "
            "server that wants no key."
        )
    return key


def _run(work: Coroutine[Any, Any, _ValueT]) -> _ValueT:
    """Run to the end, also where there is an event loop already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
