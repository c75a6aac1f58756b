"""Prompts filled in for the utterances of a selection: the chats exactly as they are sent."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property

import pandas as pd
from pydantic import Field, PositiveInt

from abhinaya.config import Config
from abhinaya.data.labels import EmotionSet
from abhinaya.data.manifest import Manifest
from abhinaya.data.transcripts import read_transcripts, transcripts_path
from abhinaya.errors import BadValueError, ProblemsError, list_some
from abhinaya.prompting.acoustics import Hints, HintsConfig
from abhinaya.prompting.answers import class_words
from abhinaya.prompting.conversations import Conversations
from abhinaya.prompting.examples import ExamplePool, ExamplesConfig
from abhinaya.prompting.prompts import Prompt, Turn
from abhinaya.prompting.special_tokens import defuse_turns

__all__ = ["FillingConfig", "PromptFiller", "cut_text", "find_lacks"]

_logger = logging.getLogger(__name__)

_GAP = " ... "


class FillingConfig(Config):
    """What goes into the slots of a prompt."""

    n_context: PositiveInt = 3
    """Turns before the asked one that are shown, at most."""
    examples: ExamplesConfig = ExamplesConfig()
    """Labelled utterances for few-shot prompts."""
    hints: HintsConfig = HintsConfig()
    """Words for pitch, loudness and rate."""
    max_transcript_chars: int = Field(default=4000, ge=20)
    """Longer transcripts lose their middle, in whose place ` ... ` stands; context and examples
    too."""


class PromptFiller:
    """One prompt over one selection.

    Args:
        prompt: what is asked.
        manifest: the corpus.
        selection: names of the splits or subsets that will be asked about.
        transcripts: text by utterance, all of the source that is read in prediction. Context and
            the speaking rate come from the same ones. Not used where the prompt needs no text.
        emotions: the classes, in order.
        settings: what goes into the slots.
        seed: of the draw of examples.
        speech: what stands for the sound where the prompt has `{{ speech }}`; `None` refuses such
            prompts, because a chat of texts cannot hold sound.

    Raises:
        BadValueError: if the selection lacks what the prompt needs, or the classes are others than
            those that it presupposes; the message names every need. Nothing is computed before.
        UnknownNameError: if there is no such selection.
        AbhinayaError: if examples are needed but cannot be had.
    """

    def __init__(
        self,
        prompt: Prompt,
        manifest: Manifest,
        selection: Sequence[str],
        *,
        transcripts: Mapping[str, str | None],
        emotions: EmotionSet,
        settings: FillingConfig,
        seed: int,
        speech: str | None = None,
    ) -> None:
        self.prompt = prompt
        self._settings = settings
        self._transcripts = transcripts if "text" in prompt.needs else {}
        self._words = class_words(emotions)
        self._speech = speech
        lacks = find_lacks(prompt, manifest, selection, transcripts)
        if "speech" in prompt.slots and speech is None:
            lacks.append(
                "it has the slot {{ speech }}, but a chat of texts holds no sound; use a prompt "
                "without it, or a member that hears"
            )
        if lacks:
            raise ProblemsError(f"the prompt {prompt.name!r} for {', '.join(selection)}", lacks)
        rows = manifest.select(selection)
        self._rows = rows
        self._manifest = manifest
        self._genders = {
            utterance: "unknown" if pd.isna(gender) else str(gender).lower()
            for utterance, gender in zip(rows["utterance"], rows["gender"], strict=True)
        }
        self._conversations = (
            Conversations(manifest, transcripts) if "context" in prompt.slots else None
        )
        self._pool = None
        if "examples" in prompt.slots:
            texts = read_transcripts(transcripts_path(manifest.root), settings.examples.source)
            self._pool = ExamplePool(manifest, texts, settings.examples, seed)
            self._pool.check(tuple(rows["utterance"]))

    def turns(self, utterance: str) -> tuple[Turn, ...]:
        """Return the chat about one utterance, exactly as it is sent.

        What looks like a special token of some chat template is made harmless, see `defuse`.
        Acoustic hints are measured the first time that they are needed, over all of the selection.

        Raises:
            BadValueError: if the utterance is not in the selection, or has no transcript where the
                prompt needs one.
            AudioError: if the prompt needs the sound and it cannot be read.
        """
        if utterance not in self._genders:
            raise BadValueError(
                f"The utterance {utterance!r} is not in the selection that the prompt "
                f"{self.prompt.name!r} was made ready for. Select it too."
            )
        values: dict[str, str] = {"classes": ", ".join(self._words)}
        values["gender"] = self._genders[utterance]
        if self._speech is not None:
            values["speech"] = self._speech
        if "transcript" in self.prompt.slots:
            values["transcript"] = self._text(utterance)
        if self._conversations is not None:
            values["context"] = self._context(utterance)
        if self._pool is not None:
            values["examples"] = self._examples(utterance)
        if "hints" in self.prompt.slots:
            values["hints"] = self._hints.words(utterance)
        return defuse_turns(self.prompt.render(**values))

    @cached_property
    def _n_long(self) -> int:
        """How many transcripts are cut; they are told of when the first chat is made."""
        most = self._settings.max_transcript_chars
        long = [u for u in self._genders if len(self._transcripts.get(u) or "") > most]
        if long:
            _logger.warning(
                "%d transcripts are longer than %d characters; the prompt %s shows their beginning "
                "and end: %s",
                *(len(long), most, self.prompt.name, list_some(long)),
            )
        return len(long)

    @cached_property
    def _hints(self) -> Hints:
        return Hints(self._manifest, self._rows, self._transcripts, self._settings.hints)

    def _text(self, utterance: str) -> str:
        text = self._transcripts.get(utterance)
        if text is None:
            raise BadValueError(
                f"The prompt {self.prompt.name!r} needs a transcript of {utterance!r}, but there "
                "is none. Transcribe it, or leave it out."
            )
        if self._n_long == 0:
            return text
        return cut_text(text, self._settings.max_transcript_chars)

    def _context(self, utterance: str) -> str:
        assert self._conversations is not None
        who = {True: "the same person", False: "another person", None: "somebody"}
        lines = [
            f"{who[turn.same_speaker]}: {cut_text(turn.text, self._settings.max_transcript_chars)}"
            for turn in self._conversations.before(utterance, self._settings.n_context)
        ]
        return "\n".join(lines) or "(nothing before it)"

    def _examples(self, utterance: str) -> str:
        assert self._pool is not None
        return "\n\n".join(
            f"<transcript>\n{cut_text(example.text, self._settings.max_transcript_chars)}\n"
            f"</transcript>\nLabel: {self._words[example.label]}"
            for example in self._pool.pick(utterance, self._transcripts.get(utterance) or "")
        )


def find_lacks(
    prompt: Prompt,
    manifest: Manifest,
    selection: Sequence[str],
    transcripts: Mapping[str, str | None],
) -> list[str]:
    """Return what a prompt needs and a selection lacks, one sentence each.

    Every name in the selection is looked at on its own. It lacks what none of its rows has: single
    rows without a speaker's gender or without earlier turns are asked about all the same.

    Args:
        prompt: what is asked.
        manifest: the corpus.
        selection: names of splits or subsets.
        transcripts: text by utterance.

    Raises:
        UnknownNameError: if there is no such selection.
    """
    problems = []
    words = class_words(manifest.emotions)
    if prompt.classes and set(prompt.classes) != set(words):
        problems.append(
            f"it presupposes the classes {', '.join(prompt.classes)}, but the corpus has "
            f"{', '.join(words)}; use a prompt for any classes, or write one for these"
        )
    conversations = Conversations(manifest, transcripts) if "context" in prompt.needs else None
    for name in selection:
        rows = manifest.select(name)
        utterances = list(rows["utterance"])
        if "audio" in prompt.needs and rows["audio"].isna().all():
            problems.append(
                f"it needs audio, but the manifest names no audio file for {name!r}; use a prompt "
                "without {{ speech }} and {{ hints }}, or prepare the corpus with its audio"
            )
        if "gender" in prompt.needs and rows["gender"].isna().all():
            problems.append(
                f"it needs the speaker's gender, but the manifest has none for {name!r}; use a "
                "prompt without {{ gender }}"
            )
        if "text" in prompt.needs and all(transcripts.get(u) is None for u in utterances):
            problems.append(
                f"it needs transcripts, but the source has none for {name!r}; make some with: "
                "abhinaya transcribe MANIFEST --model M"
            )
        if conversations is not None and not any(conversations.before(u, 1) for u in utterances):
            problems.append(
                f"it needs the turns before, but no utterance of {name!r} has a transcribed one in "
                "the same recording (the manifest's columns recording and turn); use a prompt "
                "without {{ context }}"
            )
    return problems


def cut_text(text: str, max_chars: int) -> str:
    """Return a text of at most so many characters: beginning and end with ` ... ` between them.

    Example:
        >>> cut_text("abcdefghij", 9)
        'ab ... ij'
        >>> cut_text("abcdefghi", 9)
        'abcdefghi'
    """
    if len(text) <= max_chars:
        return text
    n_kept = max(0, max_chars - len(_GAP))
    n_end = n_kept // 2
    return text[: n_kept - n_end] + _GAP + text[len(text) - n_end :]
