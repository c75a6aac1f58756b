"""Prompts: text files with slots, read and filled. `prompts/README.md` describes the format.

A version's text never changes once results were made with it, so that a table's metadata keeps
telling what the model was asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from jinja2 import Template, TemplateError

from abhinaya.errors import (
    BadValueError,
    MissingFileError,
    ProblemsError,
    UnknownNameError,
    did_you_mean,
    kind_of,
)
from abhinaya.prompting.prompt_files import (
    SLOTS,
    TEMPLATES,
    Turn,
    read_prompt_file,
    slots_in,
)
from abhinaya.resources import prompts_dir

__all__ = ["SLOTS", "Prompt", "Turn", "load_prompt", "prompt_names", "read_prompt_pool"]

_SALMONN_PLACEHOLDER = "<SpeechHere>"


@dataclass(frozen=True)
class Prompt:
    """A chat with slots.

    Args:
        name: name with the version in it, such as `zero-shot-v1`.
        version: 1 or more.
        turns: an optional system turn, then user and assistant in turn. An assistant turn at the
            end is the beginning of what the model is made to say.
        slots: names of the slots in the turns, keys of `SLOTS`.
        source: file that it was read from.
        classes: class names that the wording presupposes, for instance because it defines each;
            empty where any set will do.
        description: what the prompt is for.
        free: the answer is a text with the label in it, so it must not be held to the class words.
    """

    name: str
    version: int
    turns: tuple[Turn, ...]
    slots: tuple[str, ...]
    source: str
    classes: tuple[str, ...] = ()
    description: str = ""
    free: bool = False

    @property
    def needs(self) -> frozenset[str]:
        """What a clip must have to be asked about: of `audio`, `text`, `context` and `gender`."""
        return frozenset(need for slot in self.slots for need in SLOTS[slot])

    def render(self, **values: str) -> tuple[Turn, ...]:
        """Return the turns with all slots filled; what a value contains is never a template.

        Args:
            values: text by slot; those that the prompt has no slot for are not used.

        Raises:
            UnknownNameError: if a value's name is no slot at all.
            BadValueError: if values are missing or no text; the message names them all.
        """
        texts = self._fill([turn.text for turn in self.turns], values)
        return tuple(Turn(turn.role, text) for turn, text in zip(self.turns, texts, strict=True))

    def around(self, slot: str, **values: str) -> tuple[str, str]:
        """Return the text before and after a slot of the user turn that is filled with no text.

        Args:
            slot: a slot that stands exactly once in the only user turn, such as `speech`.
            values: text for the other slots of the user turn.

        Raises:
            UnknownNameError: if a value's name is no slot at all.
            BadValueError: if there are several user turns, the slot is not there exactly once, or
                values are missing or no text.
        """
        texts = [turn.text for turn in self.turns if turn.role == "user"]
        if len(texts) != 1:
            raise BadValueError(
                f"The prompt {self.name!r} has {len(texts)} user turns, expected one with the slot "
                f"{_listed([slot])} in it. Use a prompt of a single question."
            )
        marker = uuid4().hex  # stands in no text
        sides = self._fill(texts, values, {slot: marker})[0].split(marker)
        if len(sides) != 2:
            raise BadValueError(
                f"The user turn of the prompt {self.name!r} has the slot {_listed([slot])} "
                f"{len(sides) - 1} times, expected once. Use a prompt made for it."
            )
        return sides[0], sides[1]

    def assistant_text(self, **values: str) -> str:
        """Return the assistant turn at the end with its slots filled; empty if there is none.

        Args:
            values: text by slot; those that this turn has no slot for are not used.

        Raises:
            UnknownNameError: if a value's name is no slot at all.
            BadValueError: if values are missing or no text.
        """
        last = self.turns[-1]
        return self._fill([last.text], values)[0] if last.role == "assistant" else ""

    def _fill(
        self, texts: Sequence[str], values: dict[str, str], own: dict[str, str] | None = None
    ) -> list[str]:
        for name in values:
            if name not in SLOTS:
                raise UnknownNameError("slot", name, SLOTS)
        own = own or {}
        used = [slot for slot in slots_in(texts) if slot not in own]
        missing = [slot for slot in used if not isinstance(values.get(slot), str)]
        if missing:
            raise BadValueError(
                f"The prompt {self.name!r} needs text for {_listed(missing)}, got "
                f"{_listed(slot for slot in used if slot not in missing) or 'none'}. "
                f"Give a value for each, or use a prompt without them."
            )
        try:
            return [_template(text).render(values | own) for text in texts]
        except TemplateError as err:
            raise BadValueError(f"The prompt {self.name!r} cannot be filled: {err}.") from err


def prompt_names() -> tuple[str, ...]:
    """Return the names of the shipped prompts, sorted."""
    return tuple(sorted(file.stem for file in prompts_dir().glob("*.md") if file.stem != "README"))


def load_prompt(name_or_path: str | Path) -> Prompt:
    """Load a shipped prompt by name, or the one in a file.

    Args:
        name_or_path: such as `zero-shot-v1`; with `.md` at its end, or a folder in it, it is a
            path.

    Raises:
        UnknownNameError: if no such prompt is shipped; the message gives near matches and all.
        MissingFileError: if the file is not there.
        ProblemsError: with all mistakes of the file.
    """
    path = Path(name_or_path)
    if path.suffix == ".md" or len(path.parts) > 1:
        if not path.is_file():
            raise MissingFileError(
                f"There is no prompt file {str(path)!r}.{did_you_mean(path.stem, prompt_names())} "
                f"Give the path of a .md file, or one of the shipped names: "
                f"{', '.join(prompt_names())}."
            )
        return _read_prompt(path, str(path))
    if str(name_or_path) not in prompt_names():
        raise UnknownNameError("prompt", str(name_or_path), prompt_names())
    return _read_prompt(prompts_dir() / f"{name_or_path}.md", f"prompts/{name_or_path}.md")


def read_prompt_pool(file: Path, task: str) -> tuple[str, ...]:
    """Read user turns for one task out of a prompt file in SALMONN's own format.

    The file is JSON: task -> text or list of texts, with the placeholder `<SpeechHere>` in each. It
    becomes the slot `speech`; all else is kept to the letter.

    Source: prompt files of Tang et al., "SALMONN", ICLR 2024, arXiv:2310.13289.

    Raises:
        MissingFileError: if the file is not there.
        UnknownNameError: if it has no such task; the message lists those that it has.
        ProblemsError: if it is not such a file, the task has no texts, or a text has not exactly
            one placeholder; all of them at once.
    """
    if not file.is_file():
        raise MissingFileError(
            f"There is no prompt file {str(file)!r}. Give SALMONN's JSON of tasks and their texts."
        )
    try:
        pools: Any = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as err:  # not UTF-8, or not JSON
        raise ProblemsError(str(file), [f"it is not JSON: {err}"]) from err
    if not isinstance(pools, dict):
        raise ProblemsError(
            str(file), [f"it holds {kind_of(pools)}, expected tasks with lists of texts"]
        )
    if task not in pools:
        raise UnknownNameError(f"task of {str(file)!r}:", task, pools)
    texts = [pools[task]] if isinstance(pools[task], str) else pools[task]
    if not isinstance(texts, list) or not texts:
        raise ProblemsError(
            str(file), [f"the task {task!r} has {texts!r}, expected a list of one text or more"]
        )
    problems = []
    for number, text in enumerate(texts, start=1):
        found = text.count(_SALMONN_PLACEHOLDER) if isinstance(text, str) else 0
        if found != 1:
            problems.append(
                f"text {number} of the task {task!r} has the placeholder {_SALMONN_PLACEHOLDER} "
                f"{found} times, expected once: {text!r}"
            )
    if problems:
        raise ProblemsError(str(file), problems)
    return tuple(
        "{{ speech }}".join(_as_template(text) for text in text.split(_SALMONN_PLACEHOLDER))
        for text in texts
    )


def _as_template(text: str) -> str:
    """Return a template that renders to the text; Jinja would change brackets and line ends."""
    return f"{{{{ {text!r} }}}}" if "{" in text or "\r" in text else text


@lru_cache(maxsize=256)
def _template(text: str) -> Template:
    return TEMPLATES.from_string(text)


def _read_prompt(path: Path, where: str) -> Prompt:
    front, turns = read_prompt_file(path, where)
    description = " ".join(front.description.split())
    return Prompt(
        front.name,
        front.version,
        turns,
        front.slots,
        where,
        classes=front.classes,
        description=description,
        free=front.answer == "text",
    )


def _listed(slots: Iterable[str]) -> str:
    return ", ".join(f"{{{{ {slot} }}}}" for slot in slots)
