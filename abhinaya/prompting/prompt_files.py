"""The format of prompt files: front matter, and turns under headings, each a Jinja template.

`prompts/README.md` describes it for people who write prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jinja2 import StrictUndefined, TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field

from abhinaya.config import Config, check_config, parse_yaml
from abhinaya.errors import BadValueError, ProblemsError, did_you_mean, kind_of

__all__ = ["SLOTS", "TEMPLATES", "FrontMatter", "Turn", "read_prompt_file", "slots_in"]

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

TEMPLATES = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
"""Jinja as chat templates are rendered with, and without globals: a name is always a slot."""
TEMPLATES.globals.clear()

_ROLES = ("system", "user", "assistant")
_FENCE = "---"
_OLD_SLOT = re.compile(r"\{(\w+)\}")
_HEADING = re.compile(r"##(?!#)\s*(.*?)\s*")


@dataclass(frozen=True)
class Turn:
    """What one side says in a chat.

    Args:
        role: `system`, `user` or `assistant`.
        text: what is said; in a prompt a Jinja template with slots as its variables.
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
    """Read front matter and turns of a prompt file.

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
    used = _check_templates(turns, problems)
    front = None
    if header is not None:
        front = _check_front_matter(header, path.stem, used, where, problems)
    problems += [
        f"the slot {slot!r} is unknown.{did_you_mean(slot, SLOTS)} Known: {', '.join(SLOTS)}"
        for slot in used
        if slot not in SLOTS
    ]
    if problems or front is None:
        raise ProblemsError(where, problems)
    return front, turns


def slots_in(texts: Iterable[str]) -> list[str]:
    """Return the names of all slots of some templates, each once, in the order of first use.

    Raises:
        TemplateError: if a text is no Jinja template.
    """
    found: list[str] = []
    for text in texts:
        tree = TEMPLATES.parse(text)
        free = meta.find_undeclared_variables(tree)
        found += [node.name for node in tree.find_all(nodes.Name) if node.name in free]
    return list(dict.fromkeys(found))


def _check_templates(turns: Iterable[Turn], problems: list[str]) -> list[str]:
    """Return the slots that the turns use; add what is no template to the problems."""
    used: list[str] = []
    for turn in turns:
        try:
            slots = slots_in([turn.text])
            tree = TEMPLATES.parse(turn.text)
            # Once with text in every slot: it tells a wrong filter, or an include.
            TEMPLATES.from_string(turn.text).render(dict.fromkeys(slots, "text"))
        except Exception as err:  # whatever the expressions of a template raise
            advice = (
                ""
                if not isinstance(err, TemplateError)
                else ("; write {{ '{{' }} for brackets that are meant as such")
            )
            problems.append(f"the {turn.role} turn is no Jinja template: {err}{advice}")
            continue
        used += slots
        plain = "\n".join(node.data for node in tree.find_all(nodes.TemplateData))
        problems += [
            f"the {turn.role} turn has {{{slot}}}; slots take two brackets now: {{{{ {slot} }}}}"
            for slot in dict.fromkeys(_OLD_SLOT.findall(plain))
            if slot in SLOTS
        ]
    return list(dict.fromkeys(used))


def _split_front_matter(
    lines: list[str], problems: list[str]
) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the keys of the front matter, `None` where it cannot be used, and the lines below."""
    fences = [number for number, line in enumerate(lines) if line.rstrip() == _FENCE]
    if len(fences) < 2 or fences[0] != 0:
        problems.append(
            "there is no front matter; begin the file with a line ---, the keys name, version and "
            "slots, and another line ---"
        )
        return None, lines
    text, body = "\n".join(lines[1 : fences[1]]), lines[fences[1] + 1 :]
    try:
        content = parse_yaml(text)
    except BadValueError as err:
        repeated = re.match("duplicate key ('.*')", str(err))
        problems.append(
            f"the key {repeated[1]} stands there twice"
            if repeated
            else f"the front matter: {err}".replace(": it ", " ", 1)
        )
        return None, body
    if not isinstance(content, dict):
        problems.append(f"the front matter holds {kind_of(content)}, expected keys with values")
        return None, body
    return content, body


def _check_front_matter(
    content: dict[str, Any], stem: str, used: Sequence[str], where: str, problems: list[str]
) -> FrontMatter | None:
    """Compare the front matter with the file; return `None` where keys are wrong."""
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
        problems += [f"the slot {slot!r} is used but slots lacks it" for slot in undeclared]
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


def _repeated(names: Iterable[Any]) -> list[Any]:
    names = list(names)
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]
