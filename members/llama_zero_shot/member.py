"""The member `llama-70b-zero-shot`: asks a chat model about each transcript and reads its answers.

It is T1 of the Abhinaya system: LLaMA-3.3-70B-Instruct, prompted, nothing trained.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from abhinaya import __version__
from abhinaya.config import MemberConfig, config_digest
from abhinaya.data.labels import ABSTAIN, EmotionSet
from abhinaya.data.manifest import Manifest
from abhinaya.data.predictions import PredictionTable
from abhinaya.data.problems import Problem
from abhinaya.data.transcripts import read_transcripts
from abhinaya.doctor.checks import Findings
from abhinaya.errors import AudioError, BadValueError
from abhinaya.files import digest_of
from abhinaya.loading.clips import Clip
from abhinaya.member import PredictRequest
from abhinaya.progress import progress
from abhinaya.prompting.answers import AnswerParser, class_words
from abhinaya.prompting.prompts import Prompt, Turn, load_prompt
from abhinaya.prompting.rendering import PromptFiller
from members.llama_zero_shot.cache import AnswerStore, key_of
from members.llama_zero_shot.config import LlamaZeroShotConfig
from members.llama_zero_shot.doctor import check_zero_shot
from members.llama_zero_shot.engine import Answer, Engine, Question
from members.llama_zero_shot.local_model import keep_loaded
from members.llama_zero_shot.openai_engine import OpenAIEngine
from members.llama_zero_shot.transformers_engine import TransformersEngine
from members.llama_zero_shot.vllm_engine import VllmEngine

if TYPE_CHECKING:
    from accelerate import PartialState

__all__ = ["ZERO_SHOT", "LlamaZeroShotMember", "Verdict", "judge", "make_engine"]

Chats = Mapping[str, tuple[Turn, ...]]


@dataclass(frozen=True)
class Verdict:
    """What one or several answers to a question come to.

    Args:
        label: class index, or `ABSTAIN`.
        reason: why it abstains; null where it does not.
        probs: class probabilities, K numbers; null where there are none.
        raw: the answer; of several a JSON list. Null where there is none.
    """

    label: int
    reason: str | None = None
    probs: tuple[float, ...] | None = None
    raw: str | None = None


class LlamaZeroShotMember:
    """Labels from the answers of a chat model; one that names no class, or several, abstains."""

    config_class = LlamaZeroShotConfig

    def train(self, config: MemberConfig, manifest: Manifest) -> Path:
        """Refuse: there is nothing to train.

        Raises:
            BadValueError: always.
        """
        del manifest
        raise BadValueError(
            f"The member {config.member!r} has nothing to train. Predict with its config: "
            "abhinaya predict CONFIG --manifest M --select S --out TABLE."
        )

    def predict(self, source: Path | MemberConfig, request: PredictRequest) -> PredictionTable:
        """Ask about every row of a selection.

        First everything is asked that is not known yet, each process of a launch its share; then
        the table is made out of the answers.

        Raises:
            BadValueError: if `source` is no config, embeddings are asked for, or transcripts are
                needed but no source is configured.
            ProblemsError: if the selection lacks what the prompt needs.
            EngineError: if the model or server cannot be asked.
        """
        import torch
        from accelerate import PartialState

        from abhinaya.inference.sharding import (
            TablePlan,
            check_ending,
            cut,
            find_table,
            predict_in_parts,
        )

        if not isinstance(source, LlamaZeroShotConfig):
            raise BadValueError(
                f"llama-70b-zero-shot predicts from its config, not from {str(source)!r}. Name the "
                "YAML file."
            )
        if request.with_embedding:
            raise BadValueError(
                "llama-70b-zero-shot gives labels without embeddings. Leave out --with embedding."
            )
        check_ending(request)
        manifest, prompt = request.manifest, load_prompt(source.prompt)
        if prompt.free and source.decoding.constrained:
            raise BadValueError(
                f"The prompt {prompt.name!r} lets the model answer in a text, but "
                "decoding.constrained is true and leaves it a single word. Set it to false, and "
                "decoding.max_tokens to 200 or more."
            )
        utterances = tuple(manifest.select(request.selection)["utterance"])
        chats, problems = _fill(source, prompt, request, utterances)
        engine = make_engine(source, manifest.emotions)
        digest = _digest(source, engine, request, utterances, chats)
        found = find_table(request, digest)
        if found is not None:
            return found

        decoding = source.decoding.model_dump(mode="json")
        decoding["words"] = class_words(manifest.emotions)
        if source.decoding.temperature > 0:
            decoding["seed"] = source.seed
        keys: dict[str, list[str]] = {}
        questions: dict[str, Question] = {}
        for utterance, turns in chats.items():
            asked = [Question(turns, sample) for sample in range(source.decoding.n_samples)]
            keys[utterance] = [key_of(question, engine.identity, decoding) for question in asked]
            questions |= zip(keys[utterance], asked, strict=True)
        state = PartialState(cpu=not torch.accelerator.is_available())
        folder = source.answers or request.out.parent / "answers"
        prompt_text = "\n".join(turn.text for turn in prompt.turns)
        with AnswerStore(folder, questions.keys()) as store:
            _ask(engine, questions, store, state, name=source.name)

            def compute(chunk: Sequence[Clip]) -> PredictionTable:
                names = [clip.utterance for clip in chunk]
                answers = [[store[key] for key in keys[name]] for name in names]
                parser = AnswerParser(manifest.emotions, prompt_text)
                return _make_table(source, parser, manifest.emotions, names, answers)

            every = [store[key] for some in keys.values() for key in some]
            meta = {
                "member": source.member,
                "model": source.base,
                "engine": source.engine,
                "prompt": prompt.name,
                "transcripts": source.data.transcripts and source.data.transcripts.predict,
                "decoding": source.decoding.model_dump(mode="json"),
                "selection": list(request.selection),
                "n_prompt_tokens": _total([answer.n_prompt_tokens for answer in every]),
                "n_answer_tokens": _total([answer.n_answer_tokens for answer in every]),
                "price": None if source.price is None else source.price.model_dump(mode="json"),
                "absorbed_prior": None,
                "seed": source.seed,
                "digest": digest,
                "version": __version__,
            }
            clips = [
                Clip(utterance, text="".join(turn.text for turn in turns))
                for utterance, turns in chats.items()
            ]
            plan = TablePlan(source.name, manifest.emotions, utterances, request, meta)
            return predict_in_parts(cut(clips), compute, problems, plan)

    def keep_loaded(self) -> AbstractContextManager[None]:
        """A block within which the model of a local engine stays loaded between predictions.

        It is for experiments that ask one model many times; see `local_model.keep_loaded`.
        """
        return keep_loaded()

    def check_weights(self, config: LlamaZeroShotConfig) -> Findings:
        """What `abhinaya doctor` finds of the prompt, and of the server or the weights."""
        return check_zero_shot(config)


def make_engine(config: LlamaZeroShotConfig, emotions: EmotionSet) -> Engine:
    """The engine that a config names; nothing is loaded or asked yet.

    Raises:
        BadValueError: if it cannot be used here.
        MissingPackageError: if its package is missing.
    """
    words, decoding, seed = class_words(emotions), config.decoding, config.seed
    if config.engine == "openai":
        return OpenAIEngine(config.base, words, decoding, config.openai, seed=seed)
    if config.engine == "vllm":
        return VllmEngine(config.base, words, decoding, config.vllm, seed=seed)
    return TransformersEngine(config.base, words, decoding, config.transformers, seed=seed)


def judge(
    answers: Sequence[Answer], parser: AnswerParser, n_classes: int, max_tokens: int
) -> Verdict:
    """What the answers to one question come to.

    One answer: the class that it names or, where there are class probabilities, the likeliest. That
    is another one only where greedy decoding went astray: it takes the likeliest token each time,
    which need not lead to the likeliest word. Several answers: the class most often named, and the
    shares as probabilities; of equal ones the first in class order. Answers that name no class do
    not count.

    Args:
        answers: at least one.
        parser: finds the class in an answer.
        n_classes: K.
        max_tokens: length at which an answer was cut.

    Example:
        >>> from abhinaya.data.labels import MSP_PODCAST
        >>> answers = [Answer("sad"), Answer("Fear."), Answer("I cannot tell."), Answer("Sad")]
        >>> verdict = judge(answers, AnswerParser(MSP_PODCAST), n_classes=8, max_tokens=16)
        >>> verdict.label, round(verdict.probs[3], 3)
        (6, 0.333)
    """
    given = [answer for answer in answers if answer.failure is None]
    if not given:
        return Verdict(ABSTAIN, answers[0].failure)
    parsed = [parser.parse(answer.text) for answer in given]
    reasons = []
    for answer, one in zip(given, parsed, strict=True):
        if one.reason is not None:
            is_cut = (answer.n_answer_tokens or 0) >= max_tokens
            cut = f", cut at decoding.max_tokens {max_tokens}" if is_cut else ""
            reasons.append(f"{one.reason}{cut}")
    if len(answers) == 1:
        if reasons:
            return Verdict(ABSTAIN, reasons[0], raw=given[0].text)
        probs = given[0].probs
        # As the table stores them, where two may have become equal.
        label = parsed[0].label if probs is None else int(np.asarray(probs, "float32").argmax())
        return Verdict(label, None, probs, given[0].text)
    reasons += [str(answer.failure) for answer in answers if answer.failure is not None]
    raw = json.dumps([answer.text for answer in given], ensure_ascii=False)
    named = [one.label for one in parsed if one.label != ABSTAIN]
    if not named:
        counted = ", ".join(f"{reason} ({n})" for reason, n in Counter(reasons).items())
        return Verdict(ABSTAIN, f"none of {len(answers)} answers names a class: {counted}", raw=raw)
    counts = np.bincount(named, minlength=n_classes)
    probs = tuple((counts / counts.sum()).tolist())
    return Verdict(int(counts.argmax()), None, probs, raw)


def _fill(
    config: LlamaZeroShotConfig,
    prompt: Prompt,
    request: PredictRequest,
    utterances: Sequence[str],
) -> tuple[dict[str, tuple[Turn, ...]], list[Problem]]:
    """The chat about each utterance, and why there is none about the others."""
    texts: dict[str, str | None] = {}
    needs_text, source = "text" in prompt.needs, ""
    if needs_text:
        if config.data.transcripts is None:
            raise BadValueError(
                f"The prompt {prompt.name!r} reads transcripts, but data.transcripts is missing. "
                "Set data.transcripts.predict to a source such as 'whisper-large-v3'."
            )
        source = config.data.transcripts.predict
        texts = read_transcripts(request.manifest.root / "transcripts.parquet", source)
    filler = PromptFiller(
        prompt,
        request.manifest,
        request.selection,
        transcripts=texts,
        emotions=request.manifest.emotions,
        settings=config.filling,
        seed=config.seed,
    )
    chats: dict[str, tuple[Turn, ...]] = {}
    problems = []
    for utterance in utterances:
        if needs_text and texts.get(utterance) is None:
            reason = f"there is no transcript of the source {source!r}"
            problems.append(Problem(utterance, reason))
            continue
        try:
            chats[utterance] = filler.turns(utterance)
        except AudioError as err:  # a prompt with hints hears the clip
            problems.append(Problem(utterance, str(err)))
    return chats, problems


def _ask(
    engine: Engine,
    questions: Mapping[str, Question],
    store: AnswerStore,
    state: PartialState,
    *,
    name: str,
) -> None:
    """Bring the answer to every question into the store.

    Each process of a launch asks its share of what is not there. The longest come first, so that
    batches hold questions of about the same length and the last answers are quick ones.
    """
    missing = [key for key in questions if key not in store]
    missing.sort(key=lambda key: (-questions[key].n_chars, key))
    mine = missing[state.process_index :: state.num_processes]
    # Nobody writes before all have looked, or the shares would overlap and miss.
    state.wait_for_everyone()
    with progress(f"asking for {name}", len(mine), shown=state.is_main_process) as advance:

        def keep(idx: int, answer: Answer) -> None:
            store.add(mine[idx], answer)
            advance(1)

        engine.ask([questions[key] for key in mine], keep)
    store.close()
    state.wait_for_everyone()
    store.refresh()


def _make_table(
    config: LlamaZeroShotConfig,
    parser: AnswerParser,
    emotions: EmotionSet,
    utterances: Sequence[str],
    answers: Sequence[Sequence[Answer]],
) -> PredictionTable:
    """The table of one part."""
    n_classes = len(emotions)
    verdicts = [judge(some, parser, n_classes, config.decoding.max_tokens) for some in answers]
    nothing = (float("nan"),) * n_classes
    has_probs = any(verdict.probs is not None for verdict in verdicts)
    return PredictionTable(
        name=config.name,
        emotions=emotions,
        utterances=tuple(utterances),
        labels=np.array([verdict.label for verdict in verdicts], dtype=np.int64),
        reasons=tuple(verdict.reason for verdict in verdicts),
        probs=np.array([verdict.probs or nothing for verdict in verdicts], dtype=np.float32)
        if has_probs
        else None,
        raw=tuple(verdict.raw for verdict in verdicts),
    )


def _total(counts: Sequence[int | None]) -> int | None:
    """Sum of all counts; null if one is unknown."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


# What changes an answer by no more than rounding, or not at all.
_NOT_IN_DIGEST = (
    "data",
    "answers",
    "openai",
    "vllm",
    "transformers",
)


def _digest(
    config: LlamaZeroShotConfig,
    engine: Engine,
    request: PredictRequest,
    utterances: Sequence[str],
    chats: Chats,
) -> str:
    """Hash of all that decides the table, so that no other one is taken for it."""
    return digest_of(
        {
            "config": config_digest(config, without=_NOT_IN_DIGEST),
            # It has what of the engine's settings counts.
            "model": engine.identity,
            "manifest": request.manifest.digest,
            "utterances": list(utterances),
            "chats": [
                (utterance, [(turn.role, turn.text) for turn in turns])
                for utterance, turns in chats.items()
            ],
        }
    )


ZERO_SHOT = LlamaZeroShotMember()
