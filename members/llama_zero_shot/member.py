"""The member `llama-70b-zero-shot`: asks a chat model about each transcript and reads its answers.

It is T1 of the Abhinaya system: LLaMA-3.3-70B-Instruct, prompted, nothing trained.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from abhinaya.data.labels import ABSTAIN, EmotionSet
from abhinaya.data.predictions import PredictionTable
from abhinaya.data.problems import Problem
from abhinaya.data.transcripts import read_transcripts, transcripts_path
from abhinaya.doctor.findings import Findings
from abhinaya.errors import AudioError, BadValueError
from abhinaya.files import read_json, write_json
from abhinaya.inference.zero_shot import Outcome, ZeroShotMember, predict_outcomes
from abhinaya.loading.clips import Clip
from abhinaya.member import PredictRequest
from abhinaya.processes import join_launch, meet
from abhinaya.progress import progress
from abhinaya.prompting.answers import AnswerParser, class_words
from abhinaya.prompting.prompts import Prompt, Turn, load_prompt
from abhinaya.prompting.rendering import PromptFiller
from members.llama_zero_shot.cache import AnswerStore, key_of
from members.llama_zero_shot.config import LlamaZeroShotConfig
from members.llama_zero_shot.doctor import check_zero_shot
from members.llama_zero_shot.engine import Answer, Engine, Question
from members.llama_zero_shot.openai_engine import OpenAIEngine
from members.llama_zero_shot.transformers_engine import TransformersEngine
from members.llama_zero_shot.vllm_engine import VllmEngine
from members.llama_zero_shot.vllm_server import VllmServerEngine

if TYPE_CHECKING:
    from accelerate import PartialState

    from abhinaya.inference.sharding import TablePlan

__all__ = ["ZERO_SHOT", "LlamaZeroShotMember", "combine_answers", "make_engine"]

# What changes an answer by no more than rounding, or not at all.
_NOT_IN_DIGEST = ("data", "answers", "openai", "vllm", "transformers")


class LlamaZeroShotMember(ZeroShotMember):
    """Labels from the answers of a chat model; one that names no class, or several, abstains."""

    name = "llama-70b-zero-shot"
    config_class = LlamaZeroShotConfig

    def ask(self, config: LlamaZeroShotConfig, request: PredictRequest) -> PredictionTable:
        """Ask about every row of a selection.

        First everything is asked that is not known yet, each process of a launch its share; then
        the table is made out of the answers.

        Raises:
            BadValueError: if prompt and decoding do not go together, or transcripts are needed but
                no source is configured.
            ProblemsError: if the selection lacks what the prompt needs.
            EngineError: if the model or server cannot be asked.
        """
        from abhinaya.inference.sharding import find_table, plan_table

        emotions, prompt = request.manifest.emotions, load_prompt(config.prompt)
        if prompt.free and config.decoding.constrained:
            raise BadValueError(
                f"The prompt {prompt.name!r} lets the model answer in a text, but "
                "decoding.constrained is true and leaves it a single word. Set it to false, and "
                "decoding.max_tokens to 200 or more."
            )
        chats, problems = _fill(config, prompt, request)
        folder = config.answers or request.out.parent / "answers"
        engine = make_engine(config, emotions, folder)
        plan = plan_table(
            config,
            request,
            without=_NOT_IN_DIGEST,
            model=engine.identity,  # it has what of the engine's settings counts
            chats=[
                (utterance, [(turn.role, turn.text) for turn in turns])
                for utterance, turns in chats.items()
            ],
        )
        found = find_table(plan)
        if found is not None:
            return found

        decoding = config.decoding.model_dump(mode="json")
        decoding["words"] = class_words(emotions)
        if config.decoding.temperature > 0:
            decoding["seed"] = config.seed
        keys: dict[str, list[str]] = {}
        questions: dict[str, Question] = {}
        for utterance, turns in chats.items():
            asked = [Question(turns, sample) for sample in range(config.decoding.n_samples)]
            keys[utterance] = [key_of(question, engine.identity, decoding) for question in asked]
            questions |= zip(keys[utterance], asked, strict=True)
        state = join_launch()
        parser = AnswerParser(emotions, "\n".join(turn.text for turn in prompt.turns))
        with AnswerStore(folder, questions.keys()) as store:
            _ask(engine, questions, store, state, plan)

            def answer(chunks: Sequence[Sequence[Clip]]) -> Iterator[list[Outcome]]:
                most = config.decoding.max_tokens
                for chunk in chunks:
                    given = [[store[key] for key in keys[clip.utterance]] for clip in chunk]
                    yield [combine_answers(some, parser, len(emotions), most) for some in given]

            every = [store[key] for some in keys.values() for key in some]
            plan = plan.with_meta(
                model=config.base,
                engine=config.engine,
                prompt=prompt.name,
                transcripts=config.data.transcripts and config.data.transcripts.predict,
                decoding=config.decoding.model_dump(mode="json"),
                n_prompt_tokens=_total([one.n_prompt_tokens for one in every]),
                n_answer_tokens=_total([one.n_answer_tokens for one in every]),
                price=None if config.price is None else config.price.model_dump(mode="json"),
            )
            clips = [
                Clip(utterance, text="".join(turn.text for turn in turns))
                for utterance, turns in chats.items()
            ]
            return predict_outcomes(clips, answer, problems, plan)

    def check_weights(self, config: LlamaZeroShotConfig) -> Findings:
        """Return what `abhinaya doctor` finds of the prompt, and of the server or the weights."""
        return check_zero_shot(config)


def make_engine(config: LlamaZeroShotConfig, emotions: EmotionSet, folder: Path) -> Engine:
    """Return the engine that a config names; nothing is loaded, started or asked yet.

    Args:
        config: of the member.
        emotions: the classes.
        folder: for the log of a server that the engine starts.

    Raises:
        BadValueError: if it cannot be used here.
        MissingPackageError: if its package is missing.
    """
    words, decoding, seed = class_words(emotions), config.decoding, config.seed
    if config.engine == "openai":
        return OpenAIEngine(config.base, words, decoding, config.openai, seed=seed)
    if config.engine == "vllm" and config.vllm.server:
        log = folder / f"{config.name}.vllm.log"
        return VllmServerEngine(
            config.base, words, decoding, config.vllm, config.openai, log, seed=seed
        )
    if config.engine == "vllm":
        return VllmEngine(config.base, words, decoding, config.vllm, seed=seed)
    return TransformersEngine(config.base, words, decoding, config.transformers, seed=seed)


def combine_answers(
    answers: Sequence[Answer], parser: AnswerParser, n_classes: int, max_tokens: int
) -> Outcome:
    """Combine the answers to one question into a label or an abstention.

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
        >>> parser = AnswerParser(MSP_PODCAST)
        >>> outcome = combine_answers(answers, parser, n_classes=8, max_tokens=16)
        >>> outcome.label, round(outcome.probs[3], 3)
        (6, 0.333)
    """
    given = [answer for answer in answers if answer.failure is None]
    if not given:
        return Outcome(ABSTAIN, answers[0].failure)
    parsed = [parser.parse(answer.text) for answer in given]
    reasons = []
    for answer, one in zip(given, parsed, strict=True):
        if one.reason is not None:
            is_cut = (answer.n_answer_tokens or 0) >= max_tokens
            cut = f", cut at decoding.max_tokens {max_tokens}" if is_cut else ""
            reasons.append(f"{one.reason}{cut}")
    if len(answers) == 1:
        if reasons:
            return Outcome(ABSTAIN, reasons[0], raw=given[0].text)
        probs = given[0].probs
        # As the table stores them, where two may have become equal.
        label = parsed[0].label if probs is None else int(np.asarray(probs, "float32").argmax())
        return Outcome(label, None, probs, given[0].text)
    reasons += [str(answer.failure) for answer in answers if answer.failure is not None]
    raw = json.dumps([answer.text for answer in given], ensure_ascii=False)
    named = [one.label for one in parsed if one.label != ABSTAIN]
    if not named:
        counted = ", ".join(f"{reason} ({n})" for reason, n in Counter(reasons).items())
        return Outcome(ABSTAIN, f"none of {len(answers)} answers names a class: {counted}", raw=raw)
    counts = np.bincount(named, minlength=n_classes)
    probs = tuple((counts / counts.sum()).tolist())
    return Outcome(int(counts.argmax()), None, probs, raw)


def _fill(
    config: LlamaZeroShotConfig,
    prompt: Prompt,
    request: PredictRequest,
) -> tuple[dict[str, tuple[Turn, ...]], list[Problem]]:
    """Return the chat about each utterance, and why there is none about the others."""
    texts: dict[str, str | None] = {}
    needs_text, source = "text" in prompt.needs, ""
    if needs_text:
        if config.data.transcripts is None:
            raise BadValueError(
                f"The prompt {prompt.name!r} reads transcripts, but data.transcripts is missing. "
                "Set data.transcripts.predict to a source such as 'whisper-large-v3'."
            )
        source = config.data.transcripts.predict
        texts = read_transcripts(transcripts_path(request.manifest.root), source)
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
    for utterance in request.manifest.select(request.selection)["utterance"]:
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
    plan: TablePlan,
) -> None:
    """Bring the answer to every question into the store.

    Each process of a launch asks its share of what is not there. The longest come first, so that
    batches hold questions of about the same length and the last answers are quick ones. A batch
    that a kill interrupted is asked again as it was: among other neighbours it would be rounded
    otherwise.
    """
    missing = [key for key in questions if key not in store]
    missing.sort(key=lambda key: (-questions[key].n_chars, key))
    # Nobody writes before all have looked, or the shares would overlap and miss.
    meet()
    size = engine.batch_size
    if size > 1 and missing:
        file = _batches_of(plan)
        asked = read_json(file) if file.is_file() else []
        meet()
        if not set(missing) <= set(asked):  # at the first start
            asked = missing
            if state.is_main_process:
                write_json(file, asked)
        missing = asked
    batches = [missing[at : at + size] for at in range(0, len(missing), size)]
    batches = [batch for batch in batches if any(key not in store for key in batch)]
    mine = [key for batch in batches[state.process_index :: state.num_processes] for key in batch]
    with progress(f"asking for {plan.name}", len(mine), shown=state.is_main_process) as advance:

        def keep(idx: int, answer: Answer) -> None:
            if mine[idx] not in store:
                store.add(mine[idx], answer)
            advance(1)

        try:
            engine.ask([questions[key] for key in mine], keep)
        except Exception:
            if state.is_main_process and not any(key in store for key in missing):
                _forget_batches(plan)
            raise
    store.close()
    meet()
    store.refresh()


def _batches_of(plan: TablePlan) -> Path:
    """Return the file that keeps what is asked in which batch until the table is there."""
    from abhinaya.inference.sharding import shards_of

    return shards_of(plan) / "asked.json"


def _forget_batches(plan: TablePlan) -> None:
    file = _batches_of(plan)
    file.unlink(missing_ok=True)
    with suppress(OSError):  # shards of the same table may lie there
        file.parent.rmdir()
        file.parent.parent.rmdir()


def _total(counts: Sequence[int | None]) -> int | None:
    """Sum of all counts; `None` if one is unknown."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


ZERO_SHOT = LlamaZeroShotMember()
