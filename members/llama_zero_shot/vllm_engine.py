"""Engine `vllm`: vLLM in this process, many questions at once."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

from abhinaya.errors import BadValueError, MissingPackageError
from abhinaya.inference.loaded import load_once
from members.llama_zero_shot.config import Decoding, VllmConfig
from members.llama_zero_shot.engine import Answer, EngineError, Keep, Question, seed_of
from members.llama_zero_shot.local_model import fingerprint
from members.llama_zero_shot.probabilities import Place, find_probs

__all__ = ["VllmEngine", "count_gpus", "count_logprobs", "identify", "refuse_launch"]


class VllmEngine:
    """Answers with vLLM, loaded with the first question.

    Args:
        base: folder or hub id.
        words: one word per class, in class order.
        decoding: how answers come about.
        settings: of vLLM.
        seed: of drawn answers.

    Raises:
        BadValueError: in one of several processes of a launch; vLLM starts its own.
        MissingPackageError: if vLLM is missing.
    """

    def __init__(
        self,
        base: str,
        words: Sequence[str],
        decoding: Decoding,
        settings: VllmConfig,
        *,
        seed: int = 0,
    ) -> None:
        refuse_launch()
        if importlib.util.find_spec("vllm") is None:
            raise MissingPackageError("vllm", "engine: vllm", "vllm")
        self._base = base
        self._words = tuple(words)
        self._decoding = decoding
        self._settings = settings
        self._seed = seed
        self._llm: Any = None
        self._has_answered = False

    batch_size = 1  # the server makes its own, which nobody can have again

    @property
    def identity(self) -> str:
        """Model and number type."""
        return identify(self._base, self._settings)

    def ask(self, questions: Sequence[Question], keep: Keep) -> None:
        """Answer all questions; see `Engine.ask`.

        Raises:
            EngineError: if vLLM refuses all of several questions, and has not answered any before.
        """
        size = self._settings.batch_size
        for start in range(0, len(questions), size):
            batch = questions[start : start + size]
            for idx, answer in enumerate(self._answer(batch), start=start):
                keep(idx, answer)

    def _answer(self, questions: Sequence[Question]) -> list[Answer]:
        if self._llm is None:
            key = f"{self.identity} {self._settings} {count_logprobs(self._decoding)}"
            self._llm = load_once(key, self._load)
        answers = self._chat(questions)
        refusals = [answer.failure for answer in answers if answer.failure is not None]
        if len(answers) == len(refusals) > 1 and not self._has_answered:
            raise EngineError(
                f"vLLM refuses all of {len(refusals)} questions: {refusals[0]} Change what it "
                "names, mostly a key of decoding or vllm."
            )
        self._has_answered = self._has_answered or len(refusals) < len(answers)
        return answers

    def _chat(self, questions: Sequence[Question]) -> list[Answer]:
        try:
            outputs = self._llm.chat(
                [question.messages() for question in questions],
                [self._params(question) for question in questions],
                use_tqdm=False,
                add_generation_prompt=not questions[0].is_begun,
                continue_final_message=questions[0].is_begun,
            )
        except _refusals() as err:
            # One question that is too long fails all that are handed over with it.
            if len(questions) == 1:
                reason = " ".join(str(err).split())
                return [Answer("", failure=f"vLLM refused the question: {reason}")]
            return [answer for question in questions for answer in self._chat([question])]
        return [self._read(output) for output in outputs]

    def _load(self) -> Any:
        vllm: Any = importlib.import_module("vllm")
        settings = self._settings
        return vllm.LLM(
            model=self._base,
            dtype=settings.dtype,
            quantization=settings.quantization,
            tensor_parallel_size=count_gpus(settings),
            pipeline_parallel_size=settings.pipeline_parallel,
            max_model_len=settings.max_model_len,
            gpu_memory_utilization=settings.gpu_memory,
            enforce_eager=settings.enforce_eager,
            max_logprobs=count_logprobs(self._decoding),
        )

    def _params(self, question: Question) -> Any:
        sampling: Any = importlib.import_module("vllm.sampling_params")
        decoding = self._decoding
        options: dict[str, Any] = {"temperature": decoding.temperature, "top_p": decoding.top_p}
        if decoding.top_k is not None:
            options["top_k"] = decoding.top_k
        if decoding.temperature > 0:
            options["seed"] = seed_of(self._seed, question.sample)
        if decoding.wants_logprobs:
            options["logprobs"] = decoding.logprobs
        if decoding.constrained:
            choice = list(self._words)
            options["structured_outputs"] = sampling.StructuredOutputsParams(choice=choice)
        return sampling.SamplingParams(max_tokens=decoding.max_tokens, **options)

    def _read(self, output: Any) -> Answer:
        completion = output.outputs[0]
        probs = None
        if self._decoding.wants_logprobs and completion.logprobs:
            places = [
                Place(
                    found[token].decoded_token or "",
                    {one.decoded_token or "": one.logprob for one in found.values()},
                )
                for token, found in zip(completion.token_ids, completion.logprobs, strict=True)
            ]
            probs = find_probs(places, self._words)
        return Answer(
            completion.text, probs, len(output.prompt_token_ids), len(completion.token_ids)
        )


def refuse_launch() -> None:
    """Raise in one of several processes of a launch: vLLM starts its own.

    Raises:
        BadValueError: there.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadValueError(
            "The engine vllm was started in one of several processes of a launch, but vLLM "
            "starts processes itself. Leave out accelerate launch and set "
            "vllm.tensor_parallel to the number of GPUs."
        )


def identify(base: str, settings: VllmConfig) -> str:
    """Return model and number type: what decides answers, whichever process has the model."""
    kind = settings.dtype if settings.quantization is None else settings.quantization
    return f"vllm:{base}:{kind}{fingerprint(base)}"


def count_gpus(settings: VllmConfig) -> int:
    """Return how many GPUs share each layer."""
    if settings.tensor_parallel is not None:
        return settings.tensor_parallel
    import torch

    return max(1, torch.accelerator.device_count() // settings.pipeline_parallel)


def count_logprobs(decoding: Decoding) -> int:
    """Return how many tokens of each place vLLM must be ready to tell; 20 is its own default."""
    return max(20, decoding.logprobs)


def _refusals() -> tuple[type[Exception], ...]:
    """Return what vLLM raises for a question that it will not answer."""
    try:
        own = importlib.import_module("vllm.exceptions").VLLMClientError
    except (ImportError, AttributeError):
        return (ValueError,)
    return (ValueError, own)
