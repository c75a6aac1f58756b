"""The format of prompt files: front matter, turns under headings, slots in curly brackets.

`prompts/README.md` describes it for people who write prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from abhinaya.config import Config, check_config
from abhinaya.errors import ProblemsError, did_you_mean

__all__ = ["BRACKETS", "SLOTS", "FrontMatter", "Turn", "read_prompt_file", "slots_in"]

SLOTS: dict[str, tuple[str, ...]] = {
    "speech": ("audio",),
    "transcript": ("text",),
    "context": ("context", "text"),
    "gender": ("gender",),
    "hints": ("audio",),
    "classes": (),
    "examples": (),
}
"""Every slot, and what it needs of the clips that are asked about: `audio`, `text` (a transcript),
`context` (the turns before in the same recording) or `gender`. Classes come from the emotion set,
examples from labelled clips elsewhere."""

BRACKETS = re.compile(r"\{\{|\}\}|\{(\w+)\}|[{}]")
"""A doubled bracket, a slot (group 1 is its name), or a single bracket, which is a mistake."""

_ROLES = ("system", "user", "assistant")
_FENCE = "---"
_HEADING = re.compile(r"##(?!#)\s*(.*?)\s*")


@dataclass(frozen=True)
class Turn:
    """What one side says in a chat.

    Args:
        role: `system`, `user` or `assistant`.
        text: what is said; in a prompt with slots in curly brackets and literal brackets doubled.
    """

    role: str
    text: str


class FrontMatter(Config):
    """Keys between the lines `---` of a prompt file."""

    name: str
    version: int = Field(ge=1, strict=True)
    slots: tuple[str, ...]
    classes: tuple[str, ...] = ()
    description: str = ""
    answer: Literal["word", "text"] = "word"


def read_prompt_file(path: Path, where: str) -> tuple[FrontMatter, tuple[Turn, ...]]:
    """Front matter and turns of a prompt file.

    Args:
        path: the file, which is there.
        where: how messages call it.

    Raises:
        ProblemsError: with all mistakes of the file.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as err:
        raise ProblemsError(where, [f"it is not UTF-8: {err}"]) from err
    problems: list[str] = []
    header, body = _split_front_matter(lines, problems)
    turns = _turns_of(body, problems)
    used = slots_in(turn.text for turn in turns)
    front = None
    if header is not None:
        front = _check_front_matter(header, path.stem, used, where, problems)
    problems += [
        f"the slot {{{slot}}} is unknown.{did_you_mean(slot, SLOTS)} Known: {', '.join(SLOTS)}"
        for slot in used
        if slot not in SLOTS
    ]
    if problems or front is None:
        raise ProblemsError(where, problems)
    return front, turns


def slots_in(texts: Iterable[str]) -> list[str]:
    """Names of all slots of some texts, each once, in the order in which they come."""
    found = [match[1] for text in texts for match in BRACKETS.finditer(text) if match[1]]
    return list(dict.fromkeys(found))


def _split_front_matter(
    lines: list[str], problems: list[str]
) -> tuple[dict[str, Any] | None, list[str]]:
    """Keys and values of the front matter, null where it cannot be used, and the lines below it."""
    fences = [number for number, line in enumerate(lines) if line.rstrip() == _FENCE]
    if len(fences) < 2 or fences[0] != 0:
        problems.append(
            "there is no front matter; begin the file with a line ---, the keys name, version and "
            "slots, and another line ---"
        )
        return None, lines
    text, body = "\n".join(lines[1 : fences[1]]), lines[fences[1] + 1 :]
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as err:  # a date that does not exist is a ValueError
        problems.append(f"the front matter is not YAML: {' '.join(str(err).split())}")
        return None, body
    if not isinstance(content, dict) or not isinstance(node, yaml.MappingNode):
        problems.append(
            f"the front matter holds a {type(content).__name__}, expected keys with values"
        )
        return None, body
    # PyYAML would keep the last one of two silently.
    keys = [key.value for key, _ in node.value]
    problems += [f"the key {key!r} stands there twice" for key in _repeated(keys)]
    return content, body


def _check_front_matter(
    content: dict[str, Any], stem: str, used: Sequence[str], where: str, problems: list[str]
) -> FrontMatter | None:
    """The front matter, null where keys are wrong; what it says is compared with the file."""
    front = None
    try:
        front = check_config(content, FrontMatter, where)
    except ProblemsError as err:
        problems += err.problems
    name, version, declared = (content.get(key) for key in ("name", "version", "slots"))
    if isinstance(name, str) and name != stem:
        problems.append(f"name is {name!r}, expected the file's own, {stem!r}")
    if isinstance(version, int) and not stem.endswith(f"-v{version}"):
        problems.append(f"version is {version}, but the file's name does not end in -v{version}")
    if isinstance(declared, list) and all(isinstance(slot, str) for slot in declared):
        problems += [f"slots names {slot!r} twice" for slot in _repeated(declared)]
        for slot in dict.fromkeys(declared):
            if slot in used:
                continue
            known = "" if slot in SLOTS else f" and unknown; known are {', '.join(SLOTS)}"
            problems.append(f"slots names {slot!r}, which is not used{known}")
        undeclared = [slot for slot in used if slot not in declared and slot in SLOTS]
        problems += [f"the slot {{{slot}}} is used but slots lacks it" for slot in undeclared]
    if front is not None and len(set(front.classes)) != len(front.classes):
        problems += [f"classes names {name!r} twice" for name in _repeated(front.classes)]
    return front


def _turns_of(lines: list[str], problems: list[str]) -> tuple[Turn, ...]:
    found = [(number, _HEADING.fullmatch(line)) for number, line in enumerate(lines)]
    headings = [(number, match[1]) for number, match in found if match]
    starts = [number for number, _ in headings] + [len(lines)]
    if _without_blank_ends(lines[: starts[0]]):
        problems.append("there is text above the first heading; put it below ## user")
    turns = tuple(
        Turn(role, _without_blank_ends(lines[number + 1 : end]))
        for (number, role), end in zip(headings, starts[1:], strict=True)
    )
    for turn in turns:
        if turn.role not in _ROLES:
            problems.append(
                f"the heading '## {turn.role}' is no role.{did_you_mean(turn.role, _ROLES)} "
                f"Known: {', '.join(_ROLES)}; headings within a turn take one # or three"
            )
        if not turn.text:
            problems.append(f"the {turn.role} turn is empty")
        problems += [
            f"the {turn.role} turn has a single curly bracket near {near!r}; "
            "write {{ or }} if it is meant as such"
            for near in _lone_brackets(turn.text)
        ]
    _check_order([turn.role for turn in turns], problems)
    return turns


def _check_order(roles: list[str], problems: list[str]) -> None:
    if "user" not in roles:
        problems.append("there is no user turn; write one below a line '## user'")
        return
    chat = roles[1:] if roles[0] == "system" else roles
    expected = [("user", "assistant")[number % 2] for number in range(len(chat))]
    if chat != expected and set(roles) <= set(_ROLES):
        problems.append(
            f"the turns are {', '.join(roles)}; expected at most one system turn, first, and then "
            "user and assistant by turns"
        )


def _without_blank_ends(lines: list[str]) -> str:
    filled = [number for number, line in enumerate(lines) if line.strip()]
    return "\n".join(lines[filled[0] : filled[-1] + 1]) if filled else ""


def _lone_brackets(text: str) -> list[str]:
    places = [match.start() for match in BRACKETS.finditer(text) if match[0] in ("{", "}")]
    return [text[max(0, place - 10) : place + 10] for place in places]


def _repeated(names: Iterable[Any]) -> list[Any]:
    names = list(names)
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]
